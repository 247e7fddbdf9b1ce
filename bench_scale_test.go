//go:build linux

package mmap

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mmarinus/mmap/internal/latch"
)

// What access costs with several processors, and operations beside many mappings.

// with runs f with so many processors, and skips where there are fewer.
func with(b *testing.B, procs int, f func()) {
	if n := runtime.NumCPU(); n < procs {
		b.Skipf("%d processors are needed, and there is %d", procs, n)
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
	f()
}

// together runs f n times on each of so many goroutines at once.
func together(goroutines, n int, f func(n int)) time.Duration {
	var wg sync.WaitGroup
	var ready atomic.Int32
	start := make(chan time.Time, 1)
	for range goroutines {
		wg.Go(func() {
			if ready.Add(1) == int32(goroutines) {
				start <- time.Now()
			}
			for ready.Load() < int32(goroutines) {
				runtime.Gosched()
			}
			f(n)
		})
	}
	wg.Wait()
	return time.Since(<-start)
}

// Ways of reading 64 bytes of one mapping, or of its memory.
type reading struct {
	op, by string
	do     func(n int)
}

func readings(m ReadWrite) []reading {
	mem := memory(m.Addr(), m.Len())
	touch(mem)
	var lock sync.RWMutex
	return []reading{
		{"ReadAt", "mmap", func(n int) {
			p := make([]byte, 64)
			for range n {
				m.ReadAt(p, 0)
			}
		}},
		{"ReadAt", "rwmutex", func(n int) {
			p := make([]byte, 64)
			for range n {
				lock.RLock()
				plainCopy(p, mem[:len(p)])
				lock.RUnlock()
			}
		}},
		{"ReadAt", "copy", func(n int) {
			p := make([]byte, 64)
			for range n {
				plainCopy(p, mem[:len(p)])
			}
		}},
		{"View", "mmap", func(n int) {
			for range n {
				m.View(nothing)
			}
		}},
		{"View", "rwmutex", func(n int) {
			for range n {
				lock.RLock()
				nothing(mem)
				lock.RUnlock()
			}
		}},
	}
}

// Each goroutine has a processor of its own, and all read the same 64 bytes: by
// ReadAt and View, as a plain copy, and under a sync.RWMutex, which is what keeps
// a mapping from being unmapped under a reader where the library does not. An
// operation is one access by each.
func BenchmarkProcessors(b *testing.B) {
	for i, a := range readings(ReadWrite{}) {
		for _, procs := range []int{1, 2} {
			b.Run(fmt.Sprintf("op=%s/by=%s/procs=%d", a.op, a.by, procs), func(b *testing.B) {
				m := must(Map[ReadWrite](Anonymous(4 << 10))) // each time with the pins where they are at first
				defer m.Close()
				a := readings(m)[i]
				with(b, procs, func() {
					together(procs, 1<<14, a.do) // where they collide, pins are counted in stripes from now on
					took := together(procs, b.N, a.do)
					b.ReportMetric(float64(took)/float64(b.N), "ns/op")
				})
			})
		}
	}
}

// A copy of 64 bytes over one under a sync.RWMutex: by ReadAt, and by a guard alone,
// which is counted nowhere. The guard is the least that turns a fault into an error:
// where it takes longer than the lock, so must all that survives faults.
func BenchmarkAgainstLock(b *testing.B) {
	const n = 20000
	for _, by := range []string{"ReadAt", "guard"} {
		for _, procs := range []int{1, 2} {
			m := must(Map[ReadWrite](Anonymous(4 << 10))) // each time with the pins where they are at first
			a := readings(m)
			ours, locked := a[0].do, a[1].do
			if by == "guard" {
				mem := memory(m.Addr(), m.Len())
				ours = func(n int) {
					p := make([]byte, 64)
					for range n {
						guardedCopy(p, mem[:len(p)])
					}
				}
			}
			b.Run(fmt.Sprintf("by=%s/procs=%d", by, procs), func(b *testing.B) {
				with(b, procs, func() {
					inTurn(b, "op", n, func() time.Duration { return together(procs, n, ours) },
						func() time.Duration { return together(procs, n, locked) })
				})
			})
			ok(m.Close())
		}
	}
}

//go:noinline
func guardedCopy(dst, src []byte) (err error) {
	var g guard
	g.enter()
	defer func() {
		if !g.left {
			g.rescue(recover(), &err)
		}
	}()
	copy(dst, src)
	g.leave()
	return nil
}

// Twice the work on two processors over once the work on one, divided by the same
// figure of a plain copy: 1 if readers do not wait for each other. Where goroutines
// have their stacks decides whether they share a cache line, so each sample is of a
// fresh process.
//
//	ratio   median of the processes
//	within  of 20 processes, at most 1.15 for ReadAt and 1.2 for View
func BenchmarkScaling(b *testing.B) {
	for i, limit := range map[int]float64{0: 1.15, 3: 1.2} {
		op := []string{0: "ReadAt", 3: "View"}[i]
		b.Run("op="+op, func(b *testing.B) {
			if os.Getenv("MMAP_TEST_CHILD") == b.Name() {
				scaling(i)
			}
			var ratios []float64
			within := 0
			with(b, 2, func() {
				for range 20 {
					cmd := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=^"+strings.ReplaceAll(b.Name(), "/", "$/^")+"$", "-test.benchtime=1x")
					cmd.Env = append(os.Environ(), "MMAP_TEST_CHILD="+b.Name())
					out, err := cmd.Output()
					ok(err)
					lines := strings.Split(strings.TrimSpace(string(out)), "\n")
					r := must(strconv.ParseFloat(strings.TrimPrefix(lines[len(lines)-1], "scaling "), 64))
					if ratios = append(ratios, r); r <= limit {
						within++
					}
				}
			})
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(ratios), "ratio")
			b.ReportMetric(float64(within), "within")
		})
	}
}

