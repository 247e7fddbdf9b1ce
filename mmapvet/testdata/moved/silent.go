package moved

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"

	"github.com/mmarinus/mmap"
)

func onFailure(m mmap.ReadWrite) error {
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return errors.Join(err, m.Sync(0, m.Len()))
	}
	return ro.Close()
}

func sameVariable(m mmap.ReadWrite, n int) (mmap.ReadWrite, error) {
	m, err := mmap.Resize(m, n)
	if err != nil {
		return m, errors.Join(err, m.Sync(0, 1))
	}
	_, err = m.WriteAt([]byte("x"), 0)
	return m, err
}

func inLoop(m mmap.ReadWrite) (mmap.ReadWrite, error) {
	var err error
	for n := m.Len(); n < 1<<20; n *= 2 {
		if m, err = mmap.Resize(m, n); err != nil {
			return m, err
		}
		if _, err = m.WriteAt([]byte("x"), 0); err != nil {
			return m, err
		}
	}
	return m, nil
}

func harmless(m mmap.ReadWrite) (int, error) {
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return 0, err
	}
	fmt.Println(m.String(), m)
	m.Close()
	return ro.Len(), ro.Close()
}

func closesOld(m mmap.ReadWrite) (mmap.Read, error) {
	defer m.Close()
	return mmap.Protect[mmap.Read](m)
}

func (s *store) grow(n int) (err error) {
	s.m, err = mmap.Resize(s.m, n)
	if err != nil {
		return err
	}
	return s.m.Sync(0, n)
}

func (s *store) reopen() error {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(1))
	if err != nil {
		return err
	}
	s.m = m
	return nil
}

func (s *store) freeze() error {
	ro, err := mmap.Protect[mmap.Read](s.m)
	if err != nil {
		return err
	}
	s.list[0] = ro
	if err := s.reopen(); err != nil {
		return err
	}
	return s.m.Sync(0, 1)
}

type locked struct {
	sync.Mutex
	m mmap.ReadWrite
}

func (l *locked) freeze() (mmap.Read, error) {
	l.Lock()
	ro, err := mmap.Protect[mmap.Read](l.m)
	l.Unlock()
	if err != nil {
		return ro, err
	}
	l.Lock() // another goroutine has put a new one there
	defer l.Unlock()
	return ro, l.m.Sync(0, 1)
}

func other(m, n mmap.ReadWrite) (mmap.Read, error) {
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return ro, err
	}
	return ro, n.Sync(0, 1)
}

func elements(ms []mmap.ReadWrite) (out []mmap.Read, err error) {
	for i := range ms {
		ro, err := mmap.Protect[mmap.Read](ms[i])
		if err != nil {
			return out, err
		}
		out = append(out, ro)
	}
	return out, nil
}

func neighbours(ms []mmap.ReadWrite, i int) (mmap.Read, error) {
	ro, err := mmap.Protect[mmap.Read](ms[i])
	if err != nil {
		return ro, err
	}
	return ro, ms[i+1].Sync(0, 1)
}

func eitherOr(m mmap.ReadWrite, freeze bool) error {
	if freeze {
		ro, err := mmap.Protect[mmap.Read](m)
		if err != nil {
			return err
		}
		return ro.Close()
	}
	return m.Sync(0, 1)
}

func correlated(m mmap.ReadWrite, freeze bool) (ro mmap.Read, err error) {
	if freeze {
		if ro, err = mmap.Protect[mmap.Read](m); err != nil {
			return ro, err
		}
	}
	fmt.Println(ro.Len())
	if !freeze {
		err = m.Sync(0, 1)
	}
	return ro, err
}

func constant(m mmap.ReadWrite) (ro mmap.Read, err error) {
	frozen := false
	if m.Len() > 100 {
		if ro, err = mmap.Protect[mmap.Read](m); err == nil {
			frozen = true
		}
	}
	if frozen {
		return ro, err
	}
	return ro, m.Sync(0, 1)
}

func expected(m mmap.ReadWrite) error {
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return err
	}
	defer ro.Close()
	if err := m.Sync(0, 1); !errors.Is(err, mmap.ErrMoved) {
		return fmt.Errorf("%w, want ErrMoved", err)
	}
	if _, err := m.Pin(); err != mmap.ErrMoved {
		return err
	}
	return nil
}

func wants(t *testing.T, err, want error) {
	if !errors.Is(err, want) {
		t.Error(err)
	}
}

func expectedByHelper(t *testing.T, m mmap.ReadWrite) {
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		t.Fatal(err)
	}
	wants(t, m.Sync(0, 1), mmap.ErrMoved)
	ro.Close()
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func checked(t *testing.T, m mmap.ReadWrite) {
	ro, err := mmap.Protect[mmap.Read](m)
	check(t, err)
	rw, err := mmap.Protect[mmap.ReadWrite](ro)
	check(t, err)
	check(t, rw.Sync(0, 1))
	rw.Close()
}

func expectedToFail(m mmap.ReadWrite) error {
	if _, err := mmap.Resize(m, -1); err == nil {
		return errors.New("a negative size")
	}
	return m.Sync(0, 1)
}

func drainedTwice(ctx context.Context, m mmap.ReadWrite) (err error) {
	defer func() { m.Close() }()
	err = m.Drain(ctx, func() (err error) {
		m, err = mmap.Resize(m, 100)
		return err
	})
	if err != nil {
		return err
	}
	return m.Sync(0, 1)
}

func seeker(m mmap.Read) (r io.ReaderAt, err error) {
	r = m
	rw, err := mmap.Protect[mmap.ReadWrite](m)
	if err != nil {
		return r, err
	}
	r = rw
	_, err = r.ReadAt(make([]byte, 1), 0)
	return r, err
}

func reassigned(f *os.File, m mmap.ReadWrite) error {
	defer func() { m.Close() }()
	write := func() error { _, err := m.WriteAt([]byte("x"), 0); return err }
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return err
	}
	if m, err = mmap.Protect[mmap.ReadWrite](ro); err != nil {
		return errors.Join(err, ro.Close())
	}
	return write()
}

func tryFreeze(m mmap.ReadWrite, list *[]mmap.Read) bool {
	ro, err := mmap.Protect[mmap.Read](m)
	if err == nil {
		*list = append(*list, ro)
	}
	return err == nil
}

func byBool(m mmap.ReadWrite, list *[]mmap.Read) error {
	if tryFreeze(m, list) {
		return nil
	}
	return m.Sync(0, 1)
}

func pointer(p *mmap.ReadWrite) error {
	ro, err := mmap.Protect[mmap.Read](*p)
	if err != nil {
		return err
	}
	if *p, err = mmap.Protect[mmap.ReadWrite](ro); err != nil {
		return errors.Join(err, ro.Close())
	}
	return p.Sync(0, 1)
}

func failure[T any](_ T, err error) error { return err }

func onlyItsError(m mmap.ReadWrite) error {
	if failure(mmap.Resize(m, -1)) == nil {
		return errors.New("a negative size")
	}
	return m.Sync(0, 1)
}

// The error of the misuse is wrapped before it is compared.
func wrapped(m mmap.ReadWrite) error {
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return err
	}
	defer ro.Close()
	if err := m.Sync(0, 1); err != nil {
		err = fmt.Errorf("sync: %w", err)
		if !errors.Is(err, mmap.ErrMoved) {
			return err
		}
	}
	return nil
}
