package mmap

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// This file asks the kernel: what it offers, and which limit was met.

// A Feature is something that not every Linux kernel offers.
type Feature int

// The features. What needs one that is missing answers the error of
// [Feature.Probe].
const (
	FeatureTransparentHugePages Feature = iota // AdviceHugePage, Collapse
	FeatureMerge                               // AdviceMergeable
	FeatureNUMA                                // SetPolicy, Nodes
	FeatureMemfd                               // Memfd
	FeatureLockOnFault                         // LockOnFault
	FeatureFree                                // Free
	FeatureWipeOnFork                          // WipeOnFork
	FeatureSynchronous                         // Synchronous; the file system must have it, too
	FeatureSealFutureWrite                     // SealFutureWrite
	FeatureCold                                // AdviceCold, AdvicePageOut
	FeatureSecret                              // Secret
	FeaturePopulate                            // Prefault
	FeatureName                                // SetName
	FeatureDiscardLocked                       // DiscardLocked
	FeatureCollapse                            // Collapse
	FeatureSealExec                            // SealExec
	FeatureSeal                                // Seal
	FeatureDroppable                           // Droppable
	FeatureGuardPages                          // InstallGuardPages
)

// features says how to ask for each, without an effect. The answer is kept.
var features = [...]struct {
	name, since string
	lacks       func() error // nil if the kernel has it
}{
	FeatureTransparentHugePages: {"MADV_HUGEPAGE", "2.6.38 with CONFIG_TRANSPARENT_HUGEPAGE", probeAdvice(unix.MADV_HUGEPAGE)},
	FeatureMerge:                {"MADV_MERGEABLE", "2.6.32 with CONFIG_KSM", probeAdvice(unix.MADV_MERGEABLE)},
	FeatureNUMA:                 {"mbind", "2.6.7 with CONFIG_NUMA", probe(func() error { return sys.Mbind(0, 0, unix.MPOL_DEFAULT, make([]uintptr, 1)) })},
	FeatureMemfd:                {"memfd_create", "3.17", probeMemfd(0, nothing)},
	FeatureLockOnFault:          {"MLOCK_ONFAULT", "4.4", probe(func() error { return sys.Mlock(0, 0, unix.MLOCK_ONFAULT) })},
	FeatureFree:                 {"MADV_FREE", "4.5", probeAdvice(unix.MADV_FREE)},
	FeatureWipeOnFork:           {"MADV_WIPEONFORK", "4.14", probeAdvice(unix.MADV_WIPEONFORK)},
	FeatureSynchronous:          {"MAP_SYNC", "4.15", probeMemfd(0, func(fd int) error { return probeMmap(unix.MAP_SHARED_VALIDATE, fd) })},
	FeatureSealFutureWrite:      {"F_SEAL_FUTURE_WRITE", "5.1", probeMemfd(unix.MFD_ALLOW_SEALING, func(fd int) error { return addSeals(fd, SealFutureWrite) })},
	FeatureCold:                 {"MADV_COLD", "5.4", probeAdvice(unix.MADV_COLD)},
	FeatureSecret:               {"memfd_secret", "5.14; before 6.5 with secretmem.enable=1", probeFile(func() (int, error) { return sys.MemfdSecret(unix.O_CLOEXEC) }, nothing)},
	FeaturePopulate:             {"MADV_POPULATE_READ", "5.14", probeAdvice(unix.MADV_POPULATE_READ)},
	FeatureName:                 {"PR_SET_VMA_ANON_NAME", "5.17 with CONFIG_ANON_VMA_NAME", probe(func() error { return sys.SetName(0, 0, "") })},
	FeatureDiscardLocked:        {"MADV_DONTNEED_LOCKED", "5.18", probeAdvice(unix.MADV_DONTNEED_LOCKED)},
	FeatureCollapse:             {"MADV_COLLAPSE", "6.1 with CONFIG_TRANSPARENT_HUGEPAGE", probeAdvice(unix.MADV_COLLAPSE)},
	FeatureSealExec:             {"MFD_NOEXEC_SEAL", "6.3", probeMemfd(unix.MFD_NOEXEC_SEAL, nothing)},
	FeatureSeal:                 {"mseal", "6.10 on 64-bit", probe(func() error { return sys.Mseal(0, 0) })},
	FeatureDroppable:            {"MAP_DROPPABLE", "6.11 on 64-bit", probe(func() error { return probeMmap(unix.MAP_DROPPABLE|unix.MAP_ANONYMOUS, -1) })},
	FeatureGuardPages:           {"MADV_GUARD_INSTALL", "6.13", probeAdvice(unix.MADV_GUARD_INSTALL)},
}

var probe = sync.OnceValue[error]

// probeAdvice asks by advising nothing, which fails for unknown advice only.
func probeAdvice(advice int) func() error {
	return probe(func() error { return sys.Madvise(0, 0, advice) })
}

func probeMemfd(flags int, use func(fd int) error) func() error {
	return probeFile(func() (int, error) { return unix.MemfdCreate("probe", unix.MFD_CLOEXEC|flags) }, use)
}

func probeFile(open func() (int, error), use func(fd int) error) func() error {
	return probe(func() error {
		fd, err := open()
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return use(fd)
	})
}

