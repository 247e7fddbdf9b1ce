// Command pair copies standard input to standard output through two processes,
// one that reads and one that writes, or compresses with -z:
//
//	go run ./examples/pair [-z] <FILE >COPY
//
// Between them is a queue in shared memory; no byte of the data goes through a
// pipe. A socket carries the wake-ups only, and shows when the other has died.
package main

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

const consumer = "pair-consumer" // the name that the producer starts it by

func main() {
	if os.Args[0] == consumer {
		os.Exit(exit(consume(len(os.Args) > 1, os.Stdout), os.Stderr))
	}
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) > 1 || len(args) == 1 && args[0] != "-z" {
		fmt.Fprintln(stderr, "usage: pair [-z]")
		return 2
	}
	return exit(produce(args, stdin, stdout, stderr), stderr)
}

func exit(err error, stderr io.Writer) int {
	if err != nil {
		fmt.Fprintf(stderr, "pair: %v\n", err)
		return 1
	}
	return 0
}

func produce(args []string, in io.Reader, stdout, stderr io.Writer) error {
	// Whoever has a descriptor could truncate the file, and touching it would
	// then be a fault in both processes. The seals rule that out.
	f, err := mmap.Memfd("pair", size, mmap.SealShrink|mmap.SealGrow|mmap.SealSeal)
	if err != nil {
		return err
	}
	defer f.Close()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	bell, other := os.NewFile(uintptr(ends[0]), "bell"), os.NewFile(uintptr(ends[1]), "bell")
	defer bell.Close()
	defer other.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{consumer}, args...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = stdout, stderr, []*os.File{f, other}
	if err := cmd.Start(); err != nil {
		return err
	}
	other.Close() // or its end would stay open when the consumer dies
	filled, died := make(chan error, 1), make(chan error, 1)
	go func() { filled <- attach(f, bell, 0, func(q *queue) error { return q.fill(in) }) }()
	go func() {
		err := cmd.Wait()
		if err != nil {
			err = fmt.Errorf("the consumer: %w", err)
		}
		died <- err
	}()
	select {
	case err = <-filled:
		if errors.Is(err, errQueue) {
			cmd.Process.Kill() // nothing good comes of it any more
		}
		bell.Close() // what there is to say stands in the queue
		err = errors.Join(err, <-died)
	case err = <-died:
		if err == nil { // it has all; otherwise the input might take for ever
			err = <-filled
		}
	}
	return err
}

func consume(zip bool, out io.Writer) error {
	f, bell := os.NewFile(3, "queue"), os.NewFile(4, "bell")
	return attach(f, bell, 1, func(q *queue) error {
		if !zip {
			return q.drain(out)
		}
		z := gzip.NewWriter(out)
		if err := q.drain(z); err != nil {
			return err // and no end is written, so that nobody takes it for the whole
		}
		return z.Close()
	})
}
