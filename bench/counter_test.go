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

const counting = "count" // as its first argument makes the test binary a child

func TestMain(m *testing.M) {
	if len(os.Args) != 4 || os.Args[1] != counting {
		os.Exit(m.Run())
	}
	countUp(os.Args[2], must(strconv.Atoi(os.Args[3])))
}

// A counter is 8 bytes of a memfd, which two processes increment at once. One op
// is one increment; starting the processes is not measured, their end is. The
// mapped ones contend for one cache line, the flock for a lock in the kernel.
func BenchmarkCounter(b *testing.B) {
	const processes = 2
	for _, by := range []string{"mmap-update", "mmap-update-each", "unix", "flock"} {
		b.Run(fmt.Sprintf("processes=%d/by=%s", processes, by), func(b *testing.B) {
			f := must(mmap.Memfd("counter", 8, mmap.SealShrink|mmap.SealGrow))
			defer f.Close()
			var cmds [processes]*exec.Cmd
			var stdin [processes]io.WriteCloser
			for i := range cmds {
				n := (b.N + i) / processes // b.N together
				cmd := exec.CommandContext(b.Context(), "/proc/self/exe", counting, by, strconv.Itoa(n))
				cmd.ExtraFiles, cmd.Stderr = []*os.File{f}, os.Stderr
				stdin[i] = must(cmd.StdinPipe())
				stdout := must(cmd.StdoutPipe())
				ok(cmd.Start())
				must(io.ReadFull(stdout, make([]byte, 1))) // it is ready
				cmds[i] = cmd
			}
			b.ResetTimer()
			for _, w := range stdin {
				ok(w.Close())
			}
			for _, cmd := range cmds {
				ok(cmd.Wait())
			}
			b.StopTimer()
			var word [8]byte
			must(f.ReadAt(word[:], 0))
			if n := binary.NativeEndian.Uint64(word[:]); n != uint64(b.N) {
				b.Fatalf("counted to %d, want %d", n, b.N)
			}
		})
	}
}

// countUp is what a child does with the memfd that it has as descriptor 3.
func countUp(by string, n int) {
	// An open file of its own: flock(2) does not lock against one that was
	// inherited.
	f := must(os.OpenFile("/proc/self/fd/3", os.O_RDWR, 0))
	m := must(mmap.Map[mmap.ReadWrite](mmap.File(f, 0, 8).Shared()))
	raw := must(unix.Mmap(int(f.Fd()), 0, 8, readWrite, unix.MAP_SHARED))
	must(os.Stdout.Write([]byte{'\n'})) // ready
	must(io.Copy(io.Discard, os.Stdin)) // go
	one, all := increment(1), increment(n)
	switch by {
	case "mmap-update":
		ok(m.Update(all))
	case "mmap-update-each":
		for range n {
			ok(m.Update(one))
		}
	case "unix":
		// SAFETY: raw is 8 bytes at the start of a page, mapped until the end.
		word := (*uint64)(unsafe.Pointer(unsafe.SliceData(raw)))
		for range n {
			atomic.AddUint64(word, 1)
		}
	case "flock":
		fd, word := int(f.Fd()), make([]byte, 8)
		for range n {
			ok(unix.Flock(fd, unix.LOCK_EX))
			must(f.ReadAt(word, 0))
			binary.NativeEndian.PutUint64(word, binary.NativeEndian.Uint64(word)+1)
			must(f.WriteAt(word, 0))
			ok(unix.Flock(fd, unix.LOCK_UN))
		}
	}
}

func increment(n int) func(p []byte) error {
	return func(p []byte) error {
		words, err := mmap.Slice[uint64](p)
		for i := 0; i < n && err == nil; i++ {
			atomic.AddUint64(&words[0], 1)
		}
		return err
	}
}
