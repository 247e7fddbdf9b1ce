//go:build linux

package mmap

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// What mapping, faulting and access cost. Each benchmark does the same work
// twice in turn, with the library and with the bare system call, and reports the
// median of the paired ratios: so the noise of the machine falls on both alike.
//
//	ns/op       the library, median
//	bare-ns/op  the bare call, median
//	ratio       median of the ratios, pair by pair
//	allocs/op   of the library alone
//
// One b.N is one pair of batches. The ratio needs a hundred of them:
//
//	go test -run '^$' -bench Operation -benchtime 200x .
func paired(b *testing.B, batch int, ours, bare func(n int)) {
	b.Helper()
	b.ReportAllocs()
	allocs, bytes := allocated(func() { ours(batch) })
	// Until it is collected by itself the Go heap grows, and each new page of it is a
	// page fault.
	for n, start := collections(), time.Now(); allocs > 0 && collections() == n && time.Since(start) < 300*time.Millisecond; {
		ours(batch)
	}
	timed := func(f func(int)) func() time.Duration {
		return func() time.Duration {
			start := time.Now()
			f(batch)
			return time.Since(start)
		}
	}
	inTurn(b, "op", batch, timed(ours), timed(bare))
	b.ReportMetric(float64(allocs)/float64(batch), "allocs/op")
	b.ReportMetric(float64(bytes)/float64(batch), "B/op")
}

func collections() uint32 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.NumGC
}

// allocated returns what f allocates once it is warm.
func allocated(f func()) (allocs, bytes uint64) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var before, after runtime.MemStats
	f()
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs, after.TotalAlloc - before.TotalAlloc
}

// inTurn is paired for functions that take the time themselves, of many units
// of work.
func inTurn(b *testing.B, unit string, many int, ours, bare func() time.Duration) {
	b.Helper()
	ours()
	bare()
	var t, u, ratio []float64
	b.ResetTimer() // or long preparations leave time for one round only
	for i := range b.N {
		var x, y time.Duration
		if i%2 == 0 {
			x, y = ours(), bare()
		} else {
			y, x = bare(), ours()
		}
		t = append(t, float64(x)/float64(many))
		u = append(u, float64(y)/float64(many))
		ratio = append(ratio, float64(x)/float64(y))
	}
	b.ReportMetric(0, "ns/op") // that of both, unless the unit is an op
	b.ReportMetric(median(t), "ns/"+unit)
	b.ReportMetric(median(u), "bare-ns/"+unit)
	b.ReportMetric(median(ratio), "ratio")
}

func bareUnmap(addr, size uintptr) { ok(sys.Munmap(addr, size)) }

func median[T cmp.Ordered](v []T) T {
	slices.Sort(v)
	return v[len(v)/2]
}

// ok ends the benchmark on an error.
func ok(err error) {
	if err != nil {
		panic(err)
	}
}

// touch stores into every page of b, with no guard.
func touch(b []byte) {
	for i := 0; i < len(b); i += int(pageSize) {
		b[i] = 1
	}
}

// peruse loads from every page of b.
func peruse(b []byte) {
	var sum byte
	for i := 0; i < len(b); i += int(pageSize) {
		sum += b[i]
	}
	perused = sum // or the compiler drops the loads
}

var perused byte

func units(n int) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%dGiB", n>>30)
	case n >= 1<<20:
		return fmt.Sprintf("%dMiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%dKiB", n>>10)
	}
	return fmt.Sprintf("%dB", n)
}

// An origin is where pages come from: a Spec, and the same for the bare call.
type origin struct {
	spec      Spec
	size      int
	flags, fd int
	write     bool   // faulted in by a store
	huge      bool   // pages larger than the least come by advice
	fresh     func() // takes the pages away where unmapping does not; may be nil
}

func (o origin) prot() int {
	if o.write {
		return unix.PROT_READ | unix.PROT_WRITE
	}
	return unix.PROT_READ
}

// bare maps the origin without the library.
func (o origin) bare(flags int) uintptr {
	return must(sys.Mmap(0, uintptr(o.size), o.prot(), o.flags|flags, o.fd, 0))
}

// mapped maps the origin with the library.
func (o origin) mapped(s Spec) Unknown { return must(MapUnknown(s, Prot(o.prot()))) }

func anonymousOrigin(size int) origin {
	return origin{spec: Anonymous(size), size: size, flags: unix.MAP_PRIVATE | unix.MAP_ANONYMOUS, fd: -1, write: true}
}

