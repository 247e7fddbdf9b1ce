package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path)
	check(t, err)
	return s
}

// mustHold compares all that a store has with key=value pairs.
func mustHold(t *testing.T, s *Store, want string) {
	t.Helper()
	n := 0
	s.now.Load().index.Range(func(_, _ any) bool { n++; return true })
	pairs := strings.Fields(want)
	if n != len(pairs) {
		t.Errorf("%d keys, want %q", n, want)
	}
	for _, pair := range pairs {
		key, value, _ := strings.Cut(pair, "=")
		if got, err := s.Get(key); string(got) != value || err != nil {
			t.Errorf("%s is %q, want %q, %v", key, got, value, err)
		}
	}
}

// compact skips the rest where an open file cannot be replaced.
func compact(t *testing.T, s *Store) {
	t.Helper()
	err := s.Compact()
	if runtime.GOOS == "windows" {
		t.Skip("Windows replaces no open file: ", err)
	}
	check(t, err)
	if left, err := filepath.Glob(s.name + "*"); err != nil || len(left) != 1 {
		t.Error("files: ", left)
	}
}

func TestStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	mustHold(t, s, "")
	for _, pair := range []string{"a=1", "b=2", "=nokey", "empty=", "a=3"} {
		key, value, _ := strings.Cut(pair, "=")
		check(t, s.Put(key, []byte(value)))
	}
	const want = "b=2 =nokey empty= a=3"
	mustHold(t, s, want)
	if value, err := s.Get("never"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%q, %v", value, err)
	}
	check(t, s.Sync())
	check(t, s.Close())
	if _, err := s.Get("a"); !errors.Is(err, os.ErrClosed) {
		t.Error("closed: ", err)
	}
	if err := s.Put("a", nil); !errors.Is(err, os.ErrClosed) {
		t.Error("closed: ", err)
	}
	s = open(t, path)
	mustHold(t, s, want)
	check(t, s.Put("large", bytes.Repeat([]byte("l"), 3<<20))) // growth
	check(t, s.Put("large", []byte("small")))
	compact(t, s)
	mustHold(t, s, want+" large=small")
	check(t, s.Put("c", []byte("4")))
	check(t, s.Close())
	s = open(t, path)
	mustHold(t, s, want+" large=small c=4")
	check(t, s.Close())
}

// TestConcurrent: readers beside a writer and compactions. "first" is put before "second",
// and read after it, so it is never older.
func TestConcurrent(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	check(t, s.Put("first", []byte("0")))
	check(t, s.Put("second", []byte("0")))
	var done atomic.Bool
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for last := 0; !done.Load(); {
				var n [2]int
				for i, key := range []string{"second", "first"} {
					value, err := s.Get(key)
					if err == nil {
						_, err = fmt.Sscan(string(value), &n[i])
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
				if n[0] > n[1] || n[0] < last {
					t.Errorf("first %d, second %d, after %d", n[1], n[0], last)
				}
				last = n[0]
			}
		})
	}
	for i := range 1000 {
		value := fmt.Appendf(nil, "%d %s", i+1, strings.Repeat(".", i*20))
		check(t, s.Put("first", value))
		check(t, s.Put("second", value))
		if i%100 == 99 && runtime.GOOS != "windows" {
			compact(t, s)
		}
	}
	done.Store(true)
	readers.Wait()
	check(t, s.Close())
}

// TestTorn cuts and damages the last record in every way, and goes on.
func TestTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	check(t, s.Put("first", []byte("1")))
	check(t, s.Put("second", []byte("2")))
	check(t, s.Put("third", []byte("3")))
	end := s.now.Load().end
	check(t, s.Close())
	data, err := os.ReadFile(path)
	check(t, err)
	third := end - head - len("third3")
	try := func(name string, damaged []byte, want string) {
		t.Helper()
		check(t, os.WriteFile(path, damaged, 0o600))
		s := open(t, path)
		mustHold(t, s, want)
		check(t, s.Put("third", []byte("4"))) // as long as the torn one
		check(t, s.Close())
		s = open(t, path)
		mustHold(t, s, strings.TrimSuffix(want, " third=3")+" third=4")
		check(t, s.Close())
		if t.Failed() {
			t.Fatal(name)
		}
	}
	try("whole", data, "first=1 second=2 third=3")
	for cut := third; cut < end; cut++ {
		try(fmt.Sprint("cut at ", cut), data[:cut], "first=1 second=2")
	}
	for at := third; at < end; at++ {
		damaged := bytes.Clone(data[:end+100])
		damaged[at] ^= 0x80
		try(fmt.Sprint("damaged at ", at), damaged, "first=1 second=2")
	}
	const ff = "\xff\xff\xff\xff\xff\xff"
	for _, length := range []string{ff + "\xff\xff", ff + "\xff\x7f", "\xec\xff" + ff} {
		for _, at := range []int{4, 12} {
			damaged := bytes.Clone(data[:end])
			copy(damaged[third+at:], length)
			try("length", damaged, "first=1 second=2")
		}
	}
	damaged := bytes.Clone(data[:end])
	damaged[third-1] ^= 1 // the third must not come back behind another second
	check(t, os.WriteFile(path, damaged, 0o600))
	s = open(t, path)
	check(t, s.Put("second", []byte("5")))
	check(t, s.Close())
	s = open(t, path)
	mustHold(t, s, "first=1 second=5")
	check(t, s.Close())
}

// TestOtherFiles: what is no store stays as it is.
func TestOtherFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, data := range []string{"hi\n", "some text, which is no store\n", strings.Repeat("\x00", 5000), header[:5]} {
		check(t, os.WriteFile(path, []byte(data), 0o600))
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "not a store") {
			t.Errorf("%.20q: %v", data, err)
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != data {
			t.Errorf("%.20q has changed, %v", data, err)
		}
	}
	if _, err := Open(t.TempDir()); err == nil {
		t.Error("a folder was opened")
	}
}

// TestOldFile: a file that a crash in Compact has left is replaced.
func TestOldFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	check(t, s.Put("a", []byte("1")))
	check(t, os.WriteFile(path+".new", []byte("half a store"), 0o600))
	compact(t, s)
	mustHold(t, s, "a=1")
	check(t, s.Close())
}

// BenchmarkGet: a value of 100 bytes of a store of 10,000, in the page cache.
func BenchmarkGet(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "store"))
	keys := make([]string, 10_000)
	for i := range keys {
		keys[i] = fmt.Sprint(i)
		check(b, s.Put(keys[i], make([]byte, 100)))
	}
	for i := 0; b.Loop(); i++ {
		if _, err := s.Get(keys[i%len(keys)]); err != nil {
			b.Fatal(err)
		}
	}
	check(b, s.Close())
}
