package store

import (
	"context"
	"errors"
	"io"
	"log"
	"os"
	"sync"

	"github.com/mmarinus/mmap"
)

// Open maps a whole file to be read. Right: the mapping is the caller's.
func Open(path string) (mmap.Read, error) {
	return mmap.Map[mmap.Read](mmap.Path(path))
}

// MustOpen is Open for files that are part of the program.
func MustOpen(path string) mmap.Read {
	m, err := Open(path)
	if err != nil {
		panic(err)
	}
	return m
}

// OpenChecked is Open of a file with a magic number.
//
// Wrong: a file that is too short leaves the mapping open, and nobody has it.
func OpenChecked(path, magic string) (mmap.Read, error) {
	m, err := mmap.Map[mmap.Read](mmap.Path(path)) // want `unclosed: `
	if err != nil {
		return mmap.Read{}, err
	}
	head := make([]byte, len(magic))
	if _, err := m.ReadAt(head, 0); err != nil {
		return mmap.Read{}, err
	}
	if string(head) != magic {
		m.Close()
		return mmap.Read{}, errBadMagic
	}
	return m, nil
}

// OpenVerified is OpenChecked as it should be. Right: whatever goes wrong after
// Map, the deferred function closes what it has kept in a variable of its own.
func OpenVerified(path, magic string) (_ mmap.Read, err error) {
	m, err := mmap.Map[mmap.Read](mmap.Path(path))
	if err != nil {
		return mmap.Read{}, err
	}
	ok := false
	defer func() {
		if !ok {
			m.Close()
		}
	}()
	head := make([]byte, len(magic))
	if _, err := m.ReadAt(head, 0); err != nil {
		return mmap.Read{}, err
	}
	if string(head) != magic {
		return mmap.Read{}, errBadMagic
	}
	ok = true
	return m, nil
}

// OpenNamed has the mapping as a named result.
//
// Wrong: the return writes the zero handle into m before the deferred function
// runs, which then closes that: the mapping stays.
func OpenNamed(path string, min int) (m mmap.Read, err error) {
	m, err = mmap.Map[mmap.Read](mmap.Path(path)) // want `unclosed: `
	if err != nil {
		return m, err
	}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	if m.Len() < min {
		return mmap.Read{}, io.ErrUnexpectedEOF
	}
	return m, nil
}

// OpenNamedRight looks like OpenNamed. Right: the naked return leaves m what it
// is for the deferred function.
func OpenNamedRight(path string, min int) (m mmap.Read, err error) {
	m, err = mmap.Map[mmap.Read](mmap.Path(path))
	if err != nil {
		return
	}
	defer func() {
		if err != nil {
			m.Close()
			m = mmap.Read{}
		}
	}()
	if m.Len() < min {
		err = io.ErrUnexpectedEOF
		return
	}
	return
}

// Freeze makes a mapping read-only; it consumes rw. Right: on failure it is
// still the caller's.
func Freeze(rw mmap.ReadWrite) (mmap.Read, error) {
	return mmap.Protect[mmap.Read](rw)
}

// Thaw is the opposite.
func Thaw(r mmap.Read) (mmap.ReadWrite, error) {
	rw, err := mmap.Protect[mmap.ReadWrite](r)
	if err != nil {
		return rw, err
	}
	if err := rw.PrefaultWrite(0, rw.Len()); err != nil {
		log.Print("store: prefault: ", err)
	}
	return rw, nil
}

// Extend resizes to whole pages; it consumes m, and returns it on failure.
func Extend[M mmap.Handle](m M, n int) (M, error) {
	page := os.Getpagesize()
	return mmap.Resize(m, (n+page-1)/page*page)
}

// ExtendInPlace is Extend for a variable. Right.
func ExtendInPlace(p *mmap.ReadWrite, n int) error {
	m, err := Extend(*p, n)
	*p = m
	return err
}

