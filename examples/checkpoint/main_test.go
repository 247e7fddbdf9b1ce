//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/testkit"
)

// The file is the size of the memory, the first copy is all of it, and the increments are
// as large as what was changed.
func TestRun(t *testing.T) {
	testkit.Needs(t, "UFFD_FEATURE_WP_ASYNC")
	f, err := os.Create(t.TempDir() + "/copy")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size, rounds, pages = 8<<20 + 5, 4, 7
	var log bytes.Buffer
	if err := run(f, size, rounds, pages, &log); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != rounds+2 {
		t.Fatalf("%d checkpoints: %q", len(lines), lines)
	}
	all, increments := 0, 0
	fmt.Sscan(lines[0], &all)
	for _, line := range lines[1:] {
		var n int
		fmt.Sscan(line, &n)
		increments += n
	}
	if most := 2 * rounds * pages * os.Getpagesize(); all != size || increments == 0 || increments > most {
		t.Errorf("%d bytes, then %d, at most %d", all, increments, most)
	}
	if st, err := f.Stat(); err != nil || st.Size() != size {
		t.Error(st.Size(), err)
	}
}

// An increment that fails is not forgotten, and one that works makes the file equal.
func TestIncrement(t *testing.T) {
	testkit.Needs(t, "UFFD_FEATURE_WP_ASYNC")
	f, err := os.Create(t.TempDir() + "/copy")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(1 << 20))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	tracker, err := m.Track()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	if err := work(m, 50); err != nil {
		t.Fatal(err)
	}
	readOnly, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	var log bytes.Buffer
	if err := increment(readOnly, m, tracker, &log); err == nil {
		t.Fatal("a file that cannot be written was")
	}
	if err := increment(f, m, tracker, &log); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 1<<20)
	if _, err := m.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy differs; %v", err)
	}
	log.Reset()
	if err := increment(f, m, tracker, &log); err != nil || !strings.HasPrefix(log.String(), "0 bytes in 0 spans") {
		t.Errorf("nothing was written since: %q, %v", log.String(), err)
	}
}
