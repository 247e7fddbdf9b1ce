// Package users has what databases, machines and compilers do with mappings: nothing is reported.
package users

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mmarinus/mmap"
)

type lazy struct {
	once sync.Once
	m    mmap.Read
	err  error
}

func (l *lazy) get(path string) (mmap.Read, error) {
	l.once.Do(func() { l.m, l.err = mmap.Map[mmap.Read](mmap.Path(path)) })
	return l.m, l.err
}

type segments struct {
	mu   sync.Mutex
	byID map[int]mmap.ReadWrite
}

func (s *segments) replace(id int, path string) error {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Path(path))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.byID[id]
	s.byID[id] = m
	if ok {
		return old.Close()
	}
	return nil
}

func (s *segments) grow(id, n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := mmap.Resize(s.byID[id], n)
	if err != nil {
		return err
	}
	s.byID[id] = m
	return s.byID[id].Sync(0, n)
}

func cleanups(paths []string) (all []mmap.Read, err error) {
	var undo []func()
	defer func() {
		if err != nil {
			for _, f := range undo {
				f()
			}
		}
	}()
	for _, p := range paths {
		m, err := mmap.Map[mmap.Read](mmap.Path(p))
		if err != nil {
			return nil, err
		}
		undo = append(undo, func() { m.Close() })
		all = append(all, m)
	}
	return all, nil
}

func retry(ctx context.Context, path string) (mmap.Read, error) {
	for {
		m, err := mmap.Map[mmap.Read](mmap.Path(path))
		if err == nil {
			return m, nil
		}
		select {
		case <-ctx.Done():
			return mmap.Read{}, errors.Join(err, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

func doubleBuffer(frames int, paint func([]byte) error) error {
	var bufs [2]mmap.ReadWrite
	for i := range bufs {
		m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(4096))
		if err != nil {
			bufs[0].Close()
			return err
		}
		bufs[i] = m
	}
	front, back := bufs[0], bufs[1]
	for range frames {
		if err := back.Update(paint); err != nil {
			return errors.Join(err, front.Close(), back.Close())
		}
		front, back = back, front
	}
	return errors.Join(front.Close(), back.Close())
}

type guest struct{ regions []mmap.ReadWrite }

func newGuest(sizes ...int) (g *guest, err error) {
	g = new(guest)
	defer func() {
		if err != nil {
			g.close()
			g = nil
		}
	}()
	for _, n := range sizes {
		m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(n).NoReserve())
		if err != nil {
			return g, fmt.Errorf("region of %d: %w", n, err)
		}
		g.regions = append(g.regions, m)
	}
	return g, nil
}

func (g *guest) close() (err error) {
	for _, m := range g.regions {
		err = errors.Join(err, m.Close())
	}
	return err
}

func jit(w mmap.ReadWrite, code [][]byte, run func(uintptr)) (mmap.ReadWrite, error) {
	for _, c := range code {
		if _, err := w.WriteAt(c, 0); err != nil {
			return w, err
		}
		x, err := mmap.Protect[mmap.ReadExec](w)
		if err != nil {
			return w, err
		}
		run(x.Addr())
		if w, err = mmap.Protect[mmap.ReadWrite](x); err != nil {
			return w, errors.Join(err, x.Close())
		}
	}
	return w, nil
}

type readers struct {
	mu   sync.Mutex
	next uint64
	pins map[uint64]*mmap.Pin
}

func (r *readers) begin(m mmap.Read) (uint64, []byte, error) {
	p, err := m.Pin()
	if err != nil {
		return 0, nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	r.pins[r.next] = p
	return r.next, p.Bytes(), nil
}

func (r *readers) end(id uint64) error {
	r.mu.Lock()
	p := r.pins[id]
	delete(r.pins, id)
	r.mu.Unlock()
	return p.Unpin()
}

func flusher(m mmap.ReadWrite, every time.Duration, stop <-chan struct{}) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return m.Close()
		case <-t.C:
			if err := m.Sync(0, m.Len()); errors.Is(err, mmap.ErrClosed) {
				return nil
			} else if err != nil {
				return err
			}
		}
	}
}

