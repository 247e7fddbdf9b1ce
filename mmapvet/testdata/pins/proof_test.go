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
		"onError":  func() mmap.Read { m := cut(t); onError(m); return m },
	} {
		if _, err := mmap.Protect[mmap.None](f()); !errors.Is(err, mmap.ErrBusy) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// cut returns a mapping whose file has been truncated: touching it is a fault.
func cut(t *testing.T) mmap.Read {
	f, err := mmap.Memfd("cut", int64(os.Getpagesize()), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := mmap.Map[mmap.Read](mmap.Whole(f).Shared())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	return m
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
		"afterUnpin": func() { afterUnpin(cut(t)) },
		"printed":    func() { printed(cut(t)) },
		"compared":   func() { compared(cut(t), make([]byte, os.Getpagesize())) },
		"copied":     func() { copied(cut(t), make([]byte, 10)) },
		"text":       func() { text(cut(t)) },
	} {
		if !proof.Faults(f) {
			t.Errorf("%s: no fault", name)
		}
	}
}

var afterClose func()
