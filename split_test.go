//go:build linux

package mmap

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
)

func TestJoin(t *testing.T) {
	pg := int(pageSize)
	m := mapped[ReadWrite](t, Anonymous(4*pg))
	l, r, err := Split(m, pg)
	check(t, err)
	_, err = Join(l, l)
	wants(t, "itself", err, os.ErrInvalid)
	rl, rr, err := Split(r, pg)
	check(t, err)
	_, err = Join(l, rr)
	wants(t, "no neighbours", err, os.ErrInvalid)
	_, err = Join(l, ReadWrite{})
	wants(t, "with a zero handle", err, ErrClosed)
	_, err = Join(l, r)
	wants(t, "with a stale handle", err, ErrMoved)
	_, err = Join(r, rl)
	wants(t, "with what it has become", err, ErrMoved)
	pin := must(rl.Pin())
	_, err = Join(l, rl)
	wants(t, "with a pinned one", err, ErrBusy)
	pin.Unpin()
	back, err := Join(rl, l) // in either order
	check(t, err)
	back, err = Join(back, rr)
	check(t, err)
	if back.Len() != 4*pg || len(must(back.Regions())) != 1 {
		t.Error(back)
	}
	// A side that is nothing but reserve has no say in the permissions.
	u, err := MapUnknown(Anonymous(pg).Reserve(2*pg), ProtNone)
	check(t, err)
	ul, ur, err := Split(u, pg)
	check(t, err)
	check(t, ul.Protect(ProtRead))
	u, err = Join(ul, ur)
	if check(t, err); u.Prot() != ProtRead {
		t.Error(u)
	}
	check(t, u.Close())
	// Join(a, b) beside Join(b, a): one wins, nobody hangs.
	for range 200 {
		a, b, err := Split(back, 2*pg)
		check(t, err)
		var won atomic.Int32
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				x, y := a, b
				if i == 1 {
					x, y = b, a
				}
				if m, err := Join(x, y); err == nil {
					won.Add(1)
					back = m
				} else if !errors.Is(err, ErrBusy) && !errors.Is(err, ErrMoved) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d of two joins have won", won.Load())
		}
	}
	check(t, back.Close())
}

// Readers beside transitions and a close: every outcome is one that some order
// allows, and the memory is unmapped once, after the last view.
// An empty side has a place by its address alone, whatever its pages would be.
func TestJoinEmptyHuge(t *testing.T) {
	if _, _, err := hugeFlags(0); err != nil {
		t.Skip(err)
	}
	m := mapped[Read](t, Anonymous(1).At(hole(t, 2)+pageSize)) // at no boundary of huge pages
	left, right, err := Split(m, 0)
	check(t, err)
	left, err = Over[Read](left, Anonymous(0).HugePages(0))
	check(t, err)
	joined, err := Join(left, right)
	check(t, err)
	check(t, joined.Close())
}
