//go:build linux

package sys

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Features of userfaultfd(2) that are asked for.
const (
	UFFD_FEATURE_PAGEFAULT_FLAG_WP  = 1 << 0
	UFFD_FEATURE_MISSING_HUGETLBFS  = 1 << 4
	UFFD_FEATURE_MISSING_SHMEM      = 1 << 5
	UFFD_FEATURE_SIGBUS             = 1 << 7
	UFFD_FEATURE_WP_HUGETLBFS_SHMEM = 1 << 12
	UFFD_FEATURE_WP_UNPOPULATED     = 1 << 13
	UFFD_FEATURE_WP_ASYNC           = 1 << 15
)

// Userfaultfd is userfaultfd(2) and its ioctl UFFDIO_API: a descriptor with these features,
// for faults of this process, with UFFD_USER_MODE_ONLY, which needs no privileges. The
// errors: ENOSYS and EINVAL of a kernel without them, EPERM of a filter, EMFILE, ENFILE,
// ENOMEM.
func Userfaultfd(features uint64) (int, error) {
	const userModeOnly, api = 1, 0xaa
	fd, _, e := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK|userModeOnly, 0, 0)
	if e == unix.EINVAL { // before Linux 5.11
		fd, _, e = unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	}
	if e != 0 {
		return -1, e
	}
	arg := [3]uint64{api, features} // and, out, the ioctls that there are
	if err := ioctl(int(fd), 0xc018aa3f, unsafe.Pointer(&arg)); err != nil {
		unix.Close(int(fd))
		return -1, err
	}
	return int(fd), nil
}

// The modes of UFFDIO_REGISTER: faults on absent pages, and on protected ones.
const (
	UFFDIO_REGISTER_MODE_MISSING = 1 << 0
	UFFDIO_REGISTER_MODE_WP      = 1 << 1
)

// UffdRegister has a descriptor of userfaultfd(2) see faults in a range of pages;
// UFFDIO_REGISTER. The errors: EINVAL for memory that cannot be
// registered or is not mapped, EBUSY for that of another descriptor, EPERM for pages that
// can never be written, ENOMEM at the limit of areas.
func UffdRegister(fd int, addr, size uintptr, mode uint64) error {
	arg := [4]uint64{uint64(addr), uint64(size), mode} // and, out, the ioctls that there are
	return ioctl(fd, 0xc020aa00, unsafe.Pointer(&arg))
}

// UffdUnregister undoes that; UFFDIO_UNREGISTER.
func UffdUnregister(fd int, addr, size uintptr) error {
	request := uintptr(0x8010aa01)
	if runtime.GOARCH == "ppc64" || runtime.GOARCH == "ppc64le" {
		request = 0x4010aa01 // where the direction has other bits
	}
	arg := [2]uint64{uint64(addr), uint64(size)}
	return ioctl(fd, request, unsafe.Pointer(&arg))
}

// UffdWriteProtect protects registered pages, so that the kernel notes the next write to
// each; UFFDIO_WRITEPROTECT. ENOENT is a part of the range that is not registered.
func UffdWriteProtect(fd int, addr, size uintptr) error {
	arg := [3]uint64{uint64(addr), uint64(size), 1}
	return ioctl(fd, 0xc018aa06, unsafe.Pointer(&arg))
}

// UFFDIO_COPY_MODE_WP has UffdCopy protect the pages as UffdWriteProtect does.
const UFFDIO_COPY_MODE_WP = 1 << 1

// UffdCopy puts contents, of whole pages, where there are none; UFFDIO_COPY. It returns how
// many bytes it has put there, and an error if that is not all: EEXIST if the first page is
// there already, EAGAIN behind others, ENOENT of a range that is not registered, ENOMEM,
// ENOSPC.
func UffdCopy(fd int, addr uintptr, contents []byte, mode uint64) (int, error) {
	arg := struct {
		dst, src, size, mode uint64
		done                 int64
	}{dst: uint64(addr), size: uint64(len(contents)), mode: mode}
	var pinner runtime.Pinner
	// SAFETY: the kernel reads the contents during the call; the pin keeps them where they
	// are until then, also those on a stack, which it moves to the heap.
	pinner.Pin(unsafe.SliceData(contents))
	defer pinner.Unpin()
	arg.src = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(contents))))
	err := ioctl(fd, 0xc028aa03, unsafe.Pointer(&arg))
	return int(max(arg.done, 0)), err
}

// What PAGEMAP_SCAN tells of pages.
const (
	PAGE_IS_WPALLOWED = 1 << 0 // writes to them are noted
	PAGE_IS_WRITTEN   = 1 << 1 // they are not protected as by UffdWriteProtect
)

// A PageRegion is struct page_region of linux/fs.h.
type PageRegion struct{ Start, End, Categories uint64 }

// A PageScan is struct pm_scan_arg of linux/fs.h, in and out.
type PageScan struct {
	size       uint64
	flags      uint64
	Start, End uint64 // in
	WalkEnd    uint64 // out: where it has stopped
	vec        uint64
	vecLen     uint64
	MaxPages   uint64 // in: 0 for no limit
	Inverted   uint64 // in: categories that a page must not have
	Mask       uint64 // in: those that it must have; with Inverted, that are looked at
	anyOf      uint64
	Return     uint64 // in: those that are told
}

// Scan asks which pages of a range have the categories, with the ioctl PAGEMAP_SCAN (Linux
// 6.7), and returns how many regions it has put in vec. fd is an open /proc/self/pagemap.
// With protect, pages that are found are protected as by UffdWriteProtect, in the same step;
// memory that is not registered is passed over. If there is an error, some may have been
// protected, and are told nowhere. ENOTTY is an older kernel.
func (s *PageScan) Scan(fd int, vec []PageRegion, protect bool) (int, error) {
	s.size, s.flags, s.WalkEnd = uint64(unsafe.Sizeof(*s)), 0, 0
	if protect {
		s.flags = 1 // PM_SCAN_WP_MATCHING
	}
	var pinner runtime.Pinner
	if s.vec, s.vecLen = 0, uint64(len(vec)); len(vec) > 0 {
		// SAFETY: the kernel writes at most vecLen regions there during the call; the pin
		// keeps them where they are until then.
		pinner.Pin(unsafe.SliceData(vec))
		defer pinner.Unpin()
		s.vec = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(vec))))
	}
	// SAFETY: s is as long as size says, and the conversion in the argument list keeps it
	// alive and in place until the call returns.
	n, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), 0xc0606610, uintptr(unsafe.Pointer(s)))
	return int(n), errno(e)
}

// ioctl is ioctl(2) with an argument in memory, as large as the request says.
func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	// SAFETY: the conversion in the argument list keeps arg alive and in place until the
	// call returns.
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	return errno(e)
}

// OpenSelfPagemap opens /proc/self/pagemap.
func OpenSelfPagemap() (fd int, err error) {
	err = Retry(func() error {
		fd, err = unix.Open("/proc/self/pagemap", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	return fd, err
}