const hugePage = 2 << 20

func hugeOrigin(b *testing.B, size int) origin {
	if granule := withHugePages(b, size/hugePage); granule != hugePage {
		b.Skipf("huge pages of %d bytes", granule)
	}
	o := anonymousOrigin(size)
	o.spec, o.flags = o.spec.HugePages(hugePage), o.flags|unix.MAP_HUGETLB
	return o
}

// fileOrigin is the file f, with its pages in the page cache.
func fileOrigin(b *testing.B, f *os.File, size int, shared, write bool) origin {
	b.Cleanup(func() { f.Close() })
	o := origin{spec: File(f, 0, size), size: size, flags: unix.MAP_PRIVATE, fd: int(f.Fd()), write: write}
	if shared {
		o.spec, o.flags = o.spec.Shared(), unix.MAP_SHARED
	}
	return o
}

// memoryFile is a file of memory, whose pages are new in each round.
func memoryFile(b *testing.B, f *os.File, size int) origin {
	o := fileOrigin(b, f, size, true, true)
	o.fresh = func() { ok(f.Truncate(0)); ok(f.Truncate(int64(size))) }
	o.fresh()
	return o
}

// origins calls f with each kind of memory.
func origins(b *testing.B, size int, f func(b *testing.B, o origin)) {
	run := func(name string, open func(b *testing.B) origin) {
		b.Run("source="+name, func(b *testing.B) { f(b, open(b)) })
	}
	cached := func(b *testing.B) *os.File {
		f := must(os.Create(filepath.Join(b.TempDir(), "f")))
		chunk := make([]byte, min(size, 1<<20))
		for at := 0; at < size; at += len(chunk) {
			must(f.Write(chunk))
		}
		ok(f.Sync())
		return f
	}
	run("anonymous", func(*testing.B) origin { return anonymousOrigin(size) })
	if size <= 64<<20 {
		run("private-file", func(b *testing.B) origin { return fileOrigin(b, cached(b), size, false, false) })
		run("copied-file", func(b *testing.B) origin { return fileOrigin(b, cached(b), size, false, true) })
		run("shared-file", func(b *testing.B) origin { return fileOrigin(b, cached(b), size, true, true) })
	}
	run("memfd", func(b *testing.B) origin { return memoryFile(b, must(Memfd("bench", int64(size), 0)), size) })
	run("tmpfs", func(b *testing.B) origin {
		var st unix.Statfs_t
		if err := unix.Statfs("/dev/shm", &st); err != nil || st.Type != unix.TMPFS_MAGIC {
			b.Skip("/dev/shm is no tmpfs")
		}
		f := must(os.CreateTemp("/dev/shm", "mmap-bench-"))
		ok(os.Remove(f.Name()))
		return memoryFile(b, f, size)
	})
	if size < hugePage {
		return
	}
	run("huge", func(b *testing.B) origin {
		return hugeOrigin(b, size)
	})
	run("thp", func(b *testing.B) origin {
		o := anonymousOrigin(size)
		o.huge = true
		return o
	})
}

// smallPages keeps the kernel from giving anonymous memory huge pages unasked.
func smallPages(b *testing.B, yes bool) {
	on := uintptr(0)
	if yes {
		on = 1
	}
	if err := unix.Prctl(unix.PR_SET_THP_DISABLE, on, 0, 0, 0); err != nil {
		b.Skip("transparent huge pages cannot be switched off: ", err)
	}
}

// Ways of bringing pages into memory, from mapping to the last page; unmapping
// is not in the time. A page is one of the least size, also where the memory
// has larger ones. Files are in the page cache; private-file is read, all others
// are written, copied-file so that each page is copied.
func BenchmarkFault(b *testing.B) {
	defer smallPages(b, false)
	for _, size := range []int{4 << 10, 1 << 20, 32 << 20, 1 << 30} {
		b.Run("size="+units(size), func(b *testing.B) {
			if size == 1<<30 && testing.Short() {
				b.Skip("1 GiB, and -short")
			}
			origins(b, size, func(b *testing.B, o origin) {
				for _, way := range []string{"touch", "populate", "prefault", "lock"} {
					b.Run("way="+way, func(b *testing.B) { o.fault(b, way) })
				}
			})
		})
	}
}

