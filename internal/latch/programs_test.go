//go:build linux && explore

package latch

import (
	"fmt"
	"strings"
	"testing"
)

// A kind of call.
type kind uint8

const (
	pin kind = iota
	unpin
	acquire // begins a transition; those that follow end it, if it has begun
	giveUp
	pass
	resign
	breaks
	closes
	measure // reads a length
	look    // the collector's
	glance  // at a length, without a ticket
	stay
	drains // the calls of fn follow
)

var kinds = [...]string{"Pin", "Unpin", "Acquire", "GiveUp", "Pass", "Resign", "Break", "Close", "length", "Idle", "Glance", "Stay", "Drain"}

// A call is of one latch, or of two.
type call struct {
	kind          kind
	latch, second int
	both          bool
	besides       State
	fn            []call // of Drain; it ends at the first that is refused
}

// A program is what each thread calls, and how the latch is at first.
type program struct {
	names   []string
	threads [][]call
	striped bool
	broken  bool
	kept    bool
	fails   int  // how often taking down fails
	held    int  // pins in the word that nobody ends
	nested  bool // pins are views: one within another is not held back for long
	cancels bool // Drains are canceled at any time, not only when nothing else can happen
}

func (p program) String() string {
	s := []string{strings.Join(p.names, " beside ")}
	add := func(is bool, format string, args ...any) {
		if is {
			s = append(s, fmt.Sprintf(format, args...))
		}
	}
	add(p.striped, "striped")
	add(p.broken, "broken")
	add(p.nested, "views")
	add(p.cancels, "canceled")
	add(p.kept, "kept")
	add(p.fails > 0, "taking down fails %d times", p.fails)
	add(p.held > 0, "%d pins held", p.held)
	return strings.Join(s, ", ")
}

// call makes a thread's next call.
func (r *run) call(t *thread, c call) (a Answer) {
	if c.both {
		r.callBoth(t, c)
		return OK
	}
	if c.kind == drains {
		return r.drain(t, c)
	}
	i, l, m := c.latch, r.latches[c.latch], r.things[c.latch]
	s := t.state[i]
	t.begin = func() {
		r.spec.begin(i, t.index, pending{kind: c.kind, gen: uint8(s / genOne), besides: c.besides != 0})
		r.begins(t, c)
	}
	end := func(answer uint8) {
		t.beginCall()
		a = Answer(answer)
		if r.tracing {
			r.trace = append(r.trace, fmt.Sprintf("thread %d: %s returns %d", t.index, kinds[c.kind], answer))
		}
		if !r.spec.end(i, t.index, answer) {
			r.fail("thread %d: no order of the calls explains that call %d returns %d", t.index, t.at, answer)
		}
	}
	switch c.kind {
	case pin:
		var line *Stripe
		a := OK
		if l.Striped() || !l.PinOnce(s) {
			line, a = l.Pin(s, c.besides, uintptr(t.index+1)<<13, m)
		}
		if a == OK {
			t.pins[i] = append(t.pins[i], line)
			m.pinned++
			if m.taken > 0 {
				r.fail("thread %d has pinned it beside a transition", t.index)
			}
			if !m.mapped {
				r.fail("thread %d has pinned what is not mapped", t.index)
			}
		}
		end(uint8(a))
		r.got(t, a)
	case unpin:
		n := len(t.pins[i])
		if n == 0 {
			t.begin = nil
			return OK
		}
		line, begin := t.pins[i][n-1], t.begin
		t.begin = func() {
			t.pins[i] = t.pins[i][:n-1]
			m.pinned--
			begin()
		}
		before := m.failed[t.index]
		a := l.Unpin(line, m)
		if (a == Failed) != (m.failed[t.index] > before) {
			r.fail("thread %d: Unpin returns %d, and taking down has failed %d times", t.index, a, m.failed[t.index]-before)
		}
		end(uint8(a))
	case acquire:
		a := l.Acquire(s, c.besides)
		if a == OK {
			r.take(t, i)
		}
		end(uint8(a))
		r.acquired(t, i, a)
	case giveUp, stay, pass, resign, breaks:
		if !t.taken[i] {
			t.begin = nil
			return OK
		}
		begin := t.begin
		t.begin = func() {
			t.taken[i] = false
			m.taken--
			begin()
		}
		switch c.kind {
		case giveUp:
			l.GiveUp(s)
		case stay:
			l.Stay(s)
			r.stayed(t, i)
		case pass:
			// As a transition that succeeds does.
			r.step("store length", m, 0, func() uint64 { r.length[i]++; return 0 })
			r.step("store its twin", m, 0, func() uint64 { r.twin[i]++; return 0 })
			t.state[i] = l.Pass(s)
		case resign:
			r.spec.resigned[i] = true
			t.state[i] = s + genOne
			l.Resign(s)
		case breaks:
			l.Break(s)
		}
		end(uint8(OK))
	case closes:
		begin := t.begin
		t.begin = func() { m.closed = true; begin() }
		a := l.Close(s, m)
		if a == OK && m.mapped && !r.spec.pending[i][t.index].disturbed {
			r.fail("thread %d: Close returns OK, and nobody keeps it from being unmapped", t.index)
		}
		end(uint8(a))
	case measure:
		n, twin := r.measure(i)
		if !l.Good(s) {
			n = 0
		} else if n != twin {
			r.fail("thread %d has measured in the middle of a transition", t.index)
		}
		end(uint8(n))
	case glance:
		var n, twin uint64
		if !l.Glance(func() { n, twin = r.measure(i) }) {
			n = 0
		} else if n != twin {
			r.fail("thread %d has glanced at the middle of a transition", t.index)
		}
		end(uint8(n))
	case look:
		end(uint8(truth(l.Idle())))
	}
	return a
}

