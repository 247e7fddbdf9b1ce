package unsafebytes

import (
	"bytes"
	"fmt"

	"github.com/mmarinus/mmap"
)

func beforeClose(m mmap.Read) byte {
	b := m.UnsafeBytes()
	first := b[0]
	m.Close()
	return first
}

func deferredClose(m mmap.Read) int {
	defer m.Close()
	n := 0
	for _, c := range m.UnsafeBytes() {
		n += int(c)
	}
	return n
}

func copied(m mmap.Read) []byte {
	defer m.Close()
	return bytes.Clone(m.UnsafeBytes())
}

func copiedText(m mmap.Read) string {
	defer m.Close()
	return string(m.UnsafeBytes()[:10])
}

func kept(m mmap.Read) []byte { return m.UnsafeBytes() }

func both(name string) (mmap.Read, []byte, error) {
	m, err := mmap.Map[mmap.Read](mmap.Path(name))
	if err != nil {
		return m, nil, err
	}
	return m, m.UnsafeBytes(), nil
}

func protected(m mmap.ReadWrite) (mmap.Read, byte, error) {
	b := m.UnsafeBytes()
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return ro, 0, err
	}
	return ro, b[0], nil
}

func failedResize(m mmap.ReadWrite) (mmap.ReadWrite, error) {
	b := m.UnsafeBytes()
	m, err := mmap.Resize(m, 100)
	if err != nil {
		b[0] = 1
	}
	return m, err
}

func failedClose(m mmap.Read) byte {
	b := m.UnsafeBytes()
	if err := m.Close(); err != nil {
		return b[0]
	}
	return 0
}

func pinned(m mmap.Read) (byte, error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	defer pin.Unpin()
	b := m.UnsafeBytes()
	m.Close()
	return b[0], nil // the pin keeps it
}

func inView(m mmap.Read) error {
	b := m.UnsafeBytes()
	return m.View(func([]byte) error {
		m.Close()
		fmt.Println(b[0])
		return nil
	})
}

func length(m mmap.Read) int {
	b := m.UnsafeBytes()
	m.Close()
	return len(b)
}

func again(m mmap.ReadWrite, n int) (mmap.ReadWrite, error) {
	b := m.UnsafeBytes()
	b[0] = 1
	m, err := mmap.Resize(m, n)
	if err != nil {
		return m, err
	}
	b = m.UnsafeBytes()
	b[0] = 2
	return m, nil
}

func other(m, n mmap.Read) byte {
	b := m.UnsafeBytes()
	n.Close()
	return b[0]
}

func split(m mmap.Read) (mmap.Read, mmap.Read, byte, error) {
	b := m.UnsafeBytes()
	l, r, err := mmap.Split(m, 4096)
	if err != nil {
		return l, r, 0, err
	}
	return l, r, b[0], nil
}

func (f *file) reset() {
	f.m.Close()
	f.data = nil
}

func (f *file) reopened(m mmap.Read) byte {
	f.data = f.m.UnsafeBytes()
	f.m.Close()
	f.m, f.data = m, m.UnsafeBytes()
	return f.data[0]
}

func forgotten(m mmap.Read) (mmap.Unknown, byte, error) {
	b := m.UnsafeBytes()
	u, err := mmap.Forget(m)
	if err != nil {
		return u, 0, err
	}
	return u, b[0], nil
}

func sealed(m mmap.Read) (byte, error) {
	b := m.UnsafeBytes()
	if err := m.Seal(); err != nil {
		return 0, err
	}
	m.Close()
	return b[0], nil
}
