package unguarded

import (
	"bytes"

	"github.com/mmarinus/mmap"
)

func pinned(m mmap.Read, f func(pin *mmap.Pin) error) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	defer pin.Unpin()
	return f(pin)
}

func guarded(m mmap.Read) (c byte, err error) {
	err = pinned(m, func(pin *mmap.Pin) error {
		return mmap.Guard(func() error { c = pin.Bytes()[0]; return nil }, pin)
	})
	return c, err
}

func guardAll(m mmap.Read) (c byte, err error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	defer pin.Unpin()
	err = mmap.GuardAll(func() error { c = pin.Bytes()[0]; return nil })
	return c, err
}

func outsideSlice(m mmap.Read) (n int, err error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	defer pin.Unpin()
	b := pin.Bytes()[4:]
	err = mmap.Guard(func() error { n = bytes.Count(b, nil); return nil }, pin)
	return n, err
}

func length(m mmap.Read) (int, error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	defer pin.Unpin()
	return len(pin.Bytes()) + cap(pin.Bytes()), nil
}

func inView(m mmap.Read) (c byte, err error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	defer pin.Unpin()
	err = m.View(func([]byte) error { c = pin.Bytes()[0]; return nil })
	return c, err
}

func viewed(m mmap.Read) (c byte, err error) {
	err = m.View(func(b []byte) error { c = b[0]; return nil })
	return c, err
}

func unsafely(m mmap.Read) byte { return m.UnsafeBytes()[0] }

func handedOn(m mmap.Read) (*mmap.Pin, []byte, error) {
	pin, err := m.Pin()
	if err != nil {
		return nil, nil, err
	}
	return pin, pin.Bytes(), nil
}

func nested(m mmap.Read) (c byte, err error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	defer pin.Unpin()
	err = mmap.Guard(func() error {
		return mmap.Guard(func() error { c = pin.Bytes()[0]; return nil }, pin)
	}, pin)
	return c, err
}

func first(b []byte) byte { return b[0] }

func inGuardByHelper(m mmap.Read) (c byte, err error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	defer pin.Unpin()
	err = mmap.Guard(func() error { c = first(pin.Bytes()); return nil }, pin)
	return c, err
}

func empty(m mmap.Read) (bool, error) {
	pin, err := m.Pin()
	if err != nil {
		return false, err
	}
	defer pin.Unpin()
	return pin.Bytes() == nil, nil
}

type tx struct {
	pin *mmap.Pin
	b   []byte
}

func begin(m mmap.Read) (*tx, error) {
	pin, err := m.Pin()
	if err != nil {
		return nil, err
	}
	return &tx{pin, pin.Bytes()}, nil
}

func (t *tx) get(i int) byte { return t.b[i] } // whoever calls it is in a guard, or is not

func (t *tx) at(i int) (c byte, err error) {
	err = mmap.Guard(func() error { c = t.b[i]; return nil }, t.pin)
	return c, err
}

func deferredGuard(m mmap.Read) (c byte, err error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	defer pin.Unpin()
	defer func() {
		err = mmap.Guard(func() error { c = pin.Bytes()[0]; return nil }, pin)
	}()
	return 0, nil
}

func inLiteral(m mmap.Read) (c byte, err error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	defer pin.Unpin()
	read := func() error { c = pin.Bytes()[0]; return nil }
	return c, mmap.Guard(read, pin)
}
