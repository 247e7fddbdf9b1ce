//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/mmarinus/mmap"
)

func trackable(t *testing.T) {
	t.Helper()
	if err := mmap.Probe("UFFD_FEATURE_WP_ASYNC"); err != nil {
		t.Skip(err)
	}
}

// Equal requests have equal answers, whatever came between; without a rollback they have
// not.
func TestServe(t *testing.T) {
	trackable(t)
	var out bytes.Buffer
	if err := serve(1<<20, strings.NewReader("one\ntwo\none\nthree\none\n"), &out); err != nil {
		t.Fatal(err)
	}
	var answers []string
	for line := range strings.Lines(out.String()) {
		answer, rest, _ := strings.Cut(line, ",")
		answers = append(answers, answer)
		var n int
		if fmt.Sscanf(rest, " and %d bytes", &n); n < os.Getpagesize() || n > 40*os.Getpagesize() {
			t.Errorf("%d bytes went back", n)
		}
	}
	if len(answers) != 5 || answers[0] != answers[2] || answers[0] != answers[4] || answers[0] == answers[1] {
		t.Errorf("answers: %v", answers)
	}
	s, err := newSandbox(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer s.m.Close()
	first, _ := s.request("one")
	if again, _ := s.request("one"); again == first {
		t.Error("the answer does not tell whether there was a rollback")
	}
}

// After a rollback the memory is that of the snapshot, and nothing counts as written.
func TestRollback(t *testing.T) {
	trackable(t)
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
