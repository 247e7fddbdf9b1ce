package app

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"data/proof"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

// TestLeft: a mapping is left, and nobody has it.
func TestLeft(t *testing.T) {
	log := proof.File(t, "LOG1"+strings.Repeat("x", 2*page))
	none := proof.Mapped[mmap.None](t, page)
	given, _, err := none.Release()
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(){
		"CountLines":  func() { CountLines(log) },
		"Preload":     func() { proof.Logged(func() { Preload(log) }) },
		"Collect":     func() { Collect(strings.NewReader("text"), 4*page) },
		"Prepare":     func() { Prepare(page, func([]byte) error { return nil }) },
		"Body":        func() { proof.Logged(func() { Body(log) }) },
		"Adopt":       func() { Adopt(given, page) }, //mmapvet:ignore ignored the mapping in there is what is proven
		"Merge":       func() { merge(t) },
		"DeliverAsIs": func() { DeliverAsIs(log, nil) },
		"Widen":       func() { Widen(2*page, func([]byte) error { return nil }) },
	} {
		if more := proof.Left(f); more != 1 {
			t.Errorf("%s: %d mappings are left", name, more)
		}
	}
}

// merge calls Merge with a file of which there is room for one mapping, and not for a second
// one of its size.
func merge(t *testing.T) {
	const size = 1 << 30
	f, err := os.Create(proof.File(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	var pages uint64
	if b, err := os.ReadFile("/proc/self/statm"); err != nil {
		t.Fatal(err)
	} else if _, err := fmt.Sscan(string(b), &pages); err != nil {
		t.Fatal(err)
	}
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_AS, &before); err != nil {
		t.Fatal(err)
	}
	limit := unix.Rlimit{Cur: pages*uint64(os.Getpagesize()) + size*3/2, Max: before.Max}
	if err := unix.Setrlimit(unix.RLIMIT_AS, &limit); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_AS, &before)
	if _, err := Merge(f.Name()); err == nil {
		t.Error("Merge: there was room")
	}
}
