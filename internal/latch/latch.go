//go:build linux

// Package latch decides who may use a thing, and when. Those who use it pin it. One who
// changes it takes it for a transition, which never waits, is refused while a pin is
// held, and keeps new pins waiting until it ends. Whoever closes it does not wait
// either: the last pin takes the thing down. Who does want to wait for the pins calls
// Drain.
//
// The package knows nothing of what it guards, but for [Memory]. That each answer is
// right in every order of its atomic operations is shown by running all orders; see
// explore_test.go.
package latch

// A Latch is one 64-bit word, and stripes where several processors pin at once. The
// zero Latch is open, of generation 0.
type Latch struct {
	word    word    // generation, state and pins: see the constants below
	stripes pointer // the other pins; nil until pins collide
}

// The word, from the low bits up.
const (
	pinOne  = 1
	pinMask = 1<<pinBits - 1 // pins held by compare-and-swap; more go to the stripes
)

const (
	busy    = 1 << (pinBits + iota) // a transition holds the latch
	awaited                         // somebody sleeps until it does not
	closed                          // no pins any more; the last one takes the thing down
	gone                            // it is taken down or given away
	failed                          // closed, but taking down failed: the next Close tries again
	partial                         // broken: see Break
	watched                         // the latch has turns: see Drain
	genOne
	genMask = ^uint64(genOne - 1)
)

// A State is the latch's word at a generation when nothing is going on. Whoever holds one
// may use the latch until a transition has moved the generation on. The zero State is
// that of the zero Latch.
type State uint64

// Partial, among the states that do not stand in the way, lets a broken latch be used.
const Partial = State(partial)

// An Answer is the result of a call.
type Answer uint8

// What calls return.
const (
	OK       Answer = iota
	Busy            // pins or another transition are in the way
	Moved           // the state is of an older generation
	Closed          // it is closed
	Broken          // it is broken
	Kept            // Memory does not let it be closed
	Failed          // Memory could not be taken down
	Canceled        // the caller has canceled a Drain
)

// Memory is what the latch guards.
type Memory interface {
	// Unmap takes it down, and reports whether it could. Nobody uses it then.
	Unmap() bool
	// Keeps reports whether it must not be closed.
	Keeps() bool
	// Nested reports whether the caller may use a thing already, and whoever waits for
	// that waits for the caller.
	Nested() bool
}

// refusal says why a state is no good with the latch's word w: OK if it is good, or if
// that will be known when a transition ends.
func (s State) refusal(w uint64) Answer {
	switch {
	case w&genMask != uint64(s):
		return Moved
	case w&closed != 0:
		return Closed
	case w&partial != 0:
		return Broken
	}
	return OK
}

// settle takes the thing down if it is closed and nobody pins it any more, once. It tries
// again when the swap fails, for a Drain that begins or ends changes the word, too.
func (l *Latch) settle(m Memory) Answer {
	for {
		w := l.word.Load()
		if w&(closed|busy|gone|failed|pinMask) != closed || !l.stripes.Load().idle() {
			return OK
		}
		if l.word.CompareAndSwap(w, w|busy) {
			return l.takeDown(w, m)
		}
	}
}

// takeDown takes the thing down, where the latch's word was w before the caller made it
// busy, and publishes the outcome for a closed latch.
func (l *Latch) takeDown(w uint64, m Memory) Answer {
	if !m.Unmap() {
		l.publish(w | failed)
		return Failed
	}
	l.publish(w&^failed | gone)
	return OK
}

// Acquire takes the latch for a transition, and never waits. besides are state bits that
// do not stand in the way. After OK the caller ends the transition with GiveUp, Pass,
// Resign or Break.
func (l *Latch) Acquire(s, besides State) Answer {
	for {
		w := l.word.Load()
		if a := s.refusal(w &^ uint64(besides)); a != OK {
			return a
		}
		if w&(busy|pinMask) != 0 {
			return Busy
		}
		if l.word.CompareAndSwap(w, w|busy) {
			if l.stripes.Load().idle() {
				return OK
			}
			l.publish(w)
			return Busy
		}
	}
}

// AcquireBoth takes two latches, or neither. All callers name two of them in the same
// order, so that of two calls at the same time one wins.
func AcquireBoth(first *Latch, s State, second *Latch, t State) Answer {
	a := first.Acquire(s, 0)
	if a == OK {
		if a = second.Acquire(t, 0); a != OK {
			first.GiveUp(s)
		}
	}
	return a
}

// GiveUp ends a transition that changed nothing: a broken latch stays so.
func (l *Latch) GiveUp(s State) { l.publish(uint64(s) | l.word.Load()&partial) }

