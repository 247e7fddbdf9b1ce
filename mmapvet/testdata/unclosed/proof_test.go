package unclosed

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mmarinus/mmap"

	"data/proof"
)

// TestProof calls what report.go has: each leaves a mapping behind, which nobody has any more.
func TestProof(t *testing.T) {
	dir := t.TempDir()
	text := func(name, s string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	some, short, none, missing := text("a", "a text of some length"), text("s", "short"), text("n", ""), filepath.Join(dir, "no")
	rw := func() mmap.ReadWrite { return must(mmap.Map[mmap.ReadWrite](mmap.Anonymous(2 * 4096))) }
	readable := must(mmap.Map[mmap.Read](mmap.Anonymous(4096)))
	given, _, err := readable.Release()
	if err != nil {
		t.Fatal(err)
	}
	shrinks := text("c", "a text of some length")
	cutting := func(b []byte) int { // somebody truncates the file while it is read
		if err := os.Truncate(shrinks, 0); err != nil {
			t.Fatal(err)
		}
		return int(b[0])
	}
	for name, c := range map[string]struct {
		f    func()
		more int // mappings that are there afterwards
	}{
		"never":       {func() { never(some) }, 1},
		"early":       {func() { early(short) }, 1},
		"onError":     {func() { onError(some) }, 1}, //mmapvet:ignore ignored the report in there is what is proven
		"fault":       {func() { fault(shrinks, cutting) }, 1},
		"second":      {func() { second(some, missing) }, 1},
		"oldHandle":   {func() { oldHandle(rw(), 5*4096) }, 1},
		"overwritten": {func() { overwritten(none) }, 1}, //mmapvet:ignore ignored the report in there is what is proven
		"transition":  {func() { transition(rw()) }, 1},
		"half":        {func() { half(rw()) }, 1},
		"unknown":     {func() { unknown() }, 1},
		"own":         {func() { own(some) }, 1},
		"byMust":      {func() { byMust(some) }, 1},
		"loop":        {func() { loop([]string{none, some}) }, 1},
		"flag":        {func() { flag(none) }, 1},
		"adopted":     {func() { adopted(given) }, 1},
		"workers":     {func() { workers(some, nil, 3) }, 1},
		"row":         {func() { row(rw(), some, 10) }, 2}, // what it gets stays, too
		"inLiteral":   {func() { inLiteral([]string{some})() }, 1},
	} {
		if more := proof.Left(c.f); more != c.more {
			t.Errorf("%s: %d mappings are left", name, more)
		}
	}
}