func (o origin) fault(b *testing.B, way string) {
	smallPages(b, !o.huge)
	size, spec, flags := uintptr(o.size), o.spec, 0
	look := func(p []byte) error { peruse(p); return nil }
	advice := unix.MADV_POPULATE_READ
	if o.write {
		look = func(p []byte) error { touch(p); return nil }
		advice = unix.MADV_POPULATE_WRITE
	}
	switch {
	case way == "populate" && o.huge:
		b.Skip("huge pages by advice cannot be populated while mapping: the advice comes later")
	case way == "populate":
		spec, flags = spec.Populate(), unix.MAP_POPULATE
	case way == "prefault" && sys.Madvise(0, 0, advice) != nil:
		b.Skip("MADV_POPULATE needs Linux 5.14")
	case way == "lock":
		var limit unix.Rlimit
		if ok(unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit)); limit.Cur < uint64(size) && os.Getuid() != 0 {
			b.Skipf("RLIMIT_MEMLOCK is %d", limit.Cur)
		}
	}
	renew := func() {
		if o.fresh != nil {
			o.fresh()
		}
	}
	inTurn(b, "page", o.size/int(pageSize), func() time.Duration {
		renew()
		start := time.Now()
		m := o.mapped(spec)
		if o.huge {
			ok(m.Advise(0, m.Len(), AdviceHugePage))
		}
		switch way {
		case "touch":
			if o.write {
				ok(m.Update(look))
			} else {
				ok(m.View(look))
			}
		case "prefault":
			if o.write {
				ok(m.PrefaultWrite(0, m.Len()))
			} else {
				ok(m.Prefault(0, m.Len()))
			}
		case "lock":
			ok(m.Lock(0, m.Len()))
		}
		took := time.Since(start)
		ok(m.Close())
		return took
	}, func() time.Duration {
		renew()
		start := time.Now()
		addr := o.bare(flags)
		if o.huge {
			ok(sys.Madvise(addr, size, unix.MADV_HUGEPAGE))
		}
		switch way {
		case "touch":
			ok(look(memory(addr, o.size)))
		case "prefault":
			ok(sys.Madvise(addr, size, advice))
		case "lock":
			ok(sys.Mlock(addr, size, 0))
		}
		took := time.Since(start)
		bareUnmap(addr, size)
		return took
	})
}

// Each operation over the bare call, or over what it cannot do without.
func BenchmarkOperation(b *testing.B) {
	smallPages(b, true)
	defer smallPages(b, false)
	b.Run("op=map+close", func(b *testing.B) {
		for _, size := range []int{4 << 10, 1 << 30} {
			b.Run("source=anonymous/size="+units(size), func(b *testing.B) { mapClose(b, anonymousOrigin(size), false, 50) })
		}
		origins(b, 2<<20, func(b *testing.B, o origin) {
			if o.huge {
				b.Skip("without advice and untouched it is as anonymous")
			}
			b.Run("size=2MiB", func(b *testing.B) { mapClose(b, o, false, 50) })
		})
	})
	b.Run("op=map+close/source=anonymous/size=4KiB/over=x-sys", func(b *testing.B) { // which keeps a table of slices
		paired(b, 50, func(n int) {
			for range n {
				m := must(Map[ReadWrite](Anonymous(4 << 10)))
				ok(m.Close())
			}
		}, func(n int) {
			for range n {
				mem := must(unix.Mmap(-1, 0, 4<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON))
				ok(unix.Munmap(mem))
			}
		})
	})
	b.Run("op=map+close/source=shared-file/size=1MiB", func(b *testing.B) {
		f := must(os.Create(filepath.Join(b.TempDir(), "f")))
		ok(f.Truncate(1 << 20))
		mapClose(b, fileOrigin(b, f, 1<<20, true, true), false, 50)
	})
	b.Run("op=map+close/source=path/size=1MiB", mapPath)
	b.Run("op=map+touch+close", func(b *testing.B) {
		for _, size := range []int{4 << 10, 1 << 20, 64 << 20} {
			b.Run("source=anonymous/size="+units(size), func(b *testing.B) {
				mapClose(b, anonymousOrigin(size), true, max(1, 200<<10/size))
			})
		}
	})
	for _, size := range []int{16 << 10, 1 << 20, 64 << 20} {
		b.Run("op=protect/size="+units(size), func(b *testing.B) { protect(b, size, max(1, 1<<20/size)) })
	}
	b.Run("op=resize/size=1MiB", resize)
	b.Run("op=grow/size=4KiB", grow)
	onPages(b)
	b.Run("op=split+join", splitJoin)
}