// Pass ends a transition that happened: the state is old, and the returned one is the
// next.
func (l *Latch) Pass(s State) State {
	s += genOne
	l.publish(uint64(s))
	return s
}

// Stay ends a transition that happened and keeps the state. If it is of a Drain's fn, the
// bit is set by now.
func (l *Latch) Stay(s State) {
	if l.word.Load()&watched != 0 {
		l.noteChange()
	}
	l.GiveUp(s)
}

// Resign ends a transition that gave the thing away: the state is old, and nobody has
// the next.
func (l *Latch) Resign(s State) { l.publish(uint64(s+genOne) | closed | gone) }

// Break ends a transition that stopped half-way. The state is that of a broken latch.
func (l *Latch) Break(s State) { l.publish(uint64(s) | partial) }

// publish ends a transition: the word becomes w, and whoever waits goes on. The bit of
// Drain stays what it is.
func (l *Latch) publish(w uint64) {
	for {
		old := l.word.Load()
		if l.word.CompareAndSwap(old, w&^watched|old&watched) {
			if old&(awaited|watched) != 0 {
				l.wake()
			}
			return
		}
	}
}

// wake has all those look again who wait for the latch.
func (l *Latch) wake() {
	outcome.L.Lock()
	defer outcome.L.Unlock()
	outcome.Broadcast()
	if t := watchers[l]; t != nil {
		t.readers.Broadcast()
		t.wakeNext()
	}
}

// await sleeps until no transition holds the latch. One condition for all latches is
// enough, for only accesses that collide with a transition use it.
func (l *Latch) await() {
	outcome.L.Lock()
	defer outcome.L.Unlock()
	for {
		w := l.word.Load()
		switch {
		case w&busy == 0:
			return
		case w&awaited != 0 || l.word.CompareAndSwap(w, w|awaited):
			outcome.Wait()
		}
	}
}

// Close closes the latch. Pins do not stand in the way: the last one takes the thing
// down. If nobody pins it, that is done at once, and after Failed it is open as before.
// Where a last pin could not take it down, the next Close tries again.
func (l *Latch) Close(s State, m Memory) Answer {
	for {
		w := l.word.Load()
		switch {
		case w&genMask != uint64(s):
			return Moved
		case w&busy != 0:
			l.await()
		case w&failed != 0:
			if l.word.CompareAndSwap(w, w|busy) {
				return l.takeDown(w, m)
			}
		case w&(closed|gone) != 0:
			return Closed
		case m.Keeps():
			return Kept
		case w&pinMask != 0:
			if l.word.CompareAndSwap(w, w|closed) {
				if w&watched != 0 {
					l.wake()
				}
				return OK // the pins in the word find it closed
			}
		case l.word.CompareAndSwap(w, w|busy):
			if !l.stripes.Load().idle() {
				l.publish(w | closed)
				l.settle(m)
				return OK
			}
			if !m.Unmap() {
				l.publish(w)
				return Failed
			}
			l.publish(w | closed | gone)
			return OK
		}
	}
}

// Good reports whether a state is good, after a transition that runs has ended. What was
// loaded before from the thing is then right, if a transition writes only when it
// succeeds, and then moves on the generation that this looks at.
func (l *Latch) Good(s State) bool {
	for {
		good, running := l.GoodNow(s)
		if !running {
			return good
		}
		l.await()
	}
}

// GoodNow is Good that does not wait: if a transition is running that decides, it says so.
func (l *Latch) GoodNow(s State) (good, running bool) {
	w := l.word.Load()
	good = w&genMask == uint64(s) && w&closed == 0
	return good, good && w&busy != 0
}

// State returns the latch's state of now.
func (l *Latch) State() State { return State(l.word.Load() & genMask) }

// Glance calls look while no transition runs, and again if one has begun meanwhile. It
// reports whether the thing is there: neither taken down nor given away. It does not pin.
func (l *Latch) Glance(look func()) bool {
	for {
		before := l.word.Load()
		switch {
		case before&gone != 0:
			return false
		case before&busy != 0:
			l.await()
			continue
		}
		if look(); (l.word.Load()^before)&(genMask|busy) == 0 {
			return true
		}
	}
}

// Older reports whether a transition has moved the generation on from that of s.
func (l *Latch) Older(s State) bool { return l.word.Load()&genMask != uint64(s) }

// Gone reports whether the thing is taken down or given away.
func (l *Latch) Gone() bool { return l.word.Load()&gone != 0 }

// Idle reports whether nobody pins the thing, which is neither taken down nor given
// away. When nobody can reach the latch any more, it stays so.
func (l *Latch) Idle() bool { return l.word.Load()&(gone|pinMask) == 0 && l.stripes.Load().idle() }