// Retire closes what a generation has left behind, later and not now, and says
// so in the log. Right.
func Retire(name string, m mmap.Mapping) {
	if err := m.Close(); err != nil && !errors.Is(err, mmap.ErrClosed) {
		log.Printf("store: %s: %v", name, err)
	}
}

// A Lifetime closes in the end what was kept by it.
type Lifetime struct {
	mu   sync.Mutex
	kept []io.Closer
}

// Keep adds c. Right: c is closed by End.
func (l *Lifetime) Keep(c io.Closer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = append(l.kept, c)
}

// End closes everything.
func (l *Lifetime) End() (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.kept {
		err = errors.Join(err, c.Close())
	}
	l.kept = nil
	return err
}

// Scratch returns memory and the function that ends it. Right: the function
// captures the mapping.
func Scratch(n int) (m mmap.ReadWrite, done func(), err error) {
	m, err = mmap.Map[mmap.ReadWrite](mmap.Anonymous(n))
	if err != nil {
		return m, func() {}, err
	}
	return m, func() { m.Close() }, nil
}

// Describe logs a mapping. Right: it neither keeps nor closes it.
func Describe(name string, m mmap.Mapping) {
	log.Printf("%s: %v, %d of %d bytes", name, m, m.Len(), m.Cap())
}

// With runs fn on the memory and returns what it returns. Right by itself: what
// T leads to is the caller's affair.
func With[T any](m mmap.Read, fn func(b []byte) (T, error)) (T, error) {
	var out T
	err := m.View(func(b []byte) (err error) {
		out, err = fn(b)
		return err
	})
	return out, err
}

// A Segment is written, then finished, then only read.
type Segment struct {
	w    mmap.ReadWrite
	r    mmap.Read
	size int
}

// NewSegment makes one of n bytes.
func NewSegment(n int) (*Segment, error) {
	w, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(n))
	if err != nil {
		return nil, err
	}
	return &Segment{w: w}, nil
}

// Finish makes the segment read-only and returns its size.
//
// Wrong: Protect has consumed s.w, whose Len is 0 now.
func (s *Segment) Finish() (int, error) {
	r, err := mmap.Protect[mmap.Read](s.w)
	if err != nil {
		return 0, err
	}
	s.r = r
	s.size = s.w.Len() // want `moved: `
	return s.size, nil
}

// FinishRight is Finish as it should be. Right.
func (s *Segment) FinishRight() (int, error) {
	r, err := mmap.Protect[mmap.Read](s.w)
	if err != nil {
		return s.w.Len(), err
	}
	s.r, s.w = r, mmap.ReadWrite{}
	s.size = s.r.Len()
	return s.size, nil
}

// Close closes whatever the segment is at the moment. Right: Close of an old or
// zero handle does no harm.
func (s *Segment) Close() error {
	s.w.Close()
	return s.r.Close()
}

// Rewrite fills the segment anew.
//
// Wrong: Over returns the zero handle when it fails, so that w, which still is
// a mapping, is lost, and the deferred function closes nothing.
func Rewrite(f *os.File, n int) (sum byte, err error) {
	w, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(n)) // want `unclosed: `
	if err != nil {
		return 0, err
	}
	defer func() { w.Close() }()
	w, err = mmap.Over[mmap.ReadWrite](w, mmap.File(f, 0, n))
	if err != nil {
		return 0, err
	}
	err = w.View(func(b []byte) error {
		for _, c := range b {
			sum ^= c
		}
		return nil
	})
	return sum, err
}

// Quiesce freezes rw when nobody uses it any more. Right: Drain runs the
// transition, and the new handle goes out through the result.
func Quiesce(ctx context.Context, rw mmap.ReadWrite) (ro mmap.Read, err error) {
	err = rw.Drain(ctx, func() (err error) {
		ro, err = mmap.Protect[mmap.Read](rw)
		return err
	})
	return ro, err
}

// Halves splits in the middle; it consumes m. Right.
func Halves(m mmap.ReadWrite) (a, b mmap.ReadWrite, err error) {
	page := os.Getpagesize()
	return mmap.Split(m, m.Len()/page/2*page)
}
