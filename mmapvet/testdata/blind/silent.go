// Package blind has mistakes that the tool does not see. Each is a mistake all the same: when
// one is reported some day, it moves to the data of its category.
package blind

import (
	"reflect"
	"sync/atomic"
	"time"

	"github.com/mmarinus/mmap"

	"data/blind/others"
)

type viewer interface {
	ReadAt(p []byte, off int64) (int, error)
}

var registered viewer

func register(v viewer) { registered = v }

// A handle behind an interface that somebody else has made.
func behindInterface(m mmap.Read) error {
	register(m)
	ro, err := mmap.Protect[mmap.None](m)
	if err != nil {
		return err
	}
	defer ro.Close()
	_, err = registered.ReadAt(make([]byte, 1), 0)
	return err
}

// A function value of somebody else.
func byFunctionValue(m mmap.Read, use func(mmap.Read) error) error {
	none, err := mmap.Protect[mmap.None](m)
	if err != nil {
		return err
	}
	defer none.Close()
	return use(m)
}

var settings = map[string]any{}

func set(name string, v any) { settings[name] = v }

// A handle behind any.
func behindAny(m mmap.Read) error {
	set("m", m)
	none, err := mmap.Protect[mmap.None](m)
	if err != nil {
		return err
	}
	defer none.Close()
	return settings["m"].(mmap.Read).Sync(0, 1)
}

// Reflection.
func byReflection(m mmap.Read) int {
	none, err := mmap.Protect[mmap.None](m)
	if err != nil {
		return 0
	}
	defer none.Close()
	return int(reflect.ValueOf(m).MethodByName("Len").Call(nil)[0].Int())
}

// An element by a computed index.
func computed(ms []mmap.Read, i int) error {
	none, err := mmap.Protect[mmap.None](ms[i])
	if err != nil {
		return err
	}
	defer none.Close()
	return ms[len(ms)-1].Sync(0, 1)
}

// An element of a map.
func ofMap(ms map[string]mmap.Read, name string) error {
	none, err := mmap.Protect[mmap.None](ms[name])
	if err != nil {
		return err
	}
	defer none.Close()
	return ms[name].Sync(0, 1)
}

type holder struct{ m mmap.Read }

// Two names of one struct.
func twoNames(a, b *holder) error {
	none, err := mmap.Protect[mmap.None](a.m)
	if err != nil {
		return err
	}
	defer none.Close()
	return b.m.Sync(0, 1)
}

// A goroutine that is waited for in another way than Wait, a receive or a select. This wait is
// too short.
func slept(m mmap.Read) error {
	return m.View(func(b []byte) error {
		var done atomic.Bool
		go func() {
			_ = b[0]
			done.Store(true)
		}()
		for !done.Load() {
			time.Sleep(time.Millisecond)
			break
		}
		return nil
	})
}

type cursor struct {
	pin *mmap.Pin
	b   []byte
}

func newCursor(m mmap.Read) (*cursor, error) {
	pin, err := m.Pin()
	if err != nil {
		return nil, err
	}
	return &cursor{pin, pin.Bytes()}, nil
}

// A pin in a struct that another function has made.
func inStruct(m mmap.Read) (byte, error) {
	c, err := newCursor(m)
	if err != nil {
		return 0, err
	}
	c.pin.Unpin()
	return c.b[0], nil
}

func (h *holder) View(f func(b []byte) error) error { return h.m.View(f) }

func (h *holder) freeze() error {
	none, err := mmap.Protect[mmap.None](h.m)
	if err == nil {
		none.Close()
	}
	return err
}

// A transition in a method, within a view by another method.
func byMethods(h *holder) error {
	return h.View(func(b []byte) error { return h.freeze() })
}

// Code of others that keeps the memory of a view.
func keptByOthers(m mmap.Read) (byte, error) {
	err := m.View(func(b []byte) error {
		others.Keep(b[:1])
		return nil
	})
	if err != nil {
		return 0, err
	}
	m.Close()
	return others.Last()[0], nil
}

// The same with the bytes of a pin.
func pinnedForOthers(m mmap.Read) (byte, error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	others.Keep(pin.Bytes())
	pin.Unpin()
	return others.Last()[0], nil
}

// Code of others that keeps a mapping, and closes it never.
func heldByOthers(name string) error {
	m, err := mmap.Map[mmap.Read](mmap.Path(name))
	if err != nil {
		return err
	}
	others.Hold(m)
	return m.Prefault(0, m.Len())
}
