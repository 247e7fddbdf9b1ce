package busy

import (
	"context"
	"fmt"

	"github.com/mmarinus/mmap"
)

func inView(m mmap.ReadWrite) error {
	return m.View(func(b []byte) error {
		ro, err := mmap.Protect[mmap.Read](m) // want `busy: Protect returns ErrBusy: it is called within a view of the mapping`
		if err != nil {
			return err
		}
		return ro.Close()
	})
}

func inUpdate(m mmap.ReadWrite) (err error) {
	return m.Update(func(b []byte) error {
		if len(b) < 100 {
			m, err = mmap.Resize(m, 100) // want `busy: Resize`
		}
		return err
	})
}

func inRange(u mmap.Unknown) error {
	return u.ViewRange(0, 10, func(b []byte) error {
		return u.ProtectRange(4096, 4096, mmap.ProtRead) // want `busy: ProtectRange`
	})
}

func placed(u mmap.Unknown) error {
	return u.UpdateRange(0, 10, func(b []byte) error {
		return u.Place(0, mmap.Anonymous(4096), mmap.ProtRead) // want `busy: Place`
	})
}

func protected(u mmap.Unknown) error {
	return u.View(func(b []byte) error {
		return u.Protect(mmap.ProtNone) // want `busy: Protect`
	})
}

func pinned(m mmap.ReadWrite) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	defer pin.Unpin()
	ro, err := mmap.Protect[mmap.Read](m) // want `busy: Protect returns ErrBusy: the mapping is pinned since line 48`
	if err != nil {
		return err
	}
	return ro.Close()
}

func moved(m mmap.Read, addr uintptr) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	there, err := mmap.Move(m, addr) // want `busy: Move`
	pin.Unpin()
	if err != nil {
		return err
	}
	return there.Close()
}

func split(m mmap.Read) error {
	return m.ViewRange(0, 4096, func(b []byte) error {
		l, r, err := mmap.Split(m, 4096) // want `busy: Split`
		if err != nil {
			return err
		}
		l.Close()
		return r.Close()
	})
}

func joined(a, b mmap.Read) error {
	return b.View(func(bytes []byte) error {
		m, err := mmap.Join(a, b) // want `busy: Join`
		if err != nil {
			return err
		}
		return m.Close()
	})
}

func forgotten(m mmap.Read) error {
	return m.View(func(b []byte) error {
		u, err := mmap.Forget(m) // want `busy: Forget`
		if err == nil {
			u.Close()
		}
		return err
	})
}

func asserted(u mmap.Unknown) error {
	return u.View(func(b []byte) error {
		m, err := mmap.Assert[mmap.Read](u) // want `busy: Assert`
		if err == nil {
			m.Close()
		}
		return err
	})
}

func released(m mmap.Read) (addr uintptr, err error) {
	err = m.View(func(b []byte) error {
		addr, _, err = m.Release() // want `busy: Release`
		return err
	})
	return addr, err
}

func over(m mmap.Read) error {
	return m.View(func(b []byte) error {
		n, err := mmap.Over[mmap.Read](m, mmap.Anonymous(m.Len())) // want `busy: Over`
		if err == nil {
			n.Close()
		}
		return err
	})
}

type store struct{ m mmap.ReadWrite }

func (s *store) grow() error {
	return s.m.Update(func(b []byte) error {
		m, err := mmap.Resize(s.m, 2*len(b)) // want `busy: Resize`
		s.m = m
		return err
	})
}

func untyped(m mmap.Read) error {
	u := m.Untyped()
	pin, err := u.Pin()
	if err != nil {
		return err
	}
	defer pin.Unpin()
	next, err := mmap.Over[mmap.Read](m, mmap.Anonymous(10)) // want `busy: Over`
	if err != nil {
		return err
	}
	return next.Close()
}

func nested(a, b mmap.Read) error {
	return a.View(func(x []byte) error {
		return b.View(func(y []byte) error {
			n, err := mmap.Protect[mmap.None](a) // want `busy: Protect`
			if err == nil {
				n.Close()
			}
			return err
		})
	})
}

func literal(m mmap.Read) error {
	seal := func() error {
		n, err := mmap.Protect[mmap.None](m) // want `busy: Protect`
		if err == nil {
			n.Close()
		}
		return err
	}
	return m.View(func(b []byte) error { return seal() })
}

func guarded(ctx context.Context, m mmap.Read) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	defer pin.Unpin()
	return mmap.Guard(func() error {
		n, err := mmap.Resize(m, 1) // want `busy: Resize`
		fmt.Println(n)
		return err
	}, pin)
}
