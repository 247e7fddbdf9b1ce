//go:build linux

// Command log appends the lines of standard input to FILE, and prints what FILE
// holds, old lines and new ones, each once it is on the disk:
//
//	server 2>&1 | go run ./examples/log FILE
//
// The problem: a writer makes a file longer while readers look at it. A mapping that is
// made anew for each growth moves under the readers, and a full disk or a truncated file
// ends the program. Here the mapping has a reserve to grow into, so it never moves; blocks
// are allocated before they are written, so that a full disk is an error of that call; and
// each record has a checksum, so that a torn one is seen after a crash.
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync/atomic"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

const head = 8 // bytes before each line, which has its newline: its length and a checksum

var capacity, chunk = 1 << 30, 1 << 20 // bytes of the log, and by which it grows

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: log FILE")
		os.Exit(2)
	}
	if err := add(os.Args[1], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "log: %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
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
	locked := fmt.Sprintf("/proc/self/fd/%d", f.Fd()) // by now, name may be another file
	m, err := mmap.Map[mmap.ReadWrite](mmap.Path(locked).Shared().Reserve(capacity))
	if err != nil {
		return err
	}
	defer m.Close()
	var end atomic.Int64 // of what the reader may read
	err = m.View(func(b []byte) error {
		n, _ := walk(b, 0, io.Discard)
		if n == 0 && len(b) > 0 {
			return errors.New("not a log: it does not begin with a record") // and stays as it is
		}
		end.Store(int64(n)) // no record behind a torn one may come back
		return errors.Join(f.Truncate(int64(n)), mmap.Allocate(f, 0, int64(len(b))))
	})
	wake, followed := make(chan bool, 1), make(chan error, 1)
	go func() { followed <- follow(m, &end, wake, out) }()
	lines := bufio.NewScanner(in)
	for err == nil && lines.Scan() {
		err = put(f, m, &end, lines.Text()+"\n")
		select {
		case wake <- true:
		default: // the reader has not looked since it was woken: it will see this line, too
		}
	}
	close(wake)
	return errors.Join(err, lines.Err(), <-followed)
}

// put writes a record at the end, and moves that.
func put(f *os.File, m mmap.ReadWrite, end *atomic.Int64, line string) error {
	r, off := append(make([]byte, head), line...), end.Load()
	binary.LittleEndian.PutUint32(r, uint32(len(line)))
	binary.LittleEndian.PutUint32(r[4:], crc32.ChecksumIEEE(r[head:]))
	if size := int(off) + len(r); size > m.Len() {
		size = max(size, min(m.Len()+chunk, m.Cap()))
		if err := mmap.Grow(m, size); err != nil {
			return fmt.Errorf("the log cannot grow: %w", err)
		}
		if err := mmap.Allocate(f, 0, int64(size)); err != nil { // or else a full disk is a fault
			return err
		}
	}
	if _, err := m.WriteAt(r, off); err != nil {
		return err
	}
	end.Add(int64(len(r)))
	return nil
}

// follow prints the lines up to end, now and when woken, once they are on the disk.
func follow(m mmap.ReadWrite, end *atomic.Int64, wake <-chan bool, out io.Writer) error {
	off, err := show(m, 0, int(end.Load()), out)
	for range wake {
		if err == nil {
			off, err = show(m, off, int(end.Load()), out)
		}
	}
	return err
}

// show prints the lines of [from, to), and returns where the whole records end.
func show(m mmap.ReadWrite, from, to int, out io.Writer) (off int, err error) {
	if err = m.Sync(from, to-from); err != nil {
		return from, err
	}
	err = m.View(func(b []byte) (err error) {
		off, err = walk(b[:to], from, out)
		return err
	})
	return off, err
}

// walk prints the lines from off on, and returns where the whole records end.
func walk(b []byte, off int, out io.Writer) (int, error) {
	w := bufio.NewWriter(out)
	for off < len(b) {
		var h [head]byte
		line := b[off+copy(h[:], b[off:]):]
		n, sum := uint64(binary.LittleEndian.Uint32(h[:])), binary.LittleEndian.Uint32(h[4:])
		if n == 0 || n > uint64(len(line)) || crc32.ChecksumIEEE(line[:n]) != sum { // 0: not used yet
			return off, errors.Join(fmt.Errorf("no whole record at offset %d", off), w.Flush())
		}
		w.Write(line[:n]) // Flush has its error
		off += head + int(n)
	}
	return off, w.Flush()
}
