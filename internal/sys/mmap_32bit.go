//go:build linux && (386 || arm)

package sys

import "golang.org/x/sys/unix"

// Mmap is mmap(2). The offset is a multiple of the page size and not negative.
func Mmap(addr, size uintptr, prot, flags, fd int, offset int64) (uintptr, error) {
	// mmap2(2) counts the offset in units of 4096 bytes, whatever the page size.
	const unit = 4096
	if offset/unit > 1<<32-1 {
		return 0, unix.EOVERFLOW
	}
	r, _, e := unix.Syscall6(unix.SYS_MMAP2, addr, size, uintptr(prot), uintptr(flags), uintptr(fd), uintptr(offset/unit))
	return r, errno(e)
}
