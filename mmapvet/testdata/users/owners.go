package users

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/mmarinus/mmap"
)

type page struct{ b []byte }

type pool struct {
	mu    sync.Mutex
	m     mmap.ReadWrite
	pages []page
	free  []int
	gen   int
}

// a pin is kept in a local slice and ended by a defer
func manyPins(ms []mmap.Read) (n int, err error) {
	var pins []*mmap.Pin
	defer func() {
		for _, p := range pins {
			p.Unpin()
		}
	}()
	for _, m := range ms {
		p, err := m.Pin()
		if err != nil {
			return 0, err
		}
		pins = append(pins, p)
		n += len(p.Bytes())
	}
	return n, nil
}

func (p *pool) swap(n int) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fresh, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(n))
	if err != nil {
		return err
	}
	if err = p.m.View(func(b []byte) error { _, err := fresh.WriteAt(b, 0); return err }); err != nil {
		return errors.Join(err, fresh.Close())
	}
	old := p.m
	p.m = fresh
	p.gen++
	return old.Close()
}

type option func(*config)
type config struct {
	m     mmap.Read
	close func() error
}

func withFile(path string) (option, error) {
	m, err := mmap.Map[mmap.Read](mmap.Path(path))
	if err != nil {
		return nil, err
	}
	return func(c *config) { c.m, c.close = m, m.Close }, nil
}

type Reader struct {
	*bytes.Reader
	m mmap.Read
}

func scoped(path string, f func(r *bytes.Reader) error) error {
	m, err := mmap.Map[mmap.Read](mmap.Path(path))
	if err != nil {
		return err
	}
	defer m.Close()
	return m.View(func(b []byte) error { return f(bytes.NewReader(b)) })
}

func growUntil(m mmap.ReadWrite, want int) (mmap.ReadWrite, error) {
	for m.Len() < want {
		next, err := mmap.Resize(m, 2*m.Len())
		switch {
		case errors.Is(err, os.ErrInvalid):
			return next, fmt.Errorf("too small: %w", err)
		case err != nil:
			return next, err
		}
		m = next
	}
	return m, nil
}

func tryInPlace(m mmap.ReadWrite, n int) (mmap.ReadWrite, error) {
	if err := mmap.Grow(m, n); err == nil {
		return m, nil
	}
	return mmap.Resize(m, n)
}

func eitherWay(m mmap.ReadWrite, seal bool) (mmap.Mapping, error) {
	if seal {
		ro, err := mmap.Protect[mmap.Read](m)
		if err != nil {
			return m.Untyped(), err
		}
		return ro.Untyped(), nil
	}
	return m.Untyped(), m.Sync(0, m.Len())
}

type cursor struct {
	m   mmap.Read
	off int
	cur []byte
}

func (c *cursor) next() (rec []byte, err error) {
	err = c.m.ViewRange(c.off, 8, func(b []byte) error {
		c.cur = append(c.cur[:0], b...)
		rec = c.cur
		return nil
	})
	c.off += 8
	return rec, err
}

func index(m mmap.Read) (map[uint32][]int, error) {
	out := make(map[uint32][]int)
	err := m.View(func(b []byte) error {
		for off := 0; off+8 <= len(b); off += 8 {
			k := binary.LittleEndian.Uint32(b[off:])
			out[k] = append(out[k], off)
		}
		return nil
	})
	return out, err
}

func waitAll(ctx context.Context, m mmap.Read, n int) (bad int, err error) {
	err = m.View(func(b []byte) error {
		results := make(chan int, n)
		for i := range n {
			go func() { results <- bytes.Count(b[i*len(b)/n:(i+1)*len(b)/n], []byte{0xff}) }()
		}
		for range n {
			bad += <-results
		}
		return nil
	})
	return bad, err
}

func lockedCopy(mu *sync.RWMutex, m *mmap.Read, dst []byte) (n int, err error) {
	mu.RLock()
	defer mu.RUnlock()
	err = m.View(func(b []byte) error { n = copy(dst, b); return nil })
	return n, err
}

func replace(mu *sync.RWMutex, cur *mmap.Read, path string) error {
	next, err := mmap.Map[mmap.Read](mmap.Path(path))
	if err != nil {
		return err
	}
	mu.Lock()
	old := *cur
	*cur = next
	mu.Unlock()
	return old.Close()
}

type state int

const (
	writing state = iota
	reading
)

type file struct {
	st state
	w  mmap.ReadWrite
	r  mmap.Read
}

func (f *file) flip() (err error) {
	switch f.st {
	case writing:
		f.r, err = mmap.Protect[mmap.Read](f.w)
		if err == nil {
			f.st = reading
		}
	case reading:
		f.w, err = mmap.Protect[mmap.ReadWrite](f.r)
		if err == nil {
			f.st = writing
		}
	}
	return err
}

func (f *file) Close() error {
	if f.st == writing {
		return f.w.Close()
	}
	return f.r.Close()
}

func (f *file) put(p []byte) error {
	if f.st == reading {
		if err := f.flip(); err != nil {
			return err
		}
	}
	_, err := f.w.WriteAt(p, 0)
	return err
}

func spare(m mmap.ReadWrite, cut int) (mmap.ReadWrite, error) {
	head, tail, err := mmap.Split(m, cut)
	if err != nil {
		return m, err
	}
	if err := tail.Close(); err != nil {
		back, jerr := mmap.Join(head, tail)
		if jerr != nil {
			return head, errors.Join(err, jerr)
		}
		return back, err
	}
	return head, nil
}

func temp(n int, f func(mmap.ReadWrite) error) (err error) {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(n))
	if err != nil {
		return err
	}
	defer func() {
		if cerr := m.Close(); err == nil {
			err = cerr
		}
	}()
	return f(m)
}

func generic[M mmap.Known](path string, use func(M) error) error {
	m, err := mmap.Map[M](mmap.Path(path))
	if err != nil {
		return err
	}
	defer m.Close()
	return use(m)
}

func guarded(m mmap.Read) (sum int, err error) {
	b := m.UnsafeBytes()
	err = mmap.GuardAll(func() error {
		for _, c := range b {
			sum += int(c)
		}
		return nil
	})
	return sum, errors.Join(err, m.Close())
}

type shard struct {
	next *shard
	m    mmap.ReadWrite
}

func resizeAll(s *shard, n int) (err error) {
	for ; s != nil; s = s.next {
		if s.m, err = mmap.Resize(s.m, n); err != nil {
			return err
		}
	}
	return nil
}

func firstTwo(s *shard) error {
	m, err := mmap.Resize(s.m, 1)
	if err != nil {
		return err
	}
	err = s.next.m.Sync(0, 1)
	s.m = m
	return err
}

func recurse(s *shard) error {
	if s == nil {
		return nil
	}
	return errors.Join(recurse(s.next), s.m.Close())
}