func nothing(int) error { return nil }

func probeMmap(flags, fd int) error {
	at, err := sys.Mmap(0, pageSize, unix.PROT_NONE, flags, fd, 0)
	if err == nil {
		abandon(at, pageSize)
	}
	return err
}

// Probe returns nil if the running kernel offers the feature, and otherwise an
// error that names it and the version of Linux that has it, and matches
// [errors.ErrUnsupported]. It asks the kernel, not its version, and once: the
// answer is kept.
func (f Feature) Probe() error {
	if f < 0 || int(f) >= len(features) {
		return bad(fmt.Sprintf("probe feature %d", int(f)), "no such feature")
	}
	if features[f].lacks() != nil {
		return fmt.Errorf("%v is of Linux %s: %w", f, features[f].since, errors.ErrUnsupported)
	}
	return nil
}

// String returns the kernel's name of the feature.
func (f Feature) String() string {
	if f < 0 || int(f) >= len(features) {
		return fmt.Sprintf("Feature(%d)", int(f))
	}
	return features[f].name
}

// blame returns err, or in its place that the kernel lacks the feature.
func (f Feature) blame(err error) error {
	if err != nil {
		if missing := f.Probe(); missing != nil {
			return missing
		}
	}
	return err
}

// scarce explains err, where that is due to a limit on what the process maps,
// for a call that wanted size bytes more.
func scarce(err error, size uintptr) error {
	if err != unix.ENOMEM {
		return err
	}
	want := uint64(size)
	areas := uint64(0)
	if table, err := procmaps.Open(0); err == nil {
		for range table.Regions() { // at a limit, memory is not for the taking
			areas++
		}
		table.Close()
	}
	most, overcommit := number("/proc/sys/vm/max_map_count", ""), number("/proc/sys/vm/overcommit_memory", "")
	memory := number("/proc/meminfo", "MemTotal:")<<10 + number("/proc/meminfo", "SwapTotal:")<<10
	limit, committed := number("/proc/meminfo", "CommitLimit:")<<10, number("/proc/meminfo", "Committed_AS:")<<10
	hint := ""
	switch {
	case areas+3 >= most: // a call can need two more
		hint = fmt.Sprintf("vm.max_map_count is %d, and %d areas are mapped", most, areas)
	case exceeds(unix.RLIMIT_AS, "VmSize:", want, &hint):
		hint = "RLIMIT_AS is " + hint
	case exceeds(unix.RLIMIT_DATA, "VmData:", want, &hint):
		hint = "RLIMIT_DATA is " + hint
	case overcommit == 2 && committed+want > limit:
		hint = fmt.Sprintf("vm.overcommit_memory is 2, and of %d bytes %d are committed", limit, committed)
	case overcommit == 0 && want > memory:
		hint = fmt.Sprintf("vm.overcommit_memory is 0, and memory and swap are %d bytes", memory)
	}
	return &failure{hint: hint, err: err}
}

// scarceLock is scarce for a call that locks memory.
func scarceLock(err error, size uintptr) error {
	if err != unix.ENOMEM && err != unix.EAGAIN && err != unix.EPERM {
		return err
	}
	var can [2]unix.CapUserData
	unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &can[0])
	hint := ""
	if can[0].Effective&(1<<unix.CAP_IPC_LOCK) == 0 && exceeds(unix.RLIMIT_MEMLOCK, "VmLck:", uint64(size), &hint) {
		return &failure{hint: "RLIMIT_MEMLOCK is " + hint, err: err}
	}
	return scarce(err, size)
}

// scarceHuge is scarce for memory in huge pages of so many bytes.
func scarceHuge(err error, size, page uintptr) error {
	if page == pageSize || err != unix.ENOMEM && err != unix.EINVAL && err != unix.ENODEV {
		return err
	}
	pool := fmt.Sprintf("/sys/kernel/mm/hugepages/hugepages-%dkB/", page>>10)
	if _, missing := os.Stat(pool); missing != nil {
		return &failure{hint: fmt.Sprintf("this kernel has no huge pages of %d bytes", page), err: errors.ErrUnsupported}
	}
	free := number(pool+"free_hugepages", "") - number(pool+"resv_hugepages", "")
	if err != unix.ENOMEM || free*uint64(page) >= uint64(size) {
		return err
	}
	return &failure{hint: fmt.Sprintf("%d huge pages are wanted and %d are free; the size of the pool is in %snr_hugepages", size/page, free, pool), err: err}
}

// exceeds reports whether want bytes more than what key of /proc/self/status
// counts are beyond a limit, and says so.
func exceeds(resource int, key string, want uint64, hint *string) bool {
	var limit unix.Rlimit
	used := number("/proc/self/status", key) << 10
	if unix.Getrlimit(resource, &limit) != nil || used+want <= limit.Cur {
		return false
	}
	*hint = fmt.Sprintf("%d bytes, and %d are in use", limit.Cur, used)
	return true
}

// number returns the number that follows key in a file of the kernel's, 0 if
// there is none.
func number(file, key string) (n uint64) {
	text, _ := os.ReadFile(file)
	_, rest, _ := strings.Cut("\n"+string(text), "\n"+key)
	fmt.Sscan(rest, &n)
	return n
}
