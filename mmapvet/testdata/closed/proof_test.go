package closed

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/mmarinus/mmap"

	"data/proof"
)

func known[M mmap.Known](t *testing.T) M { return proof.Mapped[M](t, os.Getpagesize()) }

// TestProof calls what report.go has: each returns ErrClosed.
func TestProof(t *testing.T) {
	empty, err := mmap.Map[mmap.Read](mmap.Anonymous(0))
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"read":       read(known[mmap.Read](t)),
		"write":      write(known[mmap.ReadWrite](t)),
		"view":       view(known[mmap.Read](t)),
		"pin":        pin(known[mmap.Read](t)),
		"grow":       grow(known[mmap.ReadWrite](t)),
		"transition": transition(known[mmap.ReadWrite](t)),
		"copied":     copied(known[mmap.Read](t)),
		"somePath":   somePath(empty),
		"flush":      (&file{known[mmap.ReadWrite](t)}).flush(),
		"byHelper":   byHelper(known[mmap.Read](t)),
		"inDefer":    inDefer(known[mmap.ReadWrite](t)),
		"loop":       loop(known[mmap.Read](t)),
		"drain":      drain(context.Background(), known[mmap.Read](t)),
		"generic":    generic(known[mmap.Exec](t)),
		"untyped":    untyped(known[mmap.Read](t)),
	} {
		if !errors.Is(err, mmap.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	m := known[mmap.ReadWrite](t)
	deferredFirst(m) // whose Sync has the error that nobody looks at
	if err := m.Sync(0, 1); !errors.Is(err, mmap.ErrClosed) {
		t.Error("deferredFirst: ", err)
	}
}
