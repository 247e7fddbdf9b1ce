//go:build linux

package procmaps

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func open(t testing.TB, pid int) *Table {
	t.Helper()
	tab, err := Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tab.Close() })
	return tab
}

// asking opens a table that asks the kernel, reading one that reads the file.
func asking(t testing.TB, pid int) *Table {
	t.Helper()
	tab := open(t, pid)
	if _, err := tab.query(0); err != nil {
		t.Skipf("PROCMAP_QUERY (Linux 6.11): %v", err)
	}
	return tab
}

func reading(t testing.TB, pid int) *Table {
	t.Helper()
	tab := open(t, pid)
	tab.noQuery.Store(true)
	return tab
}

// both runs a test with either kind of table.
func both(t *testing.T, pid int, test func(t *testing.T, tab *Table)) {
	t.Run("ask", func(t *testing.T) { test(t, asking(t, pid)) })
	t.Run("read", func(t *testing.T) { test(t, reading(t, pid)) })
}

// slowTable reads a table with the slow parser.
func slowTable(t *testing.T, pid string) (table []Region) {
	t.Helper()
	text, err := os.ReadFile("/proc/" + pid + "/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		r, ok := slowParse(strings.TrimSuffix(line, "\n"))
		if !ok {
			t.Fatalf("the kernel printed %q", line)
		}
		if r.String()+"\n" != line && ^uintptr(0)>>32 != 0 { // a 32-bit kernel pads less
			t.Fatalf("the kernel printed %q, String %q", line, r.String())
		}
		table = append(table, r)
	}
	return table
}

func collect(t *testing.T, tab *Table) (table []Region) {
	t.Helper()
	for r, err := range tab.Regions() {
		if err != nil {
			t.Fatal(err)
		}
		table = append(table, r)
	}
	return table
}

// answers asks a table about every edge in it, and writes down what it says.
func answers(t *testing.T, table []Region, next func(addr uint64) (Region, bool, error), at func(addr uint64) (Region, bool, error)) (list []string) {
	t.Helper()
	addrs := []uint64{0, 1 << 63, 1<<64 - 1}
	for _, r := range table {
		addrs = append(addrs, r.Start-1, r.Start, r.Start+r.Size()/2, r.End-1, r.End)
	}
	for _, addr := range addrs {
		r, ok, err := next(addr)
		list = append(list, fmt.Sprintf("Next(%#x) = %#v, %v, %v", addr, r, ok, err))
		r, ok, err = at(addr)
		list = append(list, fmt.Sprintf("At(%#x) = %#v, %v, %v", addr, r, ok, err))
	}
	return list
}

// compareTable compares what both kinds of table say of a process with what the
// slow parser says, for every region. The Go runtime may map something between
// two looks, so it waits for the table to be the same before and after.
func compareTable(t *testing.T, pid int) []Region {
	t.Helper()
	path := "self"
	if pid != 0 {
		path = fmt.Sprint(pid)
	}
	ask, read := asking(t, pid), reading(t, pid)
	for range 1000 {
		table := slowTable(t, path)
		regions := collect(t, read)
		asked := answers(t, table, ask.Next, ask.At)
		got := answers(t, table, read.Next, read.At)
		if !slices.Equal(table, slowTable(t, path)) {
			continue
		}
		search := func(contains bool) func(addr uint64) (Region, bool, error) {
			return func(addr uint64) (Region, bool, error) {
				for _, r := range table {
					if addr < r.End && (r.Start <= addr || !contains) {
						return r, true, nil
					}
				}
				return Region{}, false, nil
			}
		}
		want := answers(t, table, search(false), search(true))
		if !slices.Equal(regions, table) {
			t.Errorf("Regions\n got %v\nwant %v", regions, table)
		}
		for i := range want {
			if asked[i] != want[i] || got[i] != want[i] {
				t.Errorf("\n asking: %s\nreading: %s\n   want: %s", asked[i], got[i], want[i])
			}
		}
		if ask.noQuery.Load() {
			t.Error("the table has stopped asking")
		}
		return table
	}
	t.Fatal("the table never stayed the same for long enough")
	return nil
}

// TestOwnTable compares everything in this process, among it one area of every
// kind that a program can make.
func TestOwnTable(t *testing.T) {
	areas := mapKinds(t)
	table := compareTable(t, 0)
	for _, want := range areas {
		i := slices.IndexFunc(table, func(r Region) bool { return r.Start == want.Start })
		if i < 0 {
			t.Errorf("%v is not in the table", want)
			continue
		}
		got := table[i]
		got.Major, got.Minor = 0, 0 // an overlay file system reports another device than stat(2)
		if want.Inode == 0 {
			got.Inode = 0
		}
		if got != want {
			t.Errorf("\n got %v\nwant %v", got, want)
		}
	}
}

func TestClosed(t *testing.T) {
	both(t, 0, func(t *testing.T, tab *Table) {
		if err := tab.Close(); err != nil {
			t.Fatal(err)
		}
		_, _, atErr := tab.At(1 << 20)
		_, _, nextErr := tab.Next(0)
		n := 0
		var regionsErr error
		for _, regionsErr = range tab.Regions() {
			n++
		}
		if n != 1 {
			t.Errorf("Regions yielded %d times", n)
		}
		for name, err := range map[string]error{"At": atErr, "Next": nextErr, "Regions": regionsErr, "Close": tab.Close()} {
			if !errors.Is(err, os.ErrClosed) || !strings.Contains(err.Error(), "/proc/self/maps") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestNoQuery uses a file that has no PROCMAP_QUERY, as on an older kernel.
func TestNoQuery(t *testing.T) {
	const first = "00010000-00011000 r-xp 00000000 00:00 0 "
	name := filepath.Join(t.TempDir(), "maps")
	if err := os.WriteFile(name, []byte(first+"\nffff0000-ffff1000 r-xp 00000000 00:00 0  [vectors]\nrubbish\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	tab := &Table{f: f, conn: conn}
	for range 2 { // asking, then knowing
		if r, ok, err := tab.At(0x10fff); r.String() != first || !ok || err != nil {
			t.Errorf("At = %v, %v, %v", r, ok, err)
		}
		if r, ok, err := tab.At(0x11000); ok || err != nil {
			t.Errorf("At a hole = %v, %v", r, err)
		}
		if r, ok, err := tab.Next(0x11000); r.Name != "[vectors]" || !ok || err != nil {
			t.Errorf("Next = %v, %v, %v", r, ok, err)
		}
		for name, f := range map[string]func(uint64) (Region, bool, error){"At": tab.At, "Next": tab.Next} {
			if r, ok, err := f(0xffff1000); ok || r != (Region{}) || err != nil {
				t.Errorf("%s on a malformed line = %v, %v, %v", name, r, ok, err)
			}
		}
		if !tab.noQuery.Load() {
			t.Fatal("the table still asks")
		}
	}
	n := 0
	for _, err = range tab.Regions() {
		n++
	}
	if n != 3 || err == nil || !strings.Contains(err.Error(), "rubbish") {
		t.Errorf("Regions: %d, the last with %v", n, err)
	}
}
