package unsafebytes

import (
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"

	"github.com/mmarinus/mmap"
)

// faults reports whether f touches memory that is not there.
func faults(f func()) (is bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			_, is = r.(interface{ Addr() uintptr }) // the runtime's error for a fault has an address
		}
	}()
	f()
	return false
}

func known[M mmap.Known](t *testing.T, n int) M {
	m, err := mmap.Map[M](mmap.Anonymous(n))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var sink byte

// far is a free place, so that what is moved there leaves a hole.
func far(t *testing.T) uintptr {
	m := known[mmap.Read](t, 1<<20)
	defer m.Close()
	return m.Addr() + 1<<19
}

// TestProof calls what report.go has: each touches memory that is gone, or returns it.
func TestProof(t *testing.T) {
	const n = 64 << 10
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, make([]byte, n), 0o600); err != nil {
		t.Fatal(err)
	}
	text := func() mmap.Read {
		rw := known[mmap.ReadWrite](t, n)
		rw.WriteAt([]byte("          text"), 0)
		m, err := mmap.Protect[mmap.Read](rw)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for name, f := range map[string]func(){
		"used": func() { used(text()) },
		"returned": func() {
			b, _ := returned(name)
			sink = b[0]
		},
		"part":    func() { sink = part(text())[0] },
		"resized": func() { resized(known[mmap.ReadWrite](t, n), 1<<30) }, //mmapvet:ignore ignored the report in there is what is proven
		"moved":   func() { moved(known[mmap.ReadWrite](t, n), far(t)) },  //mmapvet:ignore ignored the report in there is what is proven
		"printed": func() { printed(text()) },
		"text":    func() { sink = firstOf(text()) },
		"ranged":  func() { ranged(text()) },
		"reader": func() {
			r, _ := reader(text())
			io.ReadAll(r)
		},
		"numbers":      func() { numbers(text()) },
		"afterProtect": func() { afterProtect(known[mmap.ReadWrite](t, n)) },
		"noneOfIt":     func() { noneOfIt(known[mmap.ReadWrite](t, n)) }, //mmapvet:ignore ignored the report in there is what is proven
		"somePath":     func() { somePath(known[mmap.Read](t, 5)) },
		"close":        func() { (&file{m: text()}).close() },
		"byHelper":     func() { byHelper(text()) },
	} {
		if !faults(f) {
			t.Errorf("%s: no fault", name)
		}
	}
	// A system call does not fault on memory that is gone, but fails.
	if err := written(text(), os.Stdout); err == nil {
		t.Error("written: no error")
	}
}

func firstOf(m mmap.Read) byte { return text(m)[0] }
