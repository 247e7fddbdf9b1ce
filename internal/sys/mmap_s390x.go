//go:build linux

package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Mmap is mmap(2). The offset is a multiple of the page size and not negative.
func Mmap(addr, size uintptr, prot, flags, fd int, offset int64) (uintptr, error) {
	args := [6]uintptr{addr, size, uintptr(prot), uintptr(flags), uintptr(fd), uintptr(offset)}
	// SAFETY: s390x passes the six arguments of mmap as a block. The kernel
	// reads it during the call; the conversion in the argument list keeps it
	// alive and in place until the call returns.
	r, _, e := unix.Syscall(unix.SYS_MMAP, uintptr(unsafe.Pointer(&args)), 0, 0)
	return r, errno(e)
}
