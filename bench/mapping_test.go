package bench

import (
	"fmt"
	"os"
	"testing"

	"github.com/mmarinus/mmap"
)

// One op is 10,000 mappings, of one page of an open file each: map it, read a
// word, unmap it. A mapping belongs to one goroutine, so no peer needs a lock.
// x/exp/mmap maps by path and whole files only: it opens the file each time.
func BenchmarkMapping(b *testing.B) {
	const mappings = 10000
	page := os.Getpagesize()
	f, _ := create(b, int64(mappings*page))
	word := make([]byte, 8)
	read := func(open mapper) func(int64) error {
		return func(off int64) error {
			m, err := open(f, off, page, false)
			if err != nil {
				return err
			}
			if p := m.memory; p != nil {
				err = check(p[:8], off)
			} else if _, err = m.at.ReadAt(word, off); err == nil {
				err = check(word, off)
			}
			if err != nil {
				return err
			}
			return m.unmap()
		}
	}
	for _, p := range []struct {
		by   string
		read func(off int64) error
	}{
		{"mmap-view", func(off int64) error {
			m, err := mmap.Map[mmap.Read](mmap.File(f, off, page))
			if err != nil {
				return err
			}
			if err := m.View(func(p []byte) error { return check(p[:8], off) }); err != nil {
				return err
			}
			return m.Close()
		}},
		{"mmap-unsafe", read(mapUnsafe)},
		{"exp", read(mapExp)},
		{"mmap-go", read(mapMmapGo)},
		{"gommap", read(mapGommap)},
		{"unix", read(mapUnix)},
		{"pread", read(mapNothing)},
	} {
		b.Run(fmt.Sprintf("mappings=%d/by=%s", mappings, p.by), func(b *testing.B) {
			for range b.N {
				for i := range mappings {
					must(b, p.read(int64(i*page)))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/mappings, "ns/mapping")
		})
	}
}
