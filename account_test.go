package mmap

import (
	"errors"
	"os"
	"testing"
)

// A huge page makes no other page huge.
func TestHugePageAmongSmall(t *testing.T) {
	huge := int(withHugePages(t, 1))
	pg := int(pageSize)
	space := nowhere(t, 4*huge/pg)
	at := (space + uintptr(huge) - 1) &^ uintptr(huge-1)
	u, err := MapUnknown(Anonymous(3*huge).At(at), ProtRead|ProtWrite)
	check(t, err)
	check(t, u.Place(huge, Anonymous(huge).HugePages(0), ProtRead|ProtWrite))
	check(t, u.ProtectRange(pg, pg, ProtRead))
	check(t, u.ProtectRange(2*huge+pg, pg, ProtRead))
	wants(t, "within the huge page", u.ProtectRange(huge+pg, pg, ProtRead), os.ErrInvalid)
	locks := counted(t, "VmLck")
	check(t, u.Lock(0, pg))
	if n := counted(t, "VmLck") - locks; n != uint64(pg) {
		t.Errorf("%d bytes are locked for a page", n)
	}
	if pages, err := u.ResidentPages(0, pg); err != nil || len(pages) != 1 {
		t.Errorf("%d pages, %v", len(pages), err)
	}
	if pages, err := u.ResidentPages(huge+1, 1); err != nil || len(pages) != huge/pg {
		t.Errorf("a huge page is %d pages, %v", len(pages), err)
	}
	left, right, err := Split(u, 2*huge)
	check(t, err)
	check(t, right.Lock(pg, 1))
	if n := counted(t, "VmLck") - locks; n != uint64(2*pg) {
		t.Errorf("%d bytes are locked for two pages", n)
	}
	middle, _, err := Split(right, pg)
	check(t, err)
	wants(t, "split within the huge page", third(Split(left, huge+pg)), os.ErrInvalid)
	if u, err = Join(left, middle); err != nil || u.Len() != 2*huge+pg {
		t.Error(u, err)
	}
	check(t, u.ProtectRange(2*huge, pg, ProtNone))
	check(t, u.Place(huge, Anonymous(huge), ProtRead)) // small ones again
	check(t, u.ProtectRange(huge+pg, pg, ProtNone))
	check(t, u.Close())
	m := mapped[ReadWrite](t, Anonymous(huge).HugePages(0))
	small, err := Over[ReadWrite](m, Anonymous(huge))
	check(t, err)
	if pages, err := small.ResidentPages(0, pg); err != nil || len(pages) != 1 {
		t.Errorf("after Over %d pages, %v", len(pages), err)
	}
	check(t, small.Close())
}

// Huge pages that have grown, were advised or protected in parts are several areas
// for ever, and move all the same.
func TestMoveHugeAreas(t *testing.T) {
	huge := int(withHugePages(t, 3))
	pg := int(pageSize)
	at := (nowhere(t, 9*huge/pg) + uintptr(huge) - 1) &^ uintptr(huge-1)
	for what, areas := range map[string]func(u Unknown) error{
		"advised": func(u Unknown) error { return u.Advise(huge, huge, AdviceDontFork) },
		"protected": func(u Unknown) error {
			return errors.Join(u.ProtectRange(huge, huge, ProtRead), u.Protect(ProtRead|ProtWrite))
		},
	} {
		u := must(MapUnknown(Anonymous(3*huge).HugePages(0).At(at), ProtRead|ProtWrite))
		check(t, areas(u))
		movesWhole(t, what, u, at, huge)
	}
	m := mapped[ReadWrite](t, Anonymous(huge).HugePages(0).Reserve(3*huge).At(at))
	check(t, Grow(m, 2*huge))
	check(t, Grow(m, 3*huge))
	movesWhole(t, "grown", must(Forget(m)), at, huge)
}

func movesWhole(t *testing.T, what string, u Unknown, from uintptr, huge int) {
	t.Helper()
	for i := range 3 {
		check(t, second(u.WriteAt([]byte{byte(i + 1)}, int64(i*huge+5))))
	}
	u, err := Move(u, from+uintptr(4*huge))
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
	unmapped(t, what, from, 3*huge/int(pageSize))
	for i := range 3 {
		b := []byte{0}
		if _, err := u.ReadAt(b, int64(i*huge+5)); err != nil || b[0] != byte(i+1) {
			t.Errorf("%s: part %d has %d, %v", what, i, b[0], err)
		}
	}
	check(t, u.Close())
}

func third[A, B any](_ A, _ B, err error) error { return err }
