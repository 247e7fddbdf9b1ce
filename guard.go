package mmap

import (
	"runtime"
	"runtime/debug"
)

// A guard turns memory faults into errors. This is the only place that sets
// the flag of debug.SetPanicOnFault and recovers, and the flag is as it was on
// every way out: a return, a panic, runtime.Goexit.
//
//	g := guard{…}
//	g.enter()
//	defer g.rescue(&err)
//	… touch the memory …
//	g.leave()
//	r.unpin(line)
type guard struct {
	outer bool    // the flag before
	left  bool    // by leave: there is nothing to rescue
	r     *region // the mapping that is guarded, pinned by the caller;
	line  *stripe // rescue ends that pin
	other *watch  // or what else is guarded
}

// watch is what a guard can guard beside one region. It is apart so that the
// guard of a view is small: it is cleared at every access.
type watch struct {
	pins  []*Pin  // mappings whose pins rescue does not end
	probe uintptr // an address whose faults are plain ErrFault
}

func (g *guard) enter() { g.outer = debug.SetPanicOnFault(true) }

// leave ends the guard on the usual way out. The pin is the caller's again.
func (g *guard) leave() {
	debug.SetPanicOnFault(g.outer)
	g.left = true
}

// rescue is to be deferred. It ends the guard on every other way out.
func (g *guard) rescue(err *error) {
	if g.left {
		return
	}
	p := recover()
	debug.SetPanicOnFault(g.outer)
	if g.r != nil {
		defer g.r.unpin(g.line)
	}
	if p != nil {
		*err = g.claim(p)
	}
}

// claim returns the error for a panic that is a fault of a guarded mapping. Any
// other panic goes on, and a fault elsewhere ends as it would have without a
// guard.
func (g *guard) claim(p any) error {
	fault, ok := p.(interface {
		runtime.Error
		Addr() uintptr
	})
	if !ok {
		panic(p)
	}
	addr := fault.Addr()
	if g.r != nil && g.r.covers(addr) {
		return g.r.fault(addr)
	}
	if g.other != nil {
		if g.other.probe != 0 && page(addr) == page(g.other.probe) {
			return ErrFault
		}
		for _, pin := range g.other.pins {
			if pin != nil && pin.r.covers(addr) {
				return pin.r.fault(addr)
			}
		}
	}
	if !g.outer && addr >= pageSize {
		// Without this guard, the runtime would have ended the program with
		// its own report. It does so now, if the fault is still there: the
		// flag is off again.
		load(addr)
		store(addr)
	}
	panic(p)
}

// covers reports whether addr lies in the region's page range. The caller has
// pinned the region.
func (r *region) covers(addr uintptr) bool { return addr-r.base < r.size }
