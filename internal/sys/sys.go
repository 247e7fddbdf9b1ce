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

import "golang.org/x/sys/unix"

// errno turns the third result of a system call into an error.
func errno(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// Munmap is munmap(2).
func Munmap(addr, size uintptr) error {
	_, _, e := unix.Syscall(unix.SYS_MUNMAP, addr, size, 0)
	return errno(e)
}

// Mprotect is mprotect(2).
func Mprotect(addr, size uintptr, prot int) error {
	_, _, e := unix.Syscall(unix.SYS_MPROTECT, addr, size, uintptr(prot))
	return errno(e)
}

// Mremap is mremap(2); to counts only with MREMAP_FIXED among the flags.
func Mremap(addr, size, newSize uintptr, flags int, to uintptr) (uintptr, error) {
	r, _, e := unix.Syscall6(unix.SYS_MREMAP, addr, size, newSize, uintptr(flags), to, 0)
	return r, errno(e)
}

// Madvise is madvise(2).
func Madvise(addr, size uintptr, advice int) error {
	_, _, e := unix.Syscall(unix.SYS_MADVISE, addr, size, uintptr(advice))
	return errno(e)
}

// Mlock is mlock2(2): MLOCK_ONFAULT or no flags at all.
func Mlock(addr, size uintptr, flags int) error {
	if flags == 0 {
		_, _, e := unix.Syscall(unix.SYS_MLOCK, addr, size, 0)
		return errno(e)
	}
	_, _, e := unix.Syscall(unix.SYS_MLOCK2, addr, size, uintptr(flags))
	return errno(e)
}

// Munlock is munlock(2).
func Munlock(addr, size uintptr) error {
	_, _, e := unix.Syscall(unix.SYS_MUNLOCK, addr, size, 0)
	return errno(e)
}

// Msync is msync(2).
func Msync(addr, size uintptr, flags int) error {
	_, _, e := unix.Syscall(unix.SYS_MSYNC, addr, size, uintptr(flags))
	return errno(e)
}

// MemfdSecret is memfd_secret(2). Its number is the same on every processor
// that this package is for, but golang.org/x/sys names it on some of them only.
func MemfdSecret(flags int) (int, error) {
	const number = 447
	fd, _, e := unix.Syscall(number, uintptr(flags), 0, 0)
	return int(fd), errno(e)
}
