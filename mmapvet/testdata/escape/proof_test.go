package escape

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/mmarinus/mmap"

	"data/proof"
)

const content = "a text of words\nand of lines\x00 with a zero\n"

var sink byte

// TestProof calls what report.go has, closes the mapping, and touches what was kept: a fault.
func TestProof(t *testing.T) {
	for name, f := range map[string]func(m mmap.Read) (touch func()){
		"global": func(m mmap.Read) func() { global(m); return func() { sink = last[0] } },
		"result": func(m mmap.Read) func() { b, _ := result(m); return func() { sink = b[0] } },
		"field":  func(m mmap.Read) func() { var x index; x.field(m); return func() { sink = x.raw[0] } },
		"elements": func(m mmap.Read) func() {
			var x index
			x.elements(m)
			return func() { sink = x.keys[0][0] }
		},
		"mapped": func(m mmap.Read) func() {
			x := index{byID: map[string][]byte{}}
			x.mapped(m)
			return func() { sink = x.byID["a te"][0] }
		},
		"channel": func(m mmap.Read) func() {
			lines := make(chan []byte, 10)
			channel(m, lines)
			return func() { sink = (<-lines)[0] }
		},
		"inError": func(m mmap.Read) func() {
			var failed *parseError
			errors.As(inError(m), &failed)
			return func() { sink = failed.near[0] }
		},
		"words":   func(m mmap.Read) func() { all, _ := words(m); return func() { sink = all[0][0] } },
		"reader":  func(m mmap.Read) func() { r, _ := reader(m); return func() { io.ReadAll(r) } },
		"closure": func(m mmap.Read) func() { count, _ := closure(m); return func() { count() } },
		"lender":  func(m mmap.Read) func() { b, _ := lender(&store{m: m}); return func() { sink = b[0] } },
		"method":  func(m mmap.Read) func() { s := &store{m: m}; method(s); return func() { sink = s.cache[0] } },
		"helper":  func(m mmap.Read) func() { s := &store{m: m}; helper(s); return func() { sink = s.cache[0] } },
		"pooled": func(m mmap.Read) func() {
			pooled(m)
			return func() {
				for b, ok := pool.Get().([]byte); ok; b, ok = pool.Get().([]byte) {
					sink = b[0]
				}
			}
		},
		"iterator":      func(m mmap.Read) func() { all := iterator(m); return func() { sink = all[0][0] } },
		"throughHelper": func(m mmap.Read) func() { c := throughHelper(m); return func() { sink = c[0] } },
		"chunks":        func(m mmap.Read) func() { all, _ := chunks(m); return func() { sink = all[0][0] } },
		"text":          func(m mmap.Read) func() { s, _ := text(m); return func() { sink = s[0] } },
	} {
		proof.Gone(t, name, func() func() {
			m := proof.Text(t, 0, content)
			defer m.Close()
			return f(m)
		})
	}
	// These touch it themselves, after the view. The file is cut before it, so that no page is
	// there, and no view is there either that would make an error of the fault.
	for name, f := range map[string]func(){
		"around":  func() { around(proof.Cut[mmap.Read](t, 0)) },
		"numbers": func() { numbers(proof.Cut[mmap.Read](t, 0)) },
		"pointer": func() { pointer(proof.Cut[mmap.ReadWrite](t, 0)) },
	} {
		if !proof.Faults(f) {
			t.Errorf("%s: no fault", name)
		}
	}
}

// TestCrash: a fault in another goroutine ends the program.
func TestCrash(t *testing.T) {
	for name, f := range map[string]func(m mmap.Read) error{"later": later, "goroutine": goroutine} {
		proof.Crashes(t, name, func() {
			for range 10_000 {
				m := proof.Text(t, 0, content)
				f(m)
				m.Close()
			}
			time.Sleep(2 * time.Second)
		})
	}
}
