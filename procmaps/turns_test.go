//go:build linux

package procmaps

import (
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// stripes maps pages that are readable by turns, so that each is a region and
// the kernel needs many pieces to hand out the table.
func stripes(t testing.TB, pages int) []byte {
	t.Helper()
	b := mapped(t, -1, 0, (pages+1)*pageSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	for i := 1; i < pages; i += 2 {
		protect(t, b, i, unix.PROT_READ)
	}
	return b
}

func protect(t testing.TB, b []byte, page, prot int) {
	if err := unix.Mprotect(b[page*pageSize:][:pageSize], prot); err != nil {
		t.Error(err)
	}
}

// TestTurns reads one table from several goroutines while the beginning of the
// striped mapping changes, and with it the place of everything after it.
func TestTurns(t *testing.T) {
	const pages, moving = 1000, 100
	b := stripes(t, pages)
	tab := reading(t, 0)
	start := addr(b)
	page := uint64(pageSize)
	stable := func(i int) Region {
		return Region{Start: start + uint64(i)*page, End: start + uint64(i+1)*page, Perms: Read}
	}

	var readers, changer sync.WaitGroup
	var done atomic.Bool
	changer.Go(func() {
		for i := 0; !done.Load(); i++ {
			for j := 1; j < moving; j += 2 {
				protect(t, b, j, unix.PROT_READ*(i&1))
			}
		}
	})
	for range 4 {
		readers.Go(func() {
			for range 20 {
				i, end := moving+1, uint64(0)
				for r, err := range tab.Regions() {
					if err != nil {
						t.Error(err)
						return
					}
					if r.End <= end {
						t.Errorf("%v after %#x", r, end)
					}
					end = r.End
					if i < pages && r == stable(i) {
						i += 2
					}
				}
				if i < pages {
					t.Errorf("Regions missed %v", stable(i))
				}
			}
		})
	}
	readers.Go(func() {
		for i := moving + 1; i < pages; i += 18 {
			want := stable(i)
			if r, ok, err := tab.At(want.End - 1); r != want || !ok || err != nil {
				t.Errorf("At = %v, %v, %v; want %v", r, ok, err, want)
			}
			if r, ok, err := tab.Next(want.Start); r != want || !ok || err != nil {
				t.Errorf("Next = %v, %v, %v; want %v", r, ok, err, want)
			}
		}
	})
	readers.Wait()
	done.Store(true)
	changer.Wait()
}

// TestNested uses a table while it is ranged over: each look takes the turn.
func TestNested(t *testing.T) {
	b := stripes(t, 500)
	both(t, 0, func(t *testing.T, tab *Table) {
		inside := 0
		for r, err := range tab.Regions() {
			if err != nil {
				t.Fatal(err)
			}
			if r.Start < addr(b) || r.End > addr(b)+uint64(len(b)-pageSize) {
				continue // the Go runtime may change that meanwhile
			}
			if again, ok, err := tab.At(r.Start); again != r || !ok || err != nil {
				t.Fatalf("At(%#x) = %v, %v, %v; want %v", r.Start, again, ok, err, r)
			}
			if inside++; inside%100 == 0 {
				for _, err := range tab.Regions() {
					if err != nil {
						t.Fatal(err)
					}
					break
				}
			}
		}
		if inside < 498 {
			t.Errorf("%d of 500 regions", inside)
		}
	})
}

// TestRewind ranges over a table twice, the second time past a break.
func TestRewind(t *testing.T) {
	b := stripes(t, 300)
	tab := reading(t, 0)
	inside := func(r Region) bool {
		return addr(b) <= r.Start && r.End < addr(b)+uint64(len(b))
	}
	var first, second []Region
	for r := range tab.Regions() {
		if inside(r) {
			first = append(first, r)
		}
		if len(first) == 250 {
			break
		}
	}
	for _, r := range collect(t, tab) {
		if inside(r) {
			second = append(second, r)
		}
	}
	if len(first) != 250 || len(second) < 298 || !slices.Equal(first, second[:250]) {
		t.Errorf("%d regions, then %d", len(first), len(second))
	}
}

func TestTableAllocs(t *testing.T) {
	if sys.Race {
		t.Skip("with the race detector sync.Pool drops what it is given now and then")
	}
	nameless := addr(stripes(t, 2)) + uint64(pageSize)
	named := addr(mapped(t, -1, 0, pageSize, unix.PROT_NONE, unix.MAP_SHARED|unix.MAP_ANONYMOUS))
	ask := asking(t, 0)
	if n := testing.AllocsPerRun(100, func() { ask.At(nameless) }); n != 0 {
		t.Errorf("At without a name: %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { ask.At(named) }); n != 1 {
		t.Errorf("At with a name: %v allocations, want 1 for the name", n)
	}
}

// The table of many areas, over reading its text.
func BenchmarkRegions(b *testing.B) {
	const areas = 4000
	for name, names := range map[string]bool{"nameless": false, "file": true} {
		b.Run("areas="+name, func(b *testing.B) {
			if names {
				f, err := os.Open("/proc/self/exe")
				if err != nil {
					b.Skip(err)
				}
				defer f.Close()
				mem := mapped(b, int(f.Fd()), 0, areas*pageSize, unix.PROT_READ, unix.MAP_PRIVATE)
				for page := 0; page < areas; page += 2 {
					protect(b, mem, page, unix.PROT_NONE)
				}
			} else {
				stripes(b, areas)
			}
			tab := open(b, 0)
			text, err := os.Open("/proc/self/maps")
			if err != nil {
				b.Fatal(err)
			}
			defer text.Close()
			buf := make([]byte, 8192)
			var ratios []float64
			b.ReportAllocs()
			for b.Loop() {
				start := time.Now()
				for _, err := range tab.Regions() {
					if err != nil {
						b.Fatal(err)
					}
				}
				took := time.Since(start)
				start = time.Now()
				for off := int64(0); ; {
					n, err := text.ReadAt(buf, off)
					if off += int64(n); err == io.EOF {
						break
					} else if err != nil && n == 0 {
						b.Fatal(err)
					}
				}
				ratios = append(ratios, float64(took)/float64(time.Since(start)))
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "ratio")
		})
	}
}

func BenchmarkAt(b *testing.B) {
	middle := addr(stripes(b, 1000)) + 501*uint64(pageSize)
	for name, tab := range map[string]*Table{"ask": asking(b, 0), "read": reading(b, 0)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if r, ok, err := tab.At(middle); r.Start != middle || !ok || err != nil {
					b.Fatal(r, ok, err)
				}
			}
		})
	}
}
