//go:build linux

// Command ring is a flight recorder: it reads standard input, however long it
// is, in constant memory, and prints the last lines of it at the end.
//
//	server 2>&1 | ring [-c BYTES] [-n LINES] >last-words
//
// The problem: a ring buffer comes to its end anywhere, in the middle of a line as well, and
// every read and write has to be split there. This one is mapped twice, back to back, so
// its last bytes are one slice wherever they lie: no read is split, no line is cut, all is
// printed by one write.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"

	"github.com/mmarinus/mmap"
)

const chunk = 64 << 10 // bytes that one read may use

func main() {
	signal.Ignore(os.Interrupt) // it is for the program that is recorded, whose end is ours
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("ring", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprintln(stderr, "usage: ring [-c BYTES] [-n LINES]") }
	size := flags.Int("c", 1<<20, "")
	lines := flags.Int("n", math.MaxInt, "")
	if flags.Parse(args) != nil {
		return 2
	}
	if flags.NArg() > 0 || *size < 1 || *size > math.MaxInt/4 || *lines < 0 {
		flags.Usage()
		return 2
	}
	if err := record(*size, *lines, stdin, stdout); err != nil {
		fmt.Fprintln(stderr, "ring:", err)
		return 1
	}
	return 0
}

func record(size, lines int, in io.Reader, out io.Writer) error {
	page := os.Getpagesize()
	// One byte more than is kept tells whether the first line is whole.
	m, err := newRing((size + 1 + chunk + page - 1) / page * page)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Update(func(b []byte) error {
		ring := len(b) / 2
		end, kept, err := 0, 0, error(nil)
		for err == nil {
			var n int
			n, err = in.Read(b[end:][:chunk]) // may reach into the second half
			end = (end + n) % ring
			kept = min(kept+n, size+1)
		}
		start := (end - kept + ring) % ring
		_, failed := out.Write(last(b[start:][:kept], size, lines))
		if err == io.EOF {
			err = nil
		}
		return errors.Join(err, failed)
	})
}

// last returns the last whole lines of b, in no more than size bytes; or the end
// of the last line, if that is longer.
func last(b []byte, size, lines int) []byte {
	whole := b
	if len(b) > size {
		whole = b[len(b)-size:]
		if i := bytes.IndexByte(b[:len(b)-1], '\n'); i >= 0 {
			whole = b[i+1:]
		}
	}
	start := len(whole)
	for ; start > 0 && lines > 0; lines-- {
		start = 1 + bytes.LastIndexByte(whole[:start-1], '\n')
	}
	return whole[start:]
}

// newRing maps size bytes, whole pages, twice.
func newRing(size int) (mmap.ReadWrite, error) {
	var none mmap.ReadWrite
	// Sealed, it cannot be cut off under the mappings.
	f, err := mmap.Memfd("ring", int64(size), mmap.SealShrink|mmap.SealGrow)
	if err != nil {
		return none, err
	}
	defer f.Close()
	u, err := mmap.MapUnknown(mmap.Anonymous(2*size), mmap.ProtNone)
	if err != nil {
		return none, err
	}
	half := mmap.File(f, 0, size).Shared()
	err = errors.Join(u.Place(0, half, mmap.ProtRead|mmap.ProtWrite), u.Place(size, half, mmap.ProtRead|mmap.ProtWrite))
	if err == nil {
		var m mmap.ReadWrite
		if m, err = mmap.Assert[mmap.ReadWrite](u); err == nil {
			return m, nil
		}
	}
	return none, errors.Join(err, u.Close())
}
