package ignored

import (
	"os"
	"testing"

	"github.com/mmarinus/mmap"

	"data/proof"
)

func known[M mmap.Known](t *testing.T) M { return proof.Mapped[M](t, 2*os.Getpagesize()) }

// TestProof calls what report.go has. Afterwards the mapping is still there, and neither its
// old handle can close it nor anything else.
func TestProof(t *testing.T) {
	consumed := func(name string, h interface{ Close() error }, f func()) {
		t.Helper()
		before := mmap.ReadStats().Mappings
		f()
		if err := h.Close(); err == nil || mmap.ReadStats().Mappings < before {
			t.Errorf("%s: the old handle closes it", name)
		}
	}
	rw := known[mmap.ReadWrite](t)
	consumed("protect", rw, func() { protect(rw) })
	rw = known[mmap.ReadWrite](t)
	consumed("blank", rw, func() { blank(rw) })
	rw = known[mmap.ReadWrite](t)
	consumed("resize", rw, func() { resize(rw, 1) })
	m := known[mmap.Read](t)
	hole := known[mmap.Read](t)
	addr := hole.Addr()
	hole.Close()
	consumed("move", m, func() { move(m, addr) })
	m = known[mmap.Read](t)
	consumed("split", m, func() { split(m) })
	left, right, err := mmap.Split(known[mmap.Read](t), os.Getpagesize())
	if err != nil {
		t.Fatal(err)
	}
	// Joined, two are one.
	join(left, right)
	if left.Close() == nil || right.Close() == nil {
		t.Error("join: an old handle closes it")
	}
	m = known[mmap.Read](t)
	consumed("forget", m, func() { forget(m) })
	u := proof.Unknown(t, os.Getpagesize(), mmap.ProtRead)
	consumed("assert", u, func() { assert(u) })
	m = known[mmap.Read](t)
	consumed("over", m, func() { over(m) })
	rw = known[mmap.ReadWrite](t)
	consumed("inLoop", rw, func() { inLoop([]mmap.ReadWrite{rw}) })
	m = known[mmap.Read](t)
	consumed("generic", m, func() { generic(m) })

	mem := known[mmap.Read](t)
	given, _, err := mem.Release()
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(){
		"made": made, "unknown": unknown, "adopted": func() { adopted(given) },
	} {
		before := mmap.ReadStats().Mappings
		if f(); mmap.ReadStats().Mappings != before+1 {
			t.Errorf("%s: nothing is left", name)
		}
	}
	for name, f := range map[string]func(mmap.Read){"pin": pin, "blankPin": blankPin} {
		m := known[mmap.Read](t)
		f(m)
		before := mmap.ReadStats().Mappings
		if m.Close(); mmap.ReadStats().Mappings != before {
			t.Errorf("%s: Close has unmapped it", name)
		}
	}
}
