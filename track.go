//go:build linux

package mmap

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// A Span is Len bytes of a mapping at Off.
type Span struct{ Off, Len int }

// A Tracker tells which pages of a mapping were written. The kernel notes each page at the
// first write since its last reset: no signal or goroutine of the program is involved, and
// writes by system calls into the memory are noted, too. It is made by the method Track of
// a handle, and kept until its Close or that of the mapping.
//
// The methods act on the pages that hold n bytes at off. A range that is not within Len is a
// bad argument. They return spans of whole pages, clipped to the mapping, in
// ascending order and with gaps between them. After Close, after that of the mapping, and
// on a nil or zero Tracker they return ErrClosed. They are safe for concurrent use, also
// beside writers.
//
// A page counts as written, too, if its contents were destroyed by Discard, DiscardLocked,
// Free, Punch, InstallGuardPages or RemoveGuardPages, and if PrefaultWrite or a Lock has
// brought it in for writing. A page given to Free counts again when the kernel drops it.
//
// Writes that do not go through this mapping are not seen: those of another mapping of the
// memory, of another process, of write(2) to the file, and by I/O for which the kernel had
// pinned the page before the reset, such as buffers registered with io_uring or O_DIRECT.
type Tracker struct {
	of ticket
	on *tracking
}

// A tracking is the inside of a Tracker. Who holds a pin of the region and inUse of the
// attachment can use it until it is closed.
type tracking struct {
	*attachment
	pagemap int // a descriptor of /proc/self/pagemap
	ended   atomic.Bool

	marking sync.Mutex
	marks   pageBits // that count as written whatever the kernel says
}

// track attaches a tracker. Of a mapping that is paged, it shares the descriptor.
func (t ticket) track() (*Tracker, error) {
	on := &tracking{pagemap: -1}
	err := t.pinned(func(r *region) (err error) {
		more := r.has()
		if !more.growth.TryLock() { // pages that come would be missed, and Grow may wait for storage
			return errAttached()
		}
		defer more.growth.Unlock()
		if a := more.attached.Load(); a != nil && a.cause != nil {
			a.inUse.Lock()
			defer a.inUse.Unlock()
			if on.attachment = a; a.mode&sys.UFFDIO_REGISTER_MODE_WP == 0 {
				return kernel.Blame("UFFD_FEATURE_WP_ASYNC", unix.EINVAL)
			}
			if a.tracking.Load() != nil {
				return errAttached()
			}
			return on.begin(r)
		}
		on.attachment = &attachment{fd: -1, mode: sys.UFFDIO_REGISTER_MODE_WP}
		return r.attach(on.attachment, uffdWrites, "UFFD_FEATURE_WP_ASYNC", func() error { return on.begin(r) })
	})
	if err != nil {
		return nil, named(err, "track")
	}
	return &Tracker{t, on}, nil
}

// begin makes none of the pages count as written.
func (a *tracking) begin(r *region) (err error) {
	if a.pagemap, err = sys.OpenSelfPagemap(); err != nil {
		return fail.Hint(err, "/proc/self/pagemap cannot be opened")
	}
	in := stretch{0, r.Data()}
	if in.end > 0 {
		if err = a.reset(r.Base, in); err == nil {
			err = a.reaches(r.Base, in.end)
		}
	}
	if err != nil {
		unix.Close(a.pagemap)
		return err
	}
	a.tracking.Store(a)
	return nil
}

// end ends it, once.
func (a *tracking) end() {
	if !a.ended.Swap(true) {
		a.tracking.Store(nil)
		unix.Close(a.pagemap)
	}
}

// reset makes pages count as not written. The protection is kept in page tables, also of
// pages that are not there yet. Those of the reserve get it when Grow needs them: there can
// be very many.
func (a *tracking) reset(base uintptr, in stretch) error {
	err := a.protect(base+in.start, in.end-in.start)
	if err == nil {
		_, err = a.scan(isWritten, base, in, true) // guard pages are protected by this alone
	}
	return err
}

