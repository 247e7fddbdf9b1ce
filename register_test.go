//go:build linux

package mmap

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The register knows every mapping that is there, wherever the collector has it.
func TestReadStats(t *testing.T) {
	if !byItself(t) {
		return
	}
	pg := int(pageSize)
	before := ReadStats()
	kept := func() int { nursery.Lock(); defer nursery.Unlock(); return len(nursery.kept) }
	keptBefore := kept()
	is := func(what string, mappings, bytes int) {
		t.Helper()
		now := ReadStats()
		if now.Mappings-before.Mappings != mappings || now.Bytes-before.Bytes != int64(bytes) {
			t.Errorf("%s: %d mappings with %d bytes, want %d with %d", what, now.Mappings-before.Mappings, now.Bytes-before.Bytes, mappings, bytes)
		}
	}
	m := must(Map[ReadWrite](Anonymous(3*pg + 1)))
	is("one", 1, 3*pg+1)
	for range 3 {
		runtime.GC() // it gets its finalizer
	}
	is("old", 1, 3*pg+1)
	left, right, err := Split(m, pg)
	check(t, err)
	is("split", 2, 3*pg+1)
	pin := must(right.Pin())
	check(t, right.Close())
	is("closed and pinned", 2, 3*pg+1)
	check(t, pin.Unpin())
	is("unpinned", 1, pg)
	left, err = Resize(left, 5*pg)
	check(t, err)
	is("resized", 1, 5*pg)
	lent := must(Map[ReadWrite](Anonymous(pg))).UnsafeBytes()
	for range 3 {
		runtime.GC()
	}
	is("lent, and its handle is gone", 2, 6*pg)
	if h, off, ok := Find(lent[5:]); !ok || off != 5 || h.Len() != pg {
		t.Errorf("found %v, %d, %v", h, off, ok)
	} else {
		check(t, h.Close())
	}
	is("closed by what was found", 1, 5*pg)
	if n := kept(); n != keptBefore {
		t.Errorf("the register holds %d regions, before %d", n, keptBefore)
	}
	_, _, err = left.Release()
	check(t, err)
	is("released", 0, 0)

	if n := ReadStats().Collected - before.Collected; n != 0 {
		t.Errorf("%d are collected", n)
	}
	func() { must(Map[Read](Anonymous(pg))) }()
	for range 20 {
		if runtime.GC(); ReadStats().Collected > before.Collected {
			break
		}
	}
	if n := ReadStats().Collected - before.Collected; n != 1 {
		t.Errorf("%d are collected", n)
	}
	is("collected", 0, 0)
	f, _ := scratch(t, pg)
	cut := mapped[Read](t, File(f, 0, pg))
	check(t, f.Truncate(0))
	cut.ReadAt(make([]byte, 1), 0)
	if n := ReadStats().Faults - before.Faults; n != 1 {
		t.Errorf("%d faults", n)
	}
}

// GuardAll guards what is mapped, pinned or not, and nothing else.
func TestGuardAll(t *testing.T) {
	pg := int(pageSize)
	f, _ := scratch(t, 2*pg)
	for _, old := range []bool{false, true} {
		m := mapped[ReadWrite](t, File(f, 3, 2*pg-3).Shared())
		b := m.UnsafeBytes()
		if old {
			runtime.GC()
			runtime.GC()
		}
		check(t, f.Truncate(0))
		err := GuardAll(func() error { b[pg] = 1; return nil })
		var fault *FaultError
		if !errors.As(err, &fault) || fault.Offset != pg || fault.Path != f.Name() || fault.PCs == nil || !errors.Is(err, ErrTruncated) {
			t.Errorf("%v, %+v", err, fault)
		}
		check(t, f.Truncate(int64(2*pg)))
		inside := GuardAll(func() error { return m.View(func([]byte) error { return errors.New("own") }) })
		if inside == nil || inside.Error() != "own" {
			t.Error(inside)
		}
		check(t, GuardAll(func() error { b[pg] = 2; return nil }))
	}
	func() {
		defer func() {
			if p := recover(); p != "mine" {
				t.Errorf("recovered %v", p)
			}
		}()
		GuardAll(func() error { panic("mine") })
	}()
	gone := must(Map[Read](Anonymous(pg)))
	at := gone.Addr()
	check(t, gone.Close())
	child, out, err := inChild(t)
	if child {
		GuardAll(func() error { load(at); return nil }) // what nobody has any more ends the program
		return
	}
	if err == nil {
		t.Errorf("a fault elsewhere has not ended the program:\n%s", out)
	}
}

