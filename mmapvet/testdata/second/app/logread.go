package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"sync/atomic"

	"data/second/store"

	"github.com/mmarinus/mmap"
)

// CountLines counts the lines of a file.
//
// Wrong: nobody closes the mapping; a loop over many files runs out of address
// space, or of vm.max_map_count, before the collector comes.
func CountLines(path string) (n int, err error) {
	m, err := store.Open(path) // want `unclosed: `
	if err != nil {
		return 0, err
	}
	err = m.View(func(b []byte) error {
		n = bytes.Count(b, []byte{'\n'})
		return nil
	})
	return n, err
}

// CountLinesRight is CountLines as it should be. Right.
func CountLinesRight(path string) (n int, err error) {
	m, err := store.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	err = m.View(func(b []byte) error {
		n = bytes.Count(b, []byte{'\n'})
		return nil
	})
	return n, err
}

// Preload brings a file into the page cache.
//
// Wrong: the mapping stays after the end of the function; Describe neither
// closes nor keeps it.
func Preload(path string) {
	m, err := mmap.Map[mmap.Read](mmap.Path(path)) // want `unclosed: `
	if err != nil {
		log.Print(err)
		return
	}
	if err := m.Prefault(0, m.Len()); err != nil {
		log.Print("preload: ", err)
	}
	store.Describe(path, m.Untyped())
}

// PreloadRight is Preload as it should be. Right: Retire closes it, as a Mapping.
func PreloadRight(path string) {
	m, err := mmap.Map[mmap.Read](mmap.Path(path))
	if err != nil {
		log.Print(err)
		return
	}
	if err := m.Prefault(0, m.Len()); err != nil {
		log.Print("preload: ", err)
	}
	store.Describe(path, m.Untyped())
	store.Retire(path, m.Untyped())
}

// Collect copies lines into memory that grows.
//
// Wrong: defer has taken the handle as it was before Resize; it closes the old
// handle, which is nothing, and the resized mapping stays.
func Collect(r io.Reader, n int) (string, error) {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(page))
	if err != nil {
		return "", err
	}
	defer m.Close()
	m, err = mmap.Resize(m, n) // want `unclosed: `
	if err != nil {
		return "", err
	}
	p := make([]byte, n)
	k, rerr := io.ReadFull(r, p)
	if _, err := m.WriteAt(p[:k], 0); err == nil {
		m.ReadAt(p, 0)
	}
	return string(p), rerr
}

// CollectRight is Collect as it should be. Right: the deferred literal reads m
// when it runs.
func CollectRight(r io.Reader, n int) (string, error) {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(page))
	if err != nil {
		return "", err
	}
	defer func() { m.Close() }()
	m, err = mmap.Resize(m, n)
	if err != nil {
		return "", err
	}
	p := make([]byte, n)
	k, err := io.ReadFull(r, p)
	if err != nil {
		return "", err
	}
	_, err = m.WriteAt(p[:k], 0)
	return string(p), err
}

// Prepare makes memory, fills it and returns it read-only.
//
// Wrong: with an empty fill the new handle ro is not closed; the deferred Close
// of rw finds that it was moved.
func Prepare(n int, fill func(b []byte) error) (mmap.Read, error) {
	rw, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(n))
	if err != nil {
		return mmap.Read{}, err
	}
	defer rw.Close()
	if err := rw.Update(fill); err != nil {
		return mmap.Read{}, err
	}
	ro, err := store.Freeze(rw) // want `unclosed: `
	if err != nil {
		return mmap.Read{}, err
	}
	empty := true
	if err := ro.View(func(b []byte) error { empty = len(bytes.Trim(b, "\x00")) == 0; return nil }); err != nil {
		ro.Close()
		return mmap.Read{}, err
	}
	if empty {
		return mmap.Read{}, io.ErrUnexpectedEOF
	}
	return ro, nil
}

// PrepareRight looks like Prepare. Right: the deferred Close of rw does harm
// neither where the mapping was handed on nor where it was not.
func PrepareRight(n int, fill func(b []byte) error) (mmap.Read, error) {
	rw, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(n))
	if err != nil {
		return mmap.Read{}, err
	}
	defer rw.Close()
	if err := rw.Update(fill); err != nil {
		return mmap.Read{}, err
	}
	return store.Freeze(rw)
}

// Body returns a copy of the second part of a file.
//
// Wrong: of the two parts only one is closed.
func Body(path string) ([]byte, error) {
	m, err := store.Open(path)
	if err != nil {
		return nil, err
	}
	head, body, err := mmap.Split(m, page) // want `unclosed: `
	if err != nil {
		m.Close()
		return nil, err
	}
	defer body.Close()
	if head.Len() == 0 {
		log.Print("no head")
	}
	p := make([]byte, body.Len())
	n, err := body.ReadAt(p, 0)
	return p[:n], err
}

// BodyRight is Body as it should be. Right: through io.Closer and a slice.
func BodyRight(path string) ([]byte, error) {
	m, err := store.Open(path)
	if err != nil {
		return nil, err
	}
	head, body, err := mmap.Split(m, page)
	if err != nil {
		m.Close()
		return nil, err
	}
	for _, c := range []io.Closer{head, body} {
		defer c.Close()
	}
	p := make([]byte, body.Len())
	n, err := body.ReadAt(p, 0)
	return p[:n], err
}

// Adopt takes over pages of a C library.
//
// Wrong: Assert refuses where the pages are not what was said, and then u still
// owns them; nobody has u.
func Adopt(addr uintptr, n int) (mmap.Read, error) {
	u, err := mmap.UnsafeAdopt[mmap.Unknown](addr, n) // want `unclosed: `
	if err != nil {
		return mmap.Read{}, err
	}
	r, err := mmap.Assert[mmap.Read](u)
	if err != nil {
		return mmap.Read{}, fmt.Errorf("adopt: %w", err)
	}
	return r, nil
}

