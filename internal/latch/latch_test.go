//go:build linux && !explore

package latch

import (
	"errors"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A counted memory counts how often it is taken down.
type counted struct {
	downs  atomic.Int32
	fails  int32
	keeps  bool
	nested bool
}

func (m *counted) Unmap() bool  { return m.downs.Add(1) > m.fails }
func (m *counted) Keeps() bool  { return m.keeps }
func (m *counted) Nested() bool { return m.nested }

func is(t *testing.T, what string, got, want Answer) {
	t.Helper()
	if got != want {
		t.Errorf("%s: answer %d, want %d", what, got, want)
	}
}

// TestExplore runs all orders of all pairs of short programs, on what the tag explore
// puts in the place of the atomics, and some of those with Drain.
func TestExplore(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("the compiler is needed: ", err)
	}
	args := []string{"test", "-buildvcs=false", "-tags=explore", "-run=TestTwo$|TestDrain$", "-v", ".", "-preemptions=2"}
	if testing.Short() {
		args[3] = "-run=(TestTwo|TestDrain)$/^(pin|drain)_beside"
	}
	out, err := exec.Command("go", args...).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Nobody can build the package with the tag: the operations that it needs are in tests.
func TestTagIsForTests(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("the compiler is needed: ", err)
	}
	out, err := exec.Command("go", "build", "-buildvcs=false", "-tags=explore", ".").CombinedOutput()
	var failed *exec.ExitError
	if !errors.As(err, &failed) || len(out) == 0 {
		t.Errorf("it can be built: %v\n%s", err, out)
	}
}

// fill pins until the word's counter is full, and stripes are made.
func fill(l *Latch, m Memory) {
	for range pinMask {
		l.PinOnce(0)
	}
	line, _ := l.Pin(0, 0, 0, m)
	l.Unpin(line, m)
	for range pinMask {
		l.Unpin(nil, m)
	}
}

func TestPins(t *testing.T) {
	for _, striped := range []bool{false, true} {
		l, m := new(Latch), new(counted)
		if striped {
			fill(l, m)
		}
		if l.Striped() != striped {
			t.Fatalf("striped: %v", l.Striped())
		}
		line, a := l.Pin(0, 0, 0, m)
		is(t, "pin", a, OK)
		is(t, "a transition beside a pin", l.Acquire(0, 0), Busy)
		if l.Idle() {
			t.Error("a pinned latch is idle")
		}
		is(t, "close", l.Close(0, m), OK)
		is(t, "close again", l.Close(0, m), Closed)
		if _, a := l.Pin(0, 0, 0, m); a != Closed {
			t.Errorf("a pin of a closed latch: %d", a)
		}
		if m.downs.Load() != 0 {
			t.Error("it is taken down under a pin")
		}
		if l.Unpin(line, m); m.downs.Load() != 1 {
			t.Errorf("it is taken down %d times", m.downs.Load())
		}
	}
}

func TestTransitions(t *testing.T) {
	l, m := new(Latch), new(counted)
	is(t, "acquire", l.Acquire(0, 0), OK)
	is(t, "acquire twice", l.Acquire(0, 0), Busy)
	l.GiveUp(0)
	is(t, "acquire", l.Acquire(0, 0), OK)
	s := l.Pass(0)
	if !l.PinOnce(s) || l.PinOnce(0) || l.Pins() != 1 {
		t.Errorf("the new state is pinned once: %d", l.Pins())
	}
	l.Unpin(nil, m)
	if is(t, "the old state", l.Acquire(0, 0), Moved); !l.Older(0) || l.Older(s) || l.Good(0) || !l.Good(s) {
		t.Error("the generation has not moved on")
	}
	is(t, "acquire", l.Acquire(s, 0), OK)
	l.Break(s)
	is(t, "a broken latch", l.Acquire(s, 0), Broken)
	is(t, "nevertheless", l.Acquire(s, Partial), OK)
	l.GiveUp(s)
	is(t, "still broken", l.Acquire(s, 0), Broken)
	is(t, "nevertheless", l.Acquire(s, Partial), OK)
	s = l.Pass(s)
	is(t, "whole again", l.Acquire(s, 0), OK)
	if l.Gone() {
		t.Error("it is gone before it is given away")
	}
	l.Resign(s)
	if is(t, "given away", l.Close(s, m), Moved); l.Idle() || !l.Gone() {
		t.Error("what is given away is idle, or not gone")
	}
	if m.downs.Load() != 0 {
		t.Error("what is given away is taken down")
	}
}

func TestGlance(t *testing.T) {
	l, m := new(Latch), new(counted)
	looked := 0
	if !l.Glance(func() { looked++ }) || looked != 1 || l.State() != 0 {
		t.Errorf("looked %d times", looked)
	}
	is(t, "acquire", l.Acquire(0, 0), OK)
	s := l.Pass(0)
	if l.State() != s {
		t.Error("the state of now")
	}
	looked = 0
	there := l.Glance(func() {
		if looked++; looked == 1 { // a transition comes between
			is(t, "acquire", l.Acquire(s, 0), OK)
			s = l.Pass(s)
		}
	})
	if !there || looked != 2 {
		t.Errorf("beside a transition it looked %d times", looked)
	}
	line, _ := l.Pin(s, 0, 0, m)
	is(t, "close", l.Close(s, m), OK)
	if !l.Glance(func() {}) {
		t.Error("what is pinned is not there")
	}
	l.Unpin(line, m)
	if l.Glance(func() { t.Error("looked at what is gone") }) {
		t.Error("what is taken down is there")
	}
}

