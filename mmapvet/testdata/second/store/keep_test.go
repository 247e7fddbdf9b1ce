package store

import (
	"testing"
	"time"

	"github.com/mmarinus/mmap"

	"data/proof"
)

// TestKept: what was kept is touched when the mapping is closed.
func TestKept(t *testing.T) {
	for name, f := range map[string]func(m mmap.Read) (touch func()){
		"Verify": func(m mmap.Read) func() {
			err := Verify(m)
			return func() { _ = err.Error() }
		},
		"CountFast": func(m mmap.Read) func() {
			in := NewInterner()
			in.CountFast(m)
			return func() {
				for word := range in.seen {
					sink = word[0]
				}
			}
		},
		"Status": func(m mmap.Read) func() {
			Status(m)
			return func() { LastHeader() }
		},
	} {
		m := proof.Text(t, 0, "a text that is no record, for its length is not")
		touch := f(m)
		m.Close()
		if !proof.Faults(touch) {
			t.Errorf("%s: no fault", name)
		}
	}
	b, err := Contents(proof.File(t, record))
	if err != nil || !proof.Faults(func() { sink = b[0] }) {
		t.Error("Contents: no fault", err)
	}
}

// TestExpires: the timer's goroutine ends the program.
func TestExpires(t *testing.T) {
	proof.Crashes(t, "ExpireLater", func() {
		m := proof.Text(t, 0, "key")
		if new(LRU).ExpireLater(m, 0, 3, 100*time.Millisecond) == nil {
			m.Close()
		}
		time.Sleep(10 * time.Second)
	})
}
