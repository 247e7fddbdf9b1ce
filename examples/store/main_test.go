//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

// both runs a test with both kinds of pages.
func both(t *testing.T, test func(t *testing.T, path string)) {
	for name, kind := range map[string]func(*os.File) (pages, error){"mapped": newMapped, "plain": newPlain} {
		t.Run(name, func(t *testing.T) {
			use(t, kind)
			before := mmap.ReadStats().Mappings
			test(t, filepath.Join(t.TempDir(), "store"))
			if after := mmap.ReadStats().Mappings; after != before {
				t.Errorf("%d mappings are left", after-before)
			}
		})
	}
}

func use(t *testing.T, kind func(*os.File) (pages, error)) {
	old := newPages
	newPages = kind
	t.Cleanup(func() { newPages = old })
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path)
	check(t, err)
	return s
}

func begin(t *testing.T, s *Store) *Tx {
	t.Helper()
	tx, err := s.Begin()
	check(t, err)
	return tx
}

// content returns all that a transaction sees, in one string.
func content(t *testing.T, tx *Tx) string {
	t.Helper()
	var all []string
	check(t, tx.All(func(key, value []byte) error {
		got, err := tx.Get(string(key))
		if err != nil || !bytes.Equal(got, value) {
			t.Errorf("%q is %q and %q, %v", key, value, got, err)
		}
		all = append(all, fmt.Sprintf("%s=%s", key, value))
		return nil
	}))
	return strings.Join(all, " ")
}

func mustHold(t *testing.T, s *Store, want string) {
	t.Helper()
	tx := begin(t, s)
	if got := content(t, tx); got != want {
		t.Errorf("the store has %.200q, want %.200q", got, want)
	}
	check(t, tx.end())
}

func TestStore(t *testing.T) {
	both(t, func(t *testing.T, path string) {
		s := open(t, path)
		mustHold(t, s, "")
		check(t, s.Put("a", []byte("1")))
		check(t, s.Put("b", []byte("2")))
		check(t, s.Put("", []byte("no key")))
		check(t, s.Put("empty", []byte{}))
		check(t, s.Put("gone", []byte("x")))
		check(t, s.Put("gone", nil))
		check(t, s.Put("a", []byte("3")))
		const want = "b=2 =no key empty= a=3"
		tx := begin(t, s)
		for _, key := range []string{"gone", "never"} {
			if value, err := tx.Get(key); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %q, %v", key, value, err)
			}
		}
		check(t, tx.end())
		mustHold(t, s, want)
		check(t, s.Sync())
		check(t, s.Close())
		if _, err := s.Begin(); !errors.Is(err, os.ErrClosed) {
			t.Error("closed: ", err)
		}
		if err := s.Put("a", nil); !errors.Is(err, os.ErrClosed) {
			t.Error("closed: ", err)
		}
		s = open(t, path)
		mustHold(t, s, want)
		check(t, s.Compact())
		mustHold(t, s, want)
		check(t, s.Put("c", []byte("4")))
		check(t, s.Close())
		s = open(t, path)
		mustHold(t, s, want+" c=4")
		check(t, s.Close())
	})
}

// TestOldTransactions: what began before goes on with what it saw, whatever happens.
func TestOldTransactions(t *testing.T) {
	both(t, func(t *testing.T, path string) {
		s := open(t, path)
		check(t, s.Put("a", []byte("1")))
		first := begin(t, s)
		check(t, s.Put("a", []byte("2")))
		second := begin(t, s)
		check(t, s.Compact())
		third := begin(t, s)
		check(t, s.Put("a", nil))
		check(t, s.Put("b", bytes.Repeat([]byte("b"), 3<<20))) // growth
		check(t, s.Close())
		for tx, want := range map[*Tx]string{first: "a=1", second: "a=2", third: "a=2"} {
			if got := content(t, tx); got != want {
				t.Errorf("%q, want %q", got, want)
			}
			check(t, tx.end())
		}
		if left, err := filepath.Glob(path + "*"); err != nil || len(left) != 1 {
			t.Error("files: ", left)
		}
	})
}

