package unclosed

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/mmarinus/mmap"
)

func never(name string) error {
	m, err := mmap.Map[mmap.Read](mmap.Path(name)) // want `unclosed: the mapping that Map makes is not closed where the function returns on line 17`
	if err != nil {
		return err
	}
	return m.View(func(b []byte) error { fmt.Println(len(b)); return nil })
}

func early(name string) (int, error) {
	m, err := mmap.Map[mmap.Read](mmap.Path(name)) // want `unclosed: .* on line 26`
	if err != nil {
		return 0, err
	}
	if m.Len() < 16 {
		return 0, errors.New("too short")
	}
	defer m.Close()
	return m.Len(), nil
}

func onError(name string) (mmap.Read, error) {
	m, err := mmap.Map[mmap.Read](mmap.Path(name)) // want `unclosed: .* on line 41`
	if err != nil {
		return m, err
	}
	err = m.View(func(b []byte) error {
		return check(b)
	})
	if err != nil {
		return mmap.Read{}, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

func check(b []byte) error {
	if !bytes.HasPrefix(b, []byte("MAGIC")) {
		return errors.New("no magic")
	}
	return nil
}

func fault(name string, count func(b []byte) int) (n int, err error) {
	m, err := mmap.Map[mmap.Read](mmap.Path(name)) // want `unclosed: .* on line 59`
	if err != nil {
		return 0, err
	}
	if err := m.View(func(b []byte) error { n = count(b); return nil }); err != nil {
		return 0, err // of a fault
	}
	return n, m.Close()
}

func second(a, b string) error {
	m, err := mmap.Map[mmap.Read](mmap.Path(a)) // want `unclosed: .* on line 71`
	if err != nil {
		return err
	}
	n, err := mmap.Map[mmap.Read](mmap.Path(b))
	if err != nil {
		return err
	}
	defer m.Close()
	defer n.Close()
	return nil
}

func oldHandle(m mmap.ReadWrite, n int) (err error) {
	defer m.Close()
	m, err = mmap.Resize(m, n) // want `unclosed: the mapping that Resize returns is not closed: the deferred Close of line 79 has the old handle`
	if err != nil {
		return err
	}
	_, err = m.WriteAt([]byte("end"), int64(n-3))
	return err
}

func overwritten(name string) (m mmap.Read, err error) {
	m, err = mmap.Map[mmap.Read](mmap.Path(name)) // want `unclosed: .* on line 99`
	if err != nil {
		return m, err
	}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	if err := validate(m); err != nil {
		return mmap.Read{}, err
	}
	return m, nil
}

func validate(m mmap.Read) error {
	if m.Len() == 0 {
		return errors.New("empty")
	}
	return nil
}

func transition(m mmap.ReadWrite) error {
	ro, err := mmap.Protect[mmap.Read](m) // want `unclosed: the mapping that Protect makes`
	if err != nil {
		return err
	}
	fmt.Println(ro.Len())
	return nil
}

func half(m mmap.ReadWrite) error {
	left, right, err := mmap.Split(m, 4096) // want `unclosed: the mapping that Split makes`
	if err != nil {
		return err
	}
	fmt.Println(left.Len(), right.Len())
	return right.Close()
}

func unknown() error {
	u, err := mmap.MapUnknown(mmap.Anonymous(4096), mmap.ProtNone) // want `unclosed: the mapping that MapUnknown makes`
	if err != nil {
		return err
	}
	return u.Protect(mmap.ProtRead)
}

func open(name string) (mmap.Read, error) {
	return mmap.Map[mmap.Read](mmap.Path(name))
}

func own(name string) error {
	m, err := open(name) // want `unclosed: the mapping that open makes`
	if err != nil {
		return err
	}
	fmt.Println(m)
	return nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func byMust(name string) int {
	m := must(mmap.Map[mmap.Read](mmap.Path(name))) // want `unclosed: the mapping that Map makes`
	return m.Len()
}

func loop(names []string) error {
	for _, name := range names {
		m, err := mmap.Map[mmap.Read](mmap.Path(name)) // want `unclosed: the mapping that Map makes`
		if err != nil {
			return err
		}
		if m.Len() == 0 {
			continue
		}
		m.Close()
	}
	return nil
}

func flag(name string) (err error) {
	ok := false
	m, err := mmap.Map[mmap.Read](mmap.Path(name)) // want `unclosed: the mapping that Map makes`
	if err != nil {
		return err
	}
	defer func() {
		if ok {
			m.Close()
		}
	}()
	if m.Len() == 0 {
		return errors.New("empty")
	}
	ok = true
	return nil
}

func adopted(addr uintptr) error {
	m, err := mmap.UnsafeAdopt[mmap.Read](addr, 4096) // want `unclosed: the mapping that UnsafeAdopt makes`
	if err != nil {
		return err
	}
	f, err := os.Create("/dev/null")
	if err != nil {
		return err
	}
	defer f.Close()
	return m.View(func(b []byte) error { _, err := f.Write(b); return err })
}

func inLiteral(names []string) func() error {
	return func() error {
		m, err := mmap.Map[mmap.Read](mmap.Path(names[0])) // want `unclosed: the mapping that Map makes`
		if err != nil {
			return err
		}
		return m.View(check)
	}
}

// A loop that starts goroutines ends here, too.
func workers(name string, all []byte, n int) (int, error) {
	m, err := mmap.Map[mmap.Read](mmap.Path(name)) // want `unclosed: the mapping that Map makes`
	if err != nil {
		return 0, err
	}
	for i := range n {
		go func() { fmt.Fprintln(os.Stderr, i, len(all)) }()
	}
	return m.Len(), nil
}

// A call in a long row of calls, each of which can fail.
func row(m mmap.ReadWrite, name string, n int) error {
	mapped, err := mmap.Map[mmap.Read](mmap.Path(name)) // want `unclosed: the mapping that Map makes`
	if err != nil {
		return err
	}
	note(m.Sync(0, 1))
	note(m.Advise(0, 1, mmap.AdviceNormal))
	note(m.Prefault(0, 1))
	note(m.Lock(0, 1))
	note(m.Unlock(0, 1))
	note(m.SetName("row"))
	note(m.View(check))
	note(m.ViewRange(0, 1, check))
	note(m.Update(check))
	note(m.UpdateRange(0, 1, check))
	note(mmap.Grow(m, n))
	note(m.Discard(0, 1))
	note(m.Sync(0, 2))
	note(m.View(check))
	note(m.ViewRange(0, 2, check))
	note(m.Update(check))
	note(m.UpdateRange(0, 2, check))
	fmt.Println(mapped.Len())
	return nil
}

var failures int

func note(err error) {
	if err != nil {
		failures++
	}
}
