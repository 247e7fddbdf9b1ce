//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/leftover"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// A Feature is what not every Linux kernel offers.
type Feature struct {
	Names, Since string        // the kernel's names of it, and the version that has it
	lacks        func() error  // asks without an effect, and returns nil if the kernel has it
	known        atomic.Uint32 // what the kernel has said
}

const (
	unasked uint32 = iota // or it could not be asked
	present
	missing
	hidden // or missing: what says so can be a filter
)

// Features are all that Probe knows. Advice is asked for by advising nothing, which fails
// for advice that is unknown.
var Features = []Feature{
	feature("MADV_MERGEABLE MADV_UNMERGEABLE", "2.6.32 with CONFIG_KSM", advised(unix.MADV_MERGEABLE)),
	feature("MADV_HUGEPAGE MADV_NOHUGEPAGE", "2.6.38 with CONFIG_TRANSPARENT_HUGEPAGE", advised(unix.MADV_HUGEPAGE)),
	feature("mbind", "2.6.18 with CONFIG_NUMA", knows(unix.MPOL_DEFAULT)),
	feature("move_pages", "2.6.18 with CONFIG_NUMA", func() error { return sys.MovePages(nil, nil) }),
	feature("memfd_create", "3.17", memfd(unix.MFD_CLOEXEC, nil)),
	feature("MLOCK_ONFAULT", "4.4", func() error {
		if err := sys.Mlock(0, 0, sys.MLOCK_ONFAULT); err != unix.EPERM { // where RLIMIT_MEMLOCK is 0
			return err
		}
		return nil
	}),
	feature("MADV_FREE", "4.5", advised(unix.MADV_FREE)),
	feature("MADV_WIPEONFORK MADV_KEEPONFORK", "4.14", advised(unix.MADV_WIPEONFORK)),
	feature("UFFD_FEATURE_SIGBUS", "4.14 with CONFIG_USERFAULTFD", func() error {
		return done(sys.Userfaultfd(sys.UFFD_FEATURE_SIGBUS))
	}),
	feature("MAP_SYNC", "4.15", memfd(unix.MFD_CLOEXEC, func(fd int) error {
		return tryMmap(PageSize, unix.MAP_SHARED_VALIDATE, fd)
	})),
	feature("F_SEAL_FUTURE_WRITE", "5.1", memfd(unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING, func(fd int) error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_FUTURE_WRITE)
		return err
	})),
	feature("MADV_COLD MADV_PAGEOUT", "5.4", advised(unix.MADV_COLD)),
	feature("MADV_POPULATE_READ MADV_POPULATE_WRITE", "5.14", advised(unix.MADV_POPULATE_READ)),
	feature("MPOL_PREFERRED_MANY", "5.15 with CONFIG_NUMA", knows(unix.MPOL_PREFERRED_MANY)),
	feature("memfd_secret", "5.14; before 6.5 with secretmem.enable=1", func() error {
		return done(sys.MemfdSecret(unix.O_CLOEXEC))
	}),
	feature("PR_SET_VMA_ANON_NAME", "5.17 with CONFIG_ANON_VMA_NAME", func() error { return sys.SetName(0, 0, "") }),
	feature("MADV_DONTNEED_LOCKED", "5.18", advised(unix.MADV_DONTNEED_LOCKED)),
	feature("MADV_COLLAPSE", "6.1 with CONFIG_TRANSPARENT_HUGEPAGE", advised(unix.MADV_COLLAPSE)),
	feature("MFD_NOEXEC_SEAL", "6.3", memfd(unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL, nil)),
	feature("PAGEMAP_SCAN", "6.7", func() error {
		fd, err := sys.OpenSelfPagemap()
		if err == nil {
			_, err = new(sys.PageScan).Scan(fd, nil, false)
		}
		return done(fd, err)
	}),
	feature("UFFD_FEATURE_WP_ASYNC", "6.7 on amd64, 6.10 on arm64", func() error {
		return done(sys.Userfaultfd(sys.UFFD_FEATURE_WP_ASYNC))
	}),
	feature("MPOL_WEIGHTED_INTERLEAVE", "6.9 with CONFIG_NUMA", knows(unix.MPOL_WEIGHTED_INTERLEAVE)),
	feature("mseal", "6.10 on 64-bit", func() error { return sys.Mseal(0, 0) }),
	feature("MAP_DROPPABLE", "6.11 on 64-bit", func() error {
		return tryMmap(PageSize, unix.MAP_DROPPABLE|unix.MAP_ANONYMOUS, -1)
	}),
	feature("MADV_GUARD_INSTALL MADV_GUARD_REMOVE", "6.13", advised(sys.MADV_GUARD_INSTALL)),
}

