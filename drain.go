//go:build linux

package mmap

import (
	"context"
	"errors"
	"runtime/debug"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/latch"
)

// Drain waits until nobody accesses or pins the mapping, and then calls fn, which does a
// transition. It is what to do about ErrBusy: new accesses wait meanwhile, as they do for
// a running transition, so readers that never pause cannot keep fn from its turn.
//
//	err := m.Drain(ctx, func() (err error) {
//		rw, err = mmap.Protect[mmap.ReadWrite](m)
//		return err
//	})
//
// The result is that of fn. Where that is ErrBusy, and nobody has consumed or changed m
// meanwhile, fn is called again after a moment, so fn must be able to run twice. If ctx
// ends while Drain waits, the error matches ctx.Err() and says how many pins and accesses
// are in the way; if ctx is done already, fn is not called. If somebody else closes or
// consumes m before fn runs, Drain returns ErrClosed or ErrMoved.
//
// Accesses are held back in rounds, of which the first lasts a millisecond at most, and
// each next one twice as long, up to a second. Whoever was held back by one round gets in
// before fn runs in the next. The round also ends while fn runs: then accesses, and the fn
// of another Drain, run beside it. So fn is no critical section. Do what is slow before
// Drain; fn's transition has to begin within the round.
//
// Within a view or a [Guard], an access is held back for a millisecond at most, so a view
// within a view is slow and does not deadlock. Beside a [Pin] of its own an access can wait
// for a whole round, and so can one by fn. For a pin or a view that the caller itself
// holds, Drain waits until ctx ends, and so it does for accesses that last longer than a
// second and overlap. All other accesses are slow meanwhile: give ctx a deadline.
//
// For a [Tracker] it does not wait: ErrBusy of fn is the result then.
//
// Several Drains of a mapping take turns, round by round, also a Drain within fn.
// m.Drain(ctx, m.Close) is a Close that waits for the last reader.
func (m Mapping) Drain(ctx context.Context, fn func() error) error {
	if m.r == nil {
		return named(ErrClosed, "drain")
	}
	if err := ctx.Err(); err != nil {
		return named(err, "drain")
	}
	whenDone := func(cancel func()) func() bool { return context.AfterFunc(ctx, cancel) }
	var err error
	a := m.r.Drain(m.state, whenDone, func() bool {
		err = fn()
		return errors.Is(err, ErrBusy) && m.r.attachment() == nil
	})
	switch {
	case a == latch.OK:
		return err
	case a != latch.Canceled:
		return named(m.refused(a), "drain")
	}
	return named(fail.Hint(ctx.Err(), "pins and accesses in the way: %d", m.r.Pins()), "drain")
}

// Nested reports whether the goroutine is in a view or in a guard: see latch.Memory.
func (r *region) Nested() bool {
	nested := debug.SetPanicOnFault(true)
	debug.SetPanicOnFault(nested)
	return nested
}
