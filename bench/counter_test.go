package bench

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

// What makes the test binary a process that counts: how, and how far.
const counterBy, counterN = "BENCH_COUNTER_BY", "BENCH_COUNTER_N"

func TestMain(m *testing.M) {
	by := os.Getenv(counterBy)
	if by == "" {
		os.Exit(m.Run())
	}
	if err := countUp(by); err != nil {
		fmt.Fprintln(os.Stderr, "counter:", err)
		os.Exit(1)
	}
}

// A counter is 8 bytes of a memfd, which two processes increment at once. One op
// is one increment; starting the processes is not measured. The mapped ones
// contend for one cache line, the flock for a lock in the kernel.
func BenchmarkCounter(b *testing.B) {
	const processes = 2
	for _, by := range []string{"mmap-update", "mmap-update-each", "unix", "flock"} {
		b.Run(fmt.Sprintf("processes=%d/by=%s", processes, by), func(b *testing.B) {
			f, err := mmap.Memfd("counter", 8, mmap.SealShrink|mmap.SealGrow)
			must(b, err)
			defer f.Close()
			var children [processes]child
			for i := range children {
				n := b.N / processes
				if i < b.N%processes {
					n++
				}
				children[i] = start(b, f, by, n)
			}
			for _, c := range children {
				must(b, c.ready())
			}
			b.ResetTimer()
			for _, c := range children {
				must(b, second(c.stdin.Write([]byte{'\n'})))
			}
			for _, c := range children {
				must(b, c.ready())
			}
			b.StopTimer()
			for _, c := range children {
				must(b, c.cmd.Wait())
			}
			var word [8]byte
			must(b, second(f.ReadAt(word[:], 0)))
			if n := binary.NativeEndian.Uint64(word[:]); n != uint64(b.N) {
				b.Fatalf("counted to %d, want %d", n, b.N)
			}
		})
	}
}

// A child says that it is ready with a byte, counts once it is sent one, and
// says that it is done.
type child struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.ReadCloser
}

func start(b *testing.B, f *os.File, by string, n int) (c child) {
	self, err := os.Executable()
	must(b, err)
	c.cmd = exec.CommandContext(b.Context(), self)
	c.cmd.Env = append(os.Environ(), counterBy+"="+by, counterN+"="+strconv.Itoa(n))
	c.cmd.ExtraFiles = []*os.File{f}
	c.cmd.Stderr = os.Stderr
	c.stdin, err = c.cmd.StdinPipe()
	must(b, err)
	c.stdout, err = c.cmd.StdoutPipe()
	must(b, err)
	must(b, c.cmd.Start())
	return c
}

func (c child) ready() error { return second(io.ReadFull(c.stdout, make([]byte, 1))) }

// countUp is what a child does with the memfd that it has as descriptor 3.
func countUp(by string) error {
	n, err := strconv.Atoi(os.Getenv(counterN))
	if err != nil {
		return err
	}
	// An open file of its own: flock(2) does not lock against one that was
	// inherited.
	f, err := os.OpenFile("/proc/self/fd/3", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	m, err := mmap.Map[mmap.ReadWrite](mmap.File(f, 0, 8).Shared())
	if err != nil {
		return err
	}
	defer m.Close()
	raw, err := unix.Mmap(int(f.Fd()), 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(raw)
	if err := signal(); err != nil {
		return err
	}
	if _, err := io.ReadFull(os.Stdin, make([]byte, 1)); err != nil {
		return err
	}
	switch by {
	case "mmap-update": // one view of all
		err = m.Update(func(p []byte) error { return increment(p, n) })
	case "mmap-update-each":
		one := func(p []byte) error { return increment(p, 1) }
		for i := 0; i < n && err == nil; i++ {
			err = m.Update(one)
		}
	case "unix":
		// SAFETY: raw is 8 bytes, aligned to a page, and mapped until the end.
		word := (*uint64)(unsafe.Pointer(unsafe.SliceData(raw)))
		for range n {
			atomic.AddUint64(word, 1)
		}
	case "flock":
		for i := 0; i < n && err == nil; i++ {
			err = incrementFile(f)
		}
	default:
		err = fmt.Errorf("unknown way %q", by)
	}
	if err != nil {
		return err
	}
	return signal()
}

func signal() error { return second(os.Stdout.Write([]byte{'\n'})) }

func increment(p []byte, n int) error {
	words, err := mmap.Slice[uint64](p)
	if err != nil {
		return err
	}
	for range n {
		atomic.AddUint64(&words[0], 1)
	}
	return nil
}

func incrementFile(f *os.File) error {
	fd := int(f.Fd())
	for {
		if err := unix.Flock(fd, unix.LOCK_EX); err == nil {
			break
		} else if err != unix.EINTR {
			return err
		}
	}
	var word [8]byte
	if _, err := f.ReadAt(word[:], 0); err != nil {
		return err
	}
	binary.NativeEndian.PutUint64(word[:], binary.NativeEndian.Uint64(word[:])+1)
	if _, err := f.WriteAt(word[:], 0); err != nil {
		return err
	}
	return unix.Flock(fd, unix.LOCK_UN)
}
