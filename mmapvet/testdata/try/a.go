package try

import "github.com/mmarinus/mmap"

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func a(m mmap.Read) {
	pin := must(m.Pin())
	defer pin.Unpin()
	println(len(pin.Bytes()))
}

func b(m mmap.Read) error {
	pin := must(m.Pin())
	err := mmap.Guard(func() error { pin.Unpin(); return nil }, pin)
	return err
}
