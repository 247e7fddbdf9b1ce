package mmap

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/latch"
	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// This file asks the kernel: what is mapped, what it offers, and which limit was
// met.

// An area is what the kernel's table says of one range: a VMA, clipped to what
// was asked.
type area struct {
	start, end uintptr
	prot       Prot
	pageSize   uintptr
	flags      int  // of mmap(2): MAP_SHARED or MAP_PRIVATE
	gone       bool // nothing of ours is at its old place
}

// survey calls f with the areas of [start, end) in ascending order, holes left
// out, until f returns false.
func survey(start, end uintptr, f func(a area) bool) error {
	if start >= end {
		return nil
	}
	fd, err := sys.OpenSelfMaps()
	if err != nil {
		return fail.Hint(err, "/proc/self/maps cannot be read")
	}
	defer unix.Close(fd)
	for start < end {
		q := sys.ProcmapQuery{Addr: uint64(start), Flags: sys.ProcmapNext}
		switch _, err := q.Query(fd, nil); {
		case err == unix.ENOENT || err == nil && q.Start >= uint64(end):
			return nil
		case err != nil:
			// A kernel before 6.11, without the ioctl, or a filter that knows
			// nothing of it. The table does not tell how large the pages are.
			regions, err := regionsOf(start, end)
			for _, g := range regions {
				if !f(area{uintptr(g.Start), uintptr(g.End), Prot(g.Perms) & protAll, pageSize, sharing(g.Perms), false}) {
					break
				}
			}
			return err
		}
		p := Prot(q.VMAFlags) & protAll
		a := area{max(start, uintptr(q.Start)), min(end, uintptr(q.End)), p, uintptr(q.PageSize), sharing(procmaps.Perms(q.VMAFlags)), false}
		if start = a.end; !f(a) {
			return nil
		}
	}
	return nil
}

// sharing returns the flags of mmap(2) that the table tells. A private area of
// somebody else's may be of any kind.
func sharing(p procmaps.Perms) int {
	if p&procmaps.Shared != 0 {
		return unix.MAP_SHARED
	}
	return 0
}

// regionsOf returns the kernel's regions of [start, end), clipped to it.
func regionsOf(start, end uintptr) ([]procmaps.Region, error) {
	if start >= end {
		return nil, nil
	}
	table, err := procmaps.Open(0)
	if err != nil {
		return nil, err
	}
	defer table.Close()
	var regions []procmaps.Region
	for at := uint64(start); at < uint64(end); {
		r, ok, err := table.Next(at)
		if err != nil {
			return nil, err
		}
		if !ok || r.Start >= uint64(end) {
			break
		}
		cut := at - min(at, r.Start)
		if r.Start += cut; r.Inode != 0 {
			r.Offset += cut
		}
		r.End = min(r.End, uint64(end))
		regions = append(regions, r)
		at = r.End
	}
	return regions, nil
}

// Regions returns what the kernel says is mapped in the page range of the
// mapping, reserve included, clipped to that range; proc_pid_maps(5). The
// kernel merges neighbours that look alike, and divides what has come to
// differ, so the regions are not the pieces that the mapping was made of.
func (m Mapping) Regions() ([]procmaps.Region, error) {
	line, err := m.pin()
	if stopped := (*PartialError)(nil); errors.As(err, &stopped) {
		line, err = m.pinSlowly(latch.Partial)
	}
	if err != nil {
		return nil, named(err, "regions")
	}
	defer m.r.unpin(line)
	regions, err := regionsOf(m.r.Base, m.r.Base+m.r.Size)
	return regions, named(err, "regions of %#x+%d", m.r.Base, m.r.Size)
}

// differs returns an error that says how the kernel's table of [base, base+size)
// differs from uniform permission p, nil if it does not.
func differs(base, size uintptr, p Prot) error {
	at, wrong := base, ""
	err := survey(base, base+size, func(a area) bool {
		if a.start == at && a.prot == p {
			at = a.end
			return true
		}
		if a.start == at {
			wrong = fmt.Sprintf("pages %#x-%#x are %v, not %v", a.start, a.end, a.prot, p)
		}
		return false
	})
	if err != nil || at >= base+size {
		return err
	}
	return &fail.Error{Hint: cmp.Or(wrong, fmt.Sprintf("nothing is mapped at %#x", at)), Err: unix.EACCES}
}

