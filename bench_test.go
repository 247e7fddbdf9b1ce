package mmap_test

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// What mapping and faulting cost. Each benchmark does the same work twice in
// turn, with the library and with the bare system call, and reports the median
// of the paired ratios: so the noise of the machine falls on both alike.
//
//	ns/op       the library, median
//	bare-ns/op  the bare call, median
//	ratio       median of the ratios, pair by pair
//
// Run with: go test -run '^$' -bench . -benchtime 1s

// paired runs batches of ours and of bare in turn, b.N of them.
func paired(b *testing.B, batch int, ours, bare func(n int)) {
	b.Helper()
	b.ReportAllocs()
	run := func(f func(int)) float64 {
		start := time.Now()
		f(batch)
		return float64(time.Since(start).Nanoseconds()) / float64(batch)
	}
	run(ours)
	run(bare)
	var t, u, ratio []float64
	b.ResetTimer()
	for i := range b.N {
		var x, y float64
		if i%2 == 0 {
			x, y = run(ours), run(bare)
		} else {
			y, x = run(bare), run(ours)
		}
		t, u, ratio = append(t, x), append(u, y), append(ratio, x/y)
	}
	b.StopTimer()
	b.ReportMetric(median(t), "ns/op")
	b.ReportMetric(median(u), "bare-ns/op")
	b.ReportMetric(median(ratio), "ratio")
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// must ends the benchmark on an error.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

const anonFlags = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS

func bareMap(size uintptr, flags int) uintptr {
	return must(sys.Mmap(0, size, unix.PROT_READ|unix.PROT_WRITE, flags, -1, 0))
}

func bareUnmap(addr, size uintptr) {
	if err := sys.Munmap(addr, size); err != nil {
		panic(err)
	}
}

// touch stores into every page, with no guard.
func touch(b []byte) {
	for i := 0; i < len(b); i += pageSize {
		b[i] = 1
	}
}

var pageSize = os.Getpagesize()

func BenchmarkMapClose(b *testing.B) {
	for _, c := range []struct {
		name  string
		size  int
		touch bool
		batch int
	}{
		{"4KiB", 4 << 10, false, 50},
		{"4KiB-touched", 4 << 10, true, 50},
		{"1MiB-touched", 1 << 20, true, 2},
	} {
		b.Run(c.name, func(b *testing.B) {
			spec := mmap.Anonymous(c.size)
			paired(b, c.batch, func(n int) {
				for range n {
					m := must(mmap.Map[mmap.ReadWrite](spec))
					if c.touch {
						touch(mmap.Bare(m.Addr(), c.size))
					}
					if err := m.Close(); err != nil {
						panic(err)
					}
				}
			}, func(n int) {
				for range n {
					addr := bareMap(uintptr(c.size), anonFlags)
					if c.touch {
						touch(mmap.Bare(addr, c.size))
					}
					bareUnmap(addr, uintptr(c.size))
				}
			})
		})
	}
}

func BenchmarkMapFile(b *testing.B) {
	f := must(os.Create(filepath.Join(b.TempDir(), "f")))
	defer f.Close()
	if err := f.Truncate(1 << 20); err != nil {
		b.Fatal(err)
	}
	spec := mmap.File(f, 0, 1<<20)
	fd := int(f.Fd())
	paired(b, 50, func(n int) {
		for range n {
			m := must(mmap.Map[mmap.Read](spec))
			m.Close()
		}
	}, func(n int) {
		for range n {
			bareUnmap(must(sys.Mmap(0, 1<<20, unix.PROT_READ, unix.MAP_PRIVATE, fd, 0)), 1<<20)
		}
	})
}

// The ways to bring 1 MiB into memory.
func BenchmarkFault(b *testing.B) {
	const size = 1 << 20
	b.Run("populate", func(b *testing.B) {
		spec := mmap.Anonymous(size).Populate()
		paired(b, 2, func(n int) {
			for range n {
				must(mmap.Map[mmap.ReadWrite](spec)).Close()
			}
		}, func(n int) {
			for range n {
				bareUnmap(bareMap(size, anonFlags|unix.MAP_POPULATE), size)
			}
		})
	})
	b.Run("first-touch", func(b *testing.B) {
		spec := mmap.Anonymous(size)
		paired(b, 2, func(n int) {
			for range n {
				m := must(mmap.Map[mmap.ReadWrite](spec))
				if err := m.Update(func(p []byte) error { touch(p); return nil }); err != nil {
					panic(err)
				}
				m.Close()
			}
		}, func(n int) {
			for range n {
				addr := bareMap(size, anonFlags)
				touch(mmap.Bare(addr, size))
				bareUnmap(addr, size)
			}
		})
	})
	b.Run("prefault", func(b *testing.B) {
		spec := mmap.Anonymous(size)
		prefault := func(addr uintptr) {
			if err := sys.Madvise(addr, size, unix.MADV_POPULATE_WRITE); err != nil {
				b.Skip("MADV_POPULATE_WRITE needs Linux 5.14: ", err)
			}
		}
		paired(b, 2, func(n int) {
			for range n {
				m := must(mmap.Map[mmap.ReadWrite](spec))
				prefault(m.Addr())
				m.Close()
			}
		}, func(n int) {
			for range n {
				addr := bareMap(size, anonFlags)
				prefault(addr)
				bareUnmap(addr, size)
			}
		})
	})
}

// Between neighbours of another kind: merging with them is what protecting
// costs most.
func BenchmarkProtect(b *testing.B) {
	const size = 16 << 10
	hold := must(mmap.Map[mmap.None](mmap.Anonymous(3 * size)))
	left, rest, err := mmap.Split(hold, size)
	must(0, err)
	middle, right, err := mmap.Split(rest, size)
	must(0, err)
	defer left.Close()
	defer right.Close()
	rw := must(mmap.Protect[mmap.ReadWrite](middle))
	touch(rw.UnsafeBytes())
	addr := rw.Addr()
	paired(b, 100, func(n int) {
		for range n {
			ro := must(mmap.Protect[mmap.Read](rw))
			rw = must(mmap.Protect[mmap.ReadWrite](ro))
		}
	}, func(n int) {
		for range n {
			must(0, sys.Mprotect(addr, size, unix.PROT_READ))
			must(0, sys.Mprotect(addr, size, unix.PROT_READ|unix.PROT_WRITE))
		}
	})
	rw.Close()
}

func BenchmarkResize(b *testing.B) {
	m := must(mmap.Map[mmap.ReadWrite](mmap.Anonymous(1 << 20)))
	addr := bareMap(1<<20, anonFlags)
	paired(b, 50, func(n int) {
		for range n {
			m = must(mmap.Resize(m, 2<<20))
			m = must(mmap.Resize(m, 1<<20))
		}
	}, func(n int) {
		for range n {
			addr = must(sys.Mremap(addr, 1<<20, 2<<20, unix.MREMAP_MAYMOVE, 0))
			bareUnmap(addr+1<<20, 1<<20)
		}
	})
	m.Close()
	bareUnmap(addr, 1<<20)
}

// The floor of a view: count it in and out, and tell the runtime to panic at a
// fault. Each is measured by itself, for in one loop the processor would do the
// one while it waits for the other.
func BenchmarkView(b *testing.B) {
	m := must(mmap.Map[mmap.Read](mmap.Anonymous(4 << 10)))
	defer m.Close()
	var pins atomic.Int64
	paired(b, 2000, func(n int) {
		for range n {
			m.View(nothing)
		}
	}, func(n int) {
		for range n {
			pins.Add(1)
			pins.Add(-1)
		}
		for range n {
			debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		}
	})
}

//go:noinline
func nothing([]byte) error { return nil }

func BenchmarkScan(b *testing.B) {
	const size = 1 << 20
	m := must(mmap.Map[mmap.ReadWrite](mmap.Anonymous(size)))
	defer m.Close()
	touch(m.UnsafeBytes())
	plain := m.UnsafeBytes() // the same memory
	var sum byte
	paired(b, 1, func(n int) {
		for range n {
			m.View(func(p []byte) error { sum += add(p); return nil })
		}
	}, func(n int) {
		for range n {
			sum += add(plain)
		}
	})
}

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

func BenchmarkReadAt(b *testing.B) {
	m := must(mmap.Map[mmap.ReadWrite](mmap.Anonymous(64 << 10)))
	defer m.Close()
	touch(m.UnsafeBytes())
	src := m.UnsafeBytes()
	for _, c := range []struct {
		name string
		size int
	}{{"64B", 64}, {"4KiB", 4 << 10}, {"64KiB", 64 << 10}} {
		b.Run(c.name, func(b *testing.B) {
			dst := make([]byte, c.size)
			paired(b, 1000, func(n int) {
				for range n {
					m.ReadAt(dst, 0)
				}
			}, func(n int) {
				for range n {
					plainCopy(dst, src[:len(dst)])
				}
			})
		})
	}
}

// Two goroutines that do the same as one each: the ratio of the times is 1 where
// they do not queue on one cache line.
func BenchmarkReadAtTwice(b *testing.B) {
	m := must(mmap.Map[mmap.ReadWrite](mmap.Anonymous(4 << 10)))
	defer m.Close()
	touch(m.UnsafeBytes())
	read := func(n int) {
		dst := make([]byte, 64)
		for range n {
			m.ReadAt(dst, 0)
		}
	}
	both := func(n int) {
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { read(n) })
		}
		wg.Wait()
	}
	both(1 << 18) // collide, once
	paired(b, 20000, both, read)
}

func BenchmarkWriteAt(b *testing.B) {
	m := must(mmap.Map[mmap.ReadWrite](mmap.Anonymous(4 << 10)))
	defer m.Close()
	touch(m.UnsafeBytes())
	dst, src := m.UnsafeBytes(), make([]byte, 4<<10)
	paired(b, 1000, func(n int) {
		for range n {
			m.WriteAt(src, 0)
		}
	}, func(n int) {
		for range n {
			plainCopy(dst[:len(src)], src)
		}
	})
}
