package pins

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/mmarinus/mmap"
)

func lost(m mmap.Read) (int, error) {
	pin, err := m.Pin() // want `pins: the pin is not ended where the function returns on line 16`
	if err != nil {
		return 0, err
	}
	return len(pin.Bytes()), nil
}

func early(m mmap.Read) error {
	pin, err := m.Pin() // want `pins: the pin is not ended`
	if err != nil {
		return err
	}
	if len(pin.Bytes()) < 4 {
		return errors.New("short")
	}
	return pin.Unpin()
}

func onError(m mmap.Read) error {
	pin, err := m.Pin() // want `pins: the pin is not ended`
	if err != nil {
		return err
	}
	err = mmap.Guard(func() error { fmt.Println(pin.Bytes()[0]); return nil }, pin)
	if err != nil {
		return err
	}
	return pin.Unpin()
}

func inLoop(ms []mmap.Read) error {
	for _, m := range ms {
		pin, err := m.Pin() // want `pins: the pin is not ended`
		if err != nil {
			return err
		}
		if m.Len() == 0 {
			continue
		}
		pin.Unpin()
	}
	return nil
}

func twoPins(a, b mmap.Read) error {
	p, err := a.Pin() // want `pins: the pin is not ended`
	if err != nil {
		return err
	}
	q, err := b.Pin()
	if err != nil {
		return err
	}
	defer p.Unpin()
	defer q.Unpin()
	return nil
}

func ifFound(m mmap.Read, key []byte) (bool, error) {
	pin, err := m.Pin() // want `pins: the pin is not ended`
	if err != nil {
		return false, err
	}
	if bytes.Contains(pin.Bytes(), key) {
		pin.Unpin()
		return true, nil
	}
	return false, nil
}

func pinOf(m mmap.Read) (*mmap.Pin, error) { return m.Pin() }

func ofHelper(m mmap.Read) error {
	pin, err := pinOf(m) // want `pins: the pin is not ended`
	if err != nil {
		return err
	}
	fmt.Println(len(pin.Bytes()))
	return nil
}

func afterUnpin(m mmap.Read) (byte, error) {
	pin, err := m.Pin()
	if err != nil {
		return 0, err
	}
	b := pin.Bytes()
	pin.Unpin()
	return b[0], nil // want `pins: the bytes of a pin are used after its Unpin on line 99`
}

func returned(m mmap.Read) ([]byte, error) {
	pin, err := m.Pin()
	if err != nil {
		return nil, err
	}
	defer pin.Unpin()
	return pin.Bytes(), nil // want `pins: the bytes of a pin are returned after its Unpin`
}

func partReturned(m mmap.Read) ([]byte, error) {
	pin, err := m.Pin()
	if err != nil {
		return nil, err
	}
	defer pin.Unpin()
	return pin.Bytes()[4:8], nil // want `pins: the bytes of a pin are returned`
}

func trimmed(m mmap.Read) (out []byte, err error) {
	pin, err := m.Pin()
	if err != nil {
		return nil, err
	}
	defer pin.Unpin()
	err = mmap.Guard(func() error {
		out = bytes.TrimSpace(pin.Bytes())
		return nil
	}, pin)
	return out, err // want `pins: the bytes of a pin are returned`
}

func printed(m mmap.Read) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	b := pin.Bytes()
	err = pin.Unpin()
	fmt.Printf("%q\n", b) // want `pins: the bytes of a pin are used`
	return err
}

func compared(a mmap.Read, key []byte) (bool, error) {
	pin, err := a.Pin()
	if err != nil {
		return false, err
	}
	b := pin.Bytes()
	pin.Unpin()
	return bytes.Equal(b, key), nil // want `pins: the bytes of a pin are used`
}

func copied(m mmap.Read, to []byte) error {
	pin, err := m.Pin()
	if err != nil {
		return err
	}
	from := pin.Bytes()
	pin.Unpin()
	copy(to, from) // want `pins: the bytes of a pin are used`
	return nil
}

func text(m mmap.Read) (string, error) {
	pin, err := m.Pin()
	if err != nil {
		return "", err
	}
	b := pin.Bytes()
	pin.Unpin()
	return string(b), nil // want `pins: the bytes of a pin are used`
}
