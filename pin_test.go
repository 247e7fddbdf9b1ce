//go:build linux

package mmap

import (
	"strings"
	"testing"

	"github.com/mmarinus/mmap/internal/leftover"
	"golang.org/x/sys/unix"
)

// Unpin inside the guard leaves the pin to the guard, which gives it up.
func TestUnpinInsideGuard(t *testing.T) {
	m := mapped[ReadWrite](t, Anonymous(1))
	pin := must(m.Pin())
	check(t, Guard(func() error { pin.Unpin(); return nil }, pin))
	r, err := Protect[Read](m)
	check(t, err) // not ErrBusy
	check(t, r.Close())
}

// Errors name the call that was made, and one byte is not "1 bytes".
func TestErrorsNameTheCall(t *testing.T) {
	m := must(Map[ReadWrite](Anonymous(1)))
	u := must(MapUnknown(Anonymous(1), ProtRead))
	none := func([]byte) error { return nil }
	explained(t, "update", u.UpdateRange(0, 1, none), unix.EACCES, "update of 1 byte at 0")
	explained(t, "outside", u.ViewRange(1, 1, none), unix.EINVAL, "view of 1 byte at 1: the mapping has 1 byte:")
	explained(t, "write", second(u.WriteAt([]byte{1}, 0)), unix.EACCES, "write of 1 byte at 0")
	check(t, u.Close())
	check(t, m.Close())
	if err := m.Update(none); err == nil || err.Error() != "mmap: update: mapping is closed" {
		t.Error(err)
	}
	if _, err := m.ReadAt(make([]byte, 1), 0); err == nil || err.Error() != "mmap: read of 1 byte at 0: mapping is closed" {
		t.Error(err)
	}
}

// A shared mapping made before SealWrite could become writable, and so forbids it,
// though it is only read.
func TestSealWriteBesideReader(t *testing.T) {
	f := must(Memfd("read", 1, 0))
	defer f.Close()
	m := must(Map[Read](File(f, 0, 1).Shared()))
	wants(t, "seal beside a reader", AddSeals(f, SealWrite), unix.EBUSY)
	check(t, m.Close())
	check(t, AddSeals(f, SealWrite))
}

// The last Unpin reports that it could not unmap, and the next Close tries again.
func TestUnpinReports(t *testing.T) {
	m := ring(t)
	left, right, err := Split(m, int(pageSize))
	check(t, err)
	pin := must(left.Pin())
	check(t, left.Close())
	err = pin.Unpin()
	if err == nil {
		check(t, right.Close())
		t.Skip("before Linux 6.17 the kernel divides it")
	}
	explained(t, "unpin", err, unix.EINVAL, "unmap ")
	check(t, pin.Unpin()) // again, it does nothing
	explained(t, "close", left.Close(), unix.EINVAL, "unmap ")
	wants(t, "an access", second(left.ReadAt(make([]byte, 1), 0)), ErrClosed)
	at, size, err := right.Release()
	check(t, err)
	leftover.Keep(at, uintptr(size))
	check(t, left.Close()) // with its neighbour
	check(t, (*Pin)(nil).Unpin())
}

// An error says whether it is the mapping that is closed, or what belongs to it.
func TestClosedText(t *testing.T) {
	m := mapped[ReadWrite](t, Anonymous(100))
	pin, other := must(m.Pin()), must(m.Pin())
	check(t, pin.Unpin())
	for _, pins := range [][]*Pin{{pin}, {other, pin}} {
		explained(t, "guard", Guard(func() error { return nil }, pins...), ErrClosed, "mmap: guard: the pin has ended")
	}
	check(t, other.Unpin())
	if tracker, err := m.Track(); !lacks(t, "UFFD_FEATURE_WP_ASYNC", err) && !lacks(t, "PAGEMAP_SCAN", err) {
		check(t, err)
		explained(t, "protect", second(Protect[Read](m)), ErrBusy, "it has a Tracker, which must be closed first, or a pager, which lasts as long as the mapping")
		check(t, tracker.Close())
		for _, err := range []error{second(tracker.Take(0, 100)), tracker.Mark(0, 1), tracker.Close(), (*Tracker)(nil).Close()} {
			if explained(t, "tracker", err, ErrClosed, ": the tracker is closed"); strings.Contains(err.Error(), "mapping") {
				t.Error(err)
			}
		}
	}
	check(t, m.Close())
	explained(t, "close", m.Close(), ErrClosed, "mmap: close: mapping is closed")
}
