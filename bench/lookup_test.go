package bench

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"testing"
)

// A table file has records of a key and a value, sorted by key, no two equal.
const records, entry, keyGap = 1 << 20, 16, 1 << 40

func keyOf(i uint64) uint64     { return i*keyGap + mix(i)%keyGap }
func valueOf(key uint64) uint64 { return mix(key) }

// A look-up is a binary search in the file, by goroutines that share one mapping
// or open file. A view, or a lock, is taken once for a look-up.
func BenchmarkLookup(b *testing.B) {
	var table []byte
	for i := range uint64(records) {
		table = binary.LittleEndian.AppendUint64(table, keyOf(i))
		table = binary.LittleEndian.AppendUint64(table, valueOf(keyOf(i)))
	}
	path := filepath.Join(b.TempDir(), "table")
	ok(os.WriteFile(path, table, 0o600))
	f := must(os.Open(path))
	defer f.Close()
	for _, goroutines := range []int{1, 2, 16} {
		for _, p := range readers {
			b.Run(fmt.Sprintf("goroutines=%d/by=%s", goroutines, p.by), func(b *testing.B) {
				a := p.open(f)
				a.each(10000, a.finding(0)) // touches the pages
				var wg sync.WaitGroup
				b.ResetTimer()
				for g := range goroutines {
					n := (b.N + g) / goroutines // b.N together
					wg.Go(func() { a.each(n, a.finding(uint64(g)<<40)) })
				}
				wg.Wait()
				b.StopTimer()
				ok(a.unmap())
			})
		}
	}
}

// finding returns the work that looks a random key up and compares its value.
func (a *access) finding(seed uint64) func([]byte, int) {
	buf := make([]byte, entry)
	return func(memory []byte, i int) {
		key := keyOf(mix(seed+uint64(i)) % records)
		if got, want := a.search(memory, buf, key), valueOf(key); got != want {
			panic(fmt.Sprintf("the value of %#x is %#x, want %#x", key, got, want))
		}
	}
}

// search returns the value of the first key that is not below key.
func (a *access) search(memory, buf []byte, key uint64) uint64 {
	record := func(i int) []byte { return a.block(memory, buf, int64(i)*entry) }
	i := sort.Search(records, func(i int) bool { return binary.LittleEndian.Uint64(record(i)) >= key })
	return binary.LittleEndian.Uint64(record(i)[8:])
}
