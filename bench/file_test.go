package bench

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

var sizeMiB = flag.Int64("size", 256, "`MiB` of the file that is scanned and read at random")

// All files but the table consist of the words 0*scatter, 1*scatter, 2*scatter,
// …: they look random, and the sum of any block is known.
const scatter = 0x9e3779b97f4a7c15

// fill makes the bytes that belong at off.
func fill(p []byte, off int64) {
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], uint64(off+int64(i))/8*scatter)
	}
}

// sum reads the words of p.
//
//go:noinline
func sum(p []byte) (s uint64) {
	for ; len(p) >= 8; p = p[8:] {
		s += binary.LittleEndian.Uint64(p)
	}
	return s
}

// check sums the bytes that are said to be those at off.
func check(p []byte, off int64) error {
	first, words := uint64(off/8), uint64(len(p)/8)
	if got, want := sum(p), scatter*(words*first+words*(words-1)/2); got != want {
		return fmt.Errorf("the sum of %d bytes at %d is %#x, want %#x", len(p), off, got, want)
	}
	return nil
}

// mix returns a number that looks random; the finalizer of splitmix64.
func mix(x uint64) uint64 {
	x += scatter
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// create makes a file of size bytes, and counts its newlines.
func create(b *testing.B, size int64) (f *os.File, lines int) {
	f, err := os.Create(filepath.Join(b.TempDir(), "file"))
	must(b, err)
	b.Cleanup(func() { f.Close() })
	part := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(part)) {
		fill(part, off)
		lines += bytes.Count(part, newline)
		must(b, second(f.Write(part)))
	}
	return f, lines
}

// caches runs bench with the file in the page cache, and out of it: it has to
// call evict before each cold pass.
func caches(b *testing.B, f *os.File, bench func(b *testing.B, cold bool)) {
	b.Run("cache=warm", func(b *testing.B) { bench(b, false) })
	b.Run("cache=cold", func(b *testing.B) {
		var fs unix.Statfs_t
		must(b, unix.Fstatfs(int(f.Fd()), &fs))
		if fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC {
			b.Skip("the temporary directory is in memory, and never cold: set TMPDIR to one on a disk")
		}
		must(b, f.Sync()) // only clean pages can be evicted
		bench(b, true)
	})
}

// evict drops the file from the page cache, which takes that it is not mapped,
// and makes sure of it. The host of a virtual machine can still have it.
func evict(b *testing.B, f *os.File) {
	must(b, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	m, err := mmap.Map[mmap.Read](mmap.Path(f.Name()))
	must(b, err)
	defer m.Close()
	if n, err := m.Resident(0, m.Len()); err != nil || n > m.Len()/100 {
		b.Fatalf("%d of %d bytes are still in the page cache; %v", n, m.Len(), err)
	}
}

func must(b *testing.B, err error) {
	if err != nil {
		b.Helper()
		b.Fatal(err)
	}
}

func second(_ int, err error) error { return err }
