package mmap

import "testing"

// Unpin inside the guard leaves the pin to the guard, which gives it up.
func TestUnpinInsideGuard(t *testing.T) {
	m := mapped[ReadWrite](t, Anonymous(1))
	pin := must(m.Pin())
	check(t, Guard(func() error { pin.Unpin(); return nil }, pin))
	r, err := Protect[Read](m)
	check(t, err) // not ErrBusy
	check(t, r.Close())
}

// Neighbours that get the same permissions become one run.
func TestRunsMerge(t *testing.T) {
	pg := int(pageSize)
	for _, order := range [][]int{{1, 2}, {2, 1}, {1, 3, 2}} {
		u := must(MapUnknown(Anonymous(5*pg), ProtNone))
		for _, i := range order {
			check(t, u.ProtectRange(i*pg, pg, ProtRead))
		}
		if len(u.r.runs) != 3 {
			t.Errorf("pages %v: %v", order, u.r.runs)
		}
		check(t, u.Close())
	}
}
