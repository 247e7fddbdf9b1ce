// Package mistakes has mistakes as users of the library make them.
package mistakes

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/mmarinus/mmap"
)

type seg struct {
	m    mmap.ReadWrite
	idx  []byte
	next *seg
}

func (s *seg) rotate(n int) error {
	bigger, err := mmap.Resize(s.m, n)
	if err != nil {
		return err
	}
	s.next = &seg{m: bigger}
	_, err = s.m.WriteAt([]byte("x"), 0) // want `moved: `
	return err
}

func (s *seg) index() error {
	return s.m.View(func(b []byte) error {
		i := bytes.IndexByte(b, 0)
		s.idx = b[:i:i] // want `escape: `
		return nil
	})
}

func open2(a, b string) (x, y mmap.Read, err error) {
	if x, err = mmap.Map[mmap.Read](mmap.Path(a)); err != nil { // want `unclosed: `
		return
	}
	y, err = mmap.Map[mmap.Read](mmap.Path(b))
	if err != nil {
		return mmap.Read{}, mmap.Read{}, err
	}
	return
}

func shrinkInView(m mmap.ReadWrite) (out mmap.ReadWrite, err error) {
	err = m.View(func(b []byte) error {
		n := len(bytes.TrimRight(b, "\x00"))
		out, err = mmap.Resize(m, n) // want `busy: `
		return err
	})
	return out, err
}

func pinTwice(a, b mmap.Read) error {
	p, err := a.Pin() // want `pins: `
	if err != nil {
		return err
	}
	q, err := b.Pin()
	if err != nil {
		return err
	}
	defer p.Unpin()
	defer q.Unpin()
	return nil
}

func readAll(path string) ([]byte, error) {
	m, err := mmap.Map[mmap.Read](mmap.Path(path))
	if err != nil {
		return nil, err
	}
	defer m.Close()
	b := m.UnsafeBytes()
	return bytes.TrimSpace(b), nil // want `unsafebytes: `
}

func freeze(m mmap.ReadWrite) {
	_, _ = mmap.Protect[mmap.Read](m) // want `ignored: `
}

func async(m mmap.Read, out chan int) error {
	return m.View(func(b []byte) error {
		go func() { out <- bytes.Count(b, []byte{'\n'}) }() // want `escape: `
		return nil
	})
}

func timer(m mmap.Read) error {
	return m.View(func(b []byte) error {
		time.AfterFunc(time.Second, func() { fmt.Println(b[0]) }) // want `escape: `
		return nil
	})
}

func loopLeak(paths []string) (n int, err error) {
	for _, p := range paths {
		m, err := mmap.Map[mmap.Read](mmap.Path(p)) // want `unclosed: `
		if err != nil {
			return n, err
		}
		if m.Len() < 8 {
			return n, errors.New("short " + p)
		}
		n += m.Len()
		m.Close()
	}
	return n, nil
}

func deferOld(f *os.File) error {
	rw, err := mmap.Map[mmap.ReadWrite](mmap.Whole(f))
	if err != nil {
		return err
	}
	defer rw.Close()
	ro, err := mmap.Protect[mmap.Read](rw) // want `unclosed: `
	if err != nil {
		return err
	}
	return ro.Prefault(0, ro.Len())
}

func errorText(m mmap.Read) error {
	return m.View(func(b []byte) error {
		if b[0] != 'M' {
			return &badMagic{b[:4]} // want `escape: `
		}
		return nil
	})
}

type badMagic struct{ got []byte }

func (e *badMagic) Error() string { return fmt.Sprintf("bad magic %q", e.got) }

func joinUse(a, b mmap.Read) (int, error) {
	whole, err := mmap.Join(a, b)
	if err != nil {
		return 0, err
	}
	defer whole.Close()
	n, err := b.ReadAt(make([]byte, 4), 0) // want `moved: `
	return n, err
}

type cache struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (c *cache) fill(m mmap.Read) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return m.View(func(b []byte) error {
		for f := range bytes.FieldsSeq(b) {
			c.m[string(f[:1])] = f // want `escape: `
		}
		return nil
	})
}

func unpinned(m mmap.Read, key []byte) (bool, error) {
	p, err := m.Pin()
	if err != nil {
		return false, err
	}
	b := p.Bytes()
	p.Unpin()
	return bytes.Contains(b, key), nil // want `pins: `
}

func releaseUse(m mmap.ReadWrite) (uintptr, int, error) {
	addr, _, err := m.Release()
	if err != nil {
		return 0, 0, err
	}
	return addr, m.Len(), nil // want `moved: `
}

func condMove(m mmap.ReadWrite, to uintptr) error {
	if to != 0 {
		n, err := mmap.Move(m, to)
		if err != nil {
			return err
		}
		defer n.Close()
	}
	return m.Sync(0, 1) // want `moved: `
}

func protectPinned(m mmap.ReadWrite) (mmap.Read, error) {
	p, err := m.Pin()
	if err != nil {
		return mmap.Read{}, err
	}
	defer p.Unpin()
	return mmap.Protect[mmap.Read](m) // want `busy: `
}
