//go:build linux

package mmap

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/place"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// A Spec says what to map, and where. It is an immutable value: build it by
// chaining, keep it, use it as often as needed, from several goroutines.
//
// A Spec never fails; [Map] reports what is wrong with it. The zero Spec is a
// bad argument.
type Spec struct {
	source source
	name   string // of the path
	file   *os.File
	offset int64
	addr   uintptr
	wish   place.Wish // of the pages

	fd, size, reserve, huge        int
	aligned, reserved, hugePages   bool // the field was set
	twice                          bool // two placements were asked for
	shared, synchronous, noReserve bool
	low, droppable                 bool
}

type source uint8

const (
	noSource source = iota
	anonymous
	openFile
	wholeFile
	descriptor
	path
	secret
)

// Anonymous maps zero-filled memory of size bytes; MAP_ANONYMOUS of mmap(2).
func Anonymous(size int) Spec { return Spec{source: anonymous, size: size} }

// File maps size bytes of a file from offset on. The offset need not be a multiple of the
// page size. The range may reach past the end of the file: touching a page that lies wholly
// past it is a fault until the file grows. f is used during Map only and may be closed
// afterwards.
func File(f *os.File, offset int64, size int) Spec {
	return Spec{source: openFile, file: f, offset: offset, size: size}
}

// Whole maps all of an open regular file, with the length it has when Map is called. A file
// that stats as 0 bytes makes an empty mapping. f is used during Map only and may be closed
// afterwards.
func Whole(f *os.File) Spec { return Spec{source: wholeFile, file: f} }

// FD is [File] for a descriptor number, which is used during Map only and never closed.
func FD(fd int, offset int64, size int) Spec {
	return Spec{source: descriptor, fd: fd, offset: offset, size: size}
}

// Path maps a whole regular file, with the length it has when Map is called. Map opens the
// file as the permissions and Shared need, and closes it again. Closing it drops all locks
// of fcntl(2) that this process holds on the file. A file that stats as 0 bytes, such as
// those of /proc, makes an empty mapping.
func Path(name string) Spec { return Spec{source: path, name: name} }

// Secret maps memory that is removed from the kernel's own address space, so that the
// kernel cannot read it by accident; memfd_secret(2). It is always shared, never swapped,
// and cannot be executed. The whole capacity counts against RLIMIT_MEMLOCK, though some
// kernels, 6.1 and 6.12 among them, do not count it.
func Secret(size int) Spec { return Spec{source: secret, size: size} }

// Shared makes writes reach the file and other mappings of it; MAP_SHARED. The default is
// private, MAP_PRIVATE: a page that is written becomes a copy. A mapping that is only read
// sees the changes of its file either way.
func (s Spec) Shared() Spec { s.shared = true; return s }

// Near asks for an address, rounded down to a page. The kernel takes it as a hint.
func (s Spec) Near(addr uintptr) Spec { return s.place(place.Near, addr) }

// At asks for the first byte to be exactly at addr; MAP_FIXED_NOREPLACE. Nothing may be
// mapped there yet: otherwise Map fails with EEXIST, which matches [os.ErrExist]. addr and
// the file offset must have the same remainder modulo the page size.
func (s Spec) At(addr uintptr) Spec { return s.place(place.Exactly, addr) }

// UnsafeOnto is [Spec.At] that replaces what is mapped there; MAP_FIXED. It can take memory
// from anybody, the Go heap included: what lies there is the caller's duty. To replace a
// mapping of your own, [Over] is safe.
//
// A mapping over pages of the Go heap must not be closed: the hole would end the program at
// its next use. Keep the Go memory alive as long as the mapping, because nobody may write
// to memory that Go has freed. To give the pages back, replace them with [Over] by private
// [Anonymous] memory as [ReadWrite], and call Release. For the same reason a mapping made
// by UnsafeOnto is never collected.
func (s Spec) UnsafeOnto(addr uintptr) Spec { return s.place(place.Onto, addr) }

func (s Spec) place(p place.Where, addr uintptr) Spec {
	s.twice = s.twice || s.wish.Where != place.Anywhere
	s.wish.Where, s.addr = p, addr
	return s
}

