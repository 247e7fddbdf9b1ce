package closed

import (
	"context"
	"errors"
	"fmt"

	"github.com/mmarinus/mmap"
)

func read(m mmap.Read) error {
	m.Close()
	_, err := m.ReadAt(make([]byte, 1), 0) // want `closed: ReadAt returns ErrClosed: the mapping was closed on line 12`
	return err
}

func write(m mmap.ReadWrite) error {
	m.Close()
	_, err := m.WriteAt([]byte{1}, 0) // want `closed: WriteAt`
	return err
}

func view(m mmap.Read) error {
	m.Close()
	return m.View(func(b []byte) error { return nil }) // want `closed: View`
}

func pin(m mmap.Read) error {
	m.Close()
	p, err := m.Pin() // want `closed: Pin`
	if err != nil {
		return err
	}
	return p.Unpin()
}

func grow(m mmap.ReadWrite) error {
	m.Close()
	return mmap.Grow(m, 10) // want `closed: Grow`
}

func transition(m mmap.ReadWrite) error {
	if err := m.Close(); err != nil {
		return err
	}
	ro, err := mmap.Protect[mmap.Read](m) // want `closed: Protect`
	if err != nil {
		return err
	}
	return ro.Close()
}

func copied(m mmap.Read) error {
	n := m
	n.Close()
	return m.Sync(0, 1) // want `closed: Sync`
}

func somePath(m mmap.Read) error {
	if m.Len() == 0 {
		m.Close()
	}
	return m.Advise(0, 1, mmap.AdviceRandom) // want `closed: Advise`
}

type file struct{ m mmap.ReadWrite }

func (f *file) flush() error {
	err := f.m.Close()
	if err != nil {
		return err
	}
	return f.m.Sync(0, 1) // want `closed: Sync`
}

func shut(m mmap.Read) { m.Close() }

func byHelper(m mmap.Read) error {
	shut(m)
	return m.Lock(0, 1) // want `closed: Lock`
}

func inDefer(m mmap.ReadWrite) (err error) {
	defer func() { err = errors.Join(err, m.Sync(0, 1)) }() // want `closed: Sync`
	return m.Close()
}

func deferredFirst(m mmap.ReadWrite) {
	defer m.Sync(0, 1) // want `closed: Sync`
	defer m.Close()
	fmt.Println(m.Len())
}

func loop(m mmap.Read) error {
	for i := range 3 {
		if _, err := m.ReadAt(make([]byte, 1), int64(i)); err != nil { // want `closed: ReadAt`
			return err
		}
		m.Close()
	}
	return nil
}

func drain(ctx context.Context, m mmap.Read) error {
	m.Close()
	return m.Drain(ctx, func() error { return nil }) // want `closed: Drain`
}

func generic[M mmap.Handle](m M) error {
	m.Close()
	return m.SetName("x") // want `closed: SetName`
}

func untyped(m mmap.Read) error {
	m.Untyped().Close()
	return m.Unlock(0, 1) // want `closed: Unlock`
}
