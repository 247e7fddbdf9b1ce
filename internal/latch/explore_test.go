//go:build linux && explore

package latch

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/maphash"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The explorer runs short programs of two or three threads on the latch itself, in every
// order of its atomic operations. In Go these are sequentially consistent, so nothing
// else can happen. Threads are coroutines: each operation first hands control to the
// explorer. It goes depth-first, by running the program anew up to the choice that
// comes next.
//
// Two states are one if the memory is equal, what each thread has seen since it began
// its call is equal, with what it brought along, and what the specification still allows
// is equal. From the second on, an order is not followed.

var (
	schedule    = flag.String("schedule", "", "run this order of threads only, and print its steps: 0,1,1,…")
	preemptions = flag.Int("preemptions", 3, "how many of three threads, in one order")
)

// x is the run at work.
var x *run

// A run is one order of a program's steps.
type run struct {
	threads []*thread
	current *thread // nil: nobody else is there
	latches []*Latch
	things  []*thing
	length  []uint64       // of each thing: what a transition changes, in two steps
	twin    []uint64       // its other half, which is equal when no transition runs
	drains  map[*drain]int // the thread that each is of
	turns   []turn         // of each latch
	last    int            // the thread that was resumed last
	expired int            // rounds that timers have ended while others could go on
	nested  bool           // pins are views
	cancels bool           // Drains are canceled also while they could go on
	spec    spec
	steps   int
	trace   []string // if it is to be printed
	tracing bool
	failure error
}

type thread struct {
	index   int
	next    func() (struct{}, bool)
	stop    func()
	yield   func(struct{}) bool
	done    bool
	blocked func() bool // nil: it can go on
	begin   func()      // of its call, which begins with the first step
	seen    uint64      // a hash of what it has seen in this call
	at      int         // in its program
	state   []State     // its ticket of each latch
	pins    [][]*Stripe // what it holds of each
	taken   []bool      // it is in a transition
	timer   string      // what it is a timer of, if it is one
	fire    func()      // notes that it fires
	pausing bool        // the others go first
	getting *getting    // a pin that it is getting
	fn      *running    // what its Drain runs
}

// abort ends a thread quietly whose order is not followed further.
func abort() {
	if p := recover(); p != nil {
		if _, ok := p.(aborted); !ok {
			panic(p)
		}
	}
}

// aborted ends a thread whose order is not followed further.
type aborted struct{}

// step is one atomic operation.
func (r *run) step(what string, on any, arg uint64, do func() uint64) uint64 {
	t := r.current
	if t == nil {
		return do()
	}
	if !t.yield(struct{}{}) {
		panic(aborted{})
	}
	t.blocked, t.pausing = nil, false
	for _, other := range r.threads {
		if other != t {
			other.pausing = false
		}
	}
	t.beginCall()
	got := do()
	t.see(got)
	if r.tracing {
		r.trace = append(r.trace, fmt.Sprintf("thread %d: %s %#x: %#x", t.index, what, arg, got))
	}
	return got
}

func (t *thread) beginCall() {
	if begin := t.begin; begin != nil {
		t.begin = nil
		begin()
	}
}

var seed = maphash.MakeSeed()

func (t *thread) see(v uint64) {
	var b [16]byte
	binary.NativeEndian.PutUint64(b[:], t.seen)
	binary.NativeEndian.PutUint64(b[8:], v+1)
	t.seen = maphash.Bytes(seed, b[:])
}

func (r *run) fail(format string, args ...any) {
	if r.failure == nil {
		r.failure = fmt.Errorf(format, args...)
	}
}

// A thing is what a latch guards.
type thing struct {
	r      *run
	index  int
	mapped bool
	fails  int // how often taking it down will fail
	kept   bool
	closed bool   // a Close has begun
	failed [3]int // how often, by thread: in the key by what each has seen
	pinned int    // by calls that have returned
	taken  int    // by transitions
}

func (m *thing) Keeps() bool { return m.kept }

// Nested is asked by the thread that wants a pin.
func (m *thing) Nested() bool {
	if m.r.nested {
		for _, pins := range m.r.current.pins {
			if len(pins) > 0 {
				return true
			}
		}
	}
	return false
}

func (m *thing) Unmap() bool {
	ok := m.r.step("unmap", m, 0, func() uint64 {
		switch {
		case !m.mapped:
			m.r.fail("it is unmapped twice")
		case m.pinned > 0:
			m.r.fail("it is unmapped under %d pins", m.pinned)
		case m.taken > 0:
			m.r.fail("it is unmapped beside a transition")
		case !m.closed:
			m.r.fail("it is unmapped and was not closed")
		}
		if m.fails > 0 {
			m.fails--
			if m.r.current != nil {
				m.failed[m.r.current.index]++
			}
			return 0
		}
		m.mapped = false
		return 1
	})
	return ok == 1
}

