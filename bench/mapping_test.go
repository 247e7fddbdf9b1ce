package bench

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// One op is 10,000 mappings, of one page of an open file each: map it, read a
// word, unmap it. A mapping belongs to one goroutine, so no peer needs a lock.
// x/exp/mmap maps by path and whole files only: it opens the file each time.
func BenchmarkMapping(b *testing.B) {
	const mappings = 10000
	page := os.Getpagesize()
	f, _ := create(b, int64(mappings*page))
	word := make([]byte, 8)
	for _, p := range mappers {
		b.Run(fmt.Sprintf("mappings=%d/by=%s", mappings, p.by), func(b *testing.B) {
			for range b.N {
				for i := range mappings {
					m := p.open(f, int64(i*page), page, unix.PROT_READ)
					verify(m.block(m.memory, word, 0), int64(i*page))
					ok(m.unmap())
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/mappings, "ns/mapping")
		})
	}
}