// protect makes the kernel note the next write to each page.
func (a *tracking) protect(addr, size uintptr) error {
	err := sys.UffdWriteProtect(a.fd, addr, size)
	if err == unix.ENOENT {
		return errLost
	}
	return kernel.Scarce(err, kernel.Demand{})
}

// reaches returns an error unless the kernel notes writes to all of a range: it registers
// the memory of devices, and then does nothing.
func (a *tracking) reaches(base, size uintptr) error {
	all := sys.PageScan{Mask: sys.PAGE_IS_WPALLOWED, Return: sys.PAGE_IS_WPALLOWED}
	found, err := a.scan(all, base, stretch{0, size}, false)
	if err == nil && !slices.Equal(found, pageSet{{0, size}}) {
		err = fail.Hint(unix.ENODEV, "writes to the memory of a device cannot be tracked")
	}
	return err
}

// scan returns the pages of a range for which the kernel has what is asked; see
// sys.PageScan.
func (a *tracking) scan(ask sys.PageScan, base uintptr, in stretch, protect bool) (found pageSet, err error) {
	var vec [128]sys.PageRegion
	end := uint64(base + in.end)
	for at := uint64(base + in.start); at < end; at = ask.WalkEnd {
		ask.Start, ask.End = at, end
		n, err := ask.Scan(a.pagemap, vec[:], protect)
		if err != nil {
			return nil, kernel.Scarce(kernel.Blame("PAGEMAP_SCAN", err), kernel.Demand{})
		}
		for _, p := range vec[:n] {
			found = found.append(stretch{uintptr(p.Start) - base, uintptr(p.End) - base})
		}
	}
	return found, nil
}

// isWritten asks for pages that are not protected. A page that was written, and has been
// taken from the page tables since, counts: it is not there, and not protected. One that
// nobody has touched does not: it is protected, too (WP_UNPOPULATED). The flag
// PM_SCAN_CHECK_WPASYNC is not used: a scan that it ends has protected pages, and told of
// none.
var isWritten = sys.PageScan{Mask: sys.PAGE_IS_WRITTEN, Return: sys.PAGE_IS_WRITTEN}

// written returns the pages of a range that the kernel notes as written; protect says that
// they are noted anew from now on.
func (a *tracking) written(base uintptr, in stretch, protect bool) (found pageSet, err error) {
	if found, err = a.scan(isWritten, base, in, protect); err != nil {
		return nil, err
	}
	// What somebody else has mapped here is passed over. This looks at areas only.
	var vec [1]sys.PageRegion
	foreign := sys.PageScan{Mask: sys.PAGE_IS_WPALLOWED, Inverted: sys.PAGE_IS_WPALLOWED, MaxPages: 1}
	foreign.Start, foreign.End = uint64(base+in.start), uint64(base+in.end)
	n, err := foreign.Scan(a.pagemap, vec[:], false)
	if err == nil && n > 0 {
		err = errLost
	}
	return found, cmp.Or(kernel.Scarce(err, kernel.Demand{}), noHole(base, in))
}

// noHole returns an error if a page is not mapped, which the kernel passes over as well. It
// asks msync(2) with MS_ASYNC, which has no effect, and looks at areas only.
func noHole(base uintptr, in stretch) error {
	err := sys.Msync(base+in.start, in.end-in.start, unix.MS_ASYNC)
	if err == unix.ENOMEM {
		err = errLost
	}
	return err
}

// mark makes pages count as written.
func (a *tracking) mark(s stretch) {
	a.marking.Lock()
	defer a.marking.Unlock()
	a.marks.add(s)
}

// unmark makes pages of a range count as the kernel says, and returns those that did not.
func (a *tracking) unmark(in stretch) (were pageSet) {
	a.marking.Lock()
	defer a.marking.Unlock()
	were = a.marks.clip(in)
	a.marks.remove(in)
	return were
}

// marked returns the pages of a range that count as written whatever the kernel says.
func (a *tracking) marked(in stretch) pageSet {
	a.marking.Lock()
	defer a.marking.Unlock()
	return a.marks.clip(in)
}

