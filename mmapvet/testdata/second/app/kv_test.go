package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"data/proof"
	"data/second/store"

	"github.com/mmarinus/mmap"
)

func rw(t *testing.T, n int) mmap.ReadWrite { return proof.Mapped[mmap.ReadWrite](t, n) }

// TestMoved: the call returns ErrMoved.
func TestMoved(t *testing.T) {
	if err := Put(new(store.Lifetime), rw(t, 1), []byte("more than that")); !errors.Is(err, mmap.ErrMoved) {
		t.Error("Put: ", err)
	}
	if parts, err := Carve(rw(t, 4*page), []int{page, page}); !errors.Is(err, mmap.ErrMoved) || len(parts) != 2 {
		t.Error("Carve: ", parts, err)
	}
}

// TestNothing: the old handle has a length of 0.
func TestNothing(t *testing.T) {
	ro, n, err := DrainAndCount(context.Background(), rw(t, page))
	if n != 0 || err != nil || ro.Len() != page {
		t.Error("DrainAndCount: ", ro, n, err)
	}
	given := -1
	if err := Export(rw(t, page), func(_ uintptr, n int) { given = n }); err != nil || given != 0 {
		t.Error("Export: ", given, err)
	}
	m, cut, err := TrimTo(rw(t, 4*page), page)
	if cut != 4*page || err != nil || m.Len() != page {
		t.Error("TrimTo: ", m, cut, err)
	}
}

// TestLogged: the same, but the functions say it in the log only.
func TestLogged(t *testing.T) {
	f, err := os.Open(proof.File(t, strings.Repeat("x", page)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var after mmap.ReadWrite // what AppendOne returns
	for name, c := range map[string]struct {
		f    func() error
		says func() string
	}{
		"SaveFrozen": {
			func() error { _, err := SaveFrozen(rw(t, page), []byte("x")); return err },
			func() string { return "handle was consumed by a transition" },
		},
		"AppendOne": {
			func() (err error) { after, err = AppendOne(rw(t, page), []byte("x")); return err },
			func() string { return fmt.Sprintf("moved by %d\n", after.Addr()) },
		},
		"Reload": {
			func() error { return (&Server{data: rw(t, page)}).Reload(f) },
			func() string { return "reloaded bytes: 0\n" },
		},
		"Hide": {
			func() error { _, err := Hide(rw(t, page)); return err },
			func() string { return "handle was consumed by a transition" },
		},
		"Rejoin": {
			func() error { _, err := Rejoin(rw(t, 2*page)); return err },
			func() string { return "joined at 0x0\n" },
		},
	} {
		var err error
		logged := proof.Logged(func() { err = c.f() })
		if err != nil || !strings.Contains(logged, c.says()) {
			t.Errorf("%s: %v, and it says %q", name, err, logged)
		}
	}
}
