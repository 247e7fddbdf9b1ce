package pins

import (
	"bytes"
	"fmt"
	"slices"
	"sync"

	"github.com/mmarinus/mmap"
)

func deferred(m mmap.Read) (n int, err error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	defer pin.Unpin()
	err = mmap.Guard(func() error { n = bytes.Count(pin.Bytes(), []byte{0}); return nil }, pin)
	return n, err
}

func deferredLiteral(m mmap.Read) (err error) {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	defer func() {
		if failed := pin.Unpin(); err == nil {
			err = failed
		}
	}()
	return nil
}

type tx struct {
	pin  *mmap.Pin
	data []byte
}

func begin(m mmap.Read) (*tx, error) {
	pin, err := m.Pin()
	if err != nil {
		return nil, err
	}
	return &tx{pin, pin.Bytes()}, nil
}

func (t *tx) commit() error { return t.pin.Unpin() }

func (t *tx) reopen(m mmap.Read) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	t.pin = pin
	return nil
}

func handedOn(m mmap.Read) (*mmap.Pin, []byte, error) {
	pin, err := m.Pin()
	if err != nil {
		return nil, nil, err
	}
	return pin, pin.Bytes(), nil
}

func cloned(m mmap.Read) ([]byte, error) {
	pin, err := m.Pin()
	if err != nil {
		return nil, err
	}
	defer pin.Unpin()
	return slices.Clone(pin.Bytes()), nil
}

func copiedOut(m mmap.Read) (string, error) {
	pin, err := m.Pin()
	if err != nil {
		return "", err
	}
	defer pin.Unpin()
	return string(pin.Bytes()), nil
}

func length(m mmap.Read) (int, error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	b := pin.Bytes()
	pin.Unpin()
	return len(b), nil
}

func release(m mmap.Read) (func() error, error) {
	pin, err := m.Pin()
	if err != nil {
		return nil, err
	}
	return pin.Unpin, nil
}

func withBytes(m mmap.Read) (b []byte, release func(), err error) {
	pin, err := m.Pin()
	if err != nil {
		return nil, nil, err
	}
	return pin.Bytes(), func() { pin.Unpin() }, nil
}

func inMap(m mmap.Read, all map[string]*mmap.Pin) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	all["x"] = pin
	return nil
}

func several(ms []mmap.Read) (err error) {
	var all []*mmap.Pin
	defer func() {
		for _, p := range all {
			p.Unpin()
		}
	}()
	for _, m := range ms {
		pin, err := m.Pin()
		if err != nil {
			return err
		}
		all = append(all, pin)
	}
	return nil
}

func goroutine(m mmap.Read, wg *sync.WaitGroup) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	wg.Go(func() {
		defer pin.Unpin()
		fmt.Println(len(pin.Bytes()))
	})
	return nil
}

func twice(m mmap.Read) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	defer pin.Unpin()
	return pin.Unpin()
}

func again(m mmap.Read) (byte, error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	b := pin.Bytes()
	pin.Unpin()
	if pin, err = m.Pin(); err != nil {
		return 0, err
	}
	defer pin.Unpin()
	b = pin.Bytes()
	return b[0], nil
}

func optional(m mmap.Read, use bool) error {
	var pin *mmap.Pin
	var err error
	if use {
		if pin, err = m.Pin(); err != nil {
			return err
		}
	}
	if pin != nil {
		pin.Unpin()
	}
	return nil
}

func ended(p *mmap.Pin) { p.Unpin() }

func byFunction(m mmap.Read) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	defer ended(pin)
	return nil
}

func sum(m mmap.Read) (total int, err error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	defer func() { pin.Unpin() }()
	for _, c := range pin.Bytes() {
		total += int(c)
	}
	return total, nil
}