func sorted(m mmap.ReadWrite) error {
	return m.Update(func(b []byte) error {
		recs, err := mmap.Slice[uint64](b)
		if err != nil {
			return err
		}
		sort.Slice(recs, func(i, j int) bool { return recs[i] < recs[j] })
		return nil
	})
}

type header struct{ Magic, Version uint32 }

func readHeader(m mmap.Read) (h header, err error) {
	err = m.View(func(b []byte) error { return binary.Read(bytes.NewReader(b), binary.LittleEndian, &h) })
	return h, err
}

func lines(m mmap.Read) (all []string, err error) {
	err = m.View(func(b []byte) error {
		sc := bufio.NewScanner(bytes.NewReader(b))
		for sc.Scan() {
			all = append(all, sc.Text())
		}
		return sc.Err()
	})
	return all, err
}

func optional(path string) (n int) {
	if m, err := mmap.Map[mmap.Read](mmap.Path(path)); err == nil {
		defer m.Close()
		n = m.Len()
	}
	return n
}

type parser struct {
	buf []byte
	pos int
}

func (p *parser) word() string {
	i := bytes.IndexByte(p.buf[p.pos:], ' ')
	if i < 0 {
		return ""
	}
	w := string(p.buf[p.pos : p.pos+i])
	p.pos += i + 1
	return w
}

func firstWords(m mmap.Read) (a, b string, err error) {
	err = m.View(func(mem []byte) error {
		p := &parser{buf: mem}
		a, b = p.word(), p.word()
		return nil
	})
	return a, b, err
}

var current atomic.Value

func publish(path string) error {
	m, err := mmap.Map[mmap.Read](mmap.Path(path))
	if err != nil {
		return err
	}
	if old, ok := current.Swap(m).(mmap.Read); ok {
		old.Close()
	}
	return nil
}

func sums(m mmap.Read, n int) ([]int, error) {
	out := make([]int, n)
	err := m.View(func(b []byte) error {
		var wg sync.WaitGroup
		size := len(b) / n
		for i := range n {
			part := b[i*size : (i+1)*size]
			wg.Go(func() {
				for _, c := range part {
					out[i] += int(c)
				}
			})
		}
		wg.Wait()
		return nil
	})
	return out, err
}

func copyOut(m mmap.Read, w io.Writer) (int64, error) {
	return io.Copy(w, io.NewSectionReader(m, 0, int64(m.Len())))
}

func upgrade(path string) (m mmap.ReadWrite, err error) {
	ro, err := mmap.Map[mmap.Read](mmap.Path(path))
	if err != nil {
		return m, err
	}
	m, err = mmap.Protect[mmap.ReadWrite](ro)
	if err != nil {
		ro.Close()
	}
	return m, err
}

func names(m mmap.Read) (map[string]int, error) {
	out := map[string]int{}
	return out, m.View(func(b []byte) error {
		for l := range bytes.Lines(b) {
			out[strings.TrimSpace(string(l))]++
		}
		return nil
	})
}

type ring struct {
	f    *os.File
	m    mmap.ReadWrite
	head int
}

func (r *ring) reset(n int) (err error) {
	if r.m, err = mmap.Resize(r.m, n); err != nil {
		return fmt.Errorf("reset %v: %w", r.m, err)
	}
	r.head = 0
	return r.m.Update(func(b []byte) error { clear(b); return nil })
}

func (r *ring) write(p []byte) (n int, err error) {
	err = r.m.Update(func(b []byte) error {
		for n < len(p) {
			k := copy(b[r.head:], p[n:])
			r.head = (r.head + k) % len(b)
			n += k
		}
		return nil
	})
	return n, err
}

func pinAndHand(m mmap.Read, work chan<- func()) error {
	p, err := m.Pin()
	if err != nil {
		return err
	}
	b := p.Bytes()
	work <- func() {
		defer p.Unpin()
		mmap.Guard(func() error { fmt.Println(len(bytes.Fields(b))); return nil }, p)
	}
	return nil
}

func splitAll(m mmap.ReadWrite, n int) (parts []mmap.ReadWrite, err error) {
	for m.Len() > n {
		var head mmap.ReadWrite
		if head, m, err = mmap.Split(m, n); err != nil {
			return parts, err
		}
		parts = append(parts, head)
	}
	return append(parts, m), nil
}
