//go:build linux

package latch

// stripes count pins when several processors pin one latch: each goroutine
// has a line of its own, most of the time. Line 0 is not used: indexing loads
// it for the nil check.
type stripes struct{ lines []Stripe }

func (l *Latch) newStripes() *stripes {
	l.stripes.CompareAndSwap(nil, &stripes{lines: make([]Stripe, lineCount()+1)})
	return l.stripes.Load()
}

// mine returns the line of a goroutine that hint tells from others, which are numbers
// at least 2 KiB apart.
func (s *stripes) mine(hint uintptr) *Stripe {
	// The multiplier is 2^32 over the golden ratio, which spreads neighbours far
	// from each other.
	h := uint32(hint>>11) * 0x9e3779b9
	return &s.lines[1+(uint64(h)*uint64(len(s.lines)-1))>>32]
}

func (s *stripes) idle() bool {
	if s != nil {
		for i := range s.lines {
			if s.lines[i].pins.Load() != 0 {
				return false
			}
		}
	}
	return true
}

// Striped reports whether pins are counted in stripes, so that PinOnce must not be
// called.
func (l *Latch) Striped() bool { return l.stripes.Load() != nil }

// PinOnce pins the latch, counted in the word, if nothing stands in the way.
func (l *Latch) PinOnce(s State) bool {
	w := l.word.Load()
	return w-uint64(s) < pinMask && l.word.CompareAndSwap(w, w+pinOne)
}

// Pin keeps the latch as it is until Unpin is called with the same result, which says
// where the pin is counted: a stripe, or nil for the word. It does what PinOnce leaves:
// stripes, a lost race, a full counter, a transition to wait for, and states that are no
// longer good. besides are state bits that do not stand in the way. The hint tells
// goroutines apart, cheaply and often.
func (l *Latch) Pin(s, besides State, hint uintptr, m Memory) (*Stripe, Answer) {
	for {
		now := l.word.Load()
		w := now &^ uint64(besides)
		if w&^pinMask == uint64(s) {
			line := l.stripes.Load()
			if line == nil && besides&watched != 0 && w&pinMask < pinMask && l.word.CompareAndSwap(now, now+pinOne) {
				return nil, OK // no race was lost, but for a Drain's sake PinOnce was not for this pin
			}
			if line == nil {
				line = l.newStripes()
			}
			mine := line.mine(hint)
			mine.pins.Add(1)
			if l.word.Load()&^(pinMask|uint64(besides)) == uint64(s) {
				return mine, OK
			}
			l.Unpin(mine, m)
			continue
		}
		if a := s.refusal(w); a != OK {
			return nil, a
		}
		if w&watched == 0 {
			l.await() // for nothing but a transition is left
		} else if l.hold(s, besides, m) {
			line, a := l.Pin(s, besides|watched, hint, m)
			l.arrive()
			return line, a
		}
	}
}

// Unpin ends a pin, and takes the thing down if it was the last of a closed latch. If that
// could not be done, it returns Failed, otherwise OK.
//
// No wake-up is lost: closed is set before Close looks for pins, and a pin is
// given up before Unpin looks for closed, so at least one of the two sees the
// other; settle elects one if both do.
func (l *Latch) Unpin(line *Stripe, m Memory) (a Answer) {
	if line == nil && l.word.Add(^uint64(0))&(closed|watched) == 0 {
		return // OK; if that were written here, Unpin would be too large to be inlined
	}
	return l.unpinSlowly(line, m)
}

// unpinSlowly deals with all that Unpin leaves: stripes, and latches that are closed or
// drained. A pin in the word is given up already. Inlined, it would keep Unpin from being
// so, which costs a view a seventh.
//
//go:noinline
func (l *Latch) unpinSlowly(line *Stripe, m Memory) Answer {
	if line != nil {
		line.pins.Add(-1)
	}
	if w := l.word.Load(); w&watched != 0 && w&pinMask == 0 && l.stripes.Load().idle() {
		l.alert()
	}
	return l.settle(m)
}