// features are what not every Linux kernel offers: the kernel's names of it,
// the version that has it, and how to ask without an effect; for advice, by
// advising nothing, which fails for advice that is unknown.
var features = []struct {
	names, since string
	lacks        func() error // returns nil if the kernel has it
	once         sync.Once    // of asking
	missing      bool
}{
	{names: "MADV_MERGEABLE MADV_UNMERGEABLE", since: "2.6.32 with CONFIG_KSM", lacks: advised(unix.MADV_MERGEABLE)},
	{names: "MADV_HUGEPAGE MADV_NOHUGEPAGE", since: "2.6.38 with CONFIG_TRANSPARENT_HUGEPAGE", lacks: advised(unix.MADV_HUGEPAGE)},
	{names: "mbind move_pages", since: "2.6.18 with CONFIG_NUMA", lacks: knows(PolicyDefault)},
	{names: "memfd_create", since: "3.17", lacks: func() error { return done(unix.MemfdCreate("probe", unix.MFD_CLOEXEC)) }},
	{names: "MLOCK_ONFAULT", since: "4.4", lacks: func() error { return sys.Mlock(0, 0, unix.MLOCK_ONFAULT) }},
	{names: "MADV_FREE", since: "4.5", lacks: advised(unix.MADV_FREE)},
	{names: "MADV_WIPEONFORK MADV_KEEPONFORK", since: "4.14", lacks: advised(unix.MADV_WIPEONFORK)},
	{names: "MAP_SYNC", since: "4.15", lacks: withMemfd(func(fd int) error { return tryMmap(unix.MAP_SHARED_VALIDATE, fd) })},
	{names: "F_SEAL_FUTURE_WRITE", since: "5.1", lacks: withMemfd(func(fd int) error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_FUTURE_WRITE)
		return err
	})},
	{names: "MADV_COLD MADV_PAGEOUT", since: "5.4", lacks: advised(unix.MADV_COLD)},
	{names: "MADV_POPULATE_READ MADV_POPULATE_WRITE", since: "5.14", lacks: advised(unix.MADV_POPULATE_READ)},
	{names: "MPOL_PREFERRED_MANY", since: "5.15 with CONFIG_NUMA", lacks: knows(PolicyPreferredMany)},
	{names: "memfd_secret", since: "5.14; before 6.5 with secretmem.enable=1", lacks: func() error { return done(newSecret(0)) }},
	{names: "PR_SET_VMA_ANON_NAME", since: "5.17 with CONFIG_ANON_VMA_NAME", lacks: func() error { return sys.SetName(0, 0, "") }},
	{names: "MADV_DONTNEED_LOCKED", since: "5.18", lacks: advised(unix.MADV_DONTNEED_LOCKED)},
	{names: "MADV_COLLAPSE", since: "6.1 with CONFIG_TRANSPARENT_HUGEPAGE", lacks: advised(unix.MADV_COLLAPSE)},
	{names: "MFD_NOEXEC_SEAL", since: "6.3", lacks: func() error { return done(unix.MemfdCreate("probe", unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)) }},
	{names: "MPOL_WEIGHTED_INTERLEAVE", since: "6.9 with CONFIG_NUMA", lacks: knows(PolicyWeightedInterleave)},
	{names: "mseal", since: "6.10 on 64-bit", lacks: func() error { return sys.Mseal(0, 0) }},
	{names: "MAP_DROPPABLE", since: "6.11 on 64-bit", lacks: func() error { return tryMmap(unix.MAP_DROPPABLE|unix.MAP_ANONYMOUS, -1) }},
	{names: "MADV_GUARD_INSTALL MADV_GUARD_REMOVE", since: "6.13", lacks: advised(unix.MADV_GUARD_INSTALL)},
}