// Find goes by what is there now: after each change of the address, and for many.
func TestFind(t *testing.T) {
	pg := int(pageSize)
	at := nowhere(t, 8)
	m := mapped[ReadWrite](t, Anonymous(2*pg).At(at))
	b := memory(at, 2*pg)
	found := func(what string, b []byte, want Mapping, wantOff int) {
		t.Helper()
		if h, off, ok := Find(b); !ok || h != want || off != wantOff {
			t.Errorf("%s: %v at %d, %v, want %v at %d", what, h, off, ok, want, wantOff)
		}
	}
	lost := func(what string, b []byte) {
		t.Helper()
		if h, off, ok := Find(b); ok {
			t.Errorf("%s: %v at %d", what, h, off)
		}
	}
	found("mapped", b[pg:], m.Untyped(), pg)
	lost("more than it has", memory(at, 2*pg+1))
	m, err := Move(m, at+4*pageSize)
	check(t, err)
	lost("left behind", b)
	found("moved", memory(at+4*pageSize, 1), m.Untyped(), 0)
	left, right, err := Split(m, pg)
	check(t, err)
	lost("over a split", memory(at+4*pageSize, 2*pg))
	found("left", memory(at+4*pageSize, pg), left.Untyped(), 0)
	found("right", memory(at+5*pageSize, 1), right.Untyped(), 0)
	left, middle, err := Split(left, 0) // an empty one lies before it
	check(t, err)
	found("beside an empty one", memory(at+4*pageSize, pg), middle.Untyped(), 0)
	m, err = Join(middle, right)
	check(t, err)
	found("joined", memory(at+4*pageSize, 2*pg), m.Untyped(), 0)
	read, err := Protect[Read](m)
	check(t, err)
	found("protected", memory(at+5*pageSize, pg), read.Untyped(), pg)
	pin := must(read.Pin())
	check(t, read.Close())
	lost("closed and pinned", memory(at+4*pageSize, 1))
	check(t, pin.Unpin())
	check(t, left.Close())
	lost("Go memory", make([]byte, 10))
	lost("nothing", nil)
	many := make([]ReadWrite, 2000)
	for i := range many {
		many[i] = must(Map[ReadWrite](Anonymous(pg)))
	}
	for i, m := range many {
		found("many", memory(m.Addr()+uintptr(i), 1), m.Untyped(), i)
	}
	bytes := memory(many[7].Addr(), pg)
	const times = 10_000
	start := time.Now()
	for range times {
		Find(bytes)
	}
	if n := time.Since(start) / times; n > 20*time.Microsecond { // to look at each would take longer
		t.Errorf("Find takes %v beside %d mappings", n, len(many))
	} else {
		t.Logf("Find takes %v beside %d mappings", n, len(many))
	}
	for _, m := range many {
		check(t, m.Close())
	}
	lost("closed", bytes)
}