func feature(names, since string, lacks func() error) Feature {
	return Feature{Names: names, Since: since, lacks: lacks}
}

// Probe returns nil if the running kernel has a feature of this name, and otherwise an
// error that names it and the version of Linux that has it, and matches
// errors.ErrUnsupported. One that is forbidden is EPERM, and one that is not listed a bad
// argument.
func Probe(feature string) error {
	if f := named(feature); f != nil {
		err := f.probe(feature)
		if no, ok := err.(*fail.Error); ok {
			return fail.Named(no, "probe "+feature)
		}
		return err
	}
	return fail.Bad("probe "+feature, "no such feature")
}

// named returns the feature of a name, nil if there is none.
func named(name string) *Feature {
	for i := range Features {
		if f := &Features[i]; slices.Contains(strings.Fields(f.Names), name) {
			return f
		}
	}
	return nil
}

// probe is Probe by one of the feature's names.
func (f *Feature) probe(name string) error {
	if f.known.Load() == unasked {
		switch err := f.lacks(); err {
		case nil:
			f.known.Store(present)
		case unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EACCES: // it may be there
		case unix.EPERM: // none of these calls returns it by itself
			const hint = "%s is forbidden here, as by the seccomp filter of a container"
			switch {
			case strings.HasPrefix(name, "UFFD_"):
				return fail.Hint(err, hint+", or before Linux 5.11 by vm.unprivileged_userfaultfd", "userfaultfd(2)")
			case strings.HasPrefix(name, "MPOL_"):
				name = "mbind" // all of it
			}
			return fail.Hint(err, hint, name)
		case unix.ENOSYS:
			const filtering = 2
			if Number("/proc/self/status", "Seccomp:") == filtering {
				f.known.Store(hidden)
			} else {
				f.known.Store(missing)
			}
		default:
			f.known.Store(missing)
		}
	}
	switch f.known.Load() {
	case missing:
		return fmt.Errorf("%s needs Linux %s: %w", name, f.Since, errors.ErrUnsupported)
	case hidden:
		return fmt.Errorf("%s needs Linux %s, or the seccomp filter here hides it: %w", name, f.Since, errors.ErrUnsupported)
	}
	return nil
}

// Forget forgets what the kernel has said, until restore is called.
func (f *Feature) Forget() (restore func()) {
	known := f.known.Swap(unasked)
	return func() { f.known.Store(known) }
}

// Blame returns err, or in its place that the kernel lacks the feature, or that it is
// forbidden.
func Blame(feature string, err error) error {
	if err == nil {
		return nil
	}
	if f := named(feature); f != nil {
		if err == unix.EPERM {
			f.known.Store(unasked) // a filter may have come since
		}
		why := f.probe(feature)
		if errors.Is(why, errors.ErrUnsupported) || err == unix.EPERM && errors.Is(why, err) {
			return why
		}
	}
	return err
}

func advised(advice int) func() error { return func() error { return sys.Madvise(0, 0, advice) } }

func knows(policy int) func() error {
	return func() error { return sys.Mbind(0, 0, policy, make([]uintptr, 1)) }
}

// memfd asks for a memory file, and then what can be done with it.
func memfd(flags int, use func(fd int) error) func() error {
	return func() error {
		fd, err := unix.MemfdCreate("probe", flags)
		if err == nil && use != nil {
			err = use(fd)
		}
		return done(fd, err)
	}
}

func done(fd int, err error) error {
	unix.Close(fd)
	return err
}

// tryMmap maps so many bytes, and unmaps them again.
func tryMmap(size uintptr, flags, fd int) error {
	at, err := sys.Mmap(0, size, unix.PROT_NONE, flags, fd, 0)
	if err == nil {
		leftover.Abandon(at, size)
	}
	return err
}
