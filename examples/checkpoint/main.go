//go:build linux

// Command checkpoint keeps a copy of its memory in a file: all of it once, and from then on
// only the pages that were written since.
//
//	checkpoint [-size BYTES] [-rounds N] [-pages N] FILE
//
// The problem: a cache or an emulated machine changes some pages of much memory all the time,
// and the copy must follow without looking at all of it and without stopping the work. So the
// kernel notes the pages that are written, and each round takes that list first and copies
// then: a page that is written meanwhile is in the next list. At the end the file is equal to
// the memory. It needs Linux 6.7, and userfaultfd(2), which many containers forbid.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/mmarinus/mmap"
)

func main() {
	size := flag.Int("size", 1<<30, "bytes of memory")
	rounds := flag.Int("rounds", 5, "increments")
	pages := flag.Int("pages", 1000, "pages that are changed between two checkpoints")
	if flag.Parse(); flag.NArg() != 1 || *size < 1 || *rounds < 0 || *pages < 0 {
		flag.Usage()
		os.Exit(2)
	}
	f, err := os.Create(flag.Arg(0))
	if err == nil {
		err = run(f, *size, *rounds, *pages, os.Stdout)
		err = errors.Join(err, f.Close()) // which can have the error of an earlier write
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "checkpoint:", err)
		os.Exit(1)
	}
}

// run works on memory of size bytes, and copies it to f before the first round and after
// each.
func run(f *os.File, size, rounds, pages int, log io.Writer) error {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(size).Populate())
	if err != nil {
		return err
	}
	defer m.Close()
	tracker, err := m.Track() // before the full copy, or writes during that would be missed
	if err != nil {
		return err
	}
	defer tracker.Close()
	if err = save(f, m, []mmap.Span{{Len: size}}, log); err != nil {
		return err
	}
	for range rounds {
		worked := make(chan error)
		go func() { worked <- work(m, pages) }()
		err := increment(f, m, tracker, log) // beside the work: what comes too late is in the next one
		if failed := <-worked; err == nil {
			err = failed
		}
		if err != nil {
			return err
		}
	}
	return increment(f, m, tracker, log) // nobody writes any more: now the file is equal
}

// increment copies what was written since the last one.
func increment(f *os.File, m mmap.ReadWrite, tracker *mmap.Tracker, log io.Writer) error {
	spans, err := tracker.Take(0, m.Len()) // before it is copied: a write meanwhile counts again
	if err != nil {
		return err
	}
	if err = save(f, m, spans, log); err != nil {
		for _, s := range spans {
			tracker.Mark(s.Off, s.Len) // for the next try
		}
	}
	return err
}

// save copies spans of the memory to the same places of the file.
func save(f *os.File, m mmap.ReadWrite, spans []mmap.Span, log io.Writer) error {
	start, n := time.Now(), 0
	for _, s := range spans {
		err := m.ViewRange(s.Off, s.Len, func(b []byte) error {
			_, err := f.WriteAt(b, int64(s.Off))
			return err
		})
		if err != nil {
			return err
		}
		n += s.Len
	}
	_, err := fmt.Fprintf(log, "%d bytes in %d spans, %v\n", n, len(spans), time.Since(start).Round(10*time.Microsecond))
	return err
}

// work changes pages at random.
func work(m mmap.ReadWrite, pages int) error {
	for range pages {
		if _, err := m.WriteAt([]byte{byte(rand.Uint32())}, rand.Int64N(int64(m.Len()))); err != nil {
			return err
		}
	}
	return nil
}