// measure loads a length, and its twin.
func (r *run) measure(i int) (length, twin uint64) {
	length = r.step("load length", r.things[i], 0, func() uint64 { return r.length[i] })
	twin = r.step("load its twin", r.things[i], 0, func() uint64 { return r.twin[i] })
	return length, twin
}

// take notes that a thread has begun a transition.
func (r *run) take(t *thread, i int) {
	t.taken[i] = true
	if r.things[i].taken++; r.things[i].taken > 1 || r.things[i].pinned > 0 {
		r.fail("thread %d is in a transition beside %d others and %d pins", t.index, r.things[i].taken-1, r.things[i].pinned)
	}
}

// callBoth acquires two latches.
func (r *run) callBoth(t *thread, c call) {
	both := []int{c.latch, c.second}
	t.begin = func() {
		for _, i := range both {
			r.spec.begin(i, t.index, pending{kind: acquire, gen: uint8(t.state[i] / genOne)})
		}
	}
	a := AcquireBoth(r.latches[both[0]], t.state[both[0]], r.latches[both[1]], t.state[both[1]])
	if r.tracing {
		r.trace = append(r.trace, fmt.Sprintf("thread %d: AcquireBoth returns %d", t.index, a))
	}
	explained := true
	if a == OK {
		for _, i := range both {
			r.take(t, i)
			explained = r.spec.end(i, t.index, uint8(a)) && explained
		}
	} else {
		explained = r.spec.endOne(both, t.index, uint8(a))
	}
	if !explained {
		r.fail("thread %d: no order of the calls explains that both return %d", t.index, a)
	}
}

// endOne is end for a call that one of several latches has refused.
func (s *spec) endOne(latches []int, thread int, answer uint8) bool {
	explained := false
	for _, i := range latches {
		before := s.latches[i]
		p := s.pending[i][thread]
		if s.end(i, thread, answer) {
			explained = true
		} else {
			// It was acquired, if at all, and given up, which nobody could see.
			s.latches[i] = before
			s.pending[i][thread] = p
			s.drop(i, thread)
		}
	}
	return explained
}

func calls(kinds ...kind) (all []call) {
	for _, k := range kinds {
		all = append(all, call{kind: k})
	}
	return all
}

// short are the programs of one thread.
var short = []struct {
	name  string
	calls []call
}{
	{"pin", calls(pin, unpin)},
	{"pin twice", calls(pin, pin, unpin, unpin)},
	{"pass", calls(acquire, pass)},
	{"pass and close", calls(acquire, pass, closes)},
	{"pass and resign", calls(acquire, pass, acquire, resign)},
	{"stay", calls(acquire, stay)},
	{"give up", calls(acquire, giveUp)},
	{"resign", calls(acquire, resign)},
	{"break", calls(acquire, breaks)},
	{"forget", []call{{kind: acquire, besides: Partial}, {kind: pass}}},
	{"forget, and give up", []call{{kind: acquire, besides: Partial}, {kind: giveUp}}},
	{"regions", []call{{kind: pin, besides: Partial}, {kind: unpin}}},
	{"close", calls(closes)},
	{"close twice", calls(closes, closes)},
	{"close within a pin", calls(pin, closes, unpin)},
	{"close within a pin and again", calls(pin, closes, unpin, closes)},
	{"close and pin", calls(closes, pin, unpin)},
	{"measure", calls(measure, measure)},
	{"look", calls(look)},
	{"glance", calls(glance)},
}

func draining(fn ...call) []call { return []call{{kind: drains, fn: fn}} }

// drainers are programs with Drain.
var drainers = []struct {
	name  string
	calls []call
}{
	{"drain", draining(calls(acquire, pass)...)},
	{"drain for nothing", draining(calls(acquire, giveUp)...)},
	{"drain to resign", draining(calls(acquire, resign)...)},
	{"drain to close", draining(calls(closes)...)},
	{"drain for two steps", draining(calls(acquire, stay, acquire, stay)...)},
	{"drain and pin", draining(calls(pin, unpin, acquire, pass)...)},
	{"drain within a pin", append(append(calls(pin), draining(calls(acquire, pass)...)...), calls(unpin)...)},
	{"drain within a drain", draining(draining(calls(acquire, pass)...)...)},
	{"drain twice", append(draining(calls(acquire, giveUp)...), draining(calls(acquire, pass)...)...)},
}

