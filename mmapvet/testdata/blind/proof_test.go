package blind

import (
	"errors"
	"os"
	"testing"

	"github.com/mmarinus/mmap"

	"data/proof"
)

// TestMistakes: what is not reported is wrong all the same. Of slept it is left to luck whether
// the goroutine is too late.
func TestMistakes(t *testing.T) {
	ro := func() mmap.Read { return proof.Text(t, 0, "text") }
	m := ro()
	same := &holder{ro()}
	for name, err := range map[string]error{
		"behindInterface": behindInterface(ro()),
		"byFunctionValue": byFunctionValue(m, func(m mmap.Read) error { return m.Sync(0, 1) }),
		"behindAny":       behindAny(ro()),
		"computed":        computed([]mmap.Read{ro()}, 0),
		"ofMap":           ofMap(map[string]mmap.Read{"m": ro()}, "m"),
		"twoNames":        twoNames(same, same),
	} {
		if !errors.Is(err, mmap.ErrMoved) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := byReflection(ro()); n != 0 {
		t.Error("byReflection: ", n)
	}
	if err := byMethods(&holder{ro()}); !errors.Is(err, mmap.ErrBusy) {
		t.Error("byMethods: ", err)
	}
	for name, f := range map[string]func(){
		"inStruct":        func() { inStruct(proof.Cut[mmap.Read](t, 0)) },
		"keptByOthers":    func() { keptByOthers(ro()) },
		"pinnedForOthers": func() { pinnedForOthers(proof.Cut[mmap.Read](t, 0)) },
	} {
		if !proof.Faults(f) {
			t.Errorf("%s: no fault", name)
		}
	}
	if more := proof.Left(func() { heldByOthers(os.Args[0]) }); more != 1 {
		t.Errorf("heldByOthers: %d mappings are left", more)
	}
}
