// Command log appends the lines of standard input to a log, which grows in place
// under its readers, and prints each line once it is on the disk:
//
//	go run ./examples/log [-read] FILE # with -read, it prints the log
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

var capacity, chunk = 1 << 30, 1 << 20 // bytes of the log, and by which it grows

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var err error
	switch {
	case len(args) == 2 && args[0] == "-read":
		var m mmap.Read
		if m, err = mmap.Map[mmap.Read](mmap.Path(args[1])); err == nil {
			defer m.Close()
			_, err = walk(m, 0, m.Len(), stdout)
		}
	case len(args) == 1 && args[0] != "-read":
		err = add(args[0], stdin, stdout)
	default:
		fmt.Fprintln(stderr, "usage: log [-read] FILE")
		return 2
	}
	if err != nil {
		fmt.Fprintf(stderr, "log: %s: %v\n", args[len(args)-1], err)
		return 1
	}
	return 0
}

func add(name string, in io.Reader, out io.Writer) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another writer has it: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	size := int(min(st.Size(), int64(capacity)+1)) // one too many is refused
	m, err := mmap.Map[mmap.ReadWrite](mmap.File(f, 0, size).Shared().Reserve(capacity))
	if err != nil {
		return err
	}
	defer m.Close()
	// A crash can leave a torn record, and whole ones behind it, which must not
	// come back. But what begins with a torn one is another file: leave it.
	end, err := walk(m, 0, size, io.Discard)
	if err == nil || end > 0 && errors.Is(err, errTorn) {
		err = errors.Join(f.Truncate(int64(end)), mmap.Allocate(f, 0, int64(size)))
	}
	if err != nil {
		return err
	}
	var written atomic.Int64 // as far as readers may read
	written.Store(int64(end))
	readers := [...]io.Writer{out, io.Discard} // the second one only checks
	var wake [len(readers)]chan bool
	start, errs := end, make(chan error)
	for i, to := range readers {
		wake[i] = make(chan bool, 1)
		go func() { errs <- follow(m, start, &written, wake[i], to) }()
	}
	lines := bufio.NewReaderSize(in, chunk)
	for line := []byte(nil); err == nil; {
		if line, err = lines.ReadSlice('\n'); err == nil || err == io.EOF && len(line) > 0 {
			end, err = put(f, m, end, bytes.TrimSuffix(line, []byte("\n")))
			written.Store(int64(end))
		}
		for _, w := range wake {
			select {
			case w <- true:
			default: // it has not looked since it was woken
			}
		}
	}
	for _, w := range wake {
		close(w)
	}
	switch err {
	case io.EOF:
		err = nil
	case bufio.ErrBufferFull:
		err = fmt.Errorf("a line is longer than %d bytes", chunk)
	}
	return errors.Join(err, <-errs, <-errs)
}