// AdoptRight is Adopt as it should be. Right: the pages are given back.
func AdoptRight(addr uintptr, n int) (mmap.Read, error) {
	u, err := mmap.UnsafeAdopt[mmap.Unknown](addr, n)
	if err != nil {
		return mmap.Read{}, err
	}
	r, err := mmap.Assert[mmap.Read](u)
	if err != nil {
		_, _, rerr := u.Release()
		return mmap.Read{}, errors.Join(err, rerr)
	}
	return r, nil
}

// Merge sorts a file in scratch memory.
//
// Wrong: done ends the scratch memory only, and where it cannot be had the file
// stays mapped.
func Merge(path string) (int, error) {
	src := store.MustOpen(path) // want `unclosed: `
	tmp, done, err := store.Scratch(src.Len())
	if err != nil {
		return 0, err
	}
	defer src.Close()
	defer done()
	err = src.View(func(b []byte) error {
		_, err := tmp.WriteAt(b, 0)
		return err
	})
	return tmp.Len(), err
}

// Deliver hands a mapping to a worker, or gives up. Right: sent in one case and
// closed in the other.
func Deliver(ctx context.Context, path string, work chan<- mmap.Read) error {
	m, err := store.OpenVerified(path, "LOG1")
	if err != nil {
		return err
	}
	select {
	case work <- m:
		return nil
	case <-ctx.Done():
		m.Close()
		return ctx.Err()
	}
}

// DeliverAsIs is Deliver with a default.
//
// Wrong: with a full channel the mapping is neither sent nor closed.
func DeliverAsIs(path string, work chan<- mmap.Read) (bool, error) {
	m, err := store.OpenVerified(path, "LOG1") // want `unclosed: `
	if err != nil {
		return false, err
	}
	select {
	case work <- m:
		return true, nil
	default:
		return false, nil
	}
}

// A Reader reads a log.
type Reader struct {
	m   mmap.Read
	off int
}

// NewReader makes one that the collector may close. Right: AddCleanup has the
// mapping.
func NewReader(path string) (*Reader, error) {
	m, err := store.Open(path)
	if err != nil {
		return nil, err
	}
	r := new(Reader)
	r.m = m
	runtime.AddCleanup(r, func(m mmap.Read) { m.Close() }, m)
	return r, nil
}

// OpenBoth maps a log and its index. Right: what is made is closed if the other
// one is not.
func OpenBoth(log, index string) (l, x mmap.Read, err error) {
	l, err = store.Open(log)
	if err != nil {
		return l, x, err
	}
	x, err = store.Open(index)
	if err != nil {
		l.Close()
		return mmap.Read{}, mmap.Read{}, err
	}
	return l, x, nil
}

// OpenAll maps many files. Right: the slice has them, and a failure closes all
// that are in it.
func OpenAll(paths ...string) (all []mmap.Read, err error) {
	defer func() {
		if err != nil {
			for _, m := range all {
				m.Close()
			}
			all = nil
		}
	}()
	for _, path := range paths {
		m, err := store.Open(path)
		if err != nil {
			return all, err
		}
		all = append(all, m)
	}
	return all, nil
}

// Rotate maps the next log in place of the current one. Right: Swap takes the
// address of the new one, and gives back the old one to be closed.
func Rotate(current *atomic.Pointer[mmap.Read], path string) error {
	m, err := store.Open(path)
	if err != nil {
		return err
	}
	if old := current.Swap(&m); old != nil {
		return old.Close()
	}
	return nil
}

// Follow maps a file and gives the functions to read and to end. Right: method
// values have the mapping.
func Follow(path string) (read func(p []byte, off int64) (int, error), end func() error, err error) {
	m, err := store.Open(path)
	if err != nil {
		return nil, nil, err
	}
	return m.ReadAt, m.Close, nil
}

// KeepOpen maps a file for the lifetime of the program's state. Right: it is
// kept, as io.Closer, and the rest only uses it.
func KeepOpen(keep *store.Lifetime, path string) (io.ReaderAt, error) {
	m, err := store.Open(path)
	if err != nil {
		return nil, err
	}
	keep.Keep(m)
	var one [1]byte
	if _, err := m.ReadAt(one[:], 0); err != nil {
		return nil, err
	}
	return m, nil
}

// Widen makes the mapping longer where it must be.
//
// Wrong: the inner m is another variable, and it has the mapping; the deferred
// literal closes the outer one, which was moved.
func Widen(n int, fill func(b []byte) error) error {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(page))
	if err != nil {
		return err
	}
	defer func() { m.Close() }()
	if n > page {
		m, err := mmap.Resize(m, n) // want `unclosed: `
		if err != nil {
			return err
		}
		return m.Update(fill)
	}
	return m.Update(fill)
}

// Restrict opens a file for a while. Right: on the path of failure the process
// ends, and on the others the mapping is closed once, wherever it is.
func Restrict(path string, use func(b []byte) error) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	u, err := mmap.MapUnknown(mmap.Whole(f), mmap.ProtRead|mmap.ProtWrite)
	if err != nil {
		return err
	}
	ro, err := mmap.Assert[mmap.ReadWrite](u)
	if err != nil {
		log.Fatal("restrict: ", err)
	}
	switch err := ro.View(use); {
	case errors.Is(err, mmap.ErrTruncated):
		return errors.Join(io.ErrUnexpectedEOF, ro.Close())
	case err != nil:
		ro.Close()
		return err
	default:
		return ro.Close()
	}
}