// scaling is the child: it prints its figure and ends.
func scaling(which int) {
	const n = 100_000
	m := must(Map[ReadWrite](Anonymous(4 << 10)))
	a := readings(m)
	ours, plain := a[which].do, a[2].do
	together(2, n, ours) // collide, once
	var ratios []float64
	for range 101 {
		mine := float64(together(2, n, ours)) / float64(together(1, n, ours))
		ratios = append(ratios, mine*float64(together(1, n, plain))/float64(together(2, n, plain)))
	}
	fmt.Printf("\nscaling %f\n", median(ratios))
	os.Exit(0)
}

// How often an access counts its pin in the cache line of another one that is at
// work, with 16 goroutines at work at once.
func BenchmarkCollisions(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(16))
	const goroutines = 16
	m := must(Map[Read](Anonymous(4 << 10)))
	defer m.Close()
	inStripes(b, m)
	shared := 0
	for range b.N {
		lines := make([]*latch.Stripe, goroutines)
		var in, out sync.WaitGroup
		in.Add(goroutines)
		for i := range goroutines {
			out.Go(func() {
				pin := must(m.Pin())
				defer pin.Unpin()
				lines[i] = pin.line
				in.Done()
				in.Wait() // at work until all are
			})
		}
		out.Wait()
		for i, l := range lines {
			if slices.Contains(lines[:i], l) || slices.Contains(lines[i+1:], l) {
				shared++
			}
		}
	}
	b.ReportMetric(float64(shared)/float64(b.N*goroutines), "shared/access")
}

// Operations of one mapping beside many that live. Their permissions alternate, so
// that the kernel does not merge them.
func BenchmarkLive(b *testing.B) {
	for _, live := range []int{1, 1000, 50_000} {
		run := func(op string, f func(b *testing.B)) {
			b.Run(fmt.Sprintf("op=%s/live=%d", op, live), func(b *testing.B) {
				defer neighbours(b, live)()
				f(b)
			})
		}
		run("map+close", func(b *testing.B) { mapClose(b, anonymousOrigin(4<<10), false, 50) })
		run("protect", func(b *testing.B) { protect(b, 16<<10, 50) })
	}
}

// neighbours makes so many mappings, and returns what closes them.
func neighbours(b *testing.B, live int) func() {
	if limit := number("/proc/sys/vm/max_map_count", ""); uint64(live) > limit-limit/10 {
		b.Skipf("vm.max_map_count is %d", limit)
	}
	all := make([]mapping, live)
	for i := range all {
		if i%2 == 0 {
			all[i] = must(Map[Read](Anonymous(1)))
		} else {
			all[i] = must(Map[ReadWrite](Anonymous(1)))
		}
	}
	grownUp()
	return func() {
		for _, m := range all {
			ok(m.Close())
		}
	}
}

// grownUp makes a collection, and waits until the regions have their finalizers.
func grownUp() {
	runtime.GC()
	for young := true; young; runtime.Gosched() {
		young = nursery.young.Load() != nil
	}
}

// Mapping and closing beside 50,000 live mappings over the same beside one, which
// come and go in turn; and the same of the bare calls.
func BenchmarkLiveRatio(b *testing.B) {
	const batch = 2000
	spec, o := Anonymous(4<<10), anonymousOrigin(4<<10)
	ours := func() time.Duration {
		return together(1, batch, func(n int) {
			for range n {
				ok(must(Map[ReadWrite](spec)).Close())
			}
		})
	}
	bare := func() time.Duration {
		return together(1, batch, func(n int) {
			for range n {
				bareUnmap(o.bare(0), 4<<10)
			}
		})
	}
	var ratio, bareRatio []float64
	for range b.N {
		end := neighbours(b, 1)
		x, y := ours(), bare()
		end()
		end = neighbours(b, 50_000)
		ratio = append(ratio, float64(ours())/float64(x))
		bareRatio = append(bareRatio, float64(bare())/float64(y))
		end()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(ratio), "ratio")
	b.ReportMetric(median(bareRatio), "bare-ratio")
}

// The Go heap of one live mapping, in bytes: as it is made, when the collector
// cares for it, and when readers have collided on it.
func BenchmarkHeap(b *testing.B) {
	const n = 10_000
	heap := func() float64 {
		grownUp()
		runtime.GC() // those that were waiting for their finalizer
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return float64(s.HeapAlloc)
	}
	all := make([]ReadWrite, n)
	for range b.N {
		before := heap()
		for i := range all {
			all[i] = must(Map[ReadWrite](Anonymous(1)))
		}
		alive := heap()
		for _, m := range all {
			inStripes(b, m)
		}
		striped := heap()
		for _, m := range all {
			ok(m.Close())
		}
		clear(all) // the handles keep the regions
		b.ReportMetric((alive-before)/n, "B/mapping")
		b.ReportMetric((striped-alive)/n, "B/collision")
	}
	b.ReportMetric(0, "ns/op")
}
