package app

import (
	"os"
	"strings"
	"testing"

	"data/proof"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

// TestIgnored: the mapping is still there afterwards, and its old handle does not close it.
func TestIgnored(t *testing.T) {
	w := func() mmap.ReadWrite { return proof.Mapped[mmap.ReadWrite](t, page) }
	x := proof.Mapped[mmap.ReadExec](t, page)
	emitted, final := w(), w()
	for name, c := range map[string]struct {
		m mmap.Mapping
		f func()
	}{
		"Emit":     {emitted.Untyped(), func() { Emit(emitted, []byte("code")) }},
		"Patch":    {x.Untyped(), func() { Patch(x, 0, []byte("code")) }},
		"Finalize": {final.Untyped(), func() { proof.Logged(func() { Finalize(final) }) }},
	} {
		if more := proof.Left(func() { c.f(); c.m.Close() }); more != 0 || c.m.Len() != 0 {
			t.Errorf("%s: the old handle closes it: %d %v", name, more, c.m)
		}
	}
	held := proof.Mapped[mmap.ReadExec](t, page)
	if more := proof.Left(func() { HoldStill(held, func() {}); held.Close() }); more != 0 {
		t.Error("HoldStill: Close unmaps it")
	}
	name := proof.File(t, "text")
	if more := proof.Left(func() { Cache(name) }); more != 1 {
		t.Errorf("Cache: %d mappings are left", more)
	}
}

// TestCompile: where the kernel lets no memory become executable, the mapping is left. That
// cannot be taken back, so it is done in a child.
func TestCompile(t *testing.T) {
	here, out, failed := proof.InChild(t, "Compile")
	if !here {
		if os.Getenv("CHILD") == "" && failed {
			t.Error(out)
		}
		if strings.Contains(out, "--- SKIP") {
			t.Skip(out)
		}
		return
	}
	if err := unix.Prctl(unix.PR_SET_MDWE, unix.PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0); err != nil {
		t.Skip("the kernel has no PR_SET_MDWE, which came with Linux 6.3: ", err)
	}
	var err error
	more := proof.Left(func() { _, err = Compile(func([]byte) error { return nil }) })
	if err == nil || more != 1 {
		t.Errorf("%d mappings are left, with error %v", more, err)
	}
}

func TestRing(t *testing.T) {
	r, err := NewRing(2 * page)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Reset(); err != nil {
		t.Fatal(err)
	}
	logged := proof.Logged(func() {
		if small, err := r.Shrink(page); err != nil || small.Close() != nil {
			t.Error(err)
		}
	})
	if !strings.Contains(logged, "ring: 0 -> 4096") {
		t.Error("Shrink: ", logged)
	}
	if !proof.Faults(func() { sink = byte(r.Tail()) }) {
		t.Error("Reset: no fault")
	}
}
