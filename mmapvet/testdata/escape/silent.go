package escape

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/mmarinus/mmap"
)

func copies(m mmap.Read) (s string, c, d []byte, err error) {
	err = m.View(func(b []byte) error {
		s = string(b[:4])
		c = bytes.Clone(b)
		d = append(d, b...)
		return nil
	})
	return s, c, d, err
}

func decoded(m mmap.Read) (v map[string]any, err error) {
	err = m.View(func(b []byte) error { return json.Unmarshal(b, &v) })
	return v, err
}

func described(m mmap.Read) error {
	return m.View(func(b []byte) error {
		return fmt.Errorf("it begins with %q", b[:4])
	})
}

func hashed(m mmap.Read) (sum [32]byte, crc uint32, err error) {
	h := crc32.NewIEEE()
	err = m.View(func(b []byte) error {
		sum = sha256.Sum256(b)
		h.Write(b)
		return nil
	})
	return sum, h.Sum32(), err
}

func written(m mmap.Read, w io.Writer) error {
	return m.View(func(b []byte) error {
		_, err := w.Write(b)
		return err
	})
}

func waited(m mmap.Read) (n int, err error) {
	var mu sync.Mutex
	err = m.View(func(b []byte) error {
		var wg sync.WaitGroup
		for c := range slices.Chunk(b, 4096) {
			wg.Add(1)
			go func() {
				defer wg.Done()
				mu.Lock()
				defer mu.Unlock()
				n += bytes.Count(c, []byte{'\n'})
			}()
		}
		wg.Wait()
		return nil
	})
	return n, err
}

func received(m mmap.Read) error {
	return m.View(func(b []byte) error {
		done := make(chan int)
		go func() { done <- len(b) + int(b[0]) }()
		<-done
		return nil
	})
}

type parser struct {
	buf []byte
	n   int
}

func (p *parser) cleared(m mmap.Read) error {
	return m.View(func(b []byte) error {
		p.buf = b
		defer func() { p.buf = nil }()
		return p.step()
	})
}

func (p *parser) clearedAtOnce(m mmap.Read) error {
	return m.View(func(b []byte) error {
		p.buf = b
		p.n = len(p.buf)
		p.buf = nil
		return nil
	})
}

func (p *parser) step() error { p.n += len(p.buf); return nil }

func scratch(m mmap.Read) (n int, err error) {
	var word []byte
	err = m.View(func(b []byte) error {
		for len(b) > 4 {
			word = b[:4]
			n += int(binary.LittleEndian.Uint32(word))
			b = b[4:]
		}
		return nil
	})
	return n, err
}

func twice(m mmap.Read) error {
	var cur []byte
	for range 2 {
		err := m.View(func(b []byte) error {
			cur = b[:1]
			fmt.Println(cur[0])
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func number(m mmap.Read) (n uint64, first byte, err error) {
	err = m.View(func(b []byte) error {
		n = binary.LittleEndian.Uint64(b)
		first = b[0]
		return nil
	})
	return n, first, err
}

func local(m mmap.Read) (n int, err error) {
	err = m.View(func(b []byte) error {
		fields := bytes.Fields(b)
		byName := map[string][]byte{}
		for _, f := range fields {
			byName[string(f)] = f
		}
		n = len(byName)
		return nil
	})
	return n, err
}

type header struct {
	Magic uint32
	Size  uint32
}

func value(m mmap.Read) (h header, err error) {
	err = m.View(func(b []byte) error {
		all, err := mmap.Slice[header](b)
		if err != nil {
			return err
		}
		h = all[0]
		return nil
	})
	return h, err
}

func joined(m mmap.Read) (s string, err error) {
	err = m.View(func(b []byte) error {
		var out strings.Builder
		for f := range bytes.FieldsSeq(b) {
			out.Write(f)
		}
		s = out.String()
		return nil
	})
	return s, err
}

func lengths(m mmap.Read) (ns []int, err error) {
	err = m.View(func(b []byte) error {
		for line := range bytes.Lines(b) {
			ns = append(ns, len(line))
		}
		return nil
	})
	return ns, err
}

func byLender(s *store) (found []byte, err error) {
	err = s.View(func(b []byte) error {
		found = slices.Clone(b[:4])
		return nil
	})
	return found, err
}

func sentinel(m mmap.Read) error {
	return m.View(func(b []byte) error {
		if bytes.Contains(b, []byte("end")) {
			return io.EOF
		}
		return nil
	})
}

func iterated(m mmap.Read) (n int) {
	for line := range lines(m) {
		n += len(line)
		if n > 100 {
			return n
		}
	}
	return n
}

func overwritten(m mmap.Read) []byte {
	var out []byte
	m.View(func(b []byte) error {
		out = b[:4]
		out = slices.Clone(out)
		return nil
	})
	return out
}

func toWorkers(m mmap.Read) error {
	return m.View(func(b []byte) error {
		jobs := make(chan []byte)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for c := range jobs {
					fmt.Println(len(c))
				}
			})
		}
		for c := range slices.Chunk(b, 100) {
			jobs <- c
		}
		close(jobs)
		wg.Wait()
		return nil
	})
}