func TestFailures(t *testing.T) {
	l, m := new(Latch), &counted{fails: 1}
	is(t, "close", l.Close(0, m), Failed)
	line, a := l.Pin(0, 0, 0, m)
	is(t, "it is open", a, OK)
	m.fails = 2
	is(t, "close beside a pin", l.Close(0, m), OK)
	is(t, "the last pin", l.Unpin(line, m), Failed)
	m.fails = 3
	is(t, "the next try", l.Close(0, m), Failed)
	is(t, "and the next", l.Close(0, m), OK)
	is(t, "and no more", l.Close(0, m), Closed)
	kept := &counted{keeps: true}
	is(t, "what is kept", new(Latch).Close(0, kept), Kept)
}

func TestBoth(t *testing.T) {
	a, b := new(Latch), new(Latch)
	is(t, "both", AcquireBoth(a, 0, b, 0), OK)
	is(t, "taken", AcquireBoth(a, 0, b, 0), Busy)
	s := a.Pass(0)
	is(t, "the second is taken", AcquireBoth(a, s, b, 0), Busy)
	is(t, "the first was given up", a.Acquire(s, 0), OK)
}

// Pins wait for a transition, and have its outcome.
func TestPinsWait(t *testing.T) {
	l, m := new(Latch), new(counted)
	for s := State(0); s < 100*genOne; s = l.Pass(s) {
		is(t, "acquire", l.Acquire(s, 0), OK)
		var in sync.WaitGroup
		for i := range 4 {
			in.Go(func() {
				if _, a := l.Pin(s, 0, uintptr(i)<<11, m); a != Moved {
					t.Errorf("a pin of an old state: %d", a)
				}
			})
		}
		defer in.Wait()
	}
}

// A pin that lost a race once costs no allocation from then on.
func TestStripesAreMadeOnce(t *testing.T) {
	l, m := new(Latch), new(counted)
	fill(l, m)
	pins := 0
	pin := func() {
		line, _ := l.Pin(0, 0, 0, m)
		pins = l.Pins()
		l.Unpin(line, m)
	}
	if n := testing.AllocsPerRun(100, pin); n != 0 {
		t.Errorf("a pin in the stripes allocates %v times", n)
	}
	if pins != 1 {
		t.Errorf("a pin in the stripes counts as %d", pins)
	}
}

// Goroutines whose stacks are neighbours have a line each, and nobody has line 0. A goroutine
// has the same one wherever it is in its 2 KiB.
func TestGoroutinesHaveLinesOfTheirOwn(t *testing.T) {
	s := &stripes{lines: make([]Stripe, 32+1)}
	owner := map[*Stripe]uintptr{&s.lines[0]: 0}
	for hint := uintptr(0xc000 << 12); hint < 0xc000<<12+16<<11; hint += 1 << 11 {
		line := s.mine(hint)
		if other, ok := owner[line]; ok {
			t.Errorf("the stacks at %#x and %#x have the same line", other, hint)
		}
		if owner[line] = hint; s.mine(hint+1<<11-1) != line {
			t.Errorf("the stack at %#x has two lines", hint)
		}
	}
}

// Readers that always overlap are drained by a round that is longer than they are.
func TestRoundsBecomeLonger(t *testing.T) {
	l, m := new(Latch), new(counted)
	var readers sync.WaitGroup
	for i := range 20 {
		readers.Go(func() {
			for {
				line, a := l.Pin(0, 0, uintptr(i)<<11, m)
				if a != OK {
					return
				}
				time.Sleep(time.Duration(50+rand.IntN(100)) * time.Millisecond)
				l.Unpin(line, m)
			}
		})
	}
	time.Sleep(30 * time.Millisecond)
	late := func(cancel func()) (stop func() bool) { return time.AfterFunc(10*time.Second, cancel).Stop }
	a := l.Drain(0, late, func() (again bool) {
		is(t, "acquire", l.Acquire(0, 0), OK)
		l.Pass(0)
		return false
	})
	if is(t, "drain", a, OK); a != OK {
		l.Close(0, m)
	}
	readers.Wait()
}

// There are lines enough for the processors, up to a limit.
func TestLines(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for processors, lines := range map[int]int{1: 32, 2: 32, 3: 48, 8: 128, 80: 1024} {
		runtime.GOMAXPROCS(processors)
		if n := len(new(Latch).newStripes().lines) - 1; n != lines {
			t.Errorf("%d processors have %d lines, not %d", processors, n, lines)
		}
		if n := runtime.GOMAXPROCS(0); n != processors {
			t.Errorf("it has set GOMAXPROCS to %d", n)
		}
	}
}
