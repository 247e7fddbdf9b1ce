//go:build linux

package place

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// Populates reports whether madvise(2) can fault pages in.
var Populates = sync.OnceValue(func() bool {
	return !errors.Is(kernel.Probe("MADV_POPULATE_READ"), errors.ErrUnsupported)
})

// populating returns the advice that faults in pages of a kind as mlock(2) does:
// private ones that can be written are copied, so that a store does not fault later.
func (part Stretch) populating() int {
	if p := part.Prot; p&perms.Read == 0 || p&perms.Write != 0 && part.Flags&unix.MAP_SHARED == 0 {
		return unix.MADV_POPULATE_WRITE
	}
	return unix.MADV_POPULATE_READ
}

// Populate prefaults pages that allow it. The kernel does not say where it
// stopped, but calling it again for what is there already is cheap. If a page cannot be
// brought in, the error is a *Fault of the lowest such page; pages above it may be in memory.
func (part Stretch) Populate(advice int) error {
	addr, size, err := part.Madvise(advice)
	if err == unix.EINVAL {
		if err = kernel.Blame("MADV_POPULATE_READ", err); err == unix.EINVAL {
			err = fail.Hint(fail.Unsupported(err), "this kind of memory cannot be prefaulted")
		}
	}
	if err != unix.EFAULT && err != unix.EHWPOISON {
		return kernel.Scarce(err, kernel.Demand{Charged: part.Size})
	}
	for size > kernel.PageSize {
		half := kernel.Page(size / 2)
		switch err := sys.Madvise(addr, half, advice); err {
		case nil:
			addr, size = addr+half, size-half
		case unix.EFAULT, unix.EHWPOISON:
			size = half
		default:
			return kernel.Scarce(err, kernel.Demand{Charged: half})
		}
	}
	need := perms.Read
	if advice == unix.MADV_POPULATE_WRITE {
		need = perms.Write
	}
	return &Fault{Addr: addr, Verdict: kernel.CauseOf(addr, need)}
}

// Less than severalPieces is one system call: after each call a goroutine needs a processor
// again, and where all are busy waits for that some milliseconds, as long as all takes. A
// piece is no smaller than minPiece, for the sake of speed, and no larger than maxPiece, for
// the sake of others, whose mmap(2) waits until it ends.
const (
	severalPieces = 32 << 20
	minPiece      = 4 << 20
	maxPiece      = 64 << 20
	maxThreads    = 16
)

// Madvise gives advice that brings pages in: in pieces of whole pages, and by several
// threads if the pages come from memory and not from storage, where order matters. If that
// fails, it returns the lowest piece where it did, all below being done, and the error.
func (part Stretch) Madvise(advice int) (addr, size uintptr, err error) {
	if part.Size < severalPieces {
		return part.Addr, part.Size, sys.Madvise(part.Addr, part.Size, advice)
	}
	piece, ok := kernel.Round(min(max(part.Size/64, minPiece), maxPiece), max(part.Granule, minPiece))
	if !ok {
		piece = part.Size
	}
	j := job{advice: advice, next: part.Addr, end: part.Addr + part.Size, piece: piece}
	j.idle.L = &j
	more := 0
	if part.InMemory() {
		more = int(part.Size/piece) - 1
	}
	more = hire(more)
	for range more {
		go j.work()
	}
	j.work()
	j.Lock()
	defer j.Unlock()
	for j.working > 0 {
		j.idle.Wait() // for those that have begun: who comes late finds nothing to do
	}
	return j.failedAt, j.failedSize, j.err
}

// A job is a range that is done in pieces, in ascending order.
type job struct {
	sync.Mutex
	advice               int
	next, end, piece     uintptr // what nobody has begun yet
	working              int     // pieces that are begun
	idle                 sync.Cond
	failedAt, failedSize uintptr // the lowest piece that failed
	err                  error
}

// work does pieces until none is left, or one has failed.
func (j *job) work() {
	defer threads.Add(-1)
	j.Lock()
	defer j.Unlock()
	for j.next < j.end && j.err == nil {
		at, size := j.next, j.end-j.next
		if size > j.piece {
			size = j.piece - at%j.piece // so that each huge page of the pool lies in one piece
		}
		j.next += size
		j.working++
		j.Unlock()
		err := sys.Madvise(at, size, j.advice)
		j.Lock()
		j.working--
		if err != nil && (j.err == nil || at < j.failedAt) {
			j.failedAt, j.failedSize, j.err = at, size, err
		}
	}
	if j.working == 0 {
		j.idle.Broadcast()
	}
}

// threads counts those at work for all calls of the process.
var threads atomic.Int32

// hire counts the caller as a thread at work, and as many others as it returns: at most
// `most`, and no more than there may be.
func hire(most int) int {
	limit := int32(min(runtime.GOMAXPROCS(0), maxThreads))
	for {
		now := threads.Load()
		more := max(0, min(int32(min(most, maxThreads)), limit-now-1))
		if threads.CompareAndSwap(now, now+1+more) {
			return int(more)
		}
	}
}

// InMemory reports whether all pages come from memory: anonymous ones, a memfd, System V
// memory, tmpfs, huge pages, secret memory.
func (part Stretch) InMemory() bool {
	if part.Granule > kernel.PageSize || part.Flags&unix.MAP_ANONYMOUS != 0 {
		return true
	}
	regions, err := kernel.RegionsOf(part.Addr, part.Addr+part.Size)
	for _, r := range regions {
		if err != nil || !inMemory(r) {
			return false
		}
	}
	return err == nil
}

// inMemory asks nothing of the file system, which can be slow, but where it is mounted.
func inMemory(r procmaps.Region) bool {
	switch {
	case r.Inode == 0:
		return true
	case r.Major != 0:
		return false
	}
	for _, name := range []string{"/memfd:", "/SYSV", "/dev/zero", "/anon_hugepage", "/secretmem"} {
		if r.Deleted && strings.HasPrefix(r.Name, name) {
			return true
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	device := fmt.Sprintf("%d:%d", r.Major, r.Minor)
	for line := range strings.Lines(string(mounts)) {
		mount, kind, _ := strings.Cut(line, " - ") // proc_pid_mountinfo(5)
		if f := strings.Fields(mount); len(f) > 2 && f[2] == device {
			return strings.HasPrefix(kind, "tmpfs ") || strings.HasPrefix(kind, "hugetlbfs ")
		}
	}
	return false
}

// IsPrivateMemory reports whether the kernel says that all pages are private and anonymous.
func (part Stretch) IsPrivateMemory() bool {
	regions, err := kernel.RegionsOf(part.Addr, part.Addr+part.Size)
	other := func(r procmaps.Region) bool { return r.Inode != 0 || r.Perms&procmaps.Shared != 0 }
	return err == nil && !slices.ContainsFunc(regions, other)
}
