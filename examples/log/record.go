package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync/atomic"

	"github.com/mmarinus/mmap"
)

// A record is a line with its newline, behind the length of both and a checksum.
// A log begins with one. Zeros are none: they are space that is not used yet.
const head = 8

var errTorn = errors.New("no whole record")

// put writes a record at off, and returns where it ends.
func put(f *os.File, m mmap.ReadWrite, off int, line []byte) (int, error) {
	r := append(append(make([]byte, head), line...), '\n')
	binary.LittleEndian.PutUint32(r, uint32(len(r)-head))
	binary.LittleEndian.PutUint32(r[4:], crc32.ChecksumIEEE(r[head:]))
	if size := m.Len(); len(r) > size-off {
		grown := max(off+len(r), min(size+chunk, m.Cap()))
		if err := mmap.Grow(m, grown); errors.Is(err, mmap.ErrCapacity) {
			return off, fmt.Errorf("full, with %d bytes of %d: begin another one: %w", off, m.Cap(), err)
		} else if err != nil {
			return off, err
		}
		// The disk may be full: now that is an error, later it would be a fault.
		if err := mmap.Allocate(f, int64(size), int64(grown-size)); err != nil {
			return off, err
		}
	}
	if _, err := m.WriteAt(r, int64(off)); err != nil {
		return off, err
	}
	return off + len(r), nil
}

// follow prints what is written from off on, once it is on the disk.
func follow(m mmap.ReadWrite, off int, written *atomic.Int64, wake <-chan bool, out io.Writer) error {
	for range wake {
		end := int(written.Load())
		err := m.Sync(off, end-off)
		if err == nil {
			off, err = walk(m, off, end, out)
		}
		if err == nil && off < end { // zeros, where a record was
			err = fmt.Errorf("%w at offset %d", errTorn, off)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// A viewer is a mapping that can be read, whatever else it allows.
type viewer interface {
	View(func(b []byte) error) error
}

// walk prints the lines from off to end, and returns where the whole records end:
// there, or at zeros, or elsewhere with errTorn.
func walk(m viewer, off, end int, out io.Writer) (int, error) {
	w := bufio.NewWriter(out)
	err := m.View(func(b []byte) error {
		for rest := b[off:end]; len(rest) > 0; rest = b[off:end] {
			if off > 0 && len(bytes.Trim(rest[:min(len(rest), head)], "\x00")) == 0 {
				return nil
			}
			n := uint64(len(rest))
			if n >= head {
				n = head + uint64(binary.LittleEndian.Uint32(rest)) // any number: trust it below
			}
			if n <= head || n > uint64(len(rest)) || crc32.ChecksumIEEE(rest[head:n]) != binary.LittleEndian.Uint32(rest[4:]) {
				return fmt.Errorf("%w at offset %d", errTorn, off)
			}
			w.Write(rest[head:n]) // Flush has its error
			off += int(n)
		}
		return nil
	})
	return off, errors.Join(err, w.Flush())
}
