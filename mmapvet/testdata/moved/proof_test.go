package moved

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/mmarinus/mmap"

	"data/proof"
)

func rw(t *testing.T) mmap.ReadWrite { return proof.Mapped[mmap.ReadWrite](t, 2*page()) }

func ro(t *testing.T) mmap.Read { return proof.Mapped[mmap.Read](t, page()) }

func page() int { return os.Getpagesize() }

func free(t *testing.T) uintptr {
	m := rw(t)
	defer m.Close()
	return m.Addr()
}

func second[T any](_ T, err error) error { return err }

// TestProof calls what report.go has: each returns what the message says.
func TestProof(t *testing.T) {
	for name, err := range map[string]error{
		"afterProtect": afterProtect(rw(t)),
		"afterResize":  second(afterResize(rw(t), 3*page())),
		"view":         view(ro(t), free(t)),
		"field":        field(&store{m: rw(t)}),
		"element":      element(&store{list: [2]mmap.Read{{}, ro(t)}}),
		"copied":       copied(rw(t)),
		"untyped":      untyped(rw(t)),
		"reader":       reader(ro(t)),
		"splitted":     splitted(proof.Mapped[mmap.ReadWrite](t, 3*4096)),
		"joined":       joined(halves(t)),
		"asserted":     asserted(proof.Unknown(t, page(), mmap.ProtRead)),
		"released":     second(released(rw(t))),
		"again":        again(rw(t)),
		"generic":      generic(rw(t), page()),
		"somePath":     somePath(rw(t), true),
		"byHelper":     byHelper(rw(t)),
		"intoHelper":   intoHelper(rw(t)),
		"literal":      literal(rw(t)),
		"deferred":     deferred(rw(t)),
		"drained":      drained(context.Background(), rw(t)),
		"loop":         loop(rw(t)),
	} {
		if !errors.Is(err, mmap.ErrMoved) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n, err := length(rw(t)); n != 0 || err != nil {
		t.Error("length: ", n, err)
	}
	if n, err := address(rw(t)); n == 0 || err != nil { // 0 - addr
		t.Error("address: ", n, err)
	}
	if p, err := permissions(rw(t)); p != mmap.ProtNone || err != nil {
		t.Error("permissions: ", p, err)
	}
	if b, err := lent(rw(t)); b != nil || err != nil {
		t.Error("lent: ", b, err)
	}
}

func halves(t *testing.T) (left, right mmap.Read) {
	left, right, err := mmap.Split(proof.Mapped[mmap.Read](t, 2*page()), page())
	if err != nil {
		t.Fatal(err)
	}
	return left, right
}