// Probe returns nil if the running kernel offers a feature, and otherwise an
// error that names it and the version of Linux that has it, and matches
// [errors.ErrUnsupported]. What needs the feature answers the same error. The
// kernel is asked, not its version, and once.
//
// A feature has the kernel's name, such as mseal or MADV_COLLAPSE; the README
// lists them. One that is not there is a bad argument.
func Probe(feature string) error {
	for i := range features {
		if f := &features[i]; slices.Contains(strings.Fields(f.names), feature) {
			f.once.Do(func() {
				err := f.lacks() // what a limit or a filter has refused may be there
				f.missing = err != nil && !slices.Contains([]error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EPERM, unix.EACCES}, err)
			})
			if f.missing {
				return fmt.Errorf("%s is of Linux %s: %w", feature, f.since, errors.ErrUnsupported)
			}
			return nil
		}
	}
	return fail.Bad("probe "+feature, "no such feature")
}

// blame returns err, or in its place that the kernel lacks the feature.
func blame(feature string, err error) error {
	if err != nil {
		if missing := Probe(feature); errors.Is(missing, errors.ErrUnsupported) {
			return missing
		}
	}
	return err
}

func advised(advice int) func() error { return func() error { return sys.Madvise(0, 0, advice) } }

func knows(p Policy) func() error {
	return func() error { return sys.Mbind(0, 0, int(p), make([]uintptr, 1)) }
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
	at, err := sys.Mmap(0, pageSize, unix.PROT_NONE, flags, fd, 0)
	if err == nil {
		abandon(at, pageSize)
	}
	return err
}

// A demand is how many bytes more a call has asked for: of address space, of
// private writable memory, of memory counted as committed, and of locked memory.
type demand struct{ space, data, charged, locked uintptr }

// scarce explains err, where that is due to a limit that the demand exceeds.
func scarce(err error, want demand) error {
	if err != unix.ENOMEM && err != unix.EAGAIN && (err != unix.EPERM || want.locked == 0) {
		return err
	}
	// This comes first, and takes little memory: at the limit of areas a Go heap
	// that has to grow ends the program. mremap(2) gives up eight areas before it.
	if is, used := number("/proc/sys/vm/max_map_count", ""), areas(); is > 0 && used+8 > is {
		return fail.Hint(err, "vm.max_map_count is %d, and %d are in use", is, used)
	}
	var can [2]unix.CapUserData
	unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &can[0])
	users, _ := os.ReadFile("/proc/self/uid_map") // the capability counts in the first namespace only
	all := strings.HasSuffix(string(users), " 4294967295\n") && can[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0
	locks := (err == unix.EAGAIN || want.locked > 0) && !all
	const status, meminfo = "/proc/self/status", "/proc/meminfo"
	_, unread := readNumber(status, "")
	mode, memory := number("/proc/sys/vm/overcommit_memory", ""), number(meminfo, "MemTotal:")+number(meminfo, "SwapTotal:")
	for _, limit := range []struct {
		applies         bool
		name            string
		is, used, wants uint64
	}{
		{locks, "RLIMIT_MEMLOCK", rlimit(unix.RLIMIT_MEMLOCK), number(status, "VmLck:") << 10, uint64(max(want.locked, want.space))},
		{true, "RLIMIT_AS", rlimit(unix.RLIMIT_AS), number(status, "VmSize:") << 10, uint64(want.space)},
		{true, "RLIMIT_DATA", rlimit(unix.RLIMIT_DATA), number(status, "VmData:") << 10, uint64(want.data)},
		{mode == 2, "the commit limit of vm.overcommit_memory 2", number(meminfo, "CommitLimit:") << 10, number(meminfo, "Committed_AS:") << 10, uint64(want.charged)},
	} {
		if limit.applies && limit.used+limit.wants > limit.is {
			hint := fmt.Sprintf("%s is %d", limit.name, limit.is)
			if unread == nil { // or nobody knows how many
				hint += fmt.Sprintf(", and %d are in use", limit.used)
			}
			return &fail.Error{Hint: hint, Err: err}
		}
	}
	switch {
	case want.space > 0 && !findsRoom(want.space):
		err = fail.Hint(err, "the address space has no room for %d bytes", want.space)
	case mode == 0 && memory > 0 && uint64(want.charged) > memory<<10:
		err = fail.Hint(err, "memory with swap, for vm.overcommit_memory 0, is %d", memory<<10)
	}
	return err
}

