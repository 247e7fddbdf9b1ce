package moved

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/mmarinus/mmap"
)

type store struct {
	m    mmap.ReadWrite
	old  mmap.Mapping
	list [2]mmap.Read
}

func afterProtect(m mmap.ReadWrite) error {
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return err
	}
	defer ro.Close()
	_, err = m.WriteAt([]byte("late"), 0) // want `moved: WriteAt returns ErrMoved: Protect consumed this handle on line 20`
	return err
}

func afterResize(m mmap.ReadWrite, n int) (int, error) {
	bigger, err := mmap.Resize(m, n)
	if err != nil {
		return 0, err
	}
	defer bigger.Close()
	return m.ReadAt(make([]byte, 8), 0) // want `moved: ReadAt`
}

func view(m mmap.Read, addr uintptr) error {
	there, err := mmap.Move(m, addr)
	if err != nil {
		return err
	}
	defer there.Close()
	return m.View(func(b []byte) error { // want `moved: View`
		fmt.Println(len(b))
		return nil
	})
}

func field(s *store) error {
	m, err := mmap.Resize(s.m, 8192)
	if err != nil {
		return err
	}
	err = s.m.Sync(0, 4096) // want `moved: Sync`
	s.m = m
	return err
}

func element(s *store) error {
	rw, err := mmap.Protect[mmap.ReadWrite](s.list[1])
	if err != nil {
		return err
	}
	s.m = rw
	return s.list[1].Advise(0, 4096, mmap.AdviceRandom) // want `moved: Advise`
}

func copied(m mmap.ReadWrite) error {
	other := m
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return err
	}
	defer ro.Close()
	return mmap.Grow(other, 8192) // want `moved: Grow`
}

func untyped(m mmap.ReadWrite) error {
	all := []mmap.Mapping{m.Untyped()}
	_ = all
	u := m.Untyped()
	x, err := mmap.Forget(m)
	if err != nil {
		return err
	}
	defer x.Close()
	return u.Lock(0, 1) // want `moved: Lock`
}

func reader(m mmap.Read) error {
	var r io.ReaderAt = m
	next, err := mmap.Over[mmap.Read](m, mmap.Anonymous(4096))
	if err != nil {
		return err
	}
	defer next.Close()
	_, err = r.ReadAt(make([]byte, 4), 0) // want `moved: ReadAt`
	return err
}

func splitted(m mmap.ReadWrite) error {
	left, right, err := mmap.Split(m, 4096)
	if err != nil {
		return err
	}
	defer left.Close()
	defer right.Close()
	return m.Update(func(b []byte) error { b[0] = 1; return nil }) // want `moved: Update`
}

func joined(a, b mmap.Read) error {
	m, err := mmap.Join(a, b)
	if err != nil {
		return err
	}
	defer m.Close()
	_, err = b.ReadAt(nil, 0) // want `moved: ReadAt`
	return err
}

func asserted(u mmap.Unknown) error {
	m, err := mmap.Assert[mmap.Read](u)
	if err != nil {
		return err
	}
	defer m.Close()
	return u.ProtectRange(0, 4096, mmap.ProtRead) // want `moved: ProtectRange`
}

func released(m mmap.ReadWrite) (uintptr, error) {
	addr, _, err := m.Release()
	if err != nil {
		return 0, err
	}
	return addr, m.SetName("gone") // want `moved: SetName`
}

func again(m mmap.ReadWrite) error {
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return err
	}
	defer ro.Close()
	none, err := mmap.Protect[mmap.None](m) // want `moved: Protect`
	if err != nil {
		return err
	}
	return none.Close()
}

func generic[M mmap.Handle](m M, n int) error {
	bigger, err := mmap.Resize(m, n)
	if err != nil {
		return err
	}
	defer bigger.Close()
	pin, err := m.Pin() // want `moved: Pin`
	if err == nil {
		pin.Unpin()
	}
	return err
}

func somePath(m mmap.ReadWrite, freeze bool) error {
	if freeze {
		ro, err := mmap.Protect[mmap.Read](m)
		if err != nil {
			return err
		}
		defer ro.Close()
	}
	_, err := m.WriteAt([]byte{1}, 0) // want `moved: WriteAt`
	return err
}

// seal consumes its argument.
func seal(m mmap.ReadWrite) (mmap.Read, error) {
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return mmap.Read{}, fmt.Errorf("seal: %w", err)
	}
	return ro, nil
}

func byHelper(m mmap.ReadWrite) error {
	ro, err := seal(m)
	if err != nil {
		return err
	}
	defer ro.Close()
	return m.Sync(0, 1) // want `moved: Sync returns ErrMoved: seal consumed`
}

func touch(m mmap.ReadWrite) error {
	_, err := m.WriteAt([]byte("x"), 0)
	return err
}

func intoHelper(m mmap.ReadWrite) error {
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return err
	}
	defer ro.Close()
	return touch(m) // want `moved: touch returns ErrMoved`
}

func literal(m mmap.ReadWrite) error {
	write := func(s string) error {
		_, err := m.WriteAt([]byte(s), 0) // want `moved: WriteAt`
		return err
	}
	if err := write("before"); err != nil {
		return err
	}
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return err
	}
	defer ro.Close()
	return write("after")
}

func deferred(m mmap.ReadWrite) (err error) {
	defer func() {
		err = errors.Join(err, m.Sync(0, 1)) // want `moved: Sync`
	}()
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return err
	}
	return ro.Close()
}

func drained(ctx context.Context, m mmap.ReadWrite) error {
	var ro mmap.Read
	err := m.Drain(ctx, func() (err error) {
		ro, err = mmap.Protect[mmap.Read](m)
		return err
	})
	if err != nil {
		return err
	}
	defer ro.Close()
	return m.View(func(b []byte) error { // want `moved: View`
		fmt.Println(bytes.Count(b, nil))
		return nil
	})
}

func loop(m mmap.ReadWrite) error {
	for i := range 3 {
		ro, err := mmap.Protect[mmap.Read](m) // want `moved: Protect`
		if err != nil {
			return err
		}
		fmt.Println(i)
		ro.Close()
	}
	return nil
}

func length(m mmap.ReadWrite) (int, error) {
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return 0, err
	}
	return m.Len(), ro.Close() // want `moved: Len returns 0: Protect consumed`
}

func address(m mmap.ReadWrite) (uintptr, error) {
	addr, _, err := m.Release()
	if err != nil {
		return 0, err
	}
	return m.Addr() - addr, nil // want `moved: Addr returns 0: Release`
}

func permissions(m mmap.ReadWrite) (mmap.Prot, error) {
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return 0, err
	}
	return m.Prot(), ro.Close() // want `moved: Prot returns ProtNone`
}

func lent(m mmap.ReadWrite) ([]byte, error) {
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return nil, err
	}
	return m.UnsafeBytes(), ro.Close() // want `moved: UnsafeBytes returns nil`
}
