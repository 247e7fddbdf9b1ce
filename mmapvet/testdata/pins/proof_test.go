package pins

import (
	"errors"
	"os"
	"testing"

	"github.com/mmarinus/mmap"

	"data/proof"
)

// TestLost calls what report.go has of pins that are not ended: from then on a transition is
// ErrBusy.
func TestLost(t *testing.T) {
	shut := proof.Mapped[mmap.Read](t, 1)
	shut.Close()
	for name, f := range map[string]func() mmap.Read{
		"lost":     func() mmap.Read { m := proof.Text(t, 0, ""); lost(m); return m },
		"early":    func() mmap.Read { m := proof.Mapped[mmap.Read](t, 3); early(m); return m },
		"inLoop":   func() mmap.Read { m := proof.Mapped[mmap.Read](t, 0); inLoop([]mmap.Read{m}); return m },
		"twoPins":  func() mmap.Read { m := proof.Text(t, 0, ""); twoPins(m, shut); return m },
		"ifFound":  func() mmap.Read { m := proof.Text(t, 0, ""); ifFound(m, []byte("key")); return m },
		"ofHelper": func() mmap.Read { m := proof.Text(t, 0, ""); ofHelper(m); return m },
		"onError":  func() mmap.Read { m := proof.Cut[mmap.Read](t, 0); onError(m); return m },
	} {
		if _, err := mmap.Protect[mmap.None](f()); !errors.Is(err, mmap.ErrBusy) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

var sink byte

// TestBytes calls what report.go has of bytes after Unpin: when the mapping was closed
// meanwhile, they are gone.
func TestBytes(t *testing.T) {
	closing := func(f func(m mmap.Read)) func() {
		return func() {
			m := proof.Text(t, 0, "key and text")
			other, err := m.Pin() // so that Close leaves it to the pin of the function
			if err != nil {
				t.Fatal(err)
			}
			afterClose = func() { m.Close(); other.Unpin() }
			f(m)
		}
	}
	for name, f := range map[string]func(m mmap.Read){
		"returned":     func(m mmap.Read) { b, _ := returned(m); afterClose(); sink = b[0] },
		"partReturned": func(m mmap.Read) { b, _ := partReturned(m); afterClose(); sink = b[0] },
		"trimmed":      func(m mmap.Read) { b, _ := trimmed(m); afterClose(); sink = b[0] },
	} {
		if !proof.Faults(closing(f)) {
			t.Errorf("%s: no fault", name)
		}
	}
	// The others touch the bytes themselves. The file is cut before, so that no page is there.
	for name, f := range map[string]func(){
		"afterUnpin": func() { afterUnpin(proof.Cut[mmap.Read](t, 0)) },
		"printed":    func() { printed(proof.Cut[mmap.Read](t, 0)) },
		"compared":   func() { compared(proof.Cut[mmap.Read](t, 0), make([]byte, os.Getpagesize())) },
		"copied":     func() { copied(proof.Cut[mmap.Read](t, 0), make([]byte, 10)) },
		"text":       func() { text(proof.Cut[mmap.Read](t, 0)) },
	} {
		if !proof.Faults(f) {
			t.Errorf("%s: no fault", name)
		}
	}
}

var afterClose func()