func mapClose(b *testing.B, o origin, touched bool, batch int) {
	paired(b, batch, func(n int) {
		for range n {
			if !o.write {
				m := must(Map[Read](o.spec))
				ok(m.Close())
				continue
			}
			m := must(Map[ReadWrite](o.spec))
			if touched {
				touch(memory(m.Addr(), o.size))
			}
			ok(m.Close())
		}
	}, func(n int) {
		for range n {
			addr := o.bare(0)
			if touched {
				touch(memory(addr, o.size))
			}
			bareUnmap(addr, uintptr(o.size))
		}
	})
}

// Over what a Path cannot do without: to look before it opens, and then how long the file is.
func mapPath(b *testing.B) {
	const size = 1 << 20
	name := filepath.Join(b.TempDir(), "f")
	ok(os.WriteFile(name, make([]byte, size), 0o600))
	paired(b, 50, func(n int) {
		for range n {
			m := must(Map[Read](Path(name)))
			ok(m.Close())
		}
	}, func(n int) {
		for range n {
			var st unix.Stat_t
			ok(unix.Stat(name, &st))
			fd := must(unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0))
			ok(unix.Fstat(fd, &st))
			addr := must(sys.Mmap(0, uintptr(st.Size), unix.PROT_READ, unix.MAP_PRIVATE, fd, 0))
			ok(unix.Close(fd))
			bareUnmap(addr, size)
		}
	})
}

// Between neighbours of another kind: merging with them is what protecting
// costs most.
func protect(b *testing.B, size, batch int) {
	hold := must(Map[None](Anonymous(3 * size)))
	left, rest, err := Split(hold, size)
	ok(err)
	middle, right, err := Split(rest, size)
	ok(err)
	rw := must(Protect[ReadWrite](middle))
	addr := rw.Addr()
	touch(memory(addr, size))
	paired(b, batch, func(n int) {
		for range n {
			ro := must(Protect[Read](rw))
			rw = must(Protect[ReadWrite](ro))
		}
	}, func(n int) {
		for range n {
			ok(sys.Mprotect(addr, uintptr(size), unix.PROT_READ))
			ok(sys.Mprotect(addr, uintptr(size), unix.PROT_READ|unix.PROT_WRITE))
		}
	})
	for _, m := range []mapping{left, rw, right} {
		ok(m.Close())
	}
}

func resize(b *testing.B) {
	const size = 1 << 20
	m := must(Map[ReadWrite](Anonymous(size)))
	o := anonymousOrigin(size)
	addr := o.bare(0)
	paired(b, 50, func(n int) {
		for range n {
			m = must(Resize(m, 2*size))
			m = must(Resize(m, size))
		}
	}, func(n int) {
		for range n {
			addr = must(sys.Mremap(addr, size, 2*size, unix.MREMAP_MAYMOVE, 0))
			ok(sys.Munmap(addr+size, size))
		}
	})
	ok(m.Close())
	ok(sys.Munmap(addr, size))
}

// A page more, again and again.
func grow(b *testing.B) {
	const steps = 256
	step := int(pageSize)
	inTurn(b, "op", steps, func() time.Duration {
		m := must(Map[ReadWrite](Anonymous(0).Reserve(steps * step)))
		start := time.Now()
		for i := range steps {
			ok(Grow(m, (i+1)*step))
		}
		took := time.Since(start)
		ok(m.Close())
		return took
	}, func() time.Duration {
		// With the flags that a reserve has: with MAP_NORESERVE a step would charge nothing.
		addr := must(sys.Mmap(0, steps*pageSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, -1, 0))
		start := time.Now()
		for i := range uintptr(steps) {
			ok(sys.Mprotect(addr+i*pageSize, pageSize, unix.PROT_READ|unix.PROT_WRITE))
		}
		took := time.Since(start)
		ok(sys.Munmap(addr, steps*pageSize))
		return took
	})
}