// key says what state the run is in.
func (r *run) key(last, preempted int) string {
	b := make([]byte, 0, 256)
	word := func(v uint64) { b = binary.NativeEndian.AppendUint64(b, v) }
	for i, l := range r.latches {
		word(l.word.v)
		if l.stripes.s == nil {
			word(0)
		} else {
			for j := range l.stripes.s.lines {
				word(uint64(l.stripes.s.lines[j].pins.v) + 1)
			}
		}
		m := r.things[i]
		b = append(b, byte(truth(m.mapped)), byte(m.fails), byte(truth(m.closed)), byte(m.pinned), byte(m.taken), byte(r.length[i]), byte(r.twin[i]))
	}
	b = append(b, byte(outcome.asleep), byte(truth(outcome.L.held)), byte(last+1), byte(preempted), byte(r.expired))
	b = r.turnsKey(b)
	for _, t := range r.threads {
		word(t.seen)
		b = append(b, byte(t.at), byte(truth(t.done)), byte(truth(t.pausing)))
		b = append(b, t.getting.key()...)
		for i := range t.state {
			word(uint64(t.state[i]))
			b = append(b, byte(truth(t.taken[i])), byte(len(t.pins[i])))
			for _, line := range t.pins[i] {
				b = append(b, byte(r.lineOf(i, line)))
			}
		}
	}
	return string(r.spec.key(b))
}

func (r *run) lineOf(latch int, line *Stripe) int {
	if line == nil {
		return 0
	}
	for i := range r.latches[latch].stripes.s.lines {
		if line == &r.latches[latch].stripes.s.lines[i] {
			return i
		}
	}
	panic("no such line")
}

// enabled returns the threads that can go on, the timers last, and how many are none.
func (r *run) enabled() (some []int, threads int) {
	add := func(which func(t *thread) bool) {
		for _, t := range r.threads {
			if !t.done && which(t) && (t.blocked == nil || !t.blocked()) {
				some = append(some, t.index)
			}
		}
	}
	add(func(t *thread) bool { return t.timer == "" && !t.pausing })
	if len(some) == 0 {
		add(func(t *thread) bool { return t.timer == "" })
	}
	threads = len(some)
	add(func(t *thread) bool {
		switch t.timer {
		case "round":
			return r.expired < mostExpired || threads == 0 && r.holding()
		case "cancel":
			return r.cancels || threads == 0
		}
		return t.timer != ""
	})
	return some, threads
}

// mostExpired is how many rounds can end by their time in one run, not counting those
// that hold somebody back when nothing else can happen. Afterwards a Drain ends when it is
// canceled.
const mostExpired = 2

// start makes the run of a program, at its beginning.
func start(p program) *run {
	r := &run{}
	x, outcome, watchers = r, newOutcome(), map[*Latch]*turns{}
	r.drains, r.nested, r.cancels = map[*drain]int{}, p.nested, p.cancels
	n := 1
	for _, calls := range p.threads {
		for _, c := range calls {
			n = max(n, c.latch+1, c.second+1)
		}
	}
	r.spec = newSpec(n, len(p.threads), p)
	for i := range n {
		l := new(Latch)
		l.word.v = uint64(p.held)
		if p.broken {
			l.word.v |= partial
		}
		if p.striped {
			l.newStripes()
		}
		r.latches = append(r.latches, l)
		r.things = append(r.things, &thing{r: r, index: i, mapped: true, fails: p.fails, kept: p.kept, pinned: p.held})
		r.length, r.twin = append(r.length, 10), append(r.twin, 10)
		r.turns = append(r.turns, turn{})
	}
	for i, calls := range p.threads {
		t := &thread{index: i, state: make([]State, n), pins: make([][]*Stripe, n), taken: make([]bool, n)}
		r.threads = append(r.threads, t)
		t.next, t.stop = iter.Pull(func(yield func(struct{}) bool) {
			defer abort()
			t.yield = yield
			if !yield(struct{}{}) {
				return
			}
			for at, c := range calls {
				t.at, t.seen = at+1, 0
				r.call(t, c)
			}
		})
		r.resume(t) // up to the first call
	}
	return r
}

// resume runs a thread up to its next step.
func (r *run) resume(t *thread) {
	r.current = t
	if t.fire != nil {
		t.fire()
		t.fire = nil
	}
	if _, ok := t.next(); !ok {
		t.done = true
	}
	r.current, r.last = nil, t.index
	r.noteDrains()
}

func (r *run) end() {
	for _, t := range r.threads {
		t.stop()
	}
}

// most is how many steps a run may have: one that needs more never ends.
const most = 800

// A tally says how much was explored.
type tally struct{ runs, states, steps int }

func (n tally) String() string {
	return fmt.Sprintf("%d runs, %d states, %d steps", n.runs, n.states, n.steps)
}

