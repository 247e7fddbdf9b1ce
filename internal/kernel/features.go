//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/leftover"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// A Feature is what not every Linux kernel offers.
type Feature struct {
	Names, Since string       // the kernel's names of it, and the version that has it
	lacks        func() error // asks without an effect, and returns nil if the kernel has it
	once         sync.Once    // of asking
	missing      bool
}

// Features are all that Probe knows. Advice is asked for by advising nothing, which fails
// for advice that is unknown.
var Features = []Feature{
	{Names: "MADV_MERGEABLE MADV_UNMERGEABLE", Since: "2.6.32 with CONFIG_KSM", lacks: advised(unix.MADV_MERGEABLE)},
	{
		Names: "MADV_HUGEPAGE MADV_NOHUGEPAGE", Since: "2.6.38 with CONFIG_TRANSPARENT_HUGEPAGE",
		lacks: advised(unix.MADV_HUGEPAGE),
	},
	{Names: "mbind move_pages", Since: "2.6.18 with CONFIG_NUMA", lacks: knows(unix.MPOL_DEFAULT)},
	{
		Names: "memfd_create", Since: "3.17",
		lacks: func() error { return done(unix.MemfdCreate("probe", unix.MFD_CLOEXEC)) },
	},
	{Names: "MLOCK_ONFAULT", Since: "4.4", lacks: func() error { return sys.Mlock(0, 0, sys.MLOCK_ONFAULT) }},
	{Names: "MADV_FREE", Since: "4.5", lacks: advised(unix.MADV_FREE)},
	{Names: "MADV_WIPEONFORK MADV_KEEPONFORK", Since: "4.14", lacks: advised(unix.MADV_WIPEONFORK)},
	{
		Names: "MAP_SYNC", Since: "4.15",
		lacks: withMemfd(func(fd int) error { return tryMmap(unix.MAP_SHARED_VALIDATE, fd) }),
	},
	{Names: "F_SEAL_FUTURE_WRITE", Since: "5.1", lacks: withMemfd(func(fd int) error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_FUTURE_WRITE)
		return err
	})},
	{Names: "MADV_COLD MADV_PAGEOUT", Since: "5.4", lacks: advised(unix.MADV_COLD)},
	{Names: "MADV_POPULATE_READ MADV_POPULATE_WRITE", Since: "5.14", lacks: advised(unix.MADV_POPULATE_READ)},
	{Names: "MPOL_PREFERRED_MANY", Since: "5.15 with CONFIG_NUMA", lacks: knows(unix.MPOL_PREFERRED_MANY)},
	{
		Names: "memfd_secret", Since: "5.14; before 6.5 with secretmem.enable=1",
		lacks: func() error { return done(sys.MemfdSecret(unix.O_CLOEXEC)) },
	},
	{
		Names: "PR_SET_VMA_ANON_NAME", Since: "5.17 with CONFIG_ANON_VMA_NAME",
		lacks: func() error { return sys.SetName(0, 0, "") },
	},
	{Names: "MADV_DONTNEED_LOCKED", Since: "5.18", lacks: advised(unix.MADV_DONTNEED_LOCKED)},
	{Names: "MADV_COLLAPSE", Since: "6.1 with CONFIG_TRANSPARENT_HUGEPAGE", lacks: advised(unix.MADV_COLLAPSE)},
	{
		Names: "MFD_NOEXEC_SEAL", Since: "6.3",
		lacks: func() error { return done(unix.MemfdCreate("probe", unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)) },
	},
	{Names: "MPOL_WEIGHTED_INTERLEAVE", Since: "6.9 with CONFIG_NUMA", lacks: knows(unix.MPOL_WEIGHTED_INTERLEAVE)},
	{Names: "mseal", Since: "6.10 on 64-bit", lacks: func() error { return sys.Mseal(0, 0) }},
	{
		Names: "MAP_DROPPABLE", Since: "6.11 on 64-bit",
		lacks: func() error { return tryMmap(unix.MAP_DROPPABLE|unix.MAP_ANONYMOUS, -1) },
	},
	{Names: "MADV_GUARD_INSTALL MADV_GUARD_REMOVE", Since: "6.13", lacks: advised(sys.MADV_GUARD_INSTALL)},
}

// Probe returns nil if the running kernel has a feature of this name, and otherwise an
// error that names it and the version of Linux that has it, and matches
// errors.ErrUnsupported. One that is not listed is a bad argument.
func Probe(feature string) error {
	for i := range Features {
		if f := &Features[i]; slices.Contains(strings.Fields(f.Names), feature) {
			f.once.Do(func() {
				err := f.lacks() // what a limit or a filter has refused may be there
				refusals := []error{nil, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EPERM, unix.EACCES}
				f.missing = !slices.Contains(refusals, err)
			})
			if f.missing {
				return fmt.Errorf("%s is of Linux %s: %w", feature, f.Since, errors.ErrUnsupported)
			}
			return nil
		}
	}
	return fail.Bad("probe "+feature, "no such feature")
}

// Forget forgets what the kernel has answered, until restore is called.
func (f *Feature) Forget() (restore func()) {
	missing := f.missing
	f.once, f.missing = sync.Once{}, false
	return func() { f.missing = missing }
}

// Blame returns err, or in its place that the kernel lacks the feature.
func Blame(feature string, err error) error {
	if err != nil {
		if missing := Probe(feature); errors.Is(missing, errors.ErrUnsupported) {
			return missing
		}
	}
	return err
}

func advised(advice int) func() error { return func() error { return sys.Madvise(0, 0, advice) } }

func knows(policy int) func() error {
	return func() error { return sys.Mbind(0, 0, policy, make([]uintptr, 1)) }
}

func withMemfd(use func(fd int) error) func() error {
	return func() error {
		fd, err := unix.MemfdCreate("probe", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err == nil {
			err = use(fd)
		}
		return done(fd, err)
	}
}

func done(fd int, err error) error {
	unix.Close(fd)
	return err
}

func tryMmap(flags, fd int) error {
	at, err := sys.Mmap(0, PageSize, unix.PROT_NONE, flags, fd, 0)
	if err == nil {
		leftover.Abandon(at, PageSize)
	}
	return err
}
