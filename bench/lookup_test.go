package bench

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	f, err := os.Create(filepath.Join(b.TempDir(), "table"))
	must(b, err)
	defer f.Close()
	w := bufio.NewWriter(f)
	var r [entry]byte
	for i := range uint64(records) {
		binary.LittleEndian.PutUint64(r[:], keyOf(i))
		binary.LittleEndian.PutUint64(r[8:], valueOf(keyOf(i)))
		must(b, second(w.Write(r[:])))
	}
	must(b, w.Flush())
	for _, goroutines := range []int{1, 2, 16} {
		for _, p := range readers {
			b.Run(fmt.Sprintf("goroutines=%d/by=%s", goroutines, p.by), func(b *testing.B) {
				a, err := p.open(f)
				must(b, err)
				must(b, a.each(10000, a.finding(0))) // touches the pages
				errs := make([]error, goroutines)
				var wg sync.WaitGroup
				b.ResetTimer()
				for g := range goroutines {
					n := (b.N + g) / goroutines // b.N together
					wg.Go(func() { errs[g] = a.each(n, a.finding(uint64(g)<<40)) })
				}
				wg.Wait()
				b.StopTimer()
				must(b, errors.Join(append(errs, a.unmap())...))
			})
		}
	}
}

// finding returns the work that looks a random key up and compares its value.
func (a *access) finding(seed uint64) func([]byte, int) error {
	buf := make([]byte, entry)
	return func(memory []byte, i int) error {
		key := keyOf(mix(seed+uint64(i)) % records)
		value, err := a.search(memory, buf, key)
		if err == nil && value != valueOf(key) {
			err = fmt.Errorf("the value of %#x is %#x, want %#x", key, value, valueOf(key))
		}
		return err
	}
}

// search returns the value of a key, and 0 if there is none.
func (a *access) search(memory, buf []byte, key uint64) (uint64, error) {
	for lo, hi := 0, records; lo < hi; {
		mid := (lo + hi) / 2
		record, err := a.block(memory, buf, int64(mid)*entry)
		if err != nil {
			return 0, err
		}
		switch k := binary.LittleEndian.Uint64(record); {
		case k == key:
			return binary.LittleEndian.Uint64(record[8:]), nil
		case k < key:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return 0, nil
}
