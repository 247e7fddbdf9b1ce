//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/mmarinus/mmap/internal/testkit"
)

// Equal requests have equal sums, whatever came between; without a rollback they have not.
func TestServe(t *testing.T) {
	testkit.Needs(t, "UFFD_FEATURE_WP_ASYNC")
	var out bytes.Buffer
	if err := serve(1<<20, strings.NewReader("one\ntwo\none\nthree\none\n"), &out); err != nil {
		t.Fatal(err)
	}
	var sums []string
	for line := range strings.Lines(out.String()) {
		sum, rest, _ := strings.Cut(line, ",")
		sums = append(sums, sum)
		var n int
		if fmt.Sscanf(rest, " and %d bytes", &n); n < os.Getpagesize() || n > 40*os.Getpagesize() {
			t.Errorf("%d bytes went back", n)
		}
	}
	if len(sums) != 5 || sums[0] != sums[2] || sums[0] != sums[4] || sums[0] == sums[1] {
		t.Errorf("sums: %v", sums)
	}
	s, err := newSandbox(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer s.m.Close()
	first, _ := s.request("one")
	if again, _ := s.request("one"); again == first {
		t.Error("the sum does not tell whether there was a rollback")
	}
}

// After a rollback the memory is that of the snapshot, and nothing counts as written.
func TestRollback(t *testing.T) {
	testkit.Needs(t, "UFFD_FEATURE_WP_ASYNC")
	s, err := newSandbox(1<<20 + 3)
	if err != nil {
		t.Fatal(err)
	}
	defer s.m.Close()
	for i := range 50 {
		if _, err := s.request(fmt.Sprint("request ", i)); err != nil {
			t.Fatal(err)
		}
		if n, err := s.rollback(); err != nil || n == 0 {
			t.Fatal(n, err)
		}
		if spans, err := s.tracker.Written(0, s.m.Len()); err != nil || len(spans) > 0 {
			t.Fatal(spans, err)
		}
		err := s.m.View(func(b []byte) error {
			if !bytes.Equal(b, s.was) {
				return fmt.Errorf("the memory differs after request %d", i)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
