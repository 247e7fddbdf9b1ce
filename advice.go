//go:build linux

package mmap

import (
	"fmt"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
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
	AdviceNormal: "MADV_NORMAL", AdviceRandom: "MADV_RANDOM", AdviceSequential: "MADV_SEQUENTIAL",
	AdviceWillNeed: "MADV_WILLNEED", AdviceDontFork: "MADV_DONTFORK", AdviceDoFork: "MADV_DOFORK",
	AdviceMergeable: "MADV_MERGEABLE", AdviceUnmergeable: "MADV_UNMERGEABLE", AdviceHugePage: "MADV_HUGEPAGE",
	AdviceNoHugePage: "MADV_NOHUGEPAGE", AdviceDontDump: "MADV_DONTDUMP", AdviceDoDump: "MADV_DODUMP",
	AdviceKeepOnFork: "MADV_KEEPONFORK", AdviceCold: "MADV_COLD", AdvicePageOut: "MADV_PAGEOUT",
}

func (a Advice) known() bool { return uint(a) < uint(len(adviceNames)) && adviceNames[a] != "" }

// String returns the name in madvise(2).
func (a Advice) String() string { return nameIn(adviceNames[:], "Advice", int(a)) }

// nameIn returns the name of a constant of a type.
func nameIn(names []string, kind string, n int) string {
	if uint(n) >= uint(len(names)) || names[n] == "" {
		return fmt.Sprintf("%s(%d)", kind, n)
	}
	return names[n]
}

// whyNot explains why a call that needs a feature fails; hint is for what the kernel
// refuses of this memory.
func whyNot(err error, feature, hint string) error {
	if err = kernel.Blame(feature, err); err == unix.EINVAL || err == unix.EBADF {
		err = &fail.Error{Hint: hint, Err: err}
	}
	return kernel.Scarce(err, kernel.Demand{})
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
