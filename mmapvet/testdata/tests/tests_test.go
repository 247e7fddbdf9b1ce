package tests

import (
	"testing"

	"github.com/mmarinus/mmap"
)

func TestLeak(t *testing.T) {
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(1)) // want `unclosed: the mapping that Map makes`
	if err != nil {
		t.Fatal(err)
	}
	t.Log(m.Len())
}
