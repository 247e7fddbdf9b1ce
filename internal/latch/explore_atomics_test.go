//go:build linux && explore

package latch

import (
	"iter"
	"time"
)

// The operations that the latch is made of, as the explorer has them: before each, it
// decides which thread goes on.

type word struct{ v uint64 }

func (w *word) Load() uint64 { return x.step("load word", w, 0, func() uint64 { return w.v }) }

func (w *word) Add(d uint64) uint64 {
	return x.step("add to word", w, d, func() uint64 { w.v += d; return w.v })
}

func (w *word) Or(bits uint64) uint64 {
	return x.step("set in word", w, bits, func() uint64 { old := w.v; w.v |= bits; return old })
}

func (w *word) And(bits uint64) uint64 {
	return x.step("clear in word", w, bits, func() uint64 { old := w.v; w.v &= bits; return old })
}

func (w *word) CompareAndSwap(old, n uint64) bool {
	return x.step("compare word", w, n, func() uint64 {
		if w.v != old {
			return 0
		}
		w.v = n
		return 1
	}) == 1
}

type counter struct{ v int64 }

func (c *counter) Load() int64 {
	return int64(x.step("load stripe", c, 0, func() uint64 { return uint64(c.v) }))
}

func (c *counter) Add(d int64) int64 {
	return int64(x.step("add to stripe", c, uint64(d), func() uint64 { c.v += d; return uint64(c.v) }))
}

type pointer struct{ s *stripes }

func (p *pointer) Load() *stripes {
	var s *stripes
	x.step("load stripes", p, 0, func() uint64 { s = p.s; return truth(s != nil) })
	return s
}

func (p *pointer) CompareAndSwap(old, n *stripes) bool {
	return x.step("compare stripes", p, 0, func() uint64 {
		if p.s != old {
			return 0
		}
		p.s = n
		return 1
	}) == 1
}

func truth(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// A condition is a sync.Cond, all with one lock. Giving up the lock and waking others are
// no steps: to do so at once only gives the others more choice. Whoever gets the lock
// sees all that it guards.
type condition struct {
	L      *lock
	asleep uint // the threads that wait, as bits
}

type lock struct{ held bool }

var outcome = newOutcome()

func newOutcome() *condition { return &condition{L: new(lock)} }

func newCondition() *condition { return &condition{L: outcome.L} }

func (l *lock) Lock() {
	if x.current == nil {
		return
	}
	x.current.blocked = func() bool { return l.held }
	x.step("lock", l, 0, func() uint64 { l.held = true; return x.guarded() })
}

func (l *lock) Unlock() {
	if x.current != nil && !l.held {
		x.fail("thread %d gives up a lock that nobody has", x.current.index)
	}
	l.held = false
}

func (c *condition) Wait() {
	t := x.current
	x.sleeps(t, c)
	c.L.Unlock()
	c.asleep |= 1 << t.index
	t.blocked = func() bool { return c.asleep&(1<<t.index) != 0 || c.L.held }
	x.step("wake up", c, 0, func() uint64 { c.L.held = true; return x.guarded() })
}

func (c *condition) Broadcast() { c.asleep = 0 }

// after makes a thread of its own of f, which can run at any time. When it is stopped, it
// can be too late: that of a round goes on.
func after(_ time.Duration, f func()) (stop func() bool) {
	owner := x.current
	if owner.getting == nil {
		stop = x.arm("round", f)
		x.threads[len(x.threads)-1].fire = func() { x.expired++ }
		return stop
	}
	g := owner.getting
	g.impatient = true
	if !x.things[g.latch].Nested() {
		x.fail("thread %d loses its patience, and nobody waits for it", owner.index)
	}
	x.arm("patience", f)
	t := x.threads[len(x.threads)-1]
	t.fire = func() {
		g.hurried = true
		x.noise(owner.index, g.latch)
	}
	return func() bool { t.done = true; return true }
}

// arm adds a timer.
func (r *run) arm(what string, f func()) (stop func() bool) {
	t := &thread{index: len(r.threads), timer: what}
	r.threads = append(r.threads, t)
	t.next, t.stop = iter.Pull(func(yield func(struct{}) bool) {
		defer abort()
		t.yield = yield
		f()
	})
	before := r.current
	r.current = t
	t.next() // up to its lock
	r.current = before
	return func() bool { return false }
}

// yield happens when nothing is held: the others can go on anyway.
func yield() {}

// pause lets others go on, if they can.
func pause(int) {
	x.current.pausing = true
	x.step("pause", nil, 0, func() uint64 { return 0 })
}

// A Stripe is where pins are counted.
type Stripe struct{ pins counter }

// The counter ends early here, so that what is done at its end is reached.
const pinBits = 2

func lineCount() int { return 2 }
