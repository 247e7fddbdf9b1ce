//go:build linux && explore

package latch

import (
	"encoding/binary"
	"slices"
)

// What the explorer watches of Drain, besides what it watches of each call:
//
//   - No pin that a round holds back gets in before the round has ended, but for a
//     nested one that has lost its patience.
//   - At most one round is on, and only its fn runs. Drains take turns in order.
//   - A pin is held back by one round at most.
//   - Within a round a transition of fn is refused only for the sake of another
//     transition, or of a pin that was on its way before the round.
//   - fn does not run again after it has changed the thing.
//   - What fn has closed is taken down when Drain returns.
//   - If only timers can go on, nobody sleeps who has nothing to wait for.

// getting is a pin that a thread is getting.
type getting struct {
	latch     int
	state     State
	besides   State
	round     int  // how many had ended when it began
	late      bool // one was on then
	impatient bool // it will lose its patience
	hurried   bool // it has lost it
	slept     int  // the round that held it back, from 1
}

func (g *getting) key() []byte {
	if g == nil {
		return []byte{0}
	}
	return []byte{1, byte(g.round), byte(truth(g.late)), byte(truth(g.hurried)), byte(g.slept)}
}

// running is what a Drain runs.
type running struct {
	latch, round int
	changed      bool
	noise        bool // a transition that begins now may be refused
}

// round returns how many rounds of a latch have ended, and whether one is on.
func (r *run) round(latch int) (ended int, on bool) {
	if t := watchers[r.latches[latch]]; t != nil {
		return t.rounds, t.now != nil
	}
	return 0, false
}

// guarded returns a hash of what the lock guards.
func (r *run) guarded() uint64 {
	var t thread
	for _, b := range r.turnsKey(nil) {
		t.see(uint64(b))
	}
	return t.seen
}

func (r *run) turnsKey(b []byte) []byte {
	who := func(d *drain) byte {
		if d == nil {
			return 0
		}
		i, ok := r.drains[d]
		if !ok {
			return 0xff
		}
		return byte(i+1)<<2 | byte(truth(d.canceled))<<1 | byte(truth(d.turn.asleep != 0))
	}
	for i, l := range r.latches {
		t := watchers[l]
		if t == nil {
			b = append(b, 0)
			continue
		}
		b = append(b, byte(i+1), byte(t.calls), byte(t.rounds), byte(t.held), byte(t.passes), byte(t.changes),
			byte(t.readers.asleep), byte(t.readers.asleep>>8), who(t.now), byte(len(t.queue)))
		for _, d := range t.queue {
			b = append(b, who(d))
		}
	}
	for _, t := range r.threads {
		if t.fn != nil {
			b = append(b, byte(t.index), byte(t.fn.round), byte(truth(t.fn.changed)), byte(truth(t.fn.noise)))
		}
	}
	return binary.NativeEndian.AppendUint32(b, 0)
}

// A turn is whose it was after the last step, and who waited for it.
type turn struct {
	now    *drain
	rounds int
	queue  []*drain
}

// noteDrains notes whose drains are new, and looks whether a turn is that of the next.
func (r *run) noteDrains() {
	for i, l := range r.latches {
		t, before := watchers[l], r.turns[i]
		if t == nil {
			r.turns[i] = turn{}
			continue
		}
		for _, d := range append(t.queue[:len(t.queue):len(t.queue)], t.now) {
			if _, ok := r.drains[d]; !ok && d != nil {
				r.drains[d] = r.last
			}
		}
		begun := t.now != nil && (t.now != before.now || t.rounds != before.rounds)
		if begun && len(before.queue) > 0 && slices.Contains(t.queue, before.queue[0]) {
			r.fail("thread %d takes the turn of thread %d", r.drains[t.now], r.drains[before.queue[0]])
		}
		r.turns[i] = turn{t.now, t.rounds, slices.Clone(t.queue)}
	}
}

// sleeps notes that a thread goes to sleep.
func (r *run) sleeps(t *thread, c *condition) {
	g := t.getting
	if g == nil {
		return
	}
	if w := watchers[r.latches[g.latch]]; w != nil && w.readers == c {
		if g.slept != 0 && g.slept != w.rounds+1 {
			r.fail("thread %d is held back by a second round", t.index)
		}
		g.slept = w.rounds + 1
		if r.things[g.latch].Nested() && !g.impatient {
			r.fail("thread %d waits for a whole round, and others wait for it", t.index)
		}
	}
}

// begins notes that a call has begun.
func (r *run) begins(t *thread, c call) {
	switch c.kind {
	case pin:
		ended, on := r.round(c.latch)
		t.getting = &getting{latch: c.latch, state: t.state[c.latch], besides: c.besides, round: ended, late: on}
	case acquire, closes, giveUp, stay, pass, resign, breaks:
		r.noise(t.index, c.latch)
	}
	if t.fn != nil && c.kind == acquire {
		t.fn.noise = r.noisy(t, c.latch)
	}
}

// noise tells all others who drain a latch that a transition can be refused now.
func (r *run) noise(thread, latch int) {
	for _, u := range r.threads {
		if u.index != thread && u.fn != nil && u.fn.latch == latch {
			u.fn.noise = true
		}
	}
}

