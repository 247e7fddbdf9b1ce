//go:build linux && (amd64 || arm64 || loong64 || ppc64 || ppc64le || riscv64)

package sys

import "golang.org/x/sys/unix"

// Mmap is mmap(2). The offset is a multiple of the page size and not negative.
func Mmap(addr, size uintptr, prot, flags, fd int, offset int64) (uintptr, error) {
	r, _, e := unix.Syscall6(unix.SYS_MMAP, addr, size, uintptr(prot), uintptr(flags), uintptr(fd), uintptr(offset))
	return r, errno(e)
}
