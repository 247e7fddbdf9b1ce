package moved

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/mmarinus/mmap"
)

func page() int { return os.Getpagesize() }

func rw(t *testing.T) mmap.ReadWrite {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(2 * page()))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func ro(t *testing.T) mmap.Read {
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(page()))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

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
		"splitted":     splitted(rwOf(t, 3*4096)),
		"joined":       joined(halves(t)),
		"asserted":     asserted(unknown(t)),
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

func rwOf(t *testing.T, n int) mmap.ReadWrite {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(n))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func halves(t *testing.T) (a, b mmap.Read) {
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(2 * page()))
	if err != nil {
		t.Fatal(err)
	}
	if a, b, err = mmap.Split(m, page()); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func unknown(t *testing.T) mmap.Unknown {
	u, err := mmap.MapUnknown(mmap.Anonymous(page()), mmap.ProtRead)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
