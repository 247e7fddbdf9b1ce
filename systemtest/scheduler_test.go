//go:build linux

package systemtest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

// What a page fault on slow storage does to the goroutines that have nothing to do
// with it: it stops a processor of the Go scheduler (a P), and a system call does
// not. One goroutine brings pages into memory that take 5 ms each; as many others as
// there are Ps work in short units, and yield after each as a server's goroutines
// do when they have answered.
//
//	way=touch     copies out of a view, page by page
//	way=ReadAt    the same: ReadAt is a copy, and no system call
//	way=prefault  calls Prefault first, then copies
//	progress/s    units of the others, median
//	ns/op         until all pages were there and read, median
//	ratio         progress with prefault over progress with touch, median of the
//	              ratios pair by pair
//
// ratio=yielding is with others as above. With ratio=busy they never yield. Who waits
// for a page loses its P when the scheduler finds out, 10 to 20 ms later, and then a
// yielding goroutine has it for one unit, a busy one for 10 ms or more. So the former
// all but stop, and the latter lose about half. With two Ps only one of them stops:
// the ratio is at most about 2, and 1 where the machine has no second core to spare.
//
// The disk is userfaultfd(2), served by another process: a handler in this one would
// not run while the only P is stopped. It differs from a disk in one thing. A signal
// interrupts the wait for it, and such is how the runtime preempts; nothing but
// SIGKILL interrupts the wait for a page of a file. Where the fault is that of a load
// in Go code the goroutine would lose its P in the middle of the wait, which cannot
// happen with a file. Where it is in the runtime's copy, as here, it cannot be
// preempted: the copy goes on to wait, and the P is lost in the first function that
// is called when the page is there, as with a file.
func BenchmarkScheduler(b *testing.B) {
	if os.Getenv("MMAP_TEST_CHILD") == b.Name() {
		if err := serveDisk(3); err != nil { // the first of ExtraFiles
			fmt.Fprintln(os.Stderr, "the slow disk:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// To collect, the world is stopped, and that waits for who waits for a page.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	d := slowDisk(b)
	for _, procs := range []int{1, 2} {
		b.Run(fmt.Sprintf("procs=%d", procs), func(b *testing.B) {
			if n := runtime.NumCPU(); n < procs {
				b.Skipf("%d processors are needed, and there is %d", procs, n)
			}
			for _, w := range []struct {
				name  string
				bring func() error
			}{{"touch", d.touch}, {"ReadAt", d.readAt}, {"prefault", d.prefault}} {
				b.Run("way="+w.name, func(b *testing.B) {
					var times, progress []float64
					for range b.N {
						t, n := d.round(b, procs, w.bring, runtime.Gosched)
						times, progress = append(times, float64(t)), append(progress, float64(n)/t.Seconds())
					}
					b.ReportMetric(median(times), "ns/op")
					b.ReportMetric(median(progress), "progress/s")
				})
			}
			for _, o := range []struct {
				name string
				rest func()
			}{{"yielding", runtime.Gosched}, {"busy", func() {}}} {
				b.Run("ratio="+o.name, func(b *testing.B) {
					var ratios []float64
					for range b.N {
						x, n := d.round(b, procs, d.prefault, o.rest)
						y, m := d.round(b, procs, d.touch, o.rest)
						m = max(m, 1) // not a single unit
						ratios = append(ratios, float64(n)/x.Seconds()/(float64(m)/y.Seconds()))
					}
					b.ReportMetric(0, "ns/op") // of two rounds: says nothing
					b.ReportMetric(median(ratios), "ratio")
				})
			}
		})
	}
}

const (
	diskDelay = 5 * time.Millisecond // for a page
	diskPages = 40
)

// A disk is a mapping whose pages come slowly and one after the other.
type disk struct {
	m   mmap.ReadWrite
	buf []byte // a page
}

// slowDisk returns a disk that lasts until the end of the benchmark.
//
// The child alone has the descriptor: when it dies, whatever of, the kernel fills the
// missing pages with zeros, and who waits goes on to find them wrong. It does not
// outlive this process.
func slowDisk(b *testing.B) *disk {
	fd, _, e := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if e != 0 {
		b.Skip("there is no userfaultfd(2), or faults in the kernel need vm.unprivileged_userfaultfd=1 or CAP_SYS_PTRACE:", e)
	}
	f := os.NewFile(fd, "userfaultfd")
	defer f.Close()
	d := &disk{must(mmap.Map[mmap.ReadWrite](mmap.Anonymous(diskPages * int(pageSize)))), make([]byte, pageSize)}
	b.Cleanup(func() { check(b, d.m.Close()) })
	const api, missing = 0xaa, 1 // UFFD_API, UFFDIO_REGISTER_MODE_MISSING
	check(b, uffdIoctl(fd, uffdAPI, &[3]uint64{api}))
	check(b, uffdIoctl(fd, uffdRegister, &[4]uint64{uint64(d.m.Addr()), uint64(d.m.Len()), missing}))
	var said bytes.Buffer
	cmd := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=^"+b.Name()+"$", "-test.benchtime=1x")
	cmd.Env = append(os.Environ(), "MMAP_TEST_CHILD="+b.Name())
	cmd.ExtraFiles, cmd.Stderr = []*os.File{f}, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	end := must(cmd.StdinPipe())
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { // before the mapping is closed
		end.Close()
		if err := cmd.Wait(); err != nil {
			b.Errorf("the slow disk: %v\n%s", err, said.String())
		}
	})
	return d
}

// round measures how long bring takes, with no page in memory, and how many units
// the others do meanwhile. There are procs of them, which call rest after each unit.
func (d *disk) round(b *testing.B, procs int, bring func() error, rest func()) (time.Duration, int64) {
	b.Helper()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs)) // here, for b.Run sets it, too
	if err := d.m.Discard(0, d.m.Len()); err != nil {
		b.Fatal(err)
	}
	type counter struct {
		atomic.Int64
		_ [120]byte // no cache line is shared
	}
	others := make([]counter, procs)
	units := func() (n int64) {
		for i := range others {
			n += others[i].Load()
		}
		return n
	}
	var done atomic.Bool
	var wg sync.WaitGroup
	for i := range others {
		wg.Go(func() {
			work := make([]byte, 64<<10) // to hash takes some 50 µs
			for !done.Load() {
				sum := sha256.Sum256(work)
				copy(work, sum[:])
				others[i].Add(1)
				rest()
			}
		})
	}
	for i := range others {
		for others[i].Load() == 0 {
			runtime.Gosched()
		}
	}
	before, start := units(), time.Now()
	err := bring()
	t, n := time.Since(start), units()-before
	done.Store(true)
	wg.Wait()
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		b.Skip(err)
	case err != nil:
		b.Fatal(err)
	case t < diskPages*diskDelay:
		b.Fatalf("%d pages have taken %v: some were in memory", diskPages, t)
	}
	return t, n
}

