package unguarded

import (
	"testing"

	"github.com/mmarinus/mmap"

	"data/proof"
)

// TestProof calls what report.go has, with a mapping of a file that has been truncated: each
// touches what is not there, outside of a guard.
func TestProof(t *testing.T) {
	ro := func() mmap.Read { return proof.Cut[mmap.Read](t, 0) }
	rw := func() mmap.ReadWrite { return proof.Cut[mmap.ReadWrite](t, 0) }
	for name, f := range map[string]func(){
		"index":    func() { index(ro()) },
		"store":    func() { store(rw()) },
		"ranged":   func() { ranged(ro()) },
		"copied":   func() { copied(ro(), make([]byte, 10)) },
		"appended": func() { appended(ro()) },
		"text":     func() { text(ro()) },
		"decoded":  func() { decoded(ro()) },
		"found":    func() { found(ro(), []byte("key")) },
		"written":  func() { written(ro(), new(sum)) },
		"printed":  func() { printed(ro()) },
		"numbers":  func() { numbers(ro()) },
		"before":   func() { before(ro()) },
		"after":    func() { after(proof.Cut[mmap.Read](t, 2)) }, // what it touches in the guard is there
		"literal":  func() { literal(ro()) },
		"cleared":  func() { cleared(rw()) },
	} {
		if !proof.Faults(f) {
			t.Errorf("%s: no fault", name)
		}
	}
	// Within the guard the same is an error, and after is right.
	if _, err := after(ro()); err == nil {
		t.Error("after: no error of its guard")
	}
	proof.Crashes(t, "index", func() { index(ro()) })
}

// sum is a writer that looks at what it gets.
type sum byte

func (s *sum) Write(b []byte) (int, error) {
	for _, c := range b {
		*s += sum(c)
	}
	return len(b), nil
}
