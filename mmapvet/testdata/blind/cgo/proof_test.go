//go:build cgo

package cgo

import (
	"errors"
	"os"
	"testing"

	"github.com/mmarinus/mmap"

	"data/proof"
)

// TestMistakes: what is not reported is wrong all the same.
func TestMistakes(t *testing.T) {
	text := func() mmap.Read { return proof.Text(t, 0, "text") }
	proof.Crashes(t, "keptByC", func() { keptByC(text()) })
	proof.Crashes(t, "calledAfterClose", func() { calledAfterClose(text()) })
	if err := carried(proof.Mapped[mmap.ReadWrite](t, os.Getpagesize())); !errors.Is(err, mmap.ErrMoved) {
		t.Error("carried: ", err)
	}
}
