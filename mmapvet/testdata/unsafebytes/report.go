package unsafebytes

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/mmarinus/mmap"
)

func used(m mmap.Read) byte {
	b := m.UnsafeBytes()
	m.Close()
	return b[0] // want `unsafebytes: the memory of UnsafeBytes is used after Close on line 14 took it away`
}

func returned(name string) ([]byte, error) {
	m, err := mmap.Map[mmap.Read](mmap.Path(name))
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return m.UnsafeBytes(), nil // want `unsafebytes: the memory of UnsafeBytes is returned after Close`
}

func part(m mmap.Read) []byte {
	defer m.Close()
	b := m.UnsafeBytes()
	return bytes.TrimSpace(b[10:]) // want `unsafebytes: .* is returned`
}

func resized(m mmap.ReadWrite, n int) (mmap.ReadWrite, error) {
	b := m.UnsafeBytes()
	m, err := mmap.Resize(m, n)
	if err != nil {
		return m, err
	}
	b[0] = 1 // want `unsafebytes: .* Resize on line 35 took it away`
	return m, nil
}

func moved(m mmap.ReadWrite, addr uintptr) (mmap.ReadWrite, error) {
	b := m.UnsafeBytes()
	m, err := mmap.Move(m, addr)
	if err != nil {
		return m, err
	}
	copy(b, "text") // want `unsafebytes: .* Move`
	return m, nil
}

func printed(m mmap.Read) {
	b := m.UnsafeBytes()
	if err := m.Close(); err != nil {
		return
	}
	fmt.Printf("%x\n", b) // want `unsafebytes: `
}

func written(m mmap.Read, w io.Writer) error {
	b := m.UnsafeBytes()
	m.Close()
	_, err := w.Write(b) // want `unsafebytes: `
	return err
}

func text(m mmap.Read) string {
	b := m.UnsafeBytes()
	m.Close()
	return string(b) // want `unsafebytes: `
}

func ranged(m mmap.Read) (n int) {
	b := m.UnsafeBytes()
	m.Close()
	for _, c := range b { // want `unsafebytes: `
		n += int(c)
	}
	return n
}

func reader(m mmap.Read) (io.Reader, error) {
	r := bytes.NewReader(m.UnsafeBytes())
	if err := m.Close(); err != nil {
		return nil, err
	}
	return r, nil // want `unsafebytes: .* is returned`
}

func numbers(m mmap.Read) (uint32, error) {
	all, err := mmap.Slice[uint32](m.UnsafeBytes())
	if err != nil {
		return 0, err
	}
	m.Close()
	return all[3], nil // want `unsafebytes: `
}

func afterProtect(m mmap.ReadWrite) (byte, error) {
	b := m.UnsafeBytes()
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return 0, err
	}
	ro.Close()
	return b[0], nil // want `unsafebytes: `
}

func noneOfIt(m mmap.ReadWrite) (mmap.None, error) {
	b := m.UnsafeBytes()
	n, err := mmap.Protect[mmap.None](m)
	if err != nil {
		return n, err
	}
	b[0] = 1 // want `unsafebytes: `
	return n, nil
}

func somePath(m mmap.Read) (byte, error) {
	b := m.UnsafeBytes()
	if len(b) < 10 {
		m.Close()
	}
	if b[0] == 0 { // want `unsafebytes: `
		return 0, errors.New("zero")
	}
	return b[1], nil // want `unsafebytes: `
}

type file struct {
	m    mmap.Read
	data []byte
}

func (f *file) close() byte {
	f.data = f.m.UnsafeBytes()
	f.m.Close()
	return f.data[0] // want `unsafebytes: `
}

func closeAll(m mmap.Read) { m.Close() }

func byHelper(m mmap.Read) byte {
	b := m.UnsafeBytes()
	closeAll(m)
	return b[0] // want `unsafebytes: .* closeAll`
}
