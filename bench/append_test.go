package bench

import (
	"errors"
	"flag"
	"fmt"
	"math/bits"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var appends = flag.Int64("appends", 1<<16, "`records` of 256 bytes that a log grows by")

const (
	recordBytes = 256
	growBytes   = 64 << 10 // by which the file grows
	logReaders  = 2
)

var olds = []int64{0, 64} // MiB of the log before the first append

// One op is a log that grows by the flag's number of records while goroutines
// read random ones without a pause.
func BenchmarkAppend(b *testing.B) {
	for _, old := range olds {
		for _, w := range ways {
			b.Run(fmt.Sprintf("old=%dMiB/by=%s", old, w.by), func(b *testing.B) {
				b.StopTimer()
				var all waits
				locks := lockWaits()
				for range b.N {
					w.run(b, old<<20, &all)
				}
				locks = lockWaits() - locks
				seconds, reads := b.Elapsed().Seconds(), float64(all.n)
				b.ReportMetric(float64(b.N)*float64(*appends)/seconds, "appends/s")
				b.ReportMetric(reads/seconds, "reads/s")
				b.ReportMetric(float64(all.max), "reader-wait-p100-ns")
				b.ReportMetric(float64(all.quantile(0.999)), "reader-wait-p99.9-ns")
				b.ReportMetric(locks/reads*1e9, "lock-wait-ns/read")
			})
		}
	}
}

// The appends per second of mmap-view over those of mmap-go+lock, run in turn:
// the median of the pairs.
func BenchmarkAppendRatio(b *testing.B) {
	theirs := ways[slices.IndexFunc(ways, func(w way) bool { return w.by == "mmap-go+lock" })]
	for _, old := range olds {
		b.Run(fmt.Sprintf("old=%dMiB", old), func(b *testing.B) {
			b.StopTimer()
			var ratios []float64
			time := func(w way) float64 {
				before := b.Elapsed()
				w.run(b, old<<20, new(waits))
				return (b.Elapsed() - before).Seconds()
			}
			for i := range b.N {
				if i%2 == 0 {
					mine := time(ways[0])
					ratios = append(ratios, time(theirs)/mine)
				} else {
					ratios = append(ratios, time(theirs)/time(ways[0]))
				}
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "ratio")
		})
	}
}

// run makes a log of old bytes, appends to it beside its readers, with the timer
// on, and checks what is in the file then.
func (w way) run(b *testing.B, old int64, all *waits) {
	f, _ := create(b, old)
	var end atomic.Int64 // of what can be read
	end.Store(old)
	last := old + *appends*recordBytes
	size := old + growBytes
	must(b, f.Truncate(size))
	g, err := w.open(f, int(size), int(last+growBytes))
	must(b, err)

	var wg sync.WaitGroup
	var stop atomic.Bool
	var seen [logReaders]waits
	var errs [logReaders + 1]error
	for r := range logReaders {
		wg.Go(func() { errs[r] = seen[r].follow(g, &end, &stop, uint64(r)<<40) })
	}
	record := make([]byte, recordBytes)
	b.StartTimer()
	for off := old; off < last && err == nil; off += recordBytes {
		if off == size {
			size += growBytes
			if err = f.Truncate(size); err == nil {
				err = g.grow(int(size))
			}
			if err != nil {
				break
			}
		}
		fill(record, off)
		err = g.write(record, off)
		end.Store(off + recordBytes)
	}
	b.StopTimer()
	stop.Store(true)
	wg.Wait()
	must(b, errors.Join(err, errors.Join(errs[:]...), g.close()))
	for r := range seen {
		all.add(&seen[r])
	}
	for off := old; off < last; off += recordBytes {
		must(b, second(f.ReadAt(record, off)))
		must(b, check(record, off))
	}
	must(b, f.Close())
}

// waits says how long readers waited from asking for a record to having it. The
// counts are exact up to 31 ns, and to a sixteenth above.
type waits struct {
	n, max int64
	counts [1024]int64
}

// follow reads random records until stop.
func (w *waits) follow(g growing, end *atomic.Int64, stop *atomic.Bool, seed uint64) error {
	record := make([]byte, recordBytes)
	for i := seed; !stop.Load(); i++ {
		// A reader that had its share of the processor gives it up here, and is
		// not stopped half-way: that would be a wait for the scheduler.
		if i%16 == 0 {
			runtime.Gosched()
		}
		n := uint64(end.Load()) / recordBytes
		if n == 0 {
			continue
		}
		off := int64(mix(i)%n) * recordBytes
		start := time.Now()
		if err := g.read(record, off); err != nil {
			return err
		}
		w.count(time.Since(start).Nanoseconds())
		if err := check(record, off); err != nil {
			return err
		}
	}
	return nil
}

func (w *waits) count(ns int64) {
	w.n++
	w.max = max(w.max, ns)
	shift := max(bits.Len64(uint64(ns))-5, 0)
	w.counts[shift*16+int(ns>>shift)]++
}

func (w *waits) add(v *waits) {
	w.n += v.n
	w.max = max(w.max, v.max)
	for i, n := range v.counts {
		w.counts[i] += n
	}
}

// quantile returns the longest wait of the part q of the shortest.
func (w *waits) quantile(q float64) int64 {
	left := int64(q * float64(w.n))
	for i, n := range w.counts {
		if left -= n; left < 0 {
			shift := max(i/16-1, 0)
			return min(int64(i-shift*16+1)<<shift-1, w.max)
		}
	}
	return w.max
}

// lockWaits returns the seconds that goroutines have waited for locks, as the
// runtime samples them.
func lockWaits() float64 {
	s := []metrics.Sample{{Name: "/sync/mutex/wait/total:seconds"}}
	metrics.Read(s)
	return s[0].Value.Float64()
}
