//go:build linux

// Package sys makes the system calls of the mapping library.
//
// The wrappers of golang.org/x/sys/unix do not fit here: Mmap keeps a global,
// locked table and refuses to unmap a part, and MmapPtr and its companions take
// addresses as unsafe.Pointer, which the garbage collector may not see when they
// point into an unused part of its heap. So an address is a uintptr here, from
// the caller to the kernel.
//
// Every function returns the errno as an error, nil for success; wrapping it
// with what was asked is the caller's task.
package sys

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errno turns the third result of a system call into an error.
func errno(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// call makes a system call on a range of addresses.
func call(trap, addr, size, arg uintptr) error {
	_, _, e := unix.Syscall(trap, addr, size, arg)
	return errno(e)
}

// again is call that is repeated while a signal interrupts it, as file systems in
// user space let it.
func again(trap, addr, size, arg uintptr) error {
	for { // and not Retry: after a system call each return costs a mispredicted branch
		if _, _, e := unix.Syscall(trap, addr, size, arg); e != unix.EINTR {
			return errno(e)
		}
	}
}

// Retry repeats a call while a signal interrupts it.
func Retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// Munmap is munmap(2).
func Munmap(addr, size uintptr) error { return call(unix.SYS_MUNMAP, addr, size, 0) }

// Mprotect is mprotect(2).
func Mprotect(addr, size uintptr, prot int) error {
	return call(unix.SYS_MPROTECT, addr, size, uintptr(prot))
}

// Mremap is mremap(2); to counts only with MREMAP_FIXED among the flags.
func Mremap(addr, size, newSize uintptr, flags int, to uintptr) (uintptr, error) {
	r, _, e := unix.Syscall6(unix.SYS_MREMAP, addr, size, newSize, uintptr(flags), to, 0)
	return r, errno(e)
}

// Madvise is madvise(2).
func Madvise(addr, size uintptr, advice int) error {
	return again(unix.SYS_MADVISE, addr, size, uintptr(advice))
}

// Mlock is mlock2(2): MLOCK_ONFAULT or no flags at all.
func Mlock(addr, size uintptr, flags int) error {
	if flags == 0 {
		return call(unix.SYS_MLOCK, addr, size, 0)
	}
	return call(unix.SYS_MLOCK2, addr, size, uintptr(flags))
}

// Munlock is munlock(2).
func Munlock(addr, size uintptr) error { return call(unix.SYS_MUNLOCK, addr, size, 0) }

// Msync is msync(2).
func Msync(addr, size uintptr, flags int) error {
	return again(unix.SYS_MSYNC, addr, size, uintptr(flags))
}

// Mseal is mseal(2).
func Mseal(addr, size uintptr) error { return call(unix.SYS_MSEAL, addr, size, 0) }

// Mincore is mincore(2) for as many pages as there are bytes in pages.
func Mincore(addr, pageSize uintptr, pages []byte) error {
	// SAFETY: the kernel writes one byte a page there, during the call.
	_, _, e := unix.Syscall(unix.SYS_MINCORE, addr, pageSize*uintptr(len(pages)),
		uintptr(unsafe.Pointer(unsafe.SliceData(pages))))
	return errno(e)
}

// Mbind is mbind(2) without flags; nodes is a bit mask.
func Mbind(addr, size uintptr, mode int, nodes []uintptr) error {
	bits := uintptr(len(nodes))*unsafe.Sizeof(nodes[0])*8 + 1 // the kernel subtracts one
	// SAFETY: the kernel reads the mask during the call.
	_, _, e := unix.Syscall6(unix.SYS_MBIND, addr, size, uintptr(mode),
		uintptr(unsafe.Pointer(unsafe.SliceData(nodes))), bits, 0)
	return errno(e)
}

// MovePages asks move_pages(2) on which nodes the pages at addrs are, without
// moving any: a node, or a negative errno, for each.
func MovePages(addrs []uintptr, nodes []int32) error {
	// SAFETY: the kernel reads len(addrs) addresses and writes as many nodes,
	// during the call; callers have as many.
	_, _, e := unix.Syscall6(unix.SYS_MOVE_PAGES, 0, uintptr(len(addrs)),
		uintptr(unsafe.Pointer(unsafe.SliceData(addrs))), 0,
		uintptr(unsafe.Pointer(unsafe.SliceData(nodes))), 0)
	return errno(e)
}

// SetName names anonymous memory; PR_SET_VMA in prctl(2). An empty name takes
// the name away.
func SetName(addr, size uintptr, name string) error {
	arg, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	if name == "" {
		arg = nil
	}
	// SAFETY: arg is nil or NUL-terminated, and read during the call.
	_, _, e := unix.Syscall6(unix.SYS_PRCTL, unix.PR_SET_VMA, unix.PR_SET_VMA_ANON_NAME, addr, size,
		uintptr(unsafe.Pointer(arg)), 0)
	return errno(e)
}

// MemfdSecret is memfd_secret(2). Its number is the same on every processor
// that this package is for, but golang.org/x/sys names it on some of them only.
func MemfdSecret(flags int) (int, error) {
	const number = 447
	fd, _, e := unix.Syscall(number, uintptr(flags), 0, 0)
	return int(fd), errno(e)
}

// ProcmapNext is the flag that asks for the area that holds the address, or else
// the next above it; linux/fs.h.
const ProcmapNext = 0x10

// ProcmapQuery is struct procmap_query of linux/fs.h, in and out.
type ProcmapQuery struct {
	size         uint64
	Flags        uint64 // in: ProcmapNext, or 0 for the area that holds the address
	Addr         uint64 // in
	Start, End   uint64
	VMAFlags     uint64 // 1 read, 2 write, 4 execute, 8 shared
	PageSize     uint64 // of the area's pages, in bytes
	Offset       uint64
	Inode        uint64
	Major, Minor uint32
	nameSize     uint32
	_            uint32 // no build id is asked for
	nameAddr     uint64
	_            uint64
}

// Query asks the kernel about one area with the ioctl PROCMAP_QUERY (Linux
// 6.11). fd is an open /proc/PID/maps. The area's name is put into name, where
// that is not empty, and its length returned. The errors: ENOENT where nothing
// is mapped, ENAMETOOLONG, ENOTTY on an older kernel, ESRCH.
func (q *ProcmapQuery) Query(fd int, name []byte) (int, error) {
	const request = 0xc0686611 // _IOWR('f', 17, struct procmap_query)
	q.size = uint64(unsafe.Sizeof(*q))
	q.nameSize, q.nameAddr = 0, 0
	var pinner runtime.Pinner
	if len(name) > 0 {
		// SAFETY: the kernel writes at most nameSize bytes there during the
		// call; the pin keeps the buffer where it is until then.
		pinner.Pin(unsafe.SliceData(name))
		defer pinner.Unpin()
		q.nameSize = uint32(len(name))
		q.nameAddr = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(name))))
	}
	// SAFETY: q is as long as size says, and the conversion in the argument
	// list keeps it alive and in place until the call returns.
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(q)))
	if e != 0 {
		return 0, e
	}
	if q.nameSize == 0 {
		return 0, nil
	}
	return int(q.nameSize) - 1, nil // the NUL at the end is counted
}

// OpenSelfMaps opens /proc/self/maps without allocating.
func OpenSelfMaps() (int, error) {
	path := [...]byte{'/', 'p', 'r', 'o', 'c', '/', 's', 'e', 'l', 'f', '/', 'm', 'a', 'p', 's', 0}
	at := unix.AT_FDCWD
	for {
		// SAFETY: path is NUL-terminated and only read; the conversion in the
		// argument list keeps it in place until the call returns.
		fd, _, e := unix.Syscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(&path)),
			unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
		if e != unix.EINTR {
			return int(fd), errno(e)
		}
	}
}

// What golang.org/x/sys v0.40 does not have yet. The numbers are those of every
// processor that Go builds for.
const (
	MLOCK_ONFAULT      = 1   // of mlock2(2)
	MADV_GUARD_INSTALL = 102 // of madvise(2)
	MADV_GUARD_REMOVE  = 103
)
