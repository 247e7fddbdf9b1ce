package bench

import (
	"fmt"
	"os"
	"testing"

	"github.com/mmarinus/mmap"
)

// One op is a burst of 256 reads. A read sums a block at a random place of an
// open file: in place, or in a copy where the peer makes one.
//
// Warm, every page has been touched. Cold, the file is evicted before each burst,
// and opened again: most of what a mapping then costs is the
// read-around of each fault, as much as /sys/class/bdi/*/read_ahead_kb says. The
// random advice turns that off, and pread does without.
func BenchmarkRandom(b *testing.B) {
	const burst = 256
	data, _ := create(b, *sizeMiB<<20)
	peers := append(readers[:len(readers):len(readers)],
		peer{"mmap-view+random", view(func(m mmap.Read, n int) error { return m.Advise(0, n, mmap.AdviceRandom) })})
	for _, cache := range []string{"warm", "cold"} {
		for _, size := range []int64{64, 4 << 10} {
			for _, p := range peers {
				b.Run(fmt.Sprintf("cache=%s/bytes=%d/by=%s", cache, size, p.by), func(b *testing.B) {
					b.StopTimer()
					b.SetBytes(burst * size)
					passes, n := 1, b.N*burst
					if cache == "cold" {
						passes, n = b.N, burst
					}
					blocks := uint64(*sizeMiB<<20) / uint64(size)
					for pass := range passes {
						if cache == "cold" {
							evict(b, data)
						}
						f := must(os.Open(data.Name()))
						a := p.open(f)
						if cache == "warm" {
							a.each(int(*sizeMiB<<8), a.reading(8, func(i int) int64 { return int64(i) << 12 }))
						}
						read := a.reading(size, func(i int) int64 { return int64(mix(uint64(pass*n+i))%blocks) * size })
						b.StartTimer()
						a.each(n, read)
						b.StopTimer()
						ok(a.unmap())
						ok(f.Close())
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*burst), "ns/read")
				})
			}
		}
	}
}

// reading returns the work that reads the block at the i-th offset.
func (a *access) reading(size int64, offset func(i int) int64) func([]byte, int) {
	buf := make([]byte, size)
	return func(memory []byte, i int) {
		off := offset(i)
		verify(a.block(memory, buf, off), off)
	}
}