func find(name string) []call {
	if name == "pin and keep" {
		return calls(pin)
	}
	for _, s := range append(drainers, short...) {
		if s.name == name {
			return s.calls
		}
	}
	panic(name)
}

// ways are how the latch can be at first.
func ways(p program) (all []program) {
	how := []program{{}, {broken: true}, {kept: true}, {fails: 1}, {fails: 2}, {held: pinMask - 1}, {held: pinMask}}
	if strings.HasPrefix(p.names[0], "drain") {
		how = []program{{}}
		switch first, last := p.names[0], p.names[len(p.names)-1]; {
		case strings.HasPrefix(last, "drain"):
		case first == "drain":
			how = append(how, program{held: 1}, program{held: pinMask}, program{cancels: true}, program{broken: true})
		case strings.Contains(last, "pin") && first != "drain twice" && first != "drain within a drain":
			how = append(how, program{nested: true})
		case strings.Contains(last, "close"):
			how = append(how, program{fails: 1})
		}
	}
	for _, striped := range []bool{false, true} {
		p.striped = striped
		for _, w := range how {
			q := p
			q.broken, q.kept, q.fails, q.held, q.nested, q.cancels = w.broken, w.kept, w.fails, w.held, w.nested, w.cancels
			all = append(all, q)
		}
	}
	return all
}

// join has one latch take in what another guards.
func join() []call {
	return []call{{kind: acquire, latch: 0, second: 1, both: true}, {kind: resign, latch: 1}, {kind: pass, latch: 0}}
}

func on(latch int, calls []call) (all []call) {
	for _, c := range calls {
		c.latch = latch
		all = append(all, c)
	}
	return all
}

// TestTwo runs all pairs of short programs in all orders.
func TestTwo(t *testing.T) {
	var sum tally
	for i, a := range short {
		for _, b := range short[i:] {
			sum.tryAll(t, -1, program{names: []string{a.name, b.name}, threads: [][]call{a.calls, b.calls}})
		}
	}
	for _, b := range short {
		for latch := range 2 {
			name := fmt.Sprintf("%s of %d", b.name, latch)
			sum.tryAll(t, -1, program{names: []string{"join", name}, threads: [][]call{join(), on(latch, b.calls)}})
		}
	}
	sum.tryAll(t, -1, program{names: []string{"join", "join"}, threads: [][]call{join(), join()}})
	t.Log(sum)
}

// TestDrain runs programs that drain beside others, with their timers as further threads.
// The timers take part in the preemptions, of which two threads have one less than
// TestThree, and three threads two.
func TestDrain(t *testing.T) {
	var sum tally
	add := func(names ...string) {
		p := program{names: names}
		for _, name := range names {
			p.threads = append(p.threads, find(name))
		}
		sum.tryAll(t, *preemptions+1-len(names), p)
	}
	for _, a := range drainers {
		for _, b := range short {
			add(a.name, b.name)
		}
	}
	for _, names := range [][]string{
		{"drain", "drain"},
		{"drain", "drain within a pin"},
		{"drain", "drain within a drain"},
		{"drain and pin", "drain for two steps"},
		{"drain twice", "drain to close"},
		{"drain to close", "pin and keep"},
		{"drain", "pin", "pin"},
		{"drain", "pin", "close"},
		{"drain", "pin", "pass"},
		{"drain", "pin", "break"},
		{"drain twice", "pin", "pin"},
	} {
		add(names...)
	}
	t.Log(sum)
}

// TestThree runs three threads, with a few preemptions.
func TestThree(t *testing.T) {
	var sum tally
	for _, names := range [][]string{
		{"pin", "pin", "close"},
		{"pin", "pin", "pass"},
		{"pin", "close", "close"},
		{"pin", "close", "close twice"},
		{"pin", "pass", "close"},
		{"pin", "pass", "pass"},
		{"pin", "give up", "close"},
		{"pin", "resign", "close"},
		{"pin", "break", "forget"},
		{"pin", "break", "close"},
		{"pin", "close within a pin", "pass"},
		{"close within a pin and again", "pin", "close"},
		{"close within a pin", "close within a pin", "pin"},
		{"pass and close", "pin", "measure"},
		{"pin", "look", "close"},
		{"pin twice", "pin twice", "close"},
	} {
		sum.tryAll(t, *preemptions, program{names: names, threads: [][]call{find(names[0]), find(names[1]), find(names[2])}})
	}
	t.Log(sum)
}

// tryAll explores a program in all ways that the latch can be at first.
func (n *tally) tryAll(t *testing.T, bound int, p program) {
	for _, p := range ways(p) {
		t.Run(p.String(), func(t *testing.T) {
			more := try(t, p, bound)
			t.Log(more)
			*n = tally{n.runs + more.runs, n.states + more.states, n.steps + more.steps}
		})
	}
}