// Operations on ranges, on the same memory as the bare call.
func onPages(b *testing.B) {
	const size = 1 << 20
	private := must(Map[ReadWrite](Anonymous(size)))
	defer private.Close()
	f := must(Memfd("bench", size, 0))
	defer f.Close()
	shared := must(Map[ReadWrite](File(f, 0, size).Shared()))
	defer shared.Close()
	disk := must(os.Create(filepath.Join(b.TempDir(), "f")))
	defer disk.Close()
	ok(Allocate(disk, 0, size))
	onDisk := must(Map[ReadWrite](File(disk, 0, size).Shared()))
	defer onDisk.Close()
	for _, m := range []ReadWrite{private, shared, onDisk} {
		touch(memory(m.Addr(), size))
	}
	ok(onDisk.Sync(0, size))
	both := func(name string, batch int, m ReadWrite, ours func(m ReadWrite) error, bare func(addr uintptr) error) {
		b.Run(name, func(b *testing.B) {
			if err := ours(m); err != nil {
				b.Skip(err)
			}
			addr := m.Addr()
			paired(b, batch, func(n int) {
				for range n {
					ok(ours(m))
				}
			}, func(n int) {
				for range n {
					ok(bare(addr))
				}
			})
		})
	}
	both("op=advise/size=1MiB", 200, private,
		func(m ReadWrite) error { return m.Advise(0, size, AdviceSequential) },
		func(addr uintptr) error { return sys.Madvise(addr, size, unix.MADV_SEQUENTIAL) })
	both("op=prefault/size=1MiB", 50, private,
		func(m ReadWrite) error { return m.Prefault(0, size) },
		func(addr uintptr) error { return sys.Madvise(addr, size, unix.MADV_POPULATE_READ) })
	both("op=sync/source=memfd/size=1MiB", 200, shared,
		func(m ReadWrite) error { return m.Sync(0, size) },
		func(addr uintptr) error { return sys.Msync(addr, size, unix.MS_SYNC) })
	both("op=sync/source=clean-file/size=1MiB", 50, onDisk,
		func(m ReadWrite) error { return m.Sync(0, size) },
		func(addr uintptr) error { return sys.Msync(addr, size, unix.MS_SYNC) })
	both("op=sync/source=dirty-file/size=1MiB", 1, onDisk,
		func(m ReadWrite) error { touch(memory(m.Addr(), size)); return m.Sync(0, size) },
		func(addr uintptr) error { touch(memory(addr, size)); return sys.Msync(addr, size, unix.MS_SYNC) })
	both("op=lock+unlock/size=1MiB", 20, private,
		func(m ReadWrite) error { return cmp.Or(m.Lock(0, size), m.Unlock(0, size)) },
		func(addr uintptr) error { return cmp.Or(sys.Mlock(addr, size, 0), sys.Munlock(addr, size)) })
	both("op=resident/size=1MiB", 100, private,
		func(m ReadWrite) error { _, err := m.Resident(0, size); return err },
		func(addr uintptr) error { return sys.Mincore(addr, pageSize, make([]byte, size/pageSize)) })
	both("op=discard+touch/size=1MiB", 2, private,
		func(m ReadWrite) error { err := m.Discard(0, size); touch(memory(m.Addr(), size)); return err },
		func(addr uintptr) error {
			err := sys.Madvise(addr, size, unix.MADV_DONTNEED)
			touch(memory(addr, size))
			return err
		})
}

// Bringing in much memory, which the library does in pieces and by several threads, over one
// bare call; the longest that another goroutine's mmap(2) takes meanwhile, over all of that
// time; and the same with all processors busy.
func BenchmarkPopulate(b *testing.B) {
	run := func(name string, o origin, busy int) {
		b.Run(name, func(b *testing.B) { o.populate(b, busy, false) })
	}
	b.Run("source=anonymous/size=1GiB/beside=mmap", func(b *testing.B) { anonymousOrigin(1<<30).populate(b, 0, true) })
	run("source=anonymous/size=1GiB", anonymousOrigin(1<<30), 0)
	run("source=anonymous/size=64MiB", anonymousOrigin(64<<20), 0)
	run("source=anonymous/size=16MiB", anonymousOrigin(16<<20), 0)
	run("source=anonymous/size=16MiB/busy", anonymousOrigin(16<<20), runtime.GOMAXPROCS(0))
	run("source=anonymous/size=64MiB/busy", anonymousOrigin(64<<20), runtime.GOMAXPROCS(0))
	b.Run("source=memfd/size=64MiB", func(b *testing.B) {
		memoryFile(b, must(Memfd("bench", 64<<20, 0)), 64<<20).populate(b, 0, false)
	})
	b.Run("source=huge/size=64MiB", func(b *testing.B) { hugeOrigin(b, 64<<20).populate(b, 0, false) })
}

