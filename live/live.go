//go:build linux

// Package live tells which mappings of package mmap are alive, and where they were made.
// A program that does not import it pays next to nothing: one atomic load for each mapping.
//
// While [Record] is on, the profile github.com/mmarinus/mmap/live of [runtime/pprof]
// counts live mappings by the stack that made them, so net/http/pprof serves it.
package live

import (
	"fmt"
	"iter"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/birth"
)

// A Mapping is one that is alive: nobody has unmapped it or given it away.
type Mapping struct {
	Addr  uintptr   // of the first byte
	Len   int       // in bytes
	Prot  mmap.Prot // what every page allows
	Stack []uintptr // of the function that made it, for runtime.CallersFrames; nil if that was not recorded
}

var profile = pprof.NewProfile("github.com/mmarinus/mmap/live")

// record is what was recorded, under its lock.
var record = struct {
	sync.Mutex
	on        bool // by Record
	checks    int  // at work
	last      uint32
	alive     map[uint32][]uintptr
	collected map[uint32][]uintptr // for Checks
}{alive: map[uint32][]uintptr{}, collected: map[uint32][]uintptr{}}

// watcher, once it has been told of a mapping, has to hear of its end: it stays.
var watcher = &birth.Watcher{Born: born, Gone: gone}

// Record(true) has every new mapping store the call stack that makes it, and Record(false)
// stops that. What was stored stays. It is safe to call from several goroutines; the last
// call counts.
func Record(on bool) {
	record.Lock()
	defer record.Unlock()
	if record.on = on; on {
		birth.Watching.Store(watcher)
	}
}

func born() uint32 {
	record.Lock()
	defer record.Unlock()
	if !record.on && record.checks == 0 {
		return 0
	}
	for taken := true; taken; _, taken = record.alive[record.last] {
		record.last = record.last%birth.Last + 1
	}
	var pcs [64]uintptr
	stack := pcs[:runtime.Callers(1, pcs[:])]
	own := ownFrames(stack)
	record.alive[record.last] = slices.Clone(stack[own:])
	if record.on {
		profile.Add(record.last, own+1)
	}
	return record.last
}

// stackOf returns where a mapping was made, nil if that was not recorded.
func stackOf(id uint32) []uintptr {
	record.Lock()
	defer record.Unlock()
	return record.alive[id]
}

const library, itself = "github.com/mmarinus/mmap.", "github.com/mmarinus/mmap/live.born"

// ownFrames returns how many functions at the top of a stack are the library's, or between
// such: a descriptor is asked for by a function that the os package calls back. A test of
// the library is not one.
func ownFrames(stack []uintptr) (n int) {
	for i, pc := range stack {
		f := runtime.FuncForPC(pc - 1)
		if f == nil {
			break
		}
		file, _ := f.FileLine(pc - 1)
		switch name := f.Name(); {
		case strings.HasSuffix(file, "_test.go"):
			return n
		case strings.HasPrefix(name, library), strings.HasPrefix(name, itself):
			n = i + 1
		case !strings.HasPrefix(name, "os.") && !strings.HasPrefix(name, "internal/poll."):
			return n
		}
	}
	return n
}

func gone(id uint32, collected bool) {
	record.Lock()
	defer record.Unlock()
	if collected && record.checks > 0 {
		record.collected[id] = record.alive[id]
	}
	delete(record.alive, id)
	profile.Remove(id)
}

// All returns all mappings that are alive, closed but pinned ones too, in no order.
func All() iter.Seq[Mapping] {
	return func(yield func(Mapping) bool) {
		birth.Each(func(m birth.Mapping) bool {
			return yield(Mapping{m.Addr, m.Len, mmap.Prot(m.Prot), stackOf(m.ID)})
		})
	}
}

// A TB is a [testing.TB], or what Check needs of it.
type TB interface {
	Helper()
	Cleanup(f func())
	Errorf(format string, args ...any)
}

// Check makes each mapping that is made after the call, and is not closed at the end of
// the test, an error of the test that says where it was made. A mapping that the collector
// has unmapped was not closed either. Call Check first in the test, so that it looks after all
// other cleanups. Do not use it in parallel tests, whose mappings it would report, too.
func Check(tb TB) {
	tb.Helper()
	record.Lock()
	record.checks++
	birth.Watching.Store(watcher)
	first := record.last
	record.Unlock()
	tb.Cleanup(func() {
		tb.Helper()
		birth.Each(func(m birth.Mapping) bool {
			if m.ID > first && !m.Closed {
				tb.Errorf("a mapping of %d bytes at %#x, %v, is not closed. It was made in\n%s",
					m.Len, m.Addr, mmap.Prot(m.Prot), frames(stackOf(m.ID)))
			}
			return true
		})
		record.Lock()
		defer record.Unlock()
		for id, stack := range record.collected {
			if id > first {
				tb.Errorf("a mapping was not closed, and the collector has unmapped it. It was made in\n%s", frames(stack))
			}
		}
		if record.checks--; record.checks == 0 {
			clear(record.collected)
		}
	})
}

// frames returns a stack as text.
func frames(stack []uintptr) string {
	var text strings.Builder
	for all := runtime.CallersFrames(stack); len(stack) > 0; {
		f, more := all.Next()
		fmt.Fprintf(&text, "%s\n\t%s:%d\n", f.Function, f.File, f.Line)
		if !more {
			break
		}
	}
	return text.String()
}
