package busy

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/mmarinus/mmap"

	"data/proof"
)

func known[M mmap.Known](t *testing.T) M { return proof.Mapped[M](t, 2*os.Getpagesize()) }

func unknown(t *testing.T) mmap.Unknown {
	return proof.Unknown(t, 4*os.Getpagesize(), mmap.ProtRead|mmap.ProtWrite)
}

// TestProof calls what report.go has: each returns ErrBusy.
func TestProof(t *testing.T) {
	short, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(10))
	if err != nil {
		t.Fatal(err)
	}
	left, right, err := mmap.Split(known[mmap.Read](t), os.Getpagesize())
	if err != nil {
		t.Fatal(err)
	}
	_, releasing := released(known[mmap.Read](t))
	for name, err := range map[string]error{
		"inView":    inView(known[mmap.ReadWrite](t)),
		"inUpdate":  inUpdate(short),
		"inRange":   inRange(unknown(t)),
		"placed":    placed(unknown(t)),
		"protected": protected(unknown(t)),
		"pinned":    pinned(known[mmap.ReadWrite](t)),
		"moved":     moved(known[mmap.Read](t), 0x7000_0000_0000),
		"split":     split(known[mmap.Read](t)),
		"joined":    joined(left, right),
		"forgotten": forgotten(known[mmap.Read](t)),
		"asserted":  asserted(unknown(t)),
		"released":  releasing,
		"over":      over(known[mmap.Read](t)),
		"grow":      (&store{known[mmap.ReadWrite](t)}).grow(),
		"untyped":   untyped(known[mmap.Read](t)),
		"nested":    nested(known[mmap.Read](t), known[mmap.Read](t)),
		"literal":   literal(known[mmap.Read](t)),
		"guarded":   guarded(context.Background(), known[mmap.Read](t)),
	} {
		if !errors.Is(err, mmap.ErrBusy) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