func (o origin) populate(b *testing.B, busy int, beside bool) {
	smallPages(b, true)
	defer smallPages(b, false)
	defer keepBusy(busy)()
	size := uintptr(o.size)
	renew := func() {
		if o.fresh != nil {
			o.fresh()
		}
	}
	var waits []float64
	inTurn(b, "page", o.size/int(pageSize), func() time.Duration {
		renew()
		m := o.mapped(o.spec)
		longest := waiting(beside)
		start := time.Now()
		ok(m.PrefaultWrite(0, o.size))
		took := time.Since(start)
		waits = append(waits, float64(longest())/float64(took))
		ok(m.Close())
		return took
	}, func() time.Duration {
		renew()
		addr := o.bare(0)
		start := time.Now()
		ok(sys.Madvise(addr, size, unix.MADV_POPULATE_WRITE))
		took := time.Since(start)
		bareUnmap(addr, size)
		return took
	})
	if beside {
		b.ReportMetric(median(waits), "wait-ratio")
	}
}

// waiting maps and unmaps a page again and again, until the function that it returns is
// called, which returns how long that took at most.
func waiting(yes bool) (longest func() time.Duration) {
	if !yes {
		return func() time.Duration { return 0 }
	}
	stop, result := make(chan bool), make(chan time.Duration)
	go func() {
		most := time.Duration(0)
		for {
			select {
			case <-stop:
				result <- most
				return
			default:
			}
			start := time.Now()
			bareUnmap(anonymousOrigin(int(pageSize)).bare(0), pageSize)
			most = max(most, time.Since(start))
			time.Sleep(100 * time.Microsecond)
		}
	}()
	return func() time.Duration { stop <- true; return <-result }
}

// keepBusy keeps so many goroutines busy until the function that it returns is called.
func keepBusy(n int) (stop func()) {
	var done atomic.Bool
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			for !done.Load() {
			}
		})
	}
	return func() { done.Store(true); all.Wait() }
}

// There is no bare call: the kernel knows nothing of it.
func splitJoin(b *testing.B) {
	m := must(Map[ReadWrite](Anonymous(2 * int(pageSize))))
	b.ReportAllocs()
	for b.Loop() {
		left, right, err := Split(m, int(pageSize))
		ok(err)
		m = must(Join(left, right))
	}
	ok(m.Close())
}

// Access to memory that is there already, over what a counted and guarded access cannot do
// without. Below 20 ns the place of the code in memory moves a ratio by 0.05: for a fair
// one take the median of several builds, with -ldflags=-randlayout=1, 2, 3, …
func BenchmarkAccess(b *testing.B) {
	m := must(Map[ReadWrite](Anonymous(1 << 20)))
	defer m.Close()
	mem := memory(m.Addr(), m.Len())
	touch(mem)
	times := func(f func()) func(n int) {
		return func(n int) {
			for range n {
				f()
			}
		}
	}
	const batch = 16 << 10
	overView := func(name string, f func(n int)) {
		b.Run("op="+name, func(b *testing.B) {
			paired(b, batch, f, func(n int) {
				for range n {
					viewFloor(mem, nothing)
				}
			})
		})
	}
	overView("View", func(n int) {
		for range n {
			m.View(nothing)
		}
	})
	b.Run("op=scan/size=1MiB", func(b *testing.B) {
		paired(b, 1, times(func() { m.View(func(p []byte) error { add(p); return nil }) }), times(func() { add(mem) }))
	})
	for _, size := range []int{64, 4 << 10, 64 << 10, 1 << 20} {
		p := make([]byte, size)
		touch(p)
		batch := min(batch, 16<<20/size) // long enough for a moment's disturbance to be short
		b.Run("op=ReadAt/size="+units(size), func(b *testing.B) {
			paired(b, batch, func(n int) {
				for range n {
					m.ReadAt(p, 0)
				}
			}, func(n int) {
				for range n {
					copyFloor(p, mem[:len(p)])
				}
			})
		})
		b.Run("op=WriteAt/size="+units(size), func(b *testing.B) {
			paired(b, batch, func(n int) {
				for range n {
					m.WriteAt(p, 0)
				}
			}, func(n int) {
				for range n {
					copyFloor(mem[:len(p)], p)
				}
			})
		})
	}
	u := must(MapUnknown(Anonymous(1<<20), ProtRead))
	defer u.Close()
	p := make([]byte, 64)
	b.Run("op=Unknown.ReadAt/size=64B", func(b *testing.B) {
		paired(b, batch, func(n int) {
			for range n {
				u.ReadAt(p, 0)
			}
		}, func(n int) {
			for range n {
				copyFloor(p, mem[:len(p)])
			}
		})
	})
	overView("Unknown.View", func(n int) {
		for range n {
			u.View(nothing)
		}
	})
	b.Run("op=Pin+Unpin", func(b *testing.B) {
		paired(b, batch, func(n int) {
			for range n {
				pin, _ := m.Pin()
				pin.Unpin()
			}
		}, func(n int) {
			for range n {
				pinFloor().unpin()
			}
		})
	})
}

