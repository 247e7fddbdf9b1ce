package unsafebytes

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/mmarinus/mmap"

	"data/proof"
)

var sink byte

// TestProof calls what report.go has: each touches memory that is gone, or returns it.
func TestProof(t *testing.T) {
	const n = 64 << 10
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, make([]byte, n), 0o600); err != nil {
		t.Fatal(err)
	}
	text := func() mmap.Read { return proof.Text(t, n, "          text") }
	for name, f := range map[string]func(){
		"used": func() { used(text()) },
		"returned": func() {
			b, _ := returned(name)
			sink = b[0]
		},
		"part":    func() { sink = part(text())[0] },
		"resized": func() { resized(proof.Mapped[mmap.ReadWrite](t, n), 1<<30) },      //mmapvet:ignore ignored the report in there is what is proven
		"moved":   func() { moved(proof.Mapped[mmap.ReadWrite](t, n), proof.Far(t)) }, //mmapvet:ignore ignored the report in there is what is proven
		"printed": func() { printed(text()) },
		"text":    func() { sink = firstOf(text()) },
		"ranged":  func() { ranged(text()) },
		"reader": func() {
			r, _ := reader(text())
			io.ReadAll(r)
		},
		"numbers":      func() { numbers(text()) },
		"afterProtect": func() { afterProtect(proof.Mapped[mmap.ReadWrite](t, n)) },
		"noneOfIt":     func() { noneOfIt(proof.Mapped[mmap.ReadWrite](t, n)) }, //mmapvet:ignore ignored the report in there is what is proven
		"somePath":     func() { somePath(proof.Mapped[mmap.Read](t, 5)) },
		"close":        func() { (&file{m: text()}).close() },
		"byHelper":     func() { byHelper(text()) },
	} {
		if !proof.Faults(f) {
			t.Errorf("%s: no fault", name)
		}
	}
	// A system call does not fault on memory that is gone, but fails.
	if err := written(text(), os.Stdout); err == nil {
		t.Error("written: no error")
	}
}

func firstOf(m mmap.Read) byte { return text(m)[0] }
