// Package proof has what the proofs share: tests that run what report.go has, and look whether
// that happens which the message says.
package proof

import (
	"os"
	"runtime/debug"
	"testing"

	"github.com/mmarinus/mmap"
)

// Mapped maps n bytes of anonymous memory.
func Mapped[M mmap.Known](t *testing.T, n int) M {
	t.Helper()
	m, err := mmap.Map[M](mmap.Anonymous(n))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Unknown is that as an Unknown with permissions p.
func Unknown(t *testing.T, n int, p mmap.Prot) mmap.Unknown {
	t.Helper()
	u, err := mmap.MapUnknown(mmap.Anonymous(n), p)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Text maps at least a page that begins with a text.
func Text(t *testing.T, n int, text string) mmap.Read {
	t.Helper()
	rw := Mapped[mmap.ReadWrite](t, max(n, os.Getpagesize()))
	rw.WriteAt([]byte(text), 0)
	m, err := mmap.Protect[mmap.Read](rw)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Faults reports whether f touches memory that is not there.
func Faults(f func()) (is bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			_, is = r.(interface{ Addr() uintptr })
		}
	}()
	f()
	return false
}
