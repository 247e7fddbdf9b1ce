package mmap

import (
	"runtime"
	"runtime/debug"
)

// A guard turns memory faults into errors. This is the only place that sets
// the flag of debug.SetPanicOnFault and recovers, and the flag is as it was on
// every way out: a return, a panic, runtime.Goexit.
//
//	g := r.guard(line)
//	defer g.leave(&err)
type guard struct {
	outer bool    // the flag before
	r     *region // the mapping that is guarded, pinned by the caller;
	line  *stripe // leave ends that pin
	pins  []*Pin  // or several mappings, that leave does not touch

	start int  // a copy began at this offset,
	done  *int // and has come so far; nil where it is no copy

	probe uintptr // or one address, whose faults are plain ErrFault
}

// guard begins to guard the region, and takes over the caller's pin on it.
func (r *region) guard(line *stripe) guard {
	return guard{outer: debug.SetPanicOnFault(true), r: r, line: line}
}

// enter begins to guard what g names otherwise.
func (g *guard) enter() { g.outer = debug.SetPanicOnFault(true) }

// leave is to be deferred.
func (g *guard) leave(err *error) {
	debug.SetPanicOnFault(g.outer)
	if p := recover(); p != nil {
		g.recovered(p, err)
		return
	}
	if g.r != nil {
		g.r.unpin(g.line)
	}
}

// recovered sets err if the panic p is a fault of a guarded mapping. Any other
// panic goes on, and a fault elsewhere ends as it would have without a guard.
func (g *guard) recovered(p any, err *error) {
	if g.r != nil {
		defer g.r.unpin(g.line)
	}
	fault, ok := p.(interface {
		runtime.Error
		Addr() uintptr
	})
	if !ok {
		panic(p)
	}
	addr := fault.Addr()
	if g.probe != 0 && page(addr) == page(g.probe) {
		*err = ErrFault
		return
	}
	if g.r != nil && g.r.covers(addr) {
		f := g.r.fault(addr)
		if g.done != nil {
			f.Offset = g.start + *g.done
		}
		*err = f
		return
	}
	for _, pin := range g.pins {
		if pin != nil && pin.r.covers(addr) {
			*err = pin.r.fault(addr)
			return
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
