//go:build linux

package latch

import (
	"slices"
	"time"
)

// Drain works in rounds. A round holds new pins back, and fn runs when those at work have
// ended. It lasts for a while at most: then those whom it held back have a pass each, by
// which they get in whatever round follows. The next round begins at once, but its fn
// waits for the passes.

// How long the first round of a Drain lasts at most, and how long any: each is twice as
// long as the one before. A nested pin is held back for patience at most.
const (
	firstRound = time.Millisecond
	longRound  = time.Second
	patience   = time.Millisecond
)

// turns has the Drains of a latch and the pins that they hold back. As long as a latch has
// turns, its word has the bit watched. outcome.L guards it.
type turns struct {
	calls   int      // of Drain, at work
	now     *drain   // whose round it is; nil: nobody's
	queue   []*drain // those that wait for theirs, in order
	rounds  int      // that have ended
	held    int      // pins that wait for the end of the round
	passes  int      // of pins that do not wait any more and are not in yet
	changes int      // by transitions that kept the state
	readers *condition
}

// watchers has the turns of all latches that are drained.
var watchers = map[*Latch]*turns{}

// A drain is a call of Drain.
type drain struct {
	*turns
	latch    *Latch
	state    State
	turn     *condition
	canceled bool
	heldBack bool // somebody, by a round of this
}

// Drain runs fn when nobody pins the latch, and holds new pins back meanwhile. If fn
// returns true, a transition of its was refused: it runs again, unless the state is no
// longer good, or somebody has changed the thing, with Stay. The Answer says why fn was
// not run any more, or OK.
//
// It gives up, with Canceled, when the function that it has given to whenDone is called.
// The result of whenDone is called at the end. If fn has closed the latch, Drain waits for
// the last pin.
func (l *Latch) Drain(s State, whenDone func(cancel func()) (stop func() bool), fn func() bool) Answer {
	d := &drain{latch: l, state: s, turn: newCondition()}
	stop := whenDone(d.cancel)
	defer stop()
	defer func() {
		if d.heldBack {
			yield() // or a loop of Drains leaves the readers one processor less
		}
	}()
	outcome.L.Lock()
	defer outcome.L.Unlock()
	d.turns = l.watch()
	d.calls++
	defer d.leave()
	for most := firstRound; ; {
		a := d.begin()
		if a == OK {
			a = d.round(&most, fn)
		}
		if a != Busy {
			return a
		}
	}
}

// watch returns the turns of a latch. It sets the bit.
func (l *Latch) watch() *turns {
	t := watchers[l]
	if t == nil {
		t = &turns{readers: newCondition()}
		watchers[l] = t
		l.word.Or(watched)
	}
	return t
}

// unwatch clears the bit when nobody needs it any more.
func (l *Latch) unwatch(t *turns) {
	if t.calls == 0 && t.passes == 0 {
		delete(watchers, l)
		l.word.And(^uint64(watched))
	}
}

// wakeNext has the drain look again whose round it is, and the one whose turn is the next.
// Nobody else can go on.
func (t *turns) wakeNext() {
	if t.now != nil {
		t.now.turn.Broadcast()
	}
	if len(t.queue) > 0 {
		t.queue[0].turn.Broadcast()
	}
}

func (d *drain) leave() {
	d.calls--
	d.latch.unwatch(d.turns)
}

// refusal says why the drain cannot go on.
func (d *drain) refusal() Answer {
	a := d.state.refusal(d.latch.word.Load() &^ partial)
	if a == OK && d.canceled {
		return Canceled
	}
	return a
}

// begin waits for the turn of a drain, and begins its round.
func (d *drain) begin() Answer {
	d.queue = append(d.queue, d)
	for {
		a := d.refusal()
		mine := d.now == nil && d.queue[0] == d
		if a != OK || mine {
			i := slices.Index(d.queue, d)
			d.queue = slices.Delete(d.queue, i, i+1)
			if a == OK {
				d.now = d
			} else {
				d.wakeNext() // another may be the first now
			}
			return a
		}
		d.turn.Wait()
	}
}