// findsRoom reports whether so many bytes of address space are free in one piece.
func findsRoom(size uintptr) bool {
	at, err := sys.Mmap(0, size, unix.PROT_NONE, holding, -1, 0)
	if err == nil {
		abandon(at, size)
	}
	return err == nil
}

// areas counts the lines of the kernel's table without allocating.
func areas() (lines uint64) {
	if fd, err := sys.OpenSelfMaps(); err == nil {
		var buf [1024]byte
		for n, _ := unix.Read(fd, buf[:]); n > 0; n, _ = unix.Read(fd, buf[:]) {
			lines += uint64(bytes.Count(buf[:n], []byte("\n")))
		}
		unix.Close(fd)
	}
	return lines
}

// scarceHuge is scarce for memory in huge pages of so many bytes.
func scarceHuge(err error, size uint64, page uintptr) error {
	if page == pageSize || err != unix.ENOMEM && err != unix.EINVAL && err != unix.ENODEV {
		return err
	}
	// That /sys is missing, as in a container, says nothing of the kernel.
	// memfd_create(2) needs no page of the pool, and returns ENODEV where there
	// is no such size, while mmap(2) has EINVAL for that and more.
	if err != unix.ENOMEM {
		if _, no := hugeBlock(bits.TrailingZeros(uint(page)) << unix.MAP_HUGE_SHIFT); no == unix.ENODEV || no == unix.ENOSYS {
			err = fail.Hint(errors.ErrUnsupported, "this kernel has no huge pages of %d bytes", page)
		}
		return err
	}
	pool, wanted := fmt.Sprintf("/sys/kernel/mm/hugepages/hugepages-%dkB/", page>>10), size/uint64(page)
	free, unknown := readNumber(pool+"free_hugepages", "")
	free -= number(pool+"resv_hugepages", "")
	switch {
	case unknown != nil:
		if limit := scarce(err, demand{space: uintptr(size)}); limit != err {
			return limit
		}
		return fail.Hint(err, "%d huge pages are wanted; how many are free is in %s, which cannot be read", wanted, pool)
	case free < wanted:
		return fail.Hint(err, "%d huge pages are wanted and %d are free; the size of the pool is in %snr_hugepages", wanted, free, pool)
	}
	return err
}

// hugeBlock asks the kernel, and no file of /proc or /sys, how large the huge pages
// are that flags of memfd_create(2) name.
func hugeBlock(flags int) (size uint64, err error) {
	var st unix.Stat_t
	fd, err := unix.MemfdCreate("probe", unix.MFD_CLOEXEC|unix.MFD_HUGETLB|flags)
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	return uint64(st.Blksize), done(fd, err)
}

func rlimit(resource int) uint64 {
	limit := unix.Rlimit{Cur: unix.RLIM_INFINITY}
	unix.Getrlimit(resource, &limit)
	return limit.Cur
}

// number returns the number that follows key in a file of the kernel's, 0 if
// there is none. It allocates nothing, for the sake of scarce.
func number(file, key string) uint64 {
	n, _ := readNumber(file, key)
	return n
}

// readNumber is number that says why the file cannot be read.
func readNumber(file, key string) (n uint64, err error) {
	var text [2048]byte
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Read(fd, text[:])
		unix.Close(fd)
	}
	_, rest, _ := bytes.Cut(text[:], []byte(key))
	rest = bytes.TrimLeft(rest, "\t ")
	end := bytes.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	n, _ = strconv.ParseUint(string(rest[:max(end, 0)]), 10, 64)
	return n, err
}
