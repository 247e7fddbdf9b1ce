package fixes

import (
	"bytes"

	"github.com/mmarinus/mmap"
)

var last []byte

type store struct{ lines [][]byte }

func variable(m mmap.Read) error {
	return m.View(func(b []byte) error {
		last = b[:16] // want `escape`
		return nil
	})
}

func around(m mmap.Read) (head []byte, err error) {
	err = m.View(func(b []byte) error {
		head = bytes.TrimSpace(b) // want `escape`
		return nil
	})
	return head, err
}

func (s *store) element(m mmap.Read) error {
	return m.View(func(b []byte) error {
		for line := range bytes.Lines(b) {
			s.lines = append(s.lines, line) // want `escape`
		}
		return nil
	})
}

func channel(m mmap.Read, ch chan<- []byte) error {
	return m.View(func(b []byte) error {
		ch <- b[1:] // want `escape`
		return nil
	})
}

func oldHandle(m mmap.ReadWrite, n int) (err error) {
	defer m.Close()
	m, err = mmap.Resize(m, n) // want `unclosed`
	if err != nil {
		return err
	}
	_, err = m.WriteAt([]byte("end"), 0)
	return err
}