// Align makes the address of the first byte a multiple of n, a power of two.
// A later [Resize] that moves the mapping does not keep it.
func (s Spec) Align(n int) Spec { s.wish.Align, s.aligned = uintptr(n), true; return s }

// Reserve holds address space up to capacity bytes, so that [Grow] never moves the mapping:
// len and cap, as a slice has them. The reserve cannot be accessed, and costs no memory;
// but a file on hugetlbfs and [Secret] count with their whole capacity.
func (s Spec) Reserve(capacity int) Spec { s.reserve, s.reserved = capacity, true; return s }

// HugePages asks for memory from the pool of huge pages of size bytes: 0 for the kernel's
// default, else 2<<20, 1<<30, …; MAP_HUGETLB. The memory is rounded up to whole huge pages;
// Len is still what was asked for. It is for anonymous memory; a file on hugetlbfs or of
// [MemfdHuge] has huge pages without it.
//
// If the pool, /sys/kernel/mm/hugepages, has too few, Map fails with ENOMEM, and if there
// is none of that size, with [errors.ErrUnsupported].
func (s Spec) HugePages(size int) Spec { s.huge, s.hugePages = size, true; return s }

// Populate brings the pages into memory at Map, as far as that works. It reports no error:
// use [Mapping.Prefault] if you need to know.
func (s Spec) Populate() Spec { s.wish.Populate = true; return s }

// PopulateCached is [Spec.Populate] without waiting for storage: it brings in, for reading,
// the pages that the page cache has. MAP_NONBLOCK was meant to do this; since Linux 2.6.23
// it only switches MAP_POPULATE off.
func (s Spec) PopulateCached() Spec { s.wish.Cached = true; return s }

// Lock locks the pages into memory, and those that Grow adds; mlock(2). If that fails, Map
// fails. Pages that can neither be read nor written are locked when they are first touched.
func (s Spec) Lock() Spec { return s.locks(place.Locked) }

// LockOnFault is [Spec.Lock] that brings nothing in: each page is locked when it is first
// touched; MLOCK_ONFAULT of mlock2(2).
func (s Spec) LockOnFault() Spec { return s.locks(place.LockedOnFault) }

func (s Spec) locks(l place.Locking) Spec {
	if s.source != secret { // which is place.Locked from the start
		s.wish.Lock = l
	}
	return s
}

// NoReserve does not charge the memory against the commit limit when it is mapped;
// MAP_NORESERVE. The sum of such mappings can be far larger than memory. When memory runs
// out, the OOM killer ends a process, and a huge page that is missing is a fault. With
// vm.overcommit_memory=2 it has no effect.
func (s Spec) NoReserve() Spec { s.noReserve = true; return s }

// Low puts the mapping below 2 GiB, where a 32-bit displacement reaches it; MAP_32BIT. Only
// amd64 has it. It excludes At and UnsafeOnto, which say where. A later [Resize] or [Move]
// does not keep it.
func (s Spec) Low() Spec { s.low = true; return s }

// Droppable lets the kernel drop the pages under memory pressure, at any moment and without
// telling: they then read as zeros. It is for what can be made again, such as a cache or
// the state of a random number generator. MAP_DROPPABLE, Linux 6.11, for private anonymous
// memory. It does not count against the commit limit, is not dumped, never swapped, cannot
// be locked, and reads as zeros in a forked child.
func (s Spec) Droppable() Spec { s.droppable = true; return s }

// Synchronous makes stores durable when the processor's caches are flushed, without a
// system call; MAP_SYNC, for shared mappings of files on persistent memory (DAX). If the
// file system or the device cannot do it, Map fails with EOPNOTSUPP. It excludes At.
func (s Spec) Synchronous() Spec { s.synchronous = true; return s }

