package mmap

import (
	"fmt"
	"runtime"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/latch"
	"github.com/mmarinus/mmap/internal/place"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// Advice tells the kernel how memory will be used; madvise(2). None of it
// changes the contents: what does is a method of the writable handles.
type Advice int

// The advice, one for each value of madvise(2).
const (
	AdviceNormal      Advice = unix.MADV_NORMAL      // no special treatment
	AdviceRandom      Advice = unix.MADV_RANDOM      // no read-ahead
	AdviceSequential  Advice = unix.MADV_SEQUENTIAL  // much read-ahead, and pages may go soon after they were used
	AdviceWillNeed    Advice = unix.MADV_WILLNEED    // start to read the pages from storage; see Prefault for waiting
	AdviceDontFork    Advice = unix.MADV_DONTFORK    // not in a forked child, where touching it faults
	AdviceDoFork      Advice = unix.MADV_DOFORK      // undoes AdviceDontFork
	AdviceMergeable   Advice = unix.MADV_MERGEABLE   // equal pages become one (KSM)
	AdviceUnmergeable Advice = unix.MADV_UNMERGEABLE // undoes AdviceMergeable
	AdviceHugePage    Advice = unix.MADV_HUGEPAGE    // use transparent huge pages
	AdviceNoHugePage  Advice = unix.MADV_NOHUGEPAGE  // do not
	AdviceDontDump    Advice = unix.MADV_DONTDUMP    // not in a core dump
	AdviceDoDump      Advice = unix.MADV_DODUMP      // undoes AdviceDontDump
	AdviceKeepOnFork  Advice = unix.MADV_KEEPONFORK  // undoes WipeOnFork
	AdviceCold        Advice = unix.MADV_COLD        // reclaim the pages first when memory is short
	AdvicePageOut     Advice = unix.MADV_PAGEOUT     // reclaim the pages now: to swap, or to their file
)

// adviceNames are also the list of what Advise accepts.
var adviceNames = [...]string{
	AdviceNormal: "MADV_NORMAL", AdviceRandom: "MADV_RANDOM", AdviceSequential: "MADV_SEQUENTIAL", AdviceWillNeed: "MADV_WILLNEED",
	AdviceDontFork: "MADV_DONTFORK", AdviceDoFork: "MADV_DOFORK", AdviceMergeable: "MADV_MERGEABLE", AdviceUnmergeable: "MADV_UNMERGEABLE",
	AdviceHugePage: "MADV_HUGEPAGE", AdviceNoHugePage: "MADV_NOHUGEPAGE", AdviceDontDump: "MADV_DONTDUMP", AdviceDoDump: "MADV_DODUMP",
	AdviceKeepOnFork: "MADV_KEEPONFORK", AdviceCold: "MADV_COLD", AdvicePageOut: "MADV_PAGEOUT",
}

func (a Advice) known() bool { return uint(a) < uint(len(adviceNames)) && adviceNames[a] != "" }

// String returns the name in madvise(2).
func (a Advice) String() string {
	if !a.known() {
		return fmt.Sprintf("Advice(%d)", int(a))
	}
	return adviceNames[a]
}

// whyNot explains why madvise(2) fails; hint is for EINVAL.
func whyNot(err error, name, hint string) error {
	if err == unix.EINVAL {
		if err = kernel.Blame(name, err); err == unix.EINVAL {
			err = &fail.Error{Hint: hint, Err: err}
		}
	}
	return kernel.Scarce(err, kernel.Demand{})
}

// A span is the pages of a range, under a pin.
type span struct {
	r          *region
	line       *latch.Stripe
	addr, size uintptr // 0: there are no pages, and no pin
}

// span pins the pages of n bytes at off. If whole, the range must be one of whole
// pages; otherwise it is widened to the pages that hold it. Accesses, Grow and
// other spans may be at work at the same time.
func (t ticket) span(off, n int, whole bool) (span, error) {
	line, err := t.pin()
	if err != nil {
		return span{}, err
	}
	r := t.r
	r.growing.Lock()
	start, end, err := r.pages(off, n, whole)
	r.growing.Unlock()
	if err != nil || start == end {
		r.unpin(line)
		return span{}, err
	}
	return span{r, line, r.Base + start, end - start}, nil
}

// end ends the span's pin, and names the error of what was done with the pages.
func (s *span) end(err error, op string, off, n int) error {
	if s.size > 0 {
		s.r.unpin(s.line)
	}
	if err != nil {
		return named(err, "%s of %v at %d", op, fail.Count(n), off)
	}
	return nil
}

// within runs f over the pages of n bytes at off.
func (t ticket) within(op string, off, n int, whole bool, f func(r *region, addr, size uintptr) error) error {
	s, err := t.span(off, n, whole)
	if s.size > 0 {
		err = f(s.r, s.addr, s.size)
	}
	return s.end(err, op, off, n)
}

// Advise gives advice about n bytes at off, widened to whole pages; madvise(2).
// It may be called at any time, beside views and pins. An Advice that the kernel
// does not have is [errors.ErrUnsupported]; one that it refuses for this kind of
// memory matches EINVAL.
//
// Advice belongs to pages: it stays when handles change, and pages that Grow or
// Resize adds follow their neighbours or not, as the kernel likes. Where the
// kernel refuses it for a part of the range, the pages before that have it.
func (m Mapping) Advise(off, n int, a Advice) error {
	if !a.known() {
		return fail.Bad(fmt.Sprintf("%v of %v at %d", a, fail.Count(n), off), "no such advice")
	}
	// Not by within: after a system call each return costs a mispredicted branch.
	s, err := m.span(off, n, false)
	if s.size > 0 {
		if err = sys.Madvise(s.addr, s.size, int(a)); err != nil {
			err = whyNot(err, adviceNames[a], "not for this kind of memory")
		}
	}
	return s.end(err, adviceNames[a], off, n)
}

// Prefault faults the pages of n bytes at off in for reading, widened to whole
// pages, so that touching them does not wait for storage; MADV_POPULATE_READ. It
// waits in a system call, while a page fault holds up a processor of the Go
// scheduler. A page that cannot be had is a [*FaultError]; one without read
// permission is ErrPermission. Secret memory and some devices cannot be
// prefaulted, which matches [errors.ErrUnsupported].
//
// Pages may go again before they are touched: see Lock.
func (m Mapping) Prefault(off, n int) error {
	return m.prefault("MADV_POPULATE_READ", off, n, ProtRead, unix.MADV_POPULATE_READ)
}

func (t ticket) prefault(name string, off, n int, need Prot, advice int) error {
	return t.within(name, off, n, false, func(r *region, addr, size uintptr) error {
		if err := r.allowed(off, n, need); err != nil {
			return err
		}
		return faulted(place.Populate(addr, size, advice), 0, r.addr.Load())
	})
}

// allowed returns an error unless all pages of n bytes at off allow need.
func (r *region) allowed(off, n int, need Prot) error {
	if at, p, refused := r.refuses(off, n, need); refused {
		return fail.Hint(unix.EACCES, "%v page at offset %d", p, at)
	}
	return nil
}

// Collapse makes huge pages of the whole ones within n bytes at off, now, and
// whatever the system's policy for transparent huge pages; MADV_COLLAPSE. The
// contents stay. A range without a whole huge page matches EINVAL; with no huge
// page to be had the error matches ENOMEM, EBUSY or EAGAIN.
func (m Mapping) Collapse(off, n int) error {
	return m.within("MADV_COLLAPSE", off, n, false, func(_ *region, addr, size uintptr) error {
		const hint = "no whole huge page lies within, or not for this kind of memory"
		huge := transparentHuge()
		if at, _ := kernel.Round(addr, max(huge, 1)); at+huge > addr+size {
			return whyNot(unix.EINVAL, "MADV_COLLAPSE", hint) // the kernel does nothing, and says nothing
		}
		return whyNot(sys.Madvise(addr, size, unix.MADV_COLLAPSE), "MADV_COLLAPSE", hint)
	})
}

// transparentHuge returns the size of a transparent huge page, 0 if that is unknown.
func transparentHuge() uintptr {
	if n := kernel.Number("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", ""); n > 0 {
		return uintptr(n)
	}
	// Without /sys: what one page of a page table maps, with entries of 8 bytes.
	switch runtime.GOARCH {
	case "s390x":
		return 1 << 20 // a segment
	case "ppc64", "ppc64le", "386", "arm":
		return 0 // there it depends on the processor or on the kernel's configuration
	}
	return kernel.PageSize / 8 * kernel.PageSize
}
