package app

import (
	"errors"
	"testing"

	"data/proof"
	"data/second/store"

	"github.com/mmarinus/mmap"
)

// TestPinned: a pin is left, so the next transition returns ErrBusy.
func TestPinned(t *testing.T) {
	db, err := store.OpenDB(proof.File(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Compact(); err != nil {
		t.Fatal(err)
	}
	if _, err := SumRange(db, 0, 0); err != nil {
		t.Error(err)
	}
	if err := db.Compact(); !errors.Is(err, mmap.ErrBusy) {
		t.Error("SumRange: ", err)
	}
	short := proof.Mapped[mmap.Read](t, 7)
	Newest([]mmap.Read{short})
	if _, err := mmap.Protect[mmap.None](short); !errors.Is(err, mmap.ErrBusy) {
		t.Error("Newest: ", err)
	}
}

// TestGone: memory that was taken away is touched.
func TestGone(t *testing.T) {
	const n = 64 << 10
	name := proof.File(t, content)
	for name, f := range map[string]func(){
		"Version16":  func() { Version16(proof.Cut[mmap.Read](t, 0)) },
		"Signature":  func() { Signature(name) },
		"ReadString": func() { s, _ := ReadString(name); sink = s[0] },
		"Halve":      func() { Halve(proof.Mapped[mmap.ReadWrite](t, n)) },                //mmapvet:ignore ignored the fault in there is what is proven
		"Rebase":     func() { Rebase(proof.Mapped[mmap.ReadWrite](t, n), proof.Far(t)) }, //mmapvet:ignore ignored the fault in there is what is proven
		"LoadTable": func() {
			table, _ := LoadTable(name)
			for name := range table.names {
				sink = name[0]
			}
		},
	} {
		proof.Gone(t, name, func() func() { return f })
	}
}
