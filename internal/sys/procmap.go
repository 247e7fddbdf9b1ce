package sys

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The flags of [ProcmapQuery], from linux/fs.h.
const (
	ProcmapRead   = 0x01 // result and filter: the area can be read
	ProcmapWrite  = 0x02 // … written
	ProcmapExec   = 0x04 // … executed
	ProcmapShared = 0x08 // … and is shared

	ProcmapNext = 0x10 // filter: the area that holds the address, or the next above it
)

// ProcmapQuery is struct procmap_query of linux/fs.h, in and out.
type ProcmapQuery struct {
	size         uint64
	Flags        uint64 // in: Procmap filters
	Addr         uint64 // in
	Start, End   uint64
	VMAFlags     uint64 // ProcmapRead … ProcmapShared
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
		fd, _, e := unix.Syscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(&path)), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
		if e != unix.EINTR {
			return int(fd), errno(e)
		}
	}
}
