package unguarded

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/mmarinus/mmap"
)

func index(m mmap.Read) (byte, error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	defer pin.Unpin()
	return pin.Bytes()[0], nil // want `unguarded: the bytes of the pin of line 18 are touched outside of Guard`
}

func store(m mmap.ReadWrite) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	defer pin.Unpin()
	pin.Bytes()[0] = 1 // want `unguarded: `
	return nil
}

func ranged(m mmap.Read) (n int, err error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	defer pin.Unpin()
	for _, c := range pin.Bytes() { // want `unguarded: `
		n += int(c)
	}
	return n, nil
}

func copied(m mmap.Read, to []byte) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	defer pin.Unpin()
	copy(to, pin.Bytes()) // want `unguarded: `
	return nil
}

func appended(m mmap.Read) (out []byte, err error) {
	pin, err := m.Pin()
	if err != nil {
		return nil, err
	}
	defer pin.Unpin()
	return append(out, pin.Bytes()...), nil // want `unguarded: `
}

func text(m mmap.Read) (string, error) {
	pin, err := m.Pin()
	if err != nil {
		return "", err
	}
	defer pin.Unpin()
	return string(pin.Bytes()), nil // want `unguarded: `
}

func decoded(m mmap.Read) (uint64, error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	defer pin.Unpin()
	return binary.LittleEndian.Uint64(pin.Bytes()), nil // want `unguarded: `
}

func found(m mmap.Read, key []byte) (bool, error) {
	pin, err := m.Pin()
	if err != nil {
		return false, err
	}
	defer pin.Unpin()
	return bytes.Contains(pin.Bytes(), key), nil // want `unguarded: `
}

func written(m mmap.Read, w io.Writer) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	defer pin.Unpin()
	_, err = w.Write(pin.Bytes()[4:]) // want `unguarded: `
	return err
}

func printed(m mmap.Read) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	defer pin.Unpin()
	fmt.Printf("%q\n", pin.Bytes()) // want `unguarded: `
	return nil
}

func numbers(m mmap.Read) (uint32, error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	defer pin.Unpin()
	all, err := mmap.Slice[uint32](pin.Bytes())
	if err != nil {
		return 0, err
	}
	return all[0], nil // want `unguarded: `
}

func before(m mmap.Read) (c byte, err error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	defer pin.Unpin()
	b := pin.Bytes()
	c = b[0] // want `unguarded: `
	err = mmap.Guard(func() error { c += b[1]; return nil }, pin)
	return c, err
}

func after(m mmap.Read) (c byte, err error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	defer pin.Unpin()
	b := pin.Bytes()
	if err = mmap.Guard(func() error { c = b[1]; return nil }, pin); err != nil {
		return 0, err
	}
	return c + b[2], nil // want `unguarded: `
}

func literal(m mmap.Read) (byte, error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	defer pin.Unpin()
	at := func(i int) byte { return pin.Bytes()[i] } // want `unguarded: `
	return at(3), nil
}

func cleared(m mmap.ReadWrite) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	defer pin.Unpin()
	clear(pin.Bytes()) // want `unguarded: `
	return nil
}
