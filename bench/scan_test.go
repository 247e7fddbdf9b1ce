package bench

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"testing"

	"github.com/mmarinus/mmap"
)

var newline = []byte{'\n'}

const part = 64 << 10 // what is copied at a time, to stay in the processor's cache

// A scan opens a file, counts its newlines from start to end, and closes it: so
// it pays for the page faults of a mapping that is new.
func BenchmarkScan(b *testing.B) {
	data, lines := create(b, *sizeMiB<<20)
	peers := append(readers[:len(readers):len(readers)],
		peer{"mmap-view+sequential", view(func(m mmap.Read, n int) error { return m.Advise(0, n, mmap.AdviceSequential) })},
		peer{"mmap-view+prefault", view(func(m mmap.Read, n int) error { return m.Prefault(0, n) })},
		peer{"bufio", nil})
	for _, cache := range []string{"warm", "cold"} {
		for _, p := range peers {
			b.Run("cache="+cache+"/by="+p.by, func(b *testing.B) {
				b.SetBytes(*sizeMiB << 20)
				if cache == "cold" { // or the first has to wait for the host of a virtual machine
					evict(b, data)
					must(io.Copy(io.Discard, io.NewSectionReader(data, 0, *sizeMiB<<20)))
					b.ResetTimer()
				}
				for range b.N {
					if cache == "cold" {
						b.StopTimer()
						evict(b, data)
						b.StartTimer()
					}
					f := must(os.Open(data.Name()))
					if n := p.scan(f); n != lines {
						b.Fatalf("%d lines, want %d", n, lines)
					}
					ok(f.Close())
				}
			})
		}
	}
}

func (p peer) scan(f *os.File) (n int) {
	if p.open == nil {
		return scanBuffered(bufio.NewReaderSize(f, part))
	}
	a := p.open(f)
	ok(a.use(func(memory []byte) error {
		if a.at == nil {
			n = bytes.Count(memory, newline)
			return nil
		}
		buf := make([]byte, part)
		for off := int64(0); ; off += part {
			got, err := a.at.ReadAt(buf, off)
			n += bytes.Count(buf[:got], newline)
			if err == io.EOF {
				return nil
			}
			ok(err)
		}
	}))
	ok(a.unmap())
	return n
}

func scanBuffered(r *bufio.Reader) (n int) {
	for {
		p, err := r.Peek(part)
		n += bytes.Count(p, newline)
		if err == io.EOF {
			return n
		}
		ok(err)
		must(r.Discard(len(p)))
	}
}
