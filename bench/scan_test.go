package bench

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/mmarinus/mmap"
)

var newline = []byte{'\n'}

//go:noinline
func count(p []byte) int { return bytes.Count(p, newline) }

const part = 64 << 10 // what is copied at a time, to stay in the processor's cache

// A scan opens a file, counts its newlines from start to end, and closes it: so
// it pays for the page faults of a mapping that is new. The locks of the peers
// are left out: one for a whole scan costs nothing that could be measured.
func BenchmarkScan(b *testing.B) {
	data, lines := create(b, *sizeMiB<<20)
	peers := []peer{
		readers[0],
		{"mmap-view+sequential", ours(func(m mmap.Read) (*access, error) {
			return view(m), m.Advise(0, m.Len(), mmap.AdviceSequential)
		})},
		{"mmap-view+prefault", ours(func(m mmap.Read) (*access, error) { return view(m), m.Prefault(0, m.Len()) })},
	}
	for _, p := range readers[1:] {
		if a := p.by; a[max(0, len(a)-5):] != "+lock" && a != "mmap-pin" {
			peers = append(peers, p)
		}
	}
	peers = append(peers, peer{"bufio", nil})
	caches(b, data, func(b *testing.B, cold bool) {
		for _, p := range peers {
			b.Run("by="+p.by, func(b *testing.B) {
				b.SetBytes(*sizeMiB << 20)
				for range b.N {
					if cold {
						b.StopTimer()
						evict(b, data)
						b.StartTimer()
					}
					n, err := scan(p, data.Name())
					if err != nil || n != lines {
						b.Fatalf("%d lines, want %d; %v", n, lines, err)
					}
				}
			})
		}
	})
}

func scan(p peer, path string) (n int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if p.open == nil {
		return scanBuffered(bufio.NewReaderSize(f, part))
	}
	a, err := p.open(f)
	if err != nil {
		return 0, err
	}
	err = a.use(func(memory []byte) error {
		if a.at == nil {
			n = count(memory)
			return nil
		}
		buf := make([]byte, part)
		for off := int64(0); ; off += part {
			got, err := a.at.ReadAt(buf, off)
			n += count(buf[:got])
			if errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
		}
	})
	return n, errors.Join(err, a.unmap())
}

func scanBuffered(r *bufio.Reader) (n int, err error) {
	for err == nil {
		var p []byte
		p, err = r.Peek(part)
		n += count(p)
		r.Discard(len(p)) // which has them
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}
