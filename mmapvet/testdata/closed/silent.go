package closed

import (
	"context"
	"errors"
	"os"

	"github.com/mmarinus/mmap"
)

func twice(m mmap.Read) error {
	defer m.Close()
	return m.Close()
}

func failed(m mmap.Read) error {
	if err := m.Close(); err != nil {
		return errors.Join(err, m.Sync(0, 1))
	}
	return nil
}

func harmless(m mmap.Read) (int, string) {
	m.Close()
	return m.Len() + m.Cap(), m.String()
}

func expected(m mmap.Read) bool {
	m.Close()
	return errors.Is(m.Sync(0, 1), mmap.ErrClosed)
}

func expectedByOS(m mmap.Read) bool {
	m.Close()
	_, err := m.Pin()
	return errors.Is(err, os.ErrClosed)
}

func reopened(m mmap.Read) (mmap.Read, error) {
	m.Close()
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(1))
	if err != nil {
		return m, err
	}
	return m, m.Sync(0, 1)
}

func (f *file) reopened() error {
	f.m.Close()
	if err := f.open(); err != nil {
		return err
	}
	return f.m.Sync(0, 1)
}

func (f *file) open() (err error) {
	f.m, err = mmap.Map[mmap.ReadWrite](mmap.Anonymous(1))
	return err
}

func deferred(m mmap.Read) error {
	defer m.Close()
	return m.Sync(0, 1)
}

func other(m, n mmap.Read) error {
	m.Close()
	return n.Sync(0, 1)
}

func onOnePath(m mmap.Read, shut bool) error {
	if shut {
		return m.Close()
	}
	return m.Sync(0, 1)
}

func correlated(m mmap.Read, shut bool) (err error) {
	if shut {
		m.Close()
	}
	if !shut {
		err = m.Sync(0, 1)
	}
	return err
}

func sealed(m mmap.Read) error {
	if err := m.Seal(); err != nil {
		return err
	}
	m.Close() // which does nothing
	return m.Prefault(0, 1)
}

func inView(m mmap.Read) error {
	return m.View(func(b []byte) error {
		m.Close()
		_ = b[0]
		return nil
	})
}

func drained(ctx context.Context, m mmap.Read) error { return m.Drain(ctx, m.Close) }

func elements(ms []mmap.Read, i, j int) error {
	ms[i].Close()
	return ms[j].Sync(0, 1)
}

func maybe(m mmap.Read, stop func(mmap.Read)) error {
	stop(m)
	return m.Sync(0, 1)
}

func goroutine(m mmap.Read) error {
	go m.Close()
	return m.Sync(0, 1)
}
