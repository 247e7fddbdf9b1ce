package tests

import (
	"testing"

	"data/proof"
)

func TestProof(t *testing.T) {
	if more := proof.Left(func() { TestLeak(t) }); more != 1 {
		t.Errorf("%d mappings are left", more)
	}
}
