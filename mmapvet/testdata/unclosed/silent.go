package unclosed

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mmarinus/mmap"

	"data/exit"
)

func deferred(name string) error {
	m, err := mmap.Map[mmap.Read](mmap.Path(name))
	if err != nil {
		return err
	}
	defer m.Close()
	return m.View(check)
}

func resizedInLoop(m mmap.ReadWrite) (mmap.ReadWrite, error) {
	for n := 4096; n < 1<<20; n *= 2 {
		var err error
		if m, err = mmap.Resize(m, n); err != nil {
			return m, err
		}
	}
	return m, nil
}

func grown(name string) error {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(4096))
	if err != nil {
		return err
	}
	defer func() { m.Close() }()
	for i := range 10 {
		if m, err = mmap.Resize(m, 4096*(i+1)); err != nil {
			return err
		}
	}
	return nil
}

func unlessOK(name string) (m mmap.Read, err error) {
	m, err = mmap.Map[mmap.Read](mmap.Path(name))
	if err != nil {
		return m, err
	}
	ok := false
	defer func() {
		if !ok {
			m.Close()
		}
	}()
	if err = validate(m); err != nil {
		return m, err
	}
	ok = true
	return m, nil
}

func onNamedError(size int) (u mmap.Unknown, err error) {
	u, err = mmap.MapUnknown(mmap.Anonymous(size), mmap.ProtRead)
	if err != nil {
		return u, err
	}
	defer func() {
		if err != nil {
			u.Close()
		}
	}()
	f, err := os.Open("/dev/null")
	if err != nil {
		return u, err
	}
	defer f.Close()
	if err = u.Place(0, mmap.File(f, 0, 4096), mmap.ProtRead); err != nil {
		return u, err
	}
	return u, nil
}

type table struct {
	m     mmap.Read
	parts []mmap.Mapping
	cur   atomic.Pointer[mmap.Read]
	byKey map[string]mmap.Read
}

func newTable(name string) (*table, error) {
	m, err := mmap.Map[mmap.Read](mmap.Path(name))
	if err != nil {
		return nil, err
	}
	return &table{m: m}, nil
}

func (t *table) swap(name string) error {
	m, err := mmap.Map[mmap.Read](mmap.Path(name))
	if err != nil {
		return err
	}
	if old := t.cur.Swap(&m); old != nil {
		return old.Close()
	}
	return nil
}

func (t *table) add(key string, m mmap.ReadWrite) error {
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return err
	}
	t.byKey[key] = ro
	return nil
}

func (t *table) list(m mmap.ReadWrite) error {
	left, right, err := mmap.Split(m, 4096)
	if err != nil {
		return err
	}
	t.parts = append(t.parts, left.Untyped(), right.Untyped())
	return nil
}

func sent(ctx context.Context, ch chan<- mmap.Read) error {
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(4096))
	if err != nil {
		return err
	}
	select {
	case ch <- m:
		return nil
	case <-ctx.Done():
		m.Close()
		return ctx.Err()
	}
}

func registered(t *testing.T) mmap.Read {
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(4096))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func on[M mmap.Handle](t testing.TB, m M) M {
	t.Cleanup(func() { m.Close() })
	return m
}

func byHelper(t *testing.T) int {
	m := on(t, must(mmap.Map[mmap.Read](mmap.Anonymous(1))))
	return m.Len()
}

func closeIt(m mmap.Read) { m.Close() }

type object struct{ n int }

func collected() (*object, error) {
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(1))
	if err != nil {
		return nil, err
	}
	o := &object{m.Len()}
	runtime.AddCleanup(o, closeIt, m)
	return o, nil
}

func byFunction() error {
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(1))
	if err != nil {
		return err
	}
	defer closeIt(m)
	return validate(m)
}

func once() func() {
	m := must(mmap.Map[mmap.Read](mmap.Anonymous(1)))
	return sync.OnceFunc(func() { m.Close() })
}

func expectedToFail(m mmap.Read) error {
	if _, err := mmap.Resize(m, -1); err == nil {
		return errors.New("a negative size")
	}
	if _, err := mmap.Map[mmap.Read](mmap.Anonymous(-1)); !errors.Is(err, os.ErrInvalid) {
		return err
	}
	return nil
}

func optional(use bool) error {
	var m mmap.Read
	var err error
	if use {
		if m, err = mmap.Map[mmap.Read](mmap.Anonymous(1)); err != nil {
			return err
		}
	}
	fmt.Println(m.Len())
	if use {
		return m.Close()
	}
	return nil
}

func several(names []string) (all []mmap.Read, err error) {
	defer func() {
		if err != nil {
			for _, m := range all {
				m.Close()
			}
		}
	}()
	for _, name := range names {
		m, err := mmap.Map[mmap.Read](mmap.Path(name))
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return slices.Clip(all), nil
}

func orFatal() {
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(1))
	if err != nil {
		log.Fatal(err)
	}
	if m.Len() != 1 {
		log.Fatal("bad length")
	}
	m.Close()
}

func joined(err error) error {
	m, failed := mmap.Map[mmap.Read](mmap.Anonymous(1))
	if failed != nil {
		return errors.Join(err, failed)
	}
	return errors.Join(err, m.Close())
}

func sealed() error {
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(1))
	if err != nil {
		return err
	}
	if err := m.Seal(); err != nil {
		return errors.Join(err, m.Close())
	}
	return nil // nobody can close it any more
}

func inGoroutine(done chan<- error) error {
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(1))
	if err != nil {
		return err
	}
	go func() {
		defer m.Close()
		done <- m.View(check)
	}()
	return nil
}

func retried() (mmap.Read, error) {
	for i := 0; ; i++ {
		m, err := mmap.Map[mmap.Read](mmap.Anonymous(1))
		if err == nil || i > 3 {
			return m, err
		}
	}
}

func released() (uintptr, error) {
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(1))
	if err != nil {
		return 0, err
	}
	addr, _, err := m.Release()
	if err != nil {
		return 0, errors.Join(err, m.Close())
	}
	return addr, nil
}

func tryKeep(m mmap.ReadWrite, list *[]mmap.Read) bool {
	ro, err := mmap.Protect[mmap.Read](m)
	if err == nil {
		*list = append(*list, ro)
	}
	return err == nil
}

func mayBeTaken(list *[]mmap.Read) error {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(1))
	if err != nil {
		return err
	}
	if !tryKeep(m, list) {
		return errors.New("not taken")
	}
	return nil
}

// The same is asked again, of what is no constant in a variable.
func askedAgain(f *os.File, names []string) error {
	m, err := mmap.Map[mmap.Read](mmap.Whole(f))
	if err != nil {
		return err
	}
	if len(names) > 3 {
		m.Close()
	}
	if len(names) > 3 {
		return nil
	}
	return m.Close()
}

// A function of another package, which has nothing to do with mappings, ends the program.
func orExit(name string) {
	m, err := mmap.Map[mmap.Read](mmap.Path(name))
	if err != nil {
		exit.With(err)
	}
	if m.Len() == 0 {
		exit.With(errors.New("empty"))
	}
	m.Close()
}

func serves(name string, work chan func()) error {
	m, err := mmap.Map[mmap.Read](mmap.Path(name))
	if err != nil {
		return err
	}
	fmt.Println(m.Len())
	exit.Serve(work)
	return nil
}

func ensure(err error) { exit.Check(err) }

// An error is handed on to a function of which nothing is known, as far as anybody knows for good.
func ensured(m mmap.ReadWrite) {
	left, right, err := mmap.Split(m, 4096)
	ensure(err)
	whole, err := mmap.Join(left, right)
	ensure(err)
	whole.Close()
}