// noisy reports whether a transition that a thread begins can be refused.
func (r *run) noisy(t *thread, latch int) bool {
	if r.things[latch].pinned > 0 || r.things[latch].taken > 0 {
		return true
	}
	ended, on := r.round(latch)
	for _, u := range r.threads {
		if u == t || u.timer != "" {
			continue
		}
		if g := u.getting; g != nil && g.latch == latch && !(on && g.late && g.round == ended && !g.hurried) {
			return true
		}
		if p := r.spec.pending[latch][u.index]; p != nil && p.kind != pin && p.kind != unpin {
			return true
		}
	}
	return false
}

// got notes that a pin has succeeded or failed.
func (r *run) got(t *thread, a Answer) {
	g := t.getting
	t.getting = nil
	ended, on := r.round(g.latch)
	if a == OK && on && g.late && g.round == ended && !g.hurried {
		r.fail("thread %d has got in during a round", t.index)
	}
}

// acquired notes the answer to a transition of fn.
func (r *run) acquired(t *thread, latch int, a Answer) {
	if t.fn == nil || t.fn.latch != latch || a != Busy {
		return
	}
	if ended, on := r.round(latch); on && ended == t.fn.round && !t.fn.noise {
		r.fail("thread %d is refused a transition, and nobody is in its way", t.index)
	}
}

func (r *run) stayed(t *thread, latch int) {
	if t.fn != nil && t.fn.latch == latch {
		t.fn.changed = true
	}
}

// drain calls Drain.
func (r *run) drain(t *thread, c call) Answer {
	i, l := c.latch, r.latches[c.latch]
	outer, ran, changed, hasClosed, canceled, s := t.fn, false, false, false, false, t.state[c.latch]
	whenDone := func(cancel func()) (stop func() bool) {
		stop = r.arm("cancel", cancel)
		r.threads[len(r.threads)-1].fire = func() { canceled = true }
		return stop
	}
	a := l.Drain(s, whenDone, func() (again bool) {
		ran = true
		ended, on := r.round(i)
		if changed {
			r.fail("thread %d runs fn again, which has changed the thing", t.index)
		}
		if on && watchers[l].passes > 0 {
			r.fail("thread %d runs fn, and %d pins have a pass", t.index, watchers[l].passes)
		}
		for _, u := range r.threads {
			if u.fn != nil && u != t && u.fn.latch == i && on && u.fn.round == ended {
				r.fail("threads %d and %d run what they drain for", t.index, u.index)
			}
		}
		t.fn = &running{latch: i, round: ended}
		for _, c := range c.fn {
			a := r.call(t, c)
			if a == Busy {
				again = true
				break
			}
			hasClosed = hasClosed || c.kind == closes && a == OK
		}
		changed = changed || t.fn.changed
		t.fn = outer
		return again
	})
	if r.tracing {
		r.trace = append(r.trace, "Drain returns "+string('0'+rune(a)))
	}
	switch a {
	case OK:
		if !ran {
			r.fail("thread %d: Drain returns OK, and has not run fn", t.index)
		}
		if hasClosed && r.things[i].mapped && l.word.v&failed == 0 {
			r.fail("thread %d: Drain returns, and what fn has closed is not taken down", t.index)
		}
	case Canceled:
		if !canceled {
			r.fail("thread %d: Drain is canceled by nobody", t.index)
		}
	case Moved, Closed:
		if now := s.refusal(l.word.v &^ partial); now != a {
			r.fail("thread %d: Drain returns %d, and the word is %#x", t.index, a, l.word.v)
		}
	default:
		r.fail("thread %d: Drain returns %d", t.index, a)
	}
	return OK
}

// stuck looks at who waits when only timers can go on.
func (r *run) stuck() {
	for i, l := range r.latches {
		t := watchers[l]
		if t == nil {
			continue
		}
		idle := l.word.v&(busy|pinMask) == 0 && (l.stripes.s == nil || l.stripes.s.idle())
		asleep := func(d *drain) bool { return d.turn.asleep != 0 }
		if t.now != nil && asleep(t.now) && idle && t.passes == 0 {
			r.fail("thread %d does not notice that nobody pins it", r.drains[t.now])
		}
		if t.now == nil && len(t.queue) > 0 {
			r.fail("nobody takes the turn")
		}
		for d, thread := range r.drains {
			if d.latch == l && asleep(d) && d != t.now && !slices.Contains(t.queue, d) {
				r.fail("thread %d does not notice that its round has ended", thread)
			}
		}
		for _, d := range append(t.queue[:len(t.queue):len(t.queue)], t.now) {
			if d != nil && asleep(d) && (d.canceled || d.state.refusal(l.word.v&^partial) != OK) {
				r.fail("thread %d does not notice that it has nothing to wait for", r.drains[d])
			}
		}
		for _, u := range r.threads {
			g := u.getting
			if g == nil && t.readers.asleep&(1<<u.index) != 0 && l.word.v&(gone|failed) != 0 {
				r.fail("thread %d does not notice that the last pin has ended", u.index)
			}
			if g == nil || g.latch != i || t.readers.asleep&(1<<u.index) == 0 {
				continue
			}
			if t.now == nil || g.hurried || g.state.refusal(l.word.v&^uint64(g.besides)) != OK {
				r.fail("thread %d is held back for nothing", u.index)
			}
		}
	}
}

// holding reports whether some round holds a pin back.
func (r *run) holding() bool {
	for _, t := range watchers {
		if t.held > 0 {
			return true
		}
	}
	return false
}

// finished reports whether all threads have ended, but for timers.
func (r *run) finished() bool {
	for _, t := range r.threads {
		if t.timer == "" && !t.done {
			return false
		}
	}
	return true
}