// explore runs a program in all orders, and returns the first one that fails.
func explore(p program, bound int) (t tally, order []int, failure error) {
	type choice struct {
		prefix []int
	}
	seen := map[string]struct{}{}
	for stack := []choice{{}}; len(stack) > 0; {
		prefix := stack[len(stack)-1].prefix
		stack = stack[:len(stack)-1]
		t.runs++
		r := start(p)
		order, last, preempted := slices.Clone(prefix[:0:0]), -1, 0
		for {
			t.steps++
			some, threads := r.enabled()
			if threads == 0 {
				r.stuck()
			}
			if r.failure != nil || len(some) == 0 || threads == 0 && r.finished() {
				break
			}
			if len(order) >= most {
				r.fail("it goes on after %d steps", most)
				break
			}
			var next int
			if n := len(order); n < len(prefix) {
				next = prefix[n]
			} else {
				counted := last
				if bound < 0 {
					counted = -1
				}
				key := r.key(counted, preempted)
				if _, ok := seen[key]; ok {
					break
				}
				seen[key] = struct{}{}
				// The thread that is at work goes on first.
				canGoOn := slices.Contains(some, last)
				if next = some[0]; canGoOn {
					next = last
				}
				for _, other := range some {
					if other != next && (bound < 0 || !canGoOn || preempted < bound) {
						stack = append(stack, choice{append(slices.Clone(order), other)})
					}
				}
			}
			if bound >= 0 && last >= 0 && next != last && slices.Contains(some, last) {
				preempted++
			}
			order, last = append(order, next), next
			r.resume(r.threads[next])
		}
		if some, _ := r.enabled(); r.failure == nil && (len(some) == 0 || r.finished()) {
			r.finish(p)
		}
		r.end()
		if r.failure != nil {
			return t, order, r.failure
		}
	}
	t.states = len(seen)
	return t, nil, nil
}

// finish looks at what is left when nobody can go on.
func (r *run) finish(p program) {
	for _, t := range r.threads {
		if !t.done && t.timer == "" {
			r.fail("thread %d never wakes up", t.index)
			return
		}
	}
	if len(watchers) > 0 {
		r.fail("turns are left over: %+v", *slices.Collect(maps.Values(watchers))[0])
		return
	}
	for i, l := range r.latches {
		m := r.things[i]
		if l.word.v&(busy|awaited|watched) != 0 {
			r.fail("the word is %#x at the end", l.word.v)
			return
		}
		if m.pinned > 0 {
			continue // somebody forgot to unpin
		}
		if l.word.v&pinMask != 0 || !l.stripes.s.idle() {
			r.fail("pins are left over: the word is %#x", l.word.v)
		}
		if l.word.v&(closed|gone|failed) == closed {
			r.fail("it is closed, nobody pins it, and nobody takes it down: the word is %#x", l.word.v)
		}
		if m.mapped == (l.word.v&gone != 0) && !r.spec.resigned[i] {
			r.fail("it is mapped: %v, and the word is %#x", m.mapped, l.word.v)
		}
		// Whatever has failed, the next Close works, and only if it was not closed.
		m.fails, m.kept = 0, false
		open, s := l.word.v&gone == 0, State(l.word.v&genMask)
		m.closed = true
		if a := l.Close(s, m); open != (a == OK) || !r.spec.resigned[i] && m.mapped {
			r.fail("a Close afterwards returns %v; it is mapped: %v", a, m.mapped)
		}
	}
}

// replay runs one order, and prints it.
func replay(p program, order []int) (steps []string, failure error) {
	r := start(p)
	r.tracing = true
	for _, next := range order {
		some, threads := r.enabled()
		if threads == 0 {
			r.stuck()
		}
		if !slices.Contains(some, next) {
			break
		}
		r.resume(r.threads[next])
	}
	if some, threads := r.enabled(); r.failure == nil {
		if threads == 0 {
			r.stuck()
		}
		if r.failure == nil && (len(some) == 0 || r.finished()) {
			r.finish(p)
		}
	}
	r.end()
	return r.trace, r.failure
}

// try explores a program, and reports the order that fails.
func try(t *testing.T, p program, bound int) tally {
	t.Helper()
	if *schedule != "" {
		var order []int
		for _, s := range strings.Split(*schedule, ",") {
			n, err := strconv.Atoi(s)
			if err != nil {
				t.Fatal(err)
			}
			order = append(order, n)
		}
		steps, err := replay(p, order)
		t.Logf("%v\n%s\n%v", p, strings.Join(steps, "\n"), err)
		if err != nil {
			t.Fail()
		}
		return tally{}
	}
	sum, order, err := explore(p, bound)
	if err != nil {
		steps, repeated := replay(p, order)
		if repeated == nil || repeated.Error() != err.Error() {
			err = errors.Join(err, fmt.Errorf("and when it is repeated: %v", repeated))
		}
		again := fmt.Sprintf("go test -tags explore -run '^%s$' . -schedule %s", regexp.QuoteMeta(t.Name()), listed(order))
		t.Errorf("%v: %v\n%s\n%s", p, err, strings.Join(steps, "\n"), again)
	}
	return sum
}

func listed(order []int) string {
	var s []string
	for _, n := range order {
		s = append(s, strconv.Itoa(n))
	}
	return strings.Join(s, ",")
}
