// Package bench measures package mmap beside other ways to the same data; the
// README says which, and how to run it.
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

// verify sums the bytes that are said to be those at off.
func verify(p []byte, off int64) {
	first, words := uint64(off/8), uint64(len(p)/8)
	sum, want := uint64(0), scatter*(words*first+words*(words-1)/2)
	for ; len(p) >= 8; p = p[8:] {
		sum += binary.LittleEndian.Uint64(p)
	}
	if sum != want {
		panic(fmt.Sprintf("the sum of %d words at %d is %#x, want %#x", words, off, sum, want))
	}
}

// mix returns a number that looks random; the finalizer of splitmix64.
func mix(x uint64) uint64 {
	x += scatter
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// create makes a file of so many bytes, a multiple of 4 KiB, and counts its
// newlines.
func create(b *testing.B, size int64) (f *os.File, lines int) {
	f = must(os.Create(filepath.Join(b.TempDir(), "file")))
	b.Cleanup(func() { f.Close() })
	part := make([]byte, min(size, 1<<20))
	for off := int64(0); off < size; off += int64(len(part)) {
		part = part[:min(int64(len(part)), size-off)]
		fill(part, off)
		lines += bytes.Count(part, newline)
		must(f.Write(part))
	}
	return f, lines
}

// evict drops the file from the page cache, which takes that it is not mapped,
// and makes sure of it. The host of a virtual machine can still have it.
func evict(b *testing.B, f *os.File) {
	var fs unix.Statfs_t
	ok(unix.Fstatfs(int(f.Fd()), &fs))
	if kind := uint32(fs.Type); kind == unix.TMPFS_MAGIC || kind == unix.RAMFS_MAGIC {
		b.Skip("the temporary directory is in memory, and never cold: set TMPDIR to one on a disk")
	}
	ok(f.Sync()) // only clean pages can be dropped
	ok(unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	m := must(mmap.Map[mmap.Read](mmap.Path(f.Name())))
	if n := must(m.Resident(0, m.Len())); n > m.Len()/100 {
		panic(fmt.Sprintf("%d of %d bytes are still in the page cache", n, m.Len()))
	}
	ok(m.Close())
}

func ok(err error) {
	if err != nil {
		panic(err)
	}
}

func must[T any](v T, err error) T {
	ok(err)
	return v
}