// A collection beside a ReadAt of 1 GiB, and beside nothing: the copy must not hold it up.
func BenchmarkCollection(b *testing.B) {
	const size = 1 << 30
	m := must(Map[Read](Anonymous(size)))
	defer m.Close()
	p := make([]byte, size)
	m.ReadAt(p, 0)
	collect := func() float64 {
		start := time.Now()
		runtime.GC()
		return float64(time.Since(start).Milliseconds())
	}
	var alone, beside []float64
	for b.Loop() {
		alone = append(alone, collect())
		done := make(chan error)
		go func() { done <- second(m.ReadAt(p, 0)) }()
		time.Sleep(5 * time.Millisecond) // it is at work
		beside = append(beside, collect())
		ok(<-done)
	}
	b.ReportMetric(median(alone), "alone-ms")
	b.ReportMetric(median(beside), "beside-ms")
}

// What a Guard costs, over a View.
func BenchmarkGuard(b *testing.B) {
	m := must(Map[ReadWrite](Anonymous(4 << 10)))
	defer m.Close()
	pin := must(m.Pin())
	defer pin.Unpin()
	over := func(name string, f func(n int)) {
		b.Run("op="+name, func(b *testing.B) {
			paired(b, 16<<10, f, func(n int) {
				for range n {
					m.View(nothing)
				}
			})
		})
	}
	over("Guard/pins=1", func(n int) {
		for range n {
			Guard(idle, pin)
		}
	})
	over("Guard/pins=8", func(n int) {
		for range n {
			Guard(idle, pin, pin, pin, pin, pin, pin, pin, pin)
		}
	})
	over("GuardAll", func(n int) {
		for range n {
			GuardAll(idle)
		}
	})
}

// What an access that is counted and guarded cannot do without: an atomic add to come and
// one to go, a flag to set for the runtime and to restore, and a deferred function that
// would recover. floor counts.
var floor atomic.Int64

// viewFloor is the floor of a call of f with memory.
//
//go:noinline
func viewFloor(b []byte, f func(b []byte) error) (err error) {
	floor.Add(1)
	outer, left := debug.SetPanicOnFault(true), false
	defer func() {
		if !left {
			recover()
		}
	}()
	err = f(b)
	debug.SetPanicOnFault(outer)
	left = true
	floor.Add(-1)
	return err
}

// copyFloor is the floor of a copy.
//
//go:noinline
func copyFloor(dst, src []byte) (n int) {
	floor.Add(1)
	outer, left := debug.SetPanicOnFault(true), false
	defer func() {
		if !left {
			recover()
		}
	}()
	n = copy(dst, src)
	debug.SetPanicOnFault(outer)
	left = true
	floor.Add(-1)
	return n
}

// pinFloor allocates what a Pin is, and counts it; unpin makes the two other locked
// operations.
//
//go:noinline
func pinFloor() *floorPin {
	floor.Add(1)
	return new(floorPin)
}

type floorPin struct {
	_ *region
	_ [2]uint64
}

//go:noinline
func (*floorPin) unpin() {
	floor.Add(1)
	floor.Add(-1)
}

//go:noinline
func idle() error { return nil }

//go:noinline
func nothing([]byte) error { return nil }

//go:noinline
func add(p []byte) (sum byte) {
	for _, c := range p {
		sum += c
	}
	return sum
}

// plainCopy is a call that is not inlined, of a length that the compiler does
// not know.
//
//go:noinline
func plainCopy(dst, src []byte) int { return copy(dst, src) }
