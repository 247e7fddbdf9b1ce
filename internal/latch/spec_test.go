//go:build linux && explore

package latch

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// The specification: there is an order of the calls, which respects that some have
// returned before others began, in which each answer is right. It is the set of all
// states in which the latch can be after such an order.

// A config is one such state.
type config struct {
	gen, length   uint8
	closed, gone  bool
	broken        bool
	owner         int8 // the thread that is in a transition; -1: none
	pins          [3]uint8
	answered      [3]bool // the thread's call has happened already, with
	answer        [3]uint8
	pinnedForever uint8
}

// A pending call, as the specification sees it.
type pending struct {
	kind      kind
	gen       uint8 // of the ticket
	besides   bool
	disturbed bool // another call, a pin or a transition was there at the same time
}

type spec struct {
	latches  []map[config]bool
	pending  [][]*pending // by latch and thread
	resigned []bool
	kept     bool
	fails    bool // taking down can fail
}

func newSpec(latches, threads int, p program) spec {
	s := spec{resigned: make([]bool, latches), kept: p.kept, fails: p.fails > 0}
	for range latches {
		s.latches = append(s.latches, map[config]bool{{owner: -1, broken: p.broken, pinnedForever: uint8(p.held), length: 10}: true})
		s.pending = append(s.pending, make([]*pending, threads))
	}
	return s
}

// key appends to b what the specification allows.
func (s *spec) key(b []byte) []byte {
	for i, configs := range s.latches {
		var all [][]byte
		for c := range configs {
			k, _ := binary.Append(nil, binary.NativeEndian, c)
			all = append(all, k)
		}
		slices.SortFunc(all, bytes.Compare)
		b = append(b, byte(len(all)))
		b = append(b, bytes.Join(all, nil)...)
		for _, p := range s.pending[i] {
			if p != nil {
				b = append(b, byte(p.kind)+1, p.gen, byte(truth(p.besides)), byte(truth(p.disturbed)))
			} else {
				b = append(b, 0)
			}
		}
		b = append(b, byte(truth(s.resigned[i])))
	}
	return b
}

// begin notes that a thread's call of a latch has begun.
func (s *spec) begin(latch, thread int, p pending) {
	for _, other := range s.pending[latch] {
		if other != nil {
			other.disturbed, p.disturbed = true, true
		}
	}
	for c := range s.latches[latch] {
		p.disturbed = p.disturbed || c.owner >= 0 || c.pins != [3]uint8{} || c.pinnedForever > 0
	}
	s.pending[latch][thread] = &p
}

// end notes that the call has returned. It reports whether that was possible.
func (s *spec) end(latch, thread int, answer uint8) bool {
	next, visited := map[config]bool{}, map[config]bool{}
	var follow func(c config)
	follow = func(c config) {
		if visited[c] {
			return
		}
		visited[c] = true
		if c.answered[thread] {
			if c.answer[thread] == answer {
				c.answered[thread], c.answer[thread] = false, 0
				next[c] = true
			}
			return
		}
		for u, p := range s.pending[latch] {
			if p == nil || c.answered[u] {
				continue
			}
			s.happen(c, u, p, func(after config, a uint8) {
				after.answered[u], after.answer[u] = true, a
				follow(after)
			})
		}
	}
	for c := range s.latches[latch] {
		follow(c)
	}
	s.latches[latch], s.pending[latch][thread] = next, nil
	return len(next) > 0
}

// drop notes that a call has turned out not to concern a latch.
func (s *spec) drop(latch, thread int) { s.pending[latch][thread] = nil }

// refusal is what is wrong with a ticket.
func (c config) refusal(p *pending) Answer {
	switch {
	case c.gen != p.gen:
		return Moved
	case c.closed:
		return Closed
	case c.broken && !p.besides:
		return Broken
	}
	return OK
}

func (c config) held() bool { return c.pins != [3]uint8{} || c.pinnedForever > 0 }

// happen calls f with each state that a call can make of c, and its answer.
func (s *spec) happen(c config, thread int, p *pending, f func(config, uint8)) {
	refused := c.refusal(p)
	switch p.kind {
	case pin:
		if refused != OK {
			f(c, uint8(refused))
		} else if c.owner < 0 {
			c.pins[thread]++
			f(c, uint8(OK))
		}
	case unpin:
		c.pins[thread]--
		f(c, uint8(OK))
		// The pin has ended, and the thing is taken down, if at all, a while later: others
		// can be in between.
		if s.fails && (p.disturbed || c.closed && !c.held()) {
			f(c, uint8(Failed))
		}
	case acquire:
		if refused != OK {
			f(c, uint8(refused))
			return
		}
		if p.disturbed {
			f(c, uint8(Busy))
		}
		if c.owner < 0 && !c.held() {
			c.owner = int8(thread)
			f(c, uint8(OK))
		}
	case giveUp, stay:
		c.owner = -1
		f(c, uint8(OK))
	case pass:
		c.owner, c.broken, c.gen, c.length = -1, false, c.gen+1, c.length+1
		f(c, uint8(OK))
	case resign:
		c.owner, c.broken, c.gen, c.closed, c.gone = -1, false, c.gen+1, true, true
		f(c, uint8(OK))
	case breaks:
		c.owner, c.broken = -1, true
		f(c, uint8(OK))
	case closes:
		switch {
		case c.gen != p.gen:
			f(c, uint8(Moved))
		case c.closed:
			f(c, uint8(Closed))
			if s.fails { // a last pin could not take it down: this is the next try
				f(c, uint8(OK))
				f(c, uint8(Failed))
			}
		case c.owner >= 0: // it waits
		case s.kept:
			f(c, uint8(Kept))
		default:
			if s.fails && !c.held() {
				f(c, uint8(Failed))
			}
			c.closed = true
			f(c, uint8(OK))
		}
	case measure:
		// A broken latch has its length.
		if c.gen != p.gen || c.closed {
			f(c, 0)
		} else if c.owner < 0 {
			f(c, c.length)
		}
	case glance:
		if c.closed { // it can be taken down, or not yet
			f(c, 0)
		}
		if !c.gone && c.owner < 0 {
			f(c, c.length)
		}
	case look:
		if c.gone || c.held() || p.disturbed {
			f(c, 0)
		}
		if !c.gone && !c.held() {
			f(c, 1)
		}
		if c.closed { // it can be taken down, or not yet
			f(c, 0)
		}
	}
}
