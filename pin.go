//go:build linux

package mmap

import (
	"sync/atomic"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/latch"
)

// A Pin keeps a mapping as it is for longer than a function: for a database
// transaction, an iterator, an address given to the kernel. While it is held,
// every transition of the mapping returns ErrBusy, and Close leaves the memory
// in place until Unpin.
//
// A Pin keeps its mapping alive when every handle is gone. One that is lost
// without Unpin leaks the mapping; memory is never unmapped under a slice.
//
// The methods are safe for concurrent use. A nil or zero Pin is like one that
// has been unpinned.
type Pin struct {
	_     noCopy
	r     *region
	line  *latch.Stripe
	users uint32
}

// A noCopy has vet report copies of what it is in: a copied Pin would end twice.
type noCopy struct{}

func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

// The highest bit of Pin.users is set until Unpin; the others count the guards that run
// over the pin. The region's pin ends when nothing is left. It is no atomic.Uint32, which
// could be set by a locked operation only.
const pinned = 1 << 31

// Pin pins the mapping until [Pin.Unpin]. It fails with ErrClosed or ErrMoved.
func (m Mapping) Pin() (*Pin, error) {
	if m.pinWord() {
		return &Pin{r: m.r, users: pinned}, nil
	}
	line, err := m.pinSlowly(0)
	if err != nil {
		return nil, named(err, "pin")
	}
	return &Pin{r: m.r, line: line, users: pinned}, nil
}

// Bytes returns the memory itself, len == cap, with the length that the mapping has now: it
// may have grown. It may be written if the mapping can be. The slice is valid until Unpin.
// Touch it within [Guard], or a memory fault ends the program. It is nil after Unpin, and
// if some page cannot be read.
func (p *Pin) Bytes() []byte {
	if p == nil || atomic.LoadUint32(&p.users)&pinned == 0 || !Prot(p.r.prot.Load()).allows(ProtRead) {
		return nil
	}
	return memory(p.r.addr.Load(), int(p.r.len.Load()))
}

// Unpin ends the pin; a second call does nothing. If the mapping was closed meanwhile, the
// last Unpin unmaps it. A [Guard] that runs over this pin keeps the mapping until it
// returns.
//
// If this was the last pin of a closed mapping and unmapping fails, the error is returned,
// and the next Close tries again. If a Guard was the last, that Close returns it.
func (p *Pin) Unpin() error {
	if p == nil {
		return nil
	}
	// Most pins have no Guard, and one compare-and-swap is faster than the loop of them
	// that AndUint32 is on some processors.
	if !atomic.CompareAndSwapUint32(&p.users, pinned, 0) && atomic.AndUint32(&p.users, ^uint32(pinned)) != pinned {
		return nil // again, or a Guard ends the pin
	}
	if a := p.r.Unpin(p.line, p.r); a != latch.OK {
		return ticket{r: p.r}.refused(a)
	}
	return nil
}

func errUnpinned() error { return fail.Hint(ErrClosed, "the pin has ended") }

// use keeps the pin for a guard; false after Unpin.
func (p *Pin) use() bool {
	for atomic.LoadUint32(&p.users)&pinned != 0 {
		if p.useOnce() {
			return true
		}
	}
	return false
}

// useOnce is use if nothing stands in the way. It is inlined.
func (p *Pin) useOnce() bool {
	if p == nil {
		return false
	}
	n := atomic.LoadUint32(&p.users)
	return n&pinned != 0 && atomic.CompareAndSwapUint32(&p.users, n, n+1)
}

// endUse ends what use began.
func (p *Pin) endUse() {
	if atomic.AddUint32(&p.users, ^uint32(0)) == 0 {
		p.r.unpin(p.line)
	}
}

// Guard runs fn and returns its error. A memory fault in one of the pinned mappings ends
// fn, as a panic would, and is returned as a [*FaultError]. Guard does not catch other
// faults or panics. Nil pins are skipped. If a pin has been unpinned, fn is not run, and
// the error is ErrClosed. fn must not change the slice that the pins were passed as.
//
// Only the calling goroutine is guarded: not goroutines that fn starts, nor C code. Locks
// that fn holds at a fault stay held, unless fn unlocks them with defer. Guards nest.
func Guard(fn func() error, pins ...*Pin) error {
	// This much is inlined, for the compiler then takes a single pin from where the
	// caller has it.
	var p *Pin
	if len(pins) == 1 {
		p = pins[0]
	}
	return guardPins(fn, p, pins)
}

// A pinGuard has all that the deferred function of guardPins needs but for the result: each
// variable that it captures costs a tenth of the call.
type pinGuard struct {
	guard
	pin *Pin
}

// rescueUnpin is rescue, and then ends the use of the pin.
func (g *pinGuard) rescueUnpin(p any, err *error) {
	defer g.pin.endUse()
	g.rescue(p, err, g.pin)
}

// guardPins guards p, or if it is nil all of pins.
func guardPins(fn func() error, p *Pin, pins []*Pin) (err error) {
	g := pinGuard{pin: p}
	if !p.useOnce() {
		switch {
		case p == nil:
			return guardSeveral(fn, pins)
		case !p.use():
			return named(errUnpinned(), "guard")
		}
	}
	g.enter()
	defer func() {
		if !g.left {
			g.rescueUnpin(recover(), &err)
		}
	}()
	err = fn()
	g.leave()
	g.pin.endUse()
	return err
}

func guardSeveral(fn func() error, pins []*Pin) (err error) {
	for i, p := range pins {
		if p != nil && !p.use() {
			endUses(pins[:i])
			return named(errUnpinned(), "guard")
		}
	}
	var g guard
	g.enter()
	defer func() {
		if !g.left {
			defer endUses(pins)
			g.rescue(recover(), &err, pins...)
		}
	}()
	err = fn()
	g.leave()
	endUses(pins)
	return err
}

func endUses(pins []*Pin) {
	for _, p := range pins {
		if p != nil {
			p.endUse()
		}
	}
}

// pin keeps the region as it is until unpin is called with the same result,
// which says where the pin is counted.
func (t ticket) pin() (*latch.Stripe, error) {
	if t.pinWord() {
		return nil, nil
	}
	return t.pinSlowly(0)
}

// pinWord pins if nothing stands in the way. It is inlined. In one expression, or with
// the question for stripes within PinOnce, it would cost a view a jump that is taken.
func (t ticket) pinWord() bool {
	r := t.r
	if r == nil || r.Striped() {
		return false
	}
	return r.PinOnce(t.state)
}

// pinSlowly deals with all that pinWord leaves. besides are states that do not stand in
// the way.
func (t ticket) pinSlowly(besides latch.State) (*latch.Stripe, error) {
	if t.r == nil {
		return nil, ErrClosed
	}
	line, a := t.r.Pin(t.state, besides, stackHint(), t.r)
	if a != latch.OK {
		return nil, t.refused(a)
	}
	return line, nil
}

// unpin ends a pin, and unmaps if it was the last of a closed region.
func (r *region) unpin(line *latch.Stripe) { r.Unpin(line, r) }
