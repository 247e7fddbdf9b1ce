//go:build linux

// Command rollback serves each line of standard input in memory that nobody else has
// touched: after each request it takes the memory back to what it was when the program was
// ready, as a server does that runs code of its customers. Only the pages that the request
// has written are copied.
//
//	printf 'one\ntwo\none\n' | rollback [-size BYTES]
//
// The problem: to start anew for each request takes long, and so does copying all of the
// memory back. The kernel notes the pages that are written, and these few are copied.
//
// A request stores its words all over the memory and returns a sum of what it finds there. So
// the sums of equal requests are equal if nothing of the others is left. It needs Linux 6.7,
// and userfaultfd(2), which many containers forbid.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"time"

	"github.com/mmarinus/mmap"
)

func main() {
	size := flag.Int("size", 64<<20, "bytes of memory")
	if flag.Parse(); flag.NArg() > 0 || *size < 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := serve(*size, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "rollback:", err)
		os.Exit(1)
	}
}

// A sandbox is memory that can go back.
type sandbox struct {
	m       mmap.ReadWrite
	tracker *mmap.Tracker
	was     []byte // the memory at the snapshot
}

// newSandbox makes memory of size bytes, and the snapshot.
func newSandbox(size int) (*sandbox, error) {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(size))
	if err != nil {
		return nil, err
	}
	s := &sandbox{m: m, was: make([]byte, size)}
	err = m.Update(func(b []byte) error {
		for i := range b { // what makes the program ready
			b[i] = byte(i * 7)
		}
		return nil
	})
	if err == nil {
		s.tracker, err = m.Track()
	}
	if err == nil {
		_, err = m.ReadAt(s.was, 0)
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return s, nil
}

// rollback undoes all that was written since the snapshot, and returns how many bytes it has
// copied. Its own writes count as writes, so they are reset.
func (s *sandbox) rollback() (n int, err error) {
	spans, err := s.tracker.Take(0, s.m.Len())
	if err != nil {
		return 0, err
	}
	for i, span := range spans {
		_, err = s.m.WriteAt(s.was[span.Off:span.Off+span.Len], int64(span.Off))
		if err == nil {
			err = s.tracker.Reset(span.Off, span.Len)
		}
		if err != nil {
			for _, left := range spans[i:] { // they were taken, and are still to be undone
				s.tracker.Mark(left.Off, left.Len)
			}
			return n, err
		}
		n += span.Len
	}
	return n, nil
}

// request is one of a customer.
func (s *sandbox) request(text string) (sum uint64, err error) {
	err = s.m.Update(func(b []byte) error {
		h := fnv.New64a()
		for i := range 20 {
			fmt.Fprint(h, text, i)
			at := h.Sum64() % uint64(len(b))
			h.Write(b[at:min(at+8, uint64(len(b)))])
			copy(b[at:], text)
		}
		sum = h.Sum64()
		return nil
	})
	return sum, err
}

func serve(size int, in io.Reader, out io.Writer) error {
	s, err := newSandbox(size)
	if err != nil {
		return err
	}
	defer s.m.Close()
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		sum, err := s.request(lines.Text())
		if err != nil {
			return err
		}
		start := time.Now()
		n, err := s.rollback()
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%016x, and %d bytes went back in %v\n", sum, n, time.Since(start).Round(time.Microsecond))
	}
	return lines.Err()
}
