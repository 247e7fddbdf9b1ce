package comments

import "github.com/mmarinus/mmap"

func ignoredOnPurpose(m mmap.ReadWrite) {
	mmap.Protect[mmap.Read](m) //mmapvet:ignore ignored the process ends at once
}

func noReason(m mmap.ReadWrite) {
	mmap.Protect[mmap.Read](m) //mmapvet:ignore ignored // want `ignored: Protect` `ignore: the comment gives no reason`
}

func nothing(m mmap.ReadWrite) {
	m.Close() //mmapvet:ignore moved because // want `ignore: nothing of category moved is reported on this line`
}

func noCategory(m mmap.ReadWrite) {
	m.Close() //mmapvet:ignore // want `ignore: the comment names no category and no reason`
}

func unknownCategory(m mmap.ReadWrite) {
	m.Close() //mmapvet:ignore shut because // want `ignore: there is no category "shut"`
}

func otherCategory(m mmap.ReadWrite) {
	mmap.Protect[mmap.Read](m) //mmapvet:ignore busy because // want `ignored: Protect` `ignore: nothing of category busy`
}

func offByDefault(m mmap.ReadWrite) error {
	m.Close()
	return m.Sync(0, 1) //mmapvet:ignore closed only reported with -closed
}

//mmapvet:ignored is another word, and so no comment of this tool.
func other() {}
