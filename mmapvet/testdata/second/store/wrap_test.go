package store

import (
	"os"
	"testing"

	"data/proof"
)

// TestLeft: a mapping is left, and nobody has it.
func TestLeft(t *testing.T) {
	short := proof.File(t, "short")
	f, err := os.Open(short)
	if err != nil {
		t.Fatal(err)
	}
	f.Close() // so that it cannot be mapped
	for name, call := range map[string]func() error{
		"OpenChecked": func() error { _, err := OpenChecked(short, "a long magic"); return err },
		"OpenNamed":   func() error { _, err := OpenNamed(short, 100); return err },
		"Rewrite":     func() error { _, err := Rewrite(f, 4096); return err },
	} {
		more := proof.Left(func() { err = call() })
		if err == nil || more != 1 {
			t.Errorf("%s: %d mappings are left, with error %v", name, more, err)
		}
	}
}

func TestFinish(t *testing.T) {
	s, err := NewSegment(4096)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.Finish(); n != 0 || err != nil {
		t.Error(n, err)
	}
}