// Find keeps nobody waiting, and finds a mapping that is open all the time, whatever becomes
// of that meanwhile.
func TestFindBesideTransitions(t *testing.T) {
	pg := int(pageSize)
	m := must(Map[ReadWrite](Anonymous(2 * pg)))
	b := memory(m.Addr(), 2*pg)
	var lost atomic.Int64
	ended, stop := make(chan struct{}), make(chan struct{})
	var all, finders sync.WaitGroup
	for range 2 {
		finders.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, _, ok := Find(b[:1]); !ok {
					lost.Add(1)
				}
				Find(b[pg-1:]) // which a Split keeps from being found
			}
		})
	}
	const turns = 3000
	all.Go(func() {
		for range turns {
			r := must(Protect[Read](m))
			m = must(Protect[ReadWrite](r))
			left, right, err := Split(m, pg)
			check(t, err)
			m = must(Join(left, right))
		}
	})
	for range 2 {
		all.Go(func() {
			for i := range turns {
				other := must(Map[Read](Anonymous(pg)))
				other, err := Resize(other, pg*(1+i%3))
				check(t, err)
				check(t, other.Close())
			}
		})
	}
	go func() {
		all.Wait()
		close(stop)
		finders.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		panic("somebody waits without end")
	}
	check(t, m.Close())
	if n := lost.Load(); n > 0 {
		t.Errorf("an open mapping is not found %d times", n)
	}
}

// A mapping that another was put over a part of is found where that is not.
func TestFindBeneath(t *testing.T) {
	pg := int(pageSize)
	m := mapped[ReadWrite](t, Anonymous(4*pg))
	over := mapped[ReadWrite](t, Anonymous(pg).UnsafeOnto(m.Addr()+pageSize))
	for i, want := range []Mapping{m.Untyped(), over.Untyped(), m.Untyped(), m.Untyped()} {
		at := m.Addr() + uintptr(i*pg)
		if h, off, ok := Find(memory(at, pg)); !ok || h != want || h.Addr()+uintptr(off) != at {
			t.Errorf("page %d: %v at %d, %v, want %v", i, h, off, ok, want)
		}
	}
	if h, _, ok := Find(memory(m.Addr(), 5*pg)); ok {
		t.Errorf("more than it has: %v", h)
	}
}

// What is lent is known also in the moment when a collection has found that nobody has a
// handle, and no finalizer has run yet.
func TestLentIsKnown(t *testing.T) {
	if !byItself(t) {
		return
	}
	for _, late := range []bool{false, true} {
		f, _ := scratch(t, int(pageSize))
		lent := func() []byte {
			m := must(Map[Read](File(f, 0, int(pageSize))))
			if late {
				runtime.GC() // it gets its finalizer before
				runtime.GC()
			}
			b := m.UnsafeBytes()
			if !late {
				runtime.GC()
				runtime.GC()
			}
			return b
		}()
		// The finalizers run one after the other: one that waits holds up the others.
		stopped, goOn := make(chan struct{}), make(chan struct{})
		runtime.SetFinalizer(&struct{ _ [64]byte }{}, func(*struct{ _ [64]byte }) { close(stopped); <-goOn })
		runtime.GC()
		<-stopped
		runtime.GC()
		h, _, ok := Find(lent)
		if !ok {
			t.Fatal("it is not found")
		}
		check(t, f.Truncate(0))
		err := GuardAll(func() error { lent[0]++; return nil })
		if !errors.Is(err, ErrFault) {
			t.Errorf("a fault is %v", err)
		}
		close(goOn)
		check(t, h.Close())
	}
}

// The memory of a pin that was lost stays, and is found again when the collector has seen it.
func TestLostPinIsFound(t *testing.T) {
	if !byItself(t) {
		return
	}
	Find(make([]byte, 1)) // from now on there is an index
	addr := func() uintptr {
		m := must(Map[Read](Anonymous(int(pageSize))))
		must(m.Pin())
		return m.Addr()
	}()
	for range 3 { // it gets its finalizer, which runs, and has run
		runtime.GC()
		time.Sleep(50 * time.Millisecond)
	}
	found := false
	for end := time.Now().Add(20 * time.Second); !found && time.Now().Before(end); time.Sleep(time.Millisecond) {
		_, _, found = Find(memory(addr, 1))
	}
	if !found {
		t.Error("it is not found")
	}
}