// within runs f over the pages of n bytes at off, while the tracker is open.
func (t *Tracker) within(op string, off, n int, f func(r *region, in stretch) error) error {
	if t == nil || t.on == nil || t.on.ended.Load() {
		return named(errUntracked(), "%s of %v at %d", op, fail.Count(n), off)
	}
	return t.of.within(op, off, n, false, func(r *region, addr, size uintptr) error {
		t.on.inUse.RLock()
		defer t.on.inUse.RUnlock()
		if t.on.ended.Load() {
			return errUntracked()
		}
		return f(r, stretch{addr - r.Base, addr - r.Base + size})
	})
}

func errUntracked() error { return fail.Hint(ErrClosed, "the tracker is closed") }

// spans returns pages as bytes of the mapping.
func (r *region) spans(pages pageSet) []Span {
	lead, end := r.addr.Load()-r.Base, r.offset(int(r.len.Load()))
	spans := make([]Span, len(pages))
	for i, s := range pages {
		first := max(s.start, lead)
		spans[i] = Span{int(first - lead), int(min(s.end, end) - first)}
	}
	return spans
}

// Take returns which pages of n bytes at off count as written, and resets them. Each page is
// returned and reset in one step, so no write is missed: a write that comes later counts
// again. So take first, and copy then. Mark what could not be copied.
//
// If Take fails, the whole range counts as written. ENOMEM is the kernel's lack of memory
// for page tables. It fails if somebody has unmapped or replaced a part of the range without
// the library. Of several calls at once, each page is returned by one.
func (t *Tracker) Take(off, n int) (spans []Span, err error) {
	err = t.within("take", off, n, func(r *region, in stretch) error {
		var err error
		marked := t.on.unmark(in)
		for _, s := range marked { // also where no page is, which the scan would not protect
			err = cmp.Or(err, t.on.protect(r.Base+s.start, s.end-s.start))
		}
		var pages pageSet
		if err == nil {
			pages, err = t.on.written(r.Base, in, true)
		}
		if err != nil {
			t.on.mark(in)
			return err
		}
		if len(marked) > 0 {
			pages = pages.union(marked)
		}
		spans = r.spans(pages)
		return nil
	})
	return spans, err
}

// Written returns which pages of n bytes at off count as written, and resets nothing.
func (t *Tracker) Written(off, n int) (spans []Span, err error) {
	err = t.within("written", off, n, func(r *region, in stretch) error {
		marked := t.on.marked(in)
		pages, err := t.on.written(r.Base, in, false)
		spans = r.spans(pages.union(marked))
		return err
	})
	if err != nil {
		return nil, err
	}
	return spans, nil
}

// Mark makes the pages of n bytes at off count as written: those that could not be copied
// after Take, or that changed in a way which the kernel does not see.
func (t *Tracker) Mark(off, n int) error {
	return t.within("mark", off, n, func(_ *region, in stretch) error {
		t.on.mark(in)
		return nil
	})
}

// Reset makes the pages of n bytes at off count as not written. If it fails, the whole range
// counts as written.
func (t *Tracker) Reset(off, n int) error {
	return t.within("reset", off, n, func(r *region, in stretch) error {
		t.on.unmark(in)
		err := cmp.Or(t.on.reset(r.Base, in), noHole(r.Base, in))
		if err != nil {
			t.on.mark(in)
		}
		return err
	})
}

// Close ends the tracking. The mapping stays, and allows transitions again.
func (t *Tracker) Close() error {
	if t == nil || t.on == nil {
		return named(errUntracked(), "close of the tracker")
	}
	err := t.of.pinned(func(r *region) error {
		t.on.inUse.Lock()
		defer t.on.inUse.Unlock()
		if t.on.ended.Load() {
			return errUntracked()
		}
		if t.on.end(); t.on.cause == nil {
			r.detach(false)
		}
		return nil
	})
	return named(err, "close of the tracker")
}
