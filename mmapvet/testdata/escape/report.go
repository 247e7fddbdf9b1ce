package escape

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/mmarinus/mmap"
)

var last []byte

func global(m mmap.Read) error {
	return m.View(func(b []byte) error {
		last = b[:16] // want `escape: the memory of a view is stored where it outlives the callback`
		return nil
	})
}

func around(m mmap.Read) (string, error) {
	var head []byte
	err := m.View(func(b []byte) error {
		head = b[:8] // want `escape: the memory of a view is kept here and is used on line 32`
		return nil
	})
	return string(head), err
}

func result(m mmap.Read) (out []byte, err error) {
	err = m.View(func(b []byte) error {
		out = bytes.TrimSpace(b) // want `escape: .* is returned on line 40`
		return nil
	})
	return out, err
}

type index struct {
	keys [][]byte
	byID map[string][]byte
	raw  []byte
}

func (x *index) field(m mmap.Read) error {
	return m.View(func(b []byte) error {
		x.raw = b // want `escape: `
		return nil
	})
}

func (x *index) elements(m mmap.Read) error {
	return m.View(func(b []byte) error {
		for len(b) > 8 {
			x.keys = append(x.keys, b[:8]) // want `escape: `
			b = b[8:]
		}
		return nil
	})
}

func (x *index) mapped(m mmap.Read) error {
	return m.View(func(b []byte) error {
		x.byID[string(b[:4])] = b[4:] // want `escape: `
		return nil
	})
}

func channel(m mmap.Read, lines chan<- []byte) error {
	return m.View(func(b []byte) error {
		for line := range bytes.Lines(b) {
			lines <- line // want `escape: `
		}
		return nil
	})
}

type parseError struct{ near []byte }

func (e *parseError) Error() string { return fmt.Sprintf("near %q", e.near) }

func inError(m mmap.Read) error {
	return m.View(func(b []byte) error {
		if b[0] != '{' {
			return &parseError{near: b[:10]} // want `escape: .* leaves the callback in its result`
		}
		return nil
	})
}

func later(m mmap.Read) error {
	return m.View(func(b []byte) error {
		time.AfterFunc(time.Second, func() { fmt.Println(len(b), b[0]) }) // want `escape: `
		return nil
	})
}

func goroutine(m mmap.Read) error {
	return m.View(func(b []byte) error {
		go func() { // want `escape: `
			fmt.Println(bytes.Count(b, []byte("\n")))
		}()
		return nil
	})
}

func numbers(m mmap.Read) (sum uint64, err error) {
	var all []uint64
	err = m.View(func(b []byte) (err error) {
		all, err = mmap.Slice[uint64](b) // want `escape: `
		return err
	})
	for _, n := range all {
		sum += n
	}
	return sum, err
}

func text(m mmap.Read) (name string, err error) {
	err = m.ViewRange(0, 16, func(b []byte) error {
		name = unsafe.String(&b[0], len(b)) // want `escape: `
		return nil
	})
	return name, err
}

func pointer(m mmap.ReadWrite) error {
	var first *byte
	err := m.Update(func(b []byte) error {
		first = &b[0] // want `escape: `
		return nil
	})
	*first = 1
	return err
}

func words(m mmap.Read) ([][]byte, error) {
	var all [][]byte
	err := m.View(func(b []byte) error {
		all = bytes.Fields(b) // want `escape: `
		return nil
	})
	return all, err
}

func reader(m mmap.Read) (io.Reader, error) {
	var r io.Reader
	err := m.View(func(b []byte) error {
		r = bufio.NewReader(bytes.NewReader(b)) // want `escape: `
		return nil
	})
	return r, err
}

func closure(m mmap.Read) (func() int, error) {
	var count func() int
	err := m.View(func(b []byte) error {
		count = func() int { return bytes.Count(b, []byte{'\n'}) } // want `escape: `
		return nil
	})
	return count, err
}

type store struct {
	m     mmap.Read
	cache []byte
}

// View lends the memory to f.
func (s *store) View(f func(b []byte) error) error {
	return s.m.View(func(b []byte) error {
		if len(b) == 0 {
			return errors.New("empty")
		}
		return f(b)
	})
}

func lender(s *store) (found []byte, err error) {
	err = s.View(func(b []byte) error {
		found = b[bytes.IndexByte(b, 0):] // want `escape: `
		return nil
	})
	return found, err
}

func (s *store) keep(b []byte) error {
	s.cache = b
	return nil
}

func method(s *store) error {
	return s.m.View(s.keep) // want `escape: `
}

func (s *store) remember(b []byte) { s.cache = b[1:] }

func helper(s *store) error {
	return s.m.View(func(b []byte) error {
		s.remember(b[:4]) // want `escape: `
		return nil
	})
}

var pool sync.Pool

func pooled(m mmap.Read) error {
	return m.View(func(b []byte) error {
		pool.Put(b) // want `escape: `
		return nil
	})
}

// lines returns the lines, each valid until the next.
func lines(m mmap.Read) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		m.View(func(b []byte) error {
			for line := range bytes.Lines(b) {
				if !yield(line) {
					break
				}
			}
			return nil
		})
	}
}

func iterator(m mmap.Read) [][]byte {
	var all [][]byte
	for line := range lines(m) {
		all = append(all, line) // want `escape: `
	}
	return all
}

func first(b []byte) []byte { return b[:1] }

func throughHelper(m mmap.Read) (c []byte) {
	m.View(func(b []byte) error {
		c = first(b) // want `escape: `
		return nil
	})
	return c
}

func chunks(m mmap.Read) (parts [][]byte, err error) {
	err = m.View(func(b []byte) error {
		for c := range slices.Chunk(b, 512) {
			parts = append(parts, c) // want `escape: `
		}
		return nil
	})
	return parts, err
}