// String describes all that the Spec says.
func (s Spec) String() string {
	name := nameOf(s.file)
	what := [...]string{
		noSource:   "zero Spec",
		anonymous:  fmt.Sprintf("%d anonymous bytes", s.size),
		wholeFile:  "all of " + name,
		openFile:   fmt.Sprintf("%v of %s at offset %d", fail.Count(s.size), name, s.offset),
		descriptor: fmt.Sprintf("%v of descriptor %d at offset %d", fail.Count(s.size), s.fd, s.offset),
		path:       fmt.Sprintf("%q", s.name),
		secret:     fmt.Sprintf("%d secret bytes", s.size),
	}[s.source]
	add := func(is bool, format string, args ...any) {
		if is {
			what += fmt.Sprintf(format, args...)
		}
	}
	add(s.shared, ", shared")
	add(s.synchronous, ", synchronous")
	add(s.droppable, ", droppable")
	add(s.noReserve, ", not charged")
	add(s.hugePages, ", in huge pages")
	add(s.low, ", below 2 GiB")
	add(s.wish.Where != place.Anywhere, ", %s %#x", [...]string{"", "near", "at", "onto"}[s.wish.Where], s.addr)
	add(s.aligned, ", aligned to %d", int(s.wish.Align))
	add(s.reserved, ", reserving %d", s.reserve)
	add(s.wish.Populate, ", populated")
	add(s.wish.Cached, ", populated from the cache")
	add(s.wish.Lock == place.Locked, ", locked")
	add(s.wish.Lock == place.LockedOnFault, ", locked on fault")
	return what
}

// nameOf returns how errors name a file.
func nameOf(f *os.File) string {
	if f == nil {
		return "a nil file"
	}
	return fmt.Sprintf("%q", f.Name())
}

// check returns what is wrong with the Spec by itself.
func (s *Spec) check(p Prot) error {
	switch {
	case p&^protAll != 0:
		return fail.Bad("", "no such permissions")
	case s.source == noSource:
		return fail.Bad("", "it has no source")
	case s.source == descriptor && !isInt32(s.fd):
		return fail.Bad("", "%d is no descriptor", s.fd)
	case s.size < 0:
		return fail.Bad("", "negative size")
	case s.offset < 0:
		return fail.Bad("", "negative offset")
	case s.offset+int64(s.size) < 0:
		return fail.Hint(unix.EOVERFLOW, "the range ends past the largest file offset")
	case s.twice:
		return fail.Bad("", "it has two placements")
	case s.aligned && (int(s.wish.Align) <= 0 || s.wish.Align&(s.wish.Align-1) != 0):
		return fail.Bad("", "the alignment is no power of two")
	case s.hugePages && s.source != anonymous:
		return fail.Bad("", "huge pages are for anonymous memory; a file has them from its file system")
	case s.droppable && (s.source != anonymous || s.shared || s.hugePages || s.wish.Lock != place.Unlocked):
		return fail.Bad("", "droppable memory is private, anonymous, in small pages, and not locked")
	case s.synchronous && (!s.shared || s.source == anonymous || s.source == secret):
		return fail.Bad("", "only a shared mapping of a file can be synchronous")
	case s.synchronous && s.wish.Where == place.Exactly:
		return fail.Bad("", "the kernel does not know MAP_FIXED_NOREPLACE together with MAP_SYNC: use Near")
	case s.low && (s.wish.Where == place.Exactly || s.wish.Where == place.Onto):
		return fail.Bad("", "the address is given already")
	case s.low && runtime.GOARCH != "amd64":
		return fail.Hint(errors.ErrUnsupported, "only amd64 has MAP_32BIT")
	}
	return nil
}

// flags returns the flags of mmap(2) that the Spec asks for.
func (s *Spec) flags() int {
	flags := unix.MAP_PRIVATE
	switch {
	case s.synchronous:
		flags = unix.MAP_SHARED_VALIDATE | unix.MAP_SYNC
	case s.shared || s.source == secret:
		flags = unix.MAP_SHARED
	case s.droppable:
		flags = unix.MAP_DROPPABLE
	}
	if s.noReserve {
		flags |= unix.MAP_NORESERVE
	}
	if s.low {
		flags |= place.Map32Bit
	}
	return flags
}

// The Go heap of a race build is in a fixed window; one foreign mapping in it
// ends the program when it is first touched.
const raceStart, raceEnd = 0xc0_0000_0000, 0xe0_0000_0000

