package bench

import (
	"flag"
	"fmt"
	"math/bits"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

var appends = flag.Int64("appends", 1<<16, "`records` of 256 bytes that a log grows by")

const record, logReaders = 256, 2

// What a log has before the first append, and by which its file grows then.
var logs = []struct{ oldMiB, stepKiB int64 }{{0, 64}, {64, 64}, {64, 4}}

// One op is a log that grows by the flag's number of records while goroutines
// read random ones without a pause.
func BenchmarkAppend(b *testing.B) {
	for _, l := range logs {
		for _, w := range ways {
			b.Run(fmt.Sprintf("old=%dMiB/step=%dKiB/by=%s", l.oldMiB, l.stepKiB, w.by), func(b *testing.B) {
				b.StopTimer()
				var all waits
				locks := lockWaits()
				for range b.N {
					w.run(b, l.oldMiB<<20, l.stepKiB<<10, &all)
				}
				locks = lockWaits() - locks
				seconds, reads := b.Elapsed().Seconds(), float64(all.n)
				b.ReportMetric(float64(b.N)*float64(*appends)/seconds, "appends/s")
				b.ReportMetric(reads/seconds, "reads/s")
				b.ReportMetric(float64(all.max), "reader-wait-p100-ns")
				b.ReportMetric(all.quantile(0.999), "reader-wait-p99.9-ns")
				b.ReportMetric(locks/reads*1e9, "lock-wait-ns/read")
			})
		}
	}
}

// The appends per second of mmap-view, and of mmap-view+prefault, over those of
// mmap-go+lock, run in turn: the median of the pairs.
//
// What dominates: all pay for the first touch of each page, most of an append to
// a file, and for the step of the file. Who maps again also pays, per step, for
// two system calls, for waiting until the readers are out, and for the pages that
// all have to fault in again. So the ratio falls with the length of a step. It
// flatters the lock, too: readers that wait leave their processor to the writer,
// and read far less meanwhile; see reads/s and the waits of BenchmarkAppend.
func BenchmarkAppendRatio(b *testing.B) {
	theirs := ways[slices.IndexFunc(ways, func(w way) bool { return w.by == "mmap-go+lock" })]
	for k := range 2 * len(logs) {
		l, ours := logs[k/2], ways[k%2]
		b.Run(fmt.Sprintf("old=%dMiB/step=%dKiB/by=%s", l.oldMiB, l.stepKiB, ours.by), func(b *testing.B) {
			b.StopTimer()
			var ratios []float64
			for i := range b.N {
				var took [2]time.Duration
				for k := range took {
					k ^= i & 1 // the other one first, every other time
					before := b.Elapsed()
					[...]way{ours, theirs}[k].run(b, l.oldMiB<<20, l.stepKiB<<10, new(waits))
					took[k] = b.Elapsed() - before
				}
				ratios = append(ratios, float64(took[1])/float64(took[0]))
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "ratio")
		})
	}
}

// run makes a log of old bytes, appends to it beside its readers, with the timer
// on, and verifies what is in the file then.
func (w way) run(b *testing.B, old, step int64, all *waits) {
	f, _ := create(b, old)
	var end atomic.Int64 // of what can be read
	end.Store(old)
	last := old + *appends*record
	size := old + step
	ok(f.Truncate(size))
	g := w.open(f, int(size), int(last+step))

	var wg sync.WaitGroup
	var stop atomic.Bool
	var seen [logReaders]waits
	for r := range seen {
		wg.Go(func() { seen[r].follow(g, &end, &stop, uint64(r)<<40) })
	}
	p := make([]byte, record)
	b.StartTimer()
	for off := old; off < last; off += record {
		if off == size {
			size += step
			ok(f.Truncate(size))
			g.grow(int(size))
		}
		fill(p, off)
		g.write(p, off)
		end.Store(off + record)
	}
	stop.Store(true)
	b.StopTimer()
	wg.Wait()
	ok(g.close())
	for _, w := range seen {
		all.n += w.n
		all.max = max(all.max, w.max)
		for i, n := range w.counts {
			all.counts[i] += n
		}
	}
	for p, off := make([]byte, 1<<20), int64(0); off < last; off += int64(len(p)) {
		p = p[:min(int64(len(p)), last-off)]
		must(f.ReadAt(p, off))
		verify(p, off)
	}
	ok(os.Remove(f.Name()))
	ok(f.Close())
}

// waits says how long readers waited from asking for a record to having it.
type waits struct {
	n, max int64
	counts [64]int64 // of waits below 1 ns, 2 ns, 4 ns, …
}

// follow reads random records until stop.
func (w *waits) follow(g growing, end *atomic.Int64, stop *atomic.Bool, seed uint64) {
	p := make([]byte, record)
	for i := seed; !stop.Load(); i++ {
		// A reader that had its share of the processor gives it up here, and is
		// not stopped half-way: that would be a wait for the scheduler.
		if i%16 == 0 {
			runtime.Gosched()
		}
		n := uint64(end.Load()) / record
		if n == 0 {
			continue
		}
		off := int64(mix(i)%n) * record
		start := time.Now()
		g.read(p, off)
		ns := time.Since(start).Nanoseconds()
		verify(p, off)
		w.n++
		w.max = max(w.max, ns)
		w.counts[bits.Len64(uint64(ns))]++
	}
}

// quantile returns, as a power of two, what the part q of the waits is below.
func (w *waits) quantile(q float64) float64 {
	left, i := int64(q*float64(w.n)), 0
	for ; left >= w.counts[i]; i++ {
		left -= w.counts[i]
	}
	return float64(int64(1) << i)
}

// lockWaits returns for how many seconds goroutines have waited for locks, those
// inside the runtime included, as the runtime samples it.
func lockWaits() float64 {
	s := []metrics.Sample{{Name: "/sync/mutex/wait/total:seconds"}}
	metrics.Read(s)
	return s[0].Value.Float64()
}

// A growing is a file that one goroutine appends to while others read what is
// there. After the file has grown, grow makes that accessible.
type growing struct {
	write, read func(p []byte, off int64)
	grow        func(size int)
	close       func() error
}

// A way to have one, for a file of size bytes that grows to limit at most.
type way struct {
	by   string
	open func(f *os.File, size, limit int) growing
}

var ways = []way{
	{"mmap-view", reserved(copyView, false)},
	{"mmap-view+prefault", reserved(copyView, true)},
	{"mmap-ReadAt", reserved(func(m mmap.ReadWrite, p []byte, off int64) { must(m.ReadAt(p, off)) }, false)},
	{"mmap-go+lock", following(mapMmapGo, again)},
	{"mmap-go+lock+swap", following(mapMmapGo, swap)},
	{"gommap+lock", following(mapGommap, again)},
	{"unix+lock", following(mapUnix, again)},
	{"exp+lock", following(mapExp, again)}, // and appends with pwrite(2)
	{"unix-ahead", following(mapUnix, ahead)},
	{"pread", following(mapNothing, ahead)},
}

const readWrite = unix.PROT_READ | unix.PROT_WRITE

func copyView(m mmap.ReadWrite, p []byte, off int64) {
	ok(m.View(func(b []byte) error { copy(p, b[off:]); return nil }))
}

// reserved grows a mapping within its reserve. It never moves, so that readers
// have no lock. With prefault, the pages of a step come in one system call, and
// not with a page fault each.
func reserved(read func(m mmap.ReadWrite, p []byte, off int64), prefault bool) func(*os.File, int, int) growing {
	return func(f *os.File, size, limit int) growing {
		m := must(mmap.Map[mmap.ReadWrite](mmap.File(f, 0, size).Shared().Reserve(limit)))
		return growing{
			write: func(p []byte, off int64) { must(m.WriteAt(p, off)) },
			read:  func(p []byte, off int64) { read(m, p, off) },
			grow: func(size int) {
				old := m.Len()
				ok(mmap.Grow(m, size))
				if prefault {
					ok(m.PrefaultWrite(old, size-old))
				}
			},
			close: m.Close,
		}
	}
}

func (m *mapped) read(p []byte, off int64) { copy(p, m.block(m.memory, p, off)) }

// write writes to the file where there is no memory that can be written.
func (m *mapped) write(f *os.File, p []byte, off int64) {
	if m.memory == nil {
		must(f.WriteAt(p, off))
	} else {
		copy(m.memory[off:], p)
	}
}

// How a mapper's mapping follows the file. One that is made again needs a lock
// that readers hold: bare, they would touch what is unmapped. The writer needs
// none to write, for only it changes the mapping.
const (
	again = iota // unmap and map, under the lock
	swap         // map first, put that in place under the lock, unmap
	ahead        // map at once all that the file can grow to: no lock, but touching what the file lacks ends the program
)

func following(open mapper, how int) func(*os.File, int, int) growing {
	return func(f *os.File, size, limit int) growing {
		if how == ahead {
			size = limit
		}
		m := open(f, 0, size, readWrite)
		g := growing{
			write: func(p []byte, off int64) { m.write(f, p, off) },
			read:  m.read,
			grow:  func(int) {},
			close: func() error { return m.unmap() },
		}
		if how == ahead {
			return g
		}
		var mu sync.RWMutex
		g.read = func(p []byte, off int64) {
			mu.RLock()
			defer mu.RUnlock()
			m.read(p, off)
		}
		g.grow = func(size int) {
			old, next := m, mapped{}
			if how == swap {
				next = open(f, 0, size, readWrite)
				defer func() { ok(old.unmap()) }()
			}
			mu.Lock()
			defer mu.Unlock()
			if how == again {
				ok(old.unmap())
				next = open(f, 0, size, readWrite)
			}
			m = next
		}
		return g
	}
}