// TestConcurrent: readers beside a writer and compactions. Each value says what its
// key's neighbour must be at least.
func TestConcurrent(t *testing.T) {
	both(t, func(t *testing.T, path string) {
		s := open(t, path)
		rounds := 300
		if testing.Short() {
			rounds = 50
		}
		var done atomic.Bool
		var readers sync.WaitGroup
		for range 3 {
			readers.Go(func() {
				for last := 0; !done.Load(); {
					tx, err := s.Begin()
					if err != nil {
						t.Error(err)
						return
					}
					var n [2]int
					for i, key := range []string{"second", "first"} { // put in the other order
						value, err := tx.Get(key)
						if err == nil {
							_, err = fmt.Sscan(string(value), &n[i])
						} else if errors.Is(err, os.ErrNotExist) {
							err = nil
						}
						if err != nil {
							t.Error(err)
						}
					}
					if n[0] > n[1] || n[1] > n[0]+1 || n[0] < last {
						t.Errorf("first %d, second %d, after %d", n[1], n[0], last)
					}
					last = n[0]
					if err := errors.Join(tx.All(func(_, _ []byte) error { return nil }), tx.end()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for i := range rounds {
			value := fmt.Appendf(nil, "%d %s", i+1, strings.Repeat(".", i*20))
			check(t, s.Put("first", value))
			check(t, s.Put("second", value))
			if i%50 == 49 {
				check(t, s.Compact())
			}
		}
		done.Store(true)
		readers.Wait()
		check(t, s.Close())
	})
}

// TestTorn cuts and damages the last record in every way, and goes on.
func TestTorn(t *testing.T) {
	both(t, func(t *testing.T, path string) {
		s := open(t, path)
		check(t, s.Put("first", []byte("1")))
		check(t, s.Sync())
		check(t, s.Put("second", []byte("2")))
		check(t, s.Put("third", []byte("3")))
		// As after a crash: the header does not know of the second and the third.
		data, err := os.ReadFile(path)
		check(t, err)
		check(t, s.Close())
		end := start + 3*head + len("first1second2third3")
		third := end - head - len("third3")
		try := func(name string, damaged []byte, want string) {
			t.Helper()
			check(t, os.WriteFile(path, damaged, 0o600))
			s := open(t, path)
			mustHold(t, s, want)
			check(t, s.Put("third", []byte("4"))) // as long as the torn one
			mustHold(t, s, strings.TrimSuffix(want, " third=3")+" third=4")
			check(t, s.Close())
			s = open(t, path)
			mustHold(t, s, strings.TrimSuffix(want, " third=3")+" third=4")
			check(t, s.Close())
		}
		try("whole", data, "first=1 second=2 third=3")
		for cut := third; cut < end; cut++ {
			try(fmt.Sprint("cut at ", cut), data[:cut], "first=1 second=2")
		}
		for at := third; at < end; at++ {
			damaged := bytes.Clone(data)
			damaged[at] ^= 0x80
			try(fmt.Sprint("damaged at ", at), damaged, "first=1 second=2")
		}
		damaged := bytes.Clone(data)
		damaged[third-1] ^= 1 // the third must not come back behind another second
		try("before it", damaged, "first=1")
	})
}

// TestDamaged: what was promised to be there is missed, and other files stay as they are.
func TestDamaged(t *testing.T) {
	both(t, func(t *testing.T, path string) {
		s := open(t, path)
		check(t, s.Put("key", []byte("value")))
		check(t, s.Sync())
		check(t, s.Close())
		data, err := os.ReadFile(path)
		check(t, err)
		change := func(at ...int) []byte {
			b := bytes.Clone(data)
			for _, at := range at {
				b[at] ^= 1
			}
			return b
		}
		for name, test := range map[string]struct {
			data []byte
			says string
		}{
			"both headers": {change(3, second+3), "its header is damaged"}, "version": {change(8, second+8), "its header is damaged"},
			"record": {change(start + head), "no whole record"}, "cut": {data[:start+5], "no whole record"},
			"no records": {data[:start], "are whole"}, "text": {[]byte("some text\n"), "not a store"},
			"zeros": {make([]byte, start+1), "not a store"}, "few zeros": {make([]byte, 10), "not a store"},
		} {
			check(t, os.WriteFile(path, test.data, 0o600))
			_, err := Open(path)
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s: %v", name, err)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, test.data) {
				t.Errorf("%s: the file has changed, %v", name, err)
			}
		}
		for _, at := range []int{3, second + 3} { // one torn header
			check(t, os.WriteFile(path, change(at), 0o600))
			s := open(t, path)
			mustHold(t, s, "key=value")
			check(t, s.Close())
		}
		check(t, os.WriteFile(path, make([]byte, start), 0o600)) // it died when it was new
		check(t, open(t, path).Close())
	})
}

// TestTruncated takes the file away from under a reader and a writer.
func TestTruncated(t *testing.T) {
	both(t, func(t *testing.T, path string) {
		s, other := open(t, path), open(t, path+".other")
		page := int64(os.Getpagesize())
		check(t, s.Put("a", make([]byte, 4*page)))
		check(t, s.Put("b", []byte("2")))
		tx := begin(t, s)
		check(t, os.Truncate(path, page))
		want := mmap.ErrTruncated
		if _, plain := tx.snapshot.(*plain); plain {
			want = io.ErrUnexpectedEOF
		}
		if _, err := tx.Get("b"); !errors.Is(err, want) {
			t.Error("get: ", err)
		}
		if err := tx.All(func(_, _ []byte) error { return nil }); !errors.Is(err, want) {
			t.Error("all: ", err)
		}
		if err := s.Compact(); !errors.Is(err, want) {
			t.Error("compact: ", err)
		}
		if err := s.Put("c", []byte("3")); want == mmap.ErrTruncated && !errors.Is(err, want) {
			t.Error("put: ", err)
		}
		check(t, tx.end())
		check(t, s.Close())
		check(t, other.Put("still", []byte("here")))
		mustHold(t, other, "still=here")
		check(t, other.Close())
	})
}

// The two kinds of pages have one format.
func TestOneFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	want := ""
	for i := range 4 {
		newPages = newPlain
		if i%2 == 0 {
			newPages = newMapped
		}
		s := open(t, path)
		check(t, s.Put(fmt.Sprint(i), []byte("v")))
		want = strings.TrimPrefix(fmt.Sprintf("%s %d=v", want, i), " ")
		mustHold(t, s, want)
		check(t, s.Close())
	}
	newPages = newMapped
}

func TestLimits(t *testing.T) {
	oldCapacity, oldChunk := capacity, chunk
	capacity, chunk = 10_000, 1000
	defer func() { capacity, chunk = oldCapacity, oldChunk }()
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	for i := range 3 {
		check(t, s.Put("key", bytes.Repeat([]byte{'0' + byte(i)}, 1900)))
	}
	if err := s.Put("key", make([]byte, 1900)); !errors.Is(err, mmap.ErrCapacity) {
		t.Error(err)
	}
	if _, err := Open(path); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Error("opened twice: ", err)
	}
	check(t, s.Compact())
	check(t, s.Put("other", make([]byte, 1900)))
	check(t, s.Close())
	s = open(t, path)
	tx := begin(t, s)
	if value, err := tx.Get("key"); string(value) != strings.Repeat("2", 1900) {
		t.Errorf("%q, %v", value, err)
	}
	check(t, tx.end())
	check(t, s.Close())
}

// TestSyncFails: after a Sync that failed, none pretends that all is well.
func TestSyncFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	broken := false
	use(t, func(f *os.File) (pages, error) {
		p, err := newMapped(f)
		return breakable{p, &broken}, err
	})
	s := open(t, path)
	check(t, s.Put("a", []byte("1")))
	check(t, s.Sync())
	check(t, s.Put("b", []byte("2")))
	for _, broken = range []bool{true, false} {
		if err := s.Sync(); !errors.Is(err, unix.EIO) {
			t.Error(err)
		}
		if err := s.Put("c", []byte("3")); !errors.Is(err, unix.EIO) {
			t.Error(err)
		}
	}
	if err := s.Close(); !errors.Is(err, unix.EIO) {
		t.Error(err)
	}
	s = open(t, path)
	mustHold(t, s, "a=1 b=2")
	check(t, s.Close())
}

type breakable struct {
	pages
	broken *bool
}

func (b breakable) flush(off, n int64) error {
	if *b.broken {
		return unix.EIO
	}
	return b.pages.flush(off, n)
}

// TestFullDisk: a full disk is an error of Put, and the store goes on.
func TestFullDisk(t *testing.T) {
	if os.Getenv("STORE_OWN_MOUNTS") == "" {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), "STORE_OWN_MOUNTS=1", "GORACE=atexit_sleep_ms=0")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
		out, err := cmd.CombinedOutput()
		switch {
		case cmd.ProcessState == nil:
			t.Skip("a namespace of one's own is not allowed: ", err)
		case err == nil && bytes.Contains(out, []byte("--- SKIP")):
			t.Skip(string(out))
		case err != nil:
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("mounting a small tmpfs is not allowed: ", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	chunk = 64 << 10
	s := open(t, filepath.Join(dir, "store"))
	value, err := bytes.Repeat([]byte("v"), 20_000), error(nil)
	puts := 0
	for ; err == nil; puts++ {
		err = s.Put(fmt.Sprint(puts%3), value)
	}
	if !errors.Is(err, unix.ENOSPC) || errors.Is(err, mmap.ErrFault) || puts < 20 {
		t.Errorf("put %d: %v", puts, err)
	}
	if err := s.Compact(); !errors.Is(err, unix.ENOSPC) { // as long as both are there
		t.Error("compact: ", err)
	}
	tx := begin(t, s)
	if got, err := tx.Get("1"); !bytes.Equal(got, value) {
		t.Error(err)
	}
	check(t, tx.end())
	check(t, unix.Mount("", dir, "", unix.MS_REMOUNT, "size=2m"))
	check(t, s.Put("more", value))
	check(t, s.Compact())
	check(t, s.Close())
}

func TestRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	for _, test := range []struct{ args, want, says string }{
		{"put a 1", "", ""}, {"put b 2", "", ""}, {"get a", "1\n", ""}, {"list", "a\t1\nb\t2\n", ""}, {"delete a", "", ""},
		{"get a", "", `key "a"`}, {"compact", "", ""}, {"list", "b\t2\n", ""}, {"", "", "usage"}, {"get", "", "usage"}, {"drop b", "", "usage"},
	} {
		var out bytes.Buffer
		err := run(append([]string{path}, strings.Fields(test.args)...), &out)
		if out.String() != test.want || (err != nil) != (test.says != "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %q, %v", test.args, &out, err)
		}
	}
	if err := run(nil, io.Discard); err == nil {
		t.Error("no usage")
	}
	if err := run([]string{t.TempDir(), "list"}, io.Discard); err == nil {
		t.Error("a folder was opened")
	}
}

// BenchmarkGet: a value of 100 bytes of a store of 10,000, in the page cache.
func BenchmarkGet(b *testing.B) {
	kinds := map[string]func(*os.File) (pages, error){"mapped": newMapped, "plain": newPlain}
	defer func() { newPages = newMapped }()
	for _, name := range []string{"mapped", "plain"} {
		newPages = kinds[name]
		s, err := Open(filepath.Join(b.TempDir(), "store"))
		for i := 0; i < 10_000 && err == nil; i++ {
			err = s.Put(fmt.Sprint(i), make([]byte, 100))
		}
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		tx, err := s.Begin()
		if err != nil {
			b.Fatal(err)
		}
		defer tx.end()
		b.Run("pages="+name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if _, err := tx.Get(fmt.Sprint(i % 10_000)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
