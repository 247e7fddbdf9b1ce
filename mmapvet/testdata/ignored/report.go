package ignored

import (
	"fmt"

	"github.com/mmarinus/mmap"
)

func protect(m mmap.ReadWrite) {
	mmap.Protect[mmap.Read](m) // want `ignored: Protect consumes the handle, and the new one and the error are dropped`
}

func blank(m mmap.ReadWrite) {
	_, _ = mmap.Protect[mmap.Read](m) // want `ignored: Protect`
}

func resize(m mmap.ReadWrite, n int) {
	mmap.Resize(m, n) // want `ignored: Resize`
}

func move(m mmap.Read, addr uintptr) {
	mmap.Move(m, addr) // want `ignored: Move`
}

func split(m mmap.Read) {
	mmap.Split(m, 0) // want `ignored: Split`
}

func join(a, b mmap.Read) {
	mmap.Join(a, b) // want `ignored: Join`
}

func forget(m mmap.Read) {
	mmap.Forget(m) // want `ignored: Forget`
}

func assert(u mmap.Unknown) {
	mmap.Assert[mmap.Read](u) // want `ignored: Assert`
}

func over(m mmap.Read) {
	mmap.Over[mmap.Read](m, mmap.Anonymous(m.Len())) // want `ignored: Over`
}

func made() {
	mmap.Map[mmap.Read](mmap.Anonymous(4096)) // want `ignored: the mapping that Map makes is never unmapped`
}

func unknown() {
	mmap.MapUnknown(mmap.Anonymous(4096), mmap.ProtRead) // want `ignored: the mapping that MapUnknown makes`
}

func adopted(addr uintptr) {
	mmap.UnsafeAdopt[mmap.Read](addr, 4096) // want `ignored: the mapping that UnsafeAdopt makes`
}

func pin(m mmap.Read) {
	m.Pin() // want `ignored: the pin is dropped`
}

func blankPin(m mmap.Read) {
	_, _ = m.Pin() // want `ignored: the pin is dropped`
}

func inLoop(ms []mmap.ReadWrite) {
	for _, m := range ms {
		mmap.Protect[mmap.Read](m) // want `ignored: Protect`
	}
}

func generic[M mmap.Handle](m M) {
	if _, _ = mmap.Resize(m, 1); true { // want `ignored: Resize`
		fmt.Println(m)
	}
}
