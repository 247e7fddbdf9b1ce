package ignored

import (
	"errors"
	"os"

	"github.com/mmarinus/mmap"
)

func closed(m mmap.Read) { m.Close() }

func viewed(m mmap.Read) { m.View(func(b []byte) error { return nil }) }

func unpinned(p *mmap.Pin) { p.Unpin() }

func errorOnly(m mmap.ReadWrite) error {
	_, err := mmap.Protect[mmap.Read](m)
	return err
}

func handleOnly(m mmap.ReadWrite) mmap.Read {
	ro, _ := mmap.Protect[mmap.Read](m)
	return ro
}

func kept(s mmap.Spec) mmap.Read {
	m, _ := mmap.Map[mmap.Read](s)
	return m
}

func fails(s mmap.Spec) bool {
	_, err := mmap.Map[mmap.Read](s)
	return errors.Is(err, os.ErrInvalid)
}

func pinFails(m mmap.Read) bool {
	_, err := m.Pin()
	return err != nil
}

func grown(m mmap.ReadWrite) { mmap.Grow(m, 100) }

func advised(m mmap.Read) { m.Advise(0, 1, mmap.AdviceRandom) }

func drainedClose(m mmap.Read) { _ = m.Close() }

func passed(m mmap.Read) { use(mmap.Protect[mmap.None](m)) }

func use(n mmap.None, err error) {
	if err == nil {
		n.Close()
	}
}

func parts(m mmap.Read) (mmap.Read, mmap.Read) {
	left, right, _ := mmap.Split(m, 4096)
	return left, right
}

func named(m mmap.Read) (next mmap.Read, err error) {
	next, err = mmap.Resize(m, 1)
	return
}

func guarded(p *mmap.Pin) { mmap.Guard(func() error { return nil }, p) }

func unknownChange(u mmap.Unknown) { u.Protect(mmap.ProtRead) }

func released(m mmap.Read) { m.Release() }

func found(b []byte) { mmap.Find(b) }