// round runs fn when it can. Busy means that the round has ended before that. It then says
// how long the next one may be: longer than longRound if fn itself needs that.
func (d *drain) round(most *time.Duration, fn func() bool) Answer {
	defer d.end()
	mine := d.rounds
	stop := after(*most, func() { d.expire(mine) })
	defer stop()
	*most = min(2**most, longRound)
	for tries := 0; ; tries++ {
		if a := d.wait(); a != OK {
			return a
		}
		changes := d.changes
		began := time.Now()
		if again := d.run(fn); !again || d.changes != changes || d.state.refusal(d.latch.word.Load()&^partial) != OK {
			return d.lastReader()
		}
		if d.now != d {
			*most = max(*most, 4*time.Since(began))
		}
		outcome.L.Unlock()
		pause(tries)
		outcome.L.Lock()
	}
}

// wait waits for the pins at work and for passes. Busy means that the round has ended.
func (d *drain) wait() Answer {
	for {
		if a := d.refusal(); a != OK {
			return a
		}
		switch {
		case d.now != d:
			return Busy
		case d.passes == 0 && // and no transition runs, for fn would be refused
			d.latch.word.Load()&(busy|pinMask) == 0 && d.latch.stripes.Load().idle():
			return OK
		}
		d.turn.Wait()
	}
}

// lastReader waits for the last pin if fn has closed the latch: others can have got in
// before that, when the round was over.
func (d *drain) lastReader() Answer {
	for d.latch.word.Load()&(genMask|closed|gone|failed) == uint64(d.state)|closed {
		if d.canceled {
			return Canceled
		}
		d.readers.Wait()
	}
	return OK
}

// run runs fn without the lock, which it has again also where fn panics.
func (d *drain) run(fn func() bool) bool {
	outcome.L.Unlock()
	defer outcome.L.Lock()
	return fn()
}

// end ends the round, if it has not ended yet.
func (d *drain) end() {
	if d.now != d {
		return
	}
	d.now = nil
	d.heldBack = d.heldBack || d.held > 0
	d.rounds++
	d.passes, d.held = d.passes+d.held, 0
	d.readers.Broadcast()
	d.turn.Broadcast()
	d.wakeNext()
}

// expire ends a round when its time is over, also while fn runs: it may wait for a pin
// that the round holds back. It can be late, when the round has ended already.
func (d *drain) expire(round int) {
	outcome.L.Lock()
	defer outcome.L.Unlock()
	if d.rounds == round {
		d.end()
	}
}

func (d *drain) cancel() {
	outcome.L.Lock()
	defer outcome.L.Unlock()
	d.canceled = true
	d.turn.Broadcast()
	if d.turns != nil {
		d.readers.Broadcast() // for lastReader
	}
}

// noteChange tells the drains of a latch that somebody has changed the thing.
func (l *Latch) noteChange() {
	outcome.L.Lock()
	defer outcome.L.Unlock()
	if t := watchers[l]; t != nil {
		t.changes++
	}
}

// alert has the drains of a latch look again whether somebody pins it.
func (l *Latch) alert() {
	outcome.L.Lock()
	defer outcome.L.Unlock()
	if t := watchers[l]; t != nil {
		t.wakeNext()
	}
}

// hold keeps a pin waiting for the end of the round, if there is one. It reports whether
// the pin has a pass then, which it has to give back with arrive.
func (l *Latch) hold(s, besides State, m Memory) bool {
	outcome.L.Lock()
	defer outcome.L.Unlock()
	t := watchers[l]
	if t == nil {
		return false
	}
	if t.now == nil {
		t.passes++
		return true
	}
	hurried := false
	if m.Nested() {
		stop := after(patience, func() {
			outcome.L.Lock()
			defer outcome.L.Unlock()
			hurried = true
			t.readers.Broadcast()
		})
		defer stop()
	}
	t.held++
	for round := t.rounds; t.rounds == round; t.readers.Wait() {
		if hurried || s.refusal(l.word.Load()&^uint64(besides)) != OK {
			t.held--
			t.passes++
			break
		}
	}
	return true
}

// arrive gives a pass back, when the pin is in or has been refused.
func (l *Latch) arrive() {
	outcome.L.Lock()
	defer outcome.L.Unlock()
	t := watchers[l]
	t.passes--
	if t.passes == 0 {
		t.wakeNext()
	}
	l.unwatch(t)
}

// Pins returns how many pins are held.
func (l *Latch) Pins() int {
	n := int(l.word.Load() & pinMask)
	if s := l.stripes.Load(); s != nil {
		for i := range s.lines {
			n += int(s.lines[i].pins.Load())
		}
	}
	return n
}
