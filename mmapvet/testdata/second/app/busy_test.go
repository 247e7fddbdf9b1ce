package app

import (
	"errors"
	"hash/crc32"
	"testing"

	"data/proof"
	"data/second/store"

	"github.com/mmarinus/mmap"
)

// TestBusy: the transition returns ErrBusy.
func TestBusy(t *testing.T) {
	done := proof.Mapped[mmap.ReadWrite](t, page)
	done.WriteAt([]byte("END\n"), page-4)
	dirty := proof.Mapped[mmap.ReadWrite](t, page)
	dirty.WriteAt([]byte("x"), 0)
	_, upgrading := Upgrade(proof.Mapped[mmap.Read](t, page), crc32.ChecksumIEEE(make([]byte, page)))
	_, relocating := Relocate(dirty, proof.Far(t))
	_, _, splitting := SplitHot(proof.Mapped[mmap.Read](t, 2*page))
	_, releasing := ReleaseCold(proof.Mapped[mmap.Read](t, page))
	for name, err := range map[string]error{
		"SealIfDone":  SealIfDone(done, new(store.Lifetime)),
		"Upgrade":     upgrading,
		"Relocate":    relocating,
		"SplitHot":    splitting,
		"ReleaseCold": releasing,
	} {
		if !errors.Is(err, mmap.ErrBusy) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
