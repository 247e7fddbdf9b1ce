package busy

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/mmarinus/mmap"
)

func growInView(m mmap.ReadWrite) error {
	return m.View(func(b []byte) error { return mmap.Grow(m, 2*len(b)) })
}

func closeInView(m mmap.ReadWrite) error {
	return m.View(func(b []byte) error { return m.Close() })
}

func growUnderPin(m mmap.ReadWrite) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	defer pin.Unpin()
	return mmap.Grow(m, 100)
}

func other(m, n mmap.ReadWrite) error {
	return m.View(func(b []byte) error {
		ro, err := mmap.Protect[mmap.Read](n)
		if err != nil {
			return err
		}
		return ro.Close()
	})
}

func afterView(m mmap.ReadWrite) (mmap.Read, error) {
	if err := m.View(func(b []byte) error { return nil }); err != nil {
		return mmap.Read{}, err
	}
	return mmap.Protect[mmap.Read](m)
}

func afterUnpin(m mmap.ReadWrite) (mmap.Read, error) {
	pin, err := m.Pin()
	if err != nil {
		return mmap.Read{}, err
	}
	fmt.Println(len(pin.Bytes()))
	pin.Unpin()
	return mmap.Protect[mmap.Read](m)
}

func failedPin(m mmap.ReadWrite) (mmap.Read, error) {
	pin, err := m.Pin()
	if err != nil {
		return mmap.Protect[mmap.Read](m)
	}
	return mmap.Read{}, pin.Unpin()
}

func drained(ctx context.Context, m mmap.ReadWrite) (ro mmap.Read, err error) {
	err = m.Drain(ctx, func() (err error) {
		ro, err = mmap.Protect[mmap.Read](m)
		return err
	})
	return ro, err
}

func expected(m mmap.ReadWrite) error {
	return m.View(func(b []byte) error {
		_, err := mmap.Protect[mmap.Read](m)
		if !errors.Is(err, mmap.ErrBusy) {
			return errors.New("not busy")
		}
		return nil
	})
}

func expectedOutside(m mmap.ReadWrite) error {
	err := m.View(func(b []byte) error {
		r, err := mmap.Protect[mmap.Read](m)
		r.Close()
		return err
	})
	if errors.Is(err, mmap.ErrBusy) {
		return nil
	}
	return fmt.Errorf("%w: not busy", err)
}

func wants(err, want error) {
	if !errors.Is(err, want) {
		fmt.Fprintln(os.Stderr, err)
	}
}

func expectedByHelper(m mmap.ReadWrite) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	_, err = mmap.Protect[mmap.Read](m)
	wants(err, mmap.ErrBusy)
	return pin.Unpin()
}

type session struct{ pin *mmap.Pin }

func (s *session) end() { s.pin.Unpin() }

func storedPin(m mmap.ReadWrite, s *session) (mmap.Read, error) {
	pin, err := m.Pin()
	if err != nil {
		return mmap.Read{}, err
	}
	s.pin = pin
	s.end()
	return mmap.Protect[mmap.Read](m)
}

func rangesInView(m mmap.ReadWrite) error {
	return m.View(func(b []byte) error {
		if err := m.Advise(0, len(b), mmap.AdviceRandom); err != nil {
			return err
		}
		return m.Discard(0, len(b))
	})
}

func reassigned(m, n mmap.ReadWrite) error {
	viewed := m
	return viewed.View(func(b []byte) error {
		m = n
		ro, err := mmap.Protect[mmap.Read](m)
		if err != nil {
			return err
		}
		return ro.Close()
	})
}

func newOne() error {
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(1))
	if err != nil {
		return err
	}
	defer m.Close()
	return m.View(func(b []byte) error {
		n, err := mmap.Map[mmap.Read](mmap.Anonymous(1))
		if err != nil {
			return err
		}
		none, err := mmap.Protect[mmap.None](n)
		if err != nil {
			return errors.Join(err, n.Close())
		}
		return none.Close()
	})
}

func laterTransition(m mmap.ReadWrite) (func() error, error) {
	var f func() error
	err := m.View(func(b []byte) error {
		f = func() error {
			ro, err := mmap.Protect[mmap.Read](m)
			if err != nil {
				return err
			}
			return ro.Close()
		}
		return nil
	})
	return f, err
}

// Drain waits for the pin until ctx ends, and does not run the function: it is no ErrBusy.
func drainBesideOwnPin(ctx context.Context, m mmap.ReadWrite) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	defer pin.Unpin()
	return m.Drain(ctx, func() error {
		r, err := mmap.Protect[mmap.Read](m)
		if err != nil {
			return err
		}
		return r.Close()
	})
}
