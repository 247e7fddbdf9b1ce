package fixes

import (
	"os"
	"testing"

	"github.com/mmarinus/mmap"

	"data/proof"
)

var sink byte

// TestProof: without the fixes, what is kept is touched when the mapping is closed, and a
// mapping is left.
func TestProof(t *testing.T) {
	for name, f := range map[string]func(m mmap.Read) (touch func()){
		"variable": func(m mmap.Read) func() { variable(m); return func() { sink = last[0] } },
		"around":   func(m mmap.Read) func() { b, _ := around(m); return func() { sink = b[0] } },
		"element": func(m mmap.Read) func() {
			var s store
			s.element(m)
			return func() { sink = s.lines[0][0] }
		},
		"channel": func(m mmap.Read) func() {
			ch := make(chan []byte, 1)
			channel(m, ch)
			return func() { sink = (<-ch)[0] }
		},
	} {
		proof.Gone(t, name, func() func() {
			m := proof.Text(t, 0, "a line\n")
			defer m.Close()
			return f(m)
		})
	}
	rw := proof.Mapped[mmap.ReadWrite](t, os.Getpagesize())
	if more := proof.Left(func() { oldHandle(rw, 3*os.Getpagesize()) }); more != 0 || rw.Len() != 0 {
		t.Error("oldHandle: it is closed: ", more)
	}
}
