//go:build linux

// Command pair copies standard input to standard output through two processes:
// a producer reads into shared memory, and a consumer writes out of it.
//
//	go run ./examples/pair <FILE >COPY
//
// The problem: two processes hand data over without copying it through a pipe. They need
// memory that neither can cut off under the other (a memfd with seals), an order in which
// they see each other's writes (atomics: a sync.Mutex means nothing between processes), a
// way to sleep and to see that the other has died (a socket that carries the wake-ups, a
// byte each), and distrust: the other can write anything at any moment.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync/atomic"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

const slots, slotSize = 16, 64 << 10
const consumer = "pair-consumer" // the name that the producer starts it by

// A slot holds what one read brought. Processes that share memory can rely on
// atomics only, so the number tells the other that the data before it is there.
type slot struct {
	used atomic.Int32 // bytes of data; 0 is the end
	data [slotSize - 4]byte
}

func main() {
	var err error
	switch {
	case os.Args[0] == consumer:
		err = turns(os.NewFile(3, "queue"), os.NewFile(4, "bell"), drain)
	case len(os.Args) == 1:
		err = produce()
	default:
		fmt.Fprintln(os.Stderr, "usage: pair <FILE >COPY")
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pair:", err)
		os.Exit(1)
	}
}

func produce() error {
	// Truncated, it would be a fault in both processes: the seals rule that out.
	f, err := mmap.Memfd("pair", slots*slotSize, mmap.SealShrink|mmap.SealGrow|mmap.SealSeal)
	if err != nil {
		return err
	}
	defer f.Close()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	bell, other := os.NewFile(uintptr(ends[0]), "bell"), os.NewFile(uintptr(ends[1]), "bell")
	other.Write(make([]byte, slots)) // in the consumer's name: every slot is free
	self, _ := os.Executable()       // Start says if there is none
	cmd := &exec.Cmd{Path: self, Args: []string{consumer}, Stdout: os.Stdout, Stderr: os.Stderr}
	cmd.ExtraFiles = []*os.File{f, other} // its descriptors 3 and 4
	err = cmd.Start()
	other.Close() // or its end would stay open when the consumer dies
	if err != nil {
		return err
	}
	filled := make(chan error, 1)
	go func() {
		filled <- turns(f, bell, fill)
		bell.Close() // so that the consumer ends too, whatever happened
	}()
	if err = cmd.Wait(); err != nil {
		err = fmt.Errorf("the consumer: %w", err)
	}
	if err == nil || len(filled) > 0 { // otherwise fill may wait for input that never comes
		err = errors.Join(<-filled, err)
	}
	return err
}

// turns waits for the other process, has use work on the next slot, and wakes the
// other; and so on until use fails, with io.EOF at the end.
func turns(f, bell *os.File, use func(data []byte, used int) (int, error)) error {
	m, err := mmap.Map[mmap.ReadWrite](mmap.File(f, 0, slots*slotSize).Shared())
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Update(func(b []byte) error {
		queue, err := mmap.Slice[slot](b)
		if err != nil {
			return err
		}
		ring := make([]byte, 1)
		for next := 0; ; next = (next + 1) % slots {
			if _, err := bell.Read(ring); err != nil {
				return fmt.Errorf("the other process is gone: %w", err)
			}
			// The other can write here whatever it likes: check it before it is an index.
			s := &queue[next]
			used := int(s.used.Load())
			if used < 0 || used > len(s.data) {
				return errors.New("the other process has broken the queue")
			}
			used, err := use(s.data[:], used)
			s.used.Store(int32(used)) // the data is there before the number says so
			bell.Write(ring)          // if the other is gone, Read will say so
			if err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
		}
	})
}

func fill(data []byte, _ int) (int, error) { return os.Stdin.Read(data) }

func drain(data []byte, used int) (int, error) {
	if used == 0 {
		return 0, io.EOF
	}
	return os.Stdout.Write(data[:used])
}