// inRaceWindow reports whether [addr, addr+size) must stay free in this build.
func inRaceWindow(addr, size uintptr) bool {
	return sys.Race && (runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64") &&
		uint64(addr) < raceEnd && uint64(addr)+uint64(size) > raceStart
}

// A backing is a source made concrete: what mmap(2) gets, and which of its bytes are
// wanted.
type backing struct {
	place.Backing
	lead uintptr // from its offset to the first byte
	size uintptr // from the first byte
}

// back returns the backing of the Spec, whose file is open as fd.
func (s *Spec) back(fd int) (backing, error) {
	b := s.smallPages(fd)
	if s.source == anonymous {
		b.Flags |= unix.MAP_ANONYMOUS
		if s.hugePages {
			granule, flags, err := hugeFlags(s.huge)
			b.Granule, b.Flags = granule, b.Flags|unix.MAP_HUGETLB|flags
			return b, err
		}
		return b, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return b, err
	}
	if s.source == path || s.source == wholeFile {
		if err := regular(&st); err != nil {
			return b, err
		}
		if b.size = uintptr(st.Size); int64(b.size) != st.Size || int(b.size) < 0 {
			return b, unix.EOVERFLOW
		}
	}
	b.Device = st.Mode&unix.S_IFMT == unix.S_IFCHR
	// Only a file system of huge pages has blocks that are larger than a page
	// and pages as large as its blocks.
	block := uintptr(st.Blksize)
	if block > kernel.PageSize && uint32(kernel.FileSystem(fd).Type) == unix.HUGETLBFS_MAGIC {
		b.Granule = block
	}
	b.Offset = s.offset &^ int64(b.Granule-1)
	b.lead = uintptr(s.offset - b.Offset)
	return b, nil
}

// smallPages is back if the pages are of the least size, and it is no whole file.
func (s *Spec) smallPages(fd int) backing {
	b := place.Backing{FD: fd, Granule: kernel.PageSize, Flags: s.flags(), Offset: s.offset &^ int64(kernel.PageSize-1)}
	return backing{Backing: b, size: uintptr(s.size), lead: uintptr(s.offset - b.Offset)}
}

// open makes the source concrete for permissions p and calls use while the
// descriptor is open.
func (s *Spec) open(p Prot, capacity int, use func(b backing) error) error {
	var failed error
	no := s.withFD(p, capacity, func(fd uintptr) {
		b, err := s.back(int(fd))
		if failed = err; err == nil {
			failed = use(b)
		}
	})
	return cmp.Or(no, failed)
}

// withFD calls use with the descriptor of the source, opened for permissions p: -1 if it
// has none. The error is that of opening it. use must not panic: the descriptor would stay
// open.
func (s *Spec) withFD(p Prot, capacity int, use func(fd uintptr)) error {
	switch s.source {
	case openFile, wholeFile:
		return withFile(s.file, use)
	case descriptor:
		use(uintptr(s.fd))
		return nil
	case path:
		fd, err := s.openPath(p)
		if err != nil {
			return err
		}
		use(uintptr(fd))
		unix.Close(fd)
		return nil
	case secret:
		fd, err := sys.MemfdSecret(unix.O_CLOEXEC)
		if err != nil {
			return kernel.Blame("memfd_secret", err)
		}
		defer unix.Close(fd)
		// Its size can be set once, and must be before it is touched.
		if err = truncate(fd, int64(max(capacity, s.size))); err != nil {
			return err
		}
		use(uintptr(fd))
		return nil
	}
	use(^uintptr(0))
	return nil
}

// control calls use with the descriptor of f.
func control(f *os.File, use func(fd int) error) (err error) {
	no := withFile(f, func(fd uintptr) { err = use(int(fd)) })
	return cmp.Or(no, err)
}

// withFile calls use with the descriptor of f, which stays open so long. Unlike os.File.Fd
// this leaves the file in its mode. The error is that of a file that is not open.
func withFile(f *os.File, use func(fd uintptr)) error {
	if f == nil {
		return fail.Bad("", "the file is nil")
	}
	conn, _ := f.SyscallConn() // fails for a nil file only
	if conn.Control(use) != nil {
		return &fail.Error{Err: fmt.Errorf("%w (%w)", os.ErrClosed, unix.EBADF)} // the only reason, whatever os says
	}
	return nil
}
