package bench

import (
	"fmt"
	"os"
	"testing"

	"github.com/mmarinus/mmap"
	"github.com/tysonmote/gommap"
)

// A read sums a block at a random place, in a file that stays open: in place, or
// in a copy where the peer makes one.
//
// Warm, every page has been touched before. Cold, the file is evicted after each
// burst of reads, and opened again: most of what a mapping then costs is the
// read-around of each fault, as much as /sys/class/bdi/*/read_ahead_kb says. The
// random advice turns that off, and pread does without.
func BenchmarkRandom(b *testing.B) {
	data, _ := create(b, *sizeMiB<<20)
	peers := append(readers[:len(readers):len(readers)],
		peer{"mmap-view+random", ours(func(m mmap.Read) (*access, error) {
			return view(m), m.Advise(0, m.Len(), mmap.AdviceRandom)
		})},
		peer{"gommap+random", func(f *os.File) (*access, error) {
			a, err := bare(mapGommap)(f)
			if err == nil {
				err = a.use(func(m []byte) error { return gommap.MMap(m).Advise(gommap.MADV_RANDOM) })
			}
			return a, err
		}})
	caches(b, data, func(b *testing.B, cold bool) {
		for _, size := range []int64{64, 4 << 10} {
			for _, p := range peers {
				b.Run(fmt.Sprintf("bytes=%d/by=%s", size, p.by), func(b *testing.B) {
					b.StopTimer()
					b.SetBytes(size)
					burst := b.N
					if cold {
						burst = 256
					}
					for done := 0; done < b.N; done += burst {
						if cold {
							evict(b, data)
						}
						f, err := os.Open(data.Name())
						must(b, err)
						a, err := p.open(f)
						must(b, err)
						if !cold {
							touch := a.reading(8, func(i int) int64 { return int64(i) << 12 })
							must(b, a.each(int(*sizeMiB<<8), touch))
						}
						blocks := uint64(*sizeMiB<<20) / uint64(size)
						read := a.reading(size, func(i int) int64 { return int64(mix(uint64(done+i))%blocks) * size })
						b.StartTimer()
						err = a.each(min(burst, b.N-done), read)
						b.StopTimer()
						must(b, err)
						must(b, a.unmap())
						must(b, f.Close())
					}
				})
			}
		}
	})
}

// reading returns the work that reads the block at the i-th offset.
func (a *access) reading(size int64, offset func(i int) int64) func([]byte, int) error {
	buf := make([]byte, size)
	return func(memory []byte, i int) error {
		off := offset(i)
		p, err := a.block(memory, buf, off)
		if err != nil {
			return err
		}
		return check(p, off)
	}
}
