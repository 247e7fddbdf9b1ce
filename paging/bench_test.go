//go:build linux

package paging_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/internal/testkit"
	"github.com/mmarinus/mmap/paging"
)

// What paging costs, beside what it cannot do without, in turn: the median of the ratios.
//
//	go test -run '^$' -bench . -benchtime 100x ./paging
func inTurn(b *testing.B, ours, bare func() time.Duration) {
	b.Helper()
	var ratios, times []float64
	for i := range b.N {
		var x, y time.Duration
		if i%2 == 0 {
			x, y = ours(), bare()
		} else {
			y, x = bare(), ours()
		}
		ratios, times = append(ratios, float64(x)/float64(y)), append(times, float64(x))
	}
	slices.Sort(ratios)
	slices.Sort(times)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(times[len(times)/2], "median-ns")
	b.ReportMetric(ratios[len(ratios)/2], "ratio")
}

// 16 MiB in windows of 64 KiB, of a source that copies, one window after the other; the bare
// call has the same copy.
func BenchmarkFetch(b *testing.B) {
	const size, window = 16 << 20, 64 << 10
	src := newSource(size)
	_, p := paged[mmap.ReadWrite](b, mmap.Anonymous(size), src)
	fd, err := sys.Userfaultfd(sys.UFFD_FEATURE_SIGBUS)
	check(b, err)
	bare, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(size))
	check(b, err)
	defer bare.Close()
	check(b, sys.UffdRegister(fd, bare.Addr(), size, sys.UFFDIO_REGISTER_MODE_MISSING))
	buffer := make([]byte, window)
	b.ResetTimer()
	inTurn(b, func() time.Duration {
		check(b, p.Evict(0, size))
		start := time.Now()
		for off := 0; off < size; off += window {
			check(b, p.Fetch(b.Context(), off, window))
		}
		return time.Since(start)
	}, func() time.Duration {
		check(b, bare.Discard(0, size))
		start := time.Now()
		for off := 0; off < size; off += window {
			src.ReadAt(buffer, int64(off))
			if _, err := sys.UffdCopy(fd, bare.Addr()+uintptr(off), buffer, 0); err != nil {
				b.Fatal(err)
			}
		}
		return time.Since(start)
	})
}

// Bytes that are there, by the pager and by the mapping.
func BenchmarkReadAt(b *testing.B) {
	const size = 1 << 20
	m, p := paged[mmap.ReadWrite](b, mmap.Anonymous(size), newSource(size))
	check(b, p.Fetch(b.Context(), 0, size))
	for _, n := range []int{64, 4096} {
		b.Run(fmt.Sprint("bytes=", n), func(b *testing.B) {
			buffer := make([]byte, n)
			times := func(read func(b []byte, off int64) (int, error)) func() time.Duration {
				return func() time.Duration {
					start := time.Now()
					for i := range 10000 {
						if _, err := read(buffer, int64(i*n%size)); err != nil {
							b.Fatal(err)
						}
					}
					return time.Since(start)
				}
			}
			inTurn(b, times(p.ReadAt), times(m.ReadAt))
		})
	}
}

// A file in the page cache, from Map to Close, by a pager that has the file as its source, and
// by a mapping of the file: one byte of each page, or every byte.
func BenchmarkPlainFile(b *testing.B) {
	sum := 0
	for name, use := range map[string]func(v []byte) error{
		"touch": func(v []byte) error {
			for i := 0; i < len(v); i += pg {
				sum += int(v[i])
			}
			return nil
		},
		"read": func(v []byte) error { sum += bytes.Count(v, []byte{0}); return nil },
	} {
		for _, size := range []int{1 << 20, 64 << 20} {
			b.Run(fmt.Sprintf("%s/size=%dMiB", name, size>>20), func(b *testing.B) {
				f, _ := testkit.Scratch(b, size)
				all := func(view func(off, n int, f func(v []byte) error) error, shut func() error) {
					for off := 0; off < size; off += 64 << 10 {
						check(b, view(off, 64<<10, use))
					}
					check(b, shut())
				}
				inTurn(b, func() time.Duration {
					start := time.Now()
					m, err := mmap.Map[mmap.Read](mmap.Anonymous(size))
					check(b, err)
					p, err := paging.New(m, f)
					check(b, err)
					all(p.ViewRange, p.Close)
					return time.Since(start)
				}, func() time.Duration {
					start := time.Now()
					m, err := mmap.Map[mmap.Read](mmap.File(f, 0, size))
					check(b, err)
					all(m.ViewRange, m.Close)
					return time.Since(start)
				})
			})
		}
	}
}