func (d *disk) touch() error {
	return d.m.View(func(p []byte) error {
		for i := 0; i < len(p); i += int(pageSize) {
			plainCopy(d.buf, p[i:i+int(pageSize)])
			if err := d.right(i); err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *disk) readAt() error {
	for i := 0; i < d.m.Len(); i += int(pageSize) {
		_, err := d.m.ReadAt(d.buf, int64(i))
		if err = errors.Join(err, d.right(i)); err != nil {
			return err
		}
	}
	return nil
}

func (d *disk) prefault() error {
	if err := d.m.Prefault(0, d.m.Len()); err != nil {
		return err
	}
	return d.touch()
}

// right fails unless the buffer holds what the disk has at offset off.
func (d *disk) right(off int) error {
	for i := 0; i < int(pageSize); i += 8 {
		want := uint64(d.m.Addr()) + uint64(off+i)
		if got := binary.NativeEndian.Uint64(d.buf[i:]); got != want {
			return fmt.Errorf("the slow disk has %#x at offset %d, not %#x", got, off+i, want)
		}
	}
	return nil
}

// serveDisk is the child: it answers one fault after the other until standard input
// ends. Each word of a page is its own address.
func serveDisk(fd int) error {
	if err := unix.SetNonblock(fd, true); err != nil { // which passing it on has undone
		return err
	}
	const pagefault = 0x12 // UFFD_EVENT_PAGEFAULT
	page, message := make([]byte, pageSize), make([]byte, 32)
	for {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: 0}}
		if _, err := unix.Poll(ready, -1); err != nil && err != unix.EINTR {
			return err
		}
		if ready[1].Revents != 0 {
			return nil
		}
		n, err := unix.Read(fd, message)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR: // a signal has ended the wait that asked
			continue
		case err != nil:
			return fmt.Errorf("read of userfaultfd: %w", err)
		case n != len(message) || message[0] != pagefault:
			return fmt.Errorf("a message that is no page fault: % x", message[:n])
		}
		delay := unix.NsecToTimespec(int64(diskDelay)) // more exact than a timer of the runtime
		for unix.Nanosleep(&delay, &delay) == unix.EINTR {
		}
		addr := binary.NativeEndian.Uint64(message[16:]) &^ uint64(pageSize-1)
		for i := 0; i < int(pageSize); i += 8 {
			binary.NativeEndian.PutUint64(page[i:], addr+uint64(i))
		}
		// The page is on the heap, where nothing moves. It can be there already, if a
		// wait that a signal has ended and the next one have both asked for it.
		c := [5]uint64{addr, uint64(uintptr(unsafe.Pointer(&page[0]))), uint64(pageSize)}
		if err := uffdIoctl(uintptr(fd), uffdCopy, &c); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
}

// The ioctls of userfaultfd. Their arguments are structs of 64-bit numbers alone.
const (
	uffdRegister = 0x00
	uffdCopy     = 0x03
	uffdAPI      = 0x3f
)

// uffdIoctl makes an ioctl that reads and writes its argument, _IOWR. That one is
// encoded alike on all processors: where the two directions have other bits than
// elsewhere, both together have the same.
func uffdIoctl[T any](fd, nr uintptr, arg *T) error {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, fd, 3<<30|unsafe.Sizeof(*arg)<<16|0xaa<<8|nr, uintptr(unsafe.Pointer(arg)))
	if e != 0 {
		return fmt.Errorf("ioctl %#x of userfaultfd: %w", nr, e)
	}
	return nil
}

func median[T cmp.Ordered](v []T) T {
	slices.Sort(v)
	return v[len(v)/2]
}

// plainCopy is a call that is not inlined, of a length that the compiler does
// not know.
//
//go:noinline
func plainCopy(dst, src []byte) int { return copy(dst, src) }
