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
		proof.Gone(t, name, func() func() {
			m := proof.Text(t, 0, "a text that is no record, for its length is not")
			defer m.Close()
			return f(m)
		})
	}
	file := proof.File(t, record)
	proof.Gone(t, "Contents", func() func() {
		b, _ := Contents(file)
		return func() { sink = b[0] }
	})
}

// TestExpires: the timer's goroutine ends the program.
func TestExpires(t *testing.T) {
	proof.Crashes(t, "ExpireLater", func() {
		for range 1000 {
			m := proof.Text(t, 0, "key")
			new(LRU).ExpireLater(m, 0, 3, time.Millisecond)
			m.Close()
		}
		time.Sleep(2 * time.Second)
	})
}
