package mmap

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// Memfd makes an anonymous file of size bytes, with seals: memory that can be
// mapped as often as needed with [File], and passed to other processes. name is
// for the kernel's tables. The file goes when the last descriptor and the last
// mapping do. See memfd_create(2).
//
// With SealShrink no mapping of it can fault by truncation. SealWrite is set
// before anything could be written, so such a file is zeros for ever.
func Memfd(name string, size int64, seals Seal) (*os.File, error) {
	op := fmt.Sprintf("memfd %q of %d bytes, seals %#x", name, size, int(seals))
	if size < 0 {
		return nil, bad(op, "negative size")
	}
	// Without either flag Linux 6.3 logs a complaint; before it, both are
	// EINVAL.
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	exec := unix.MFD_EXEC
	if seals&SealExec != 0 {
		exec = unix.MFD_NOEXEC_SEAL
	}
	fd, err := unix.MemfdCreate(name, flags|exec)
	if err == unix.EINVAL {
		if fd, err = unix.MemfdCreate(name, flags); err == nil && seals&SealExec != 0 {
			unix.Close(fd)
			return nil, &failure{op: op, hint: "SealExec needs Linux 6.3", err: errors.ErrUnsupported}
		}
	}
	if err != nil {
		return nil, fail(err, "%s", op)
	}
	f := os.NewFile(uintptr(fd), "memfd:"+name)
	if err = truncate(fd, size); err == nil && seals != 0 {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, int(seals))
	}
	if err != nil {
		f.Close()
		return nil, fail(err, "%s", op)
	}
	return f, nil
}

// newSecret returns the descriptor of secret memory of size bytes.
func newSecret(size int) (int, error) {
	fd, err := sys.MemfdSecret(unix.O_CLOEXEC)
	if err != nil {
		return -1, err
	}
	// Its size can be set once, and must be before it is touched.
	if err := truncate(fd, int64(size)); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func truncate(fd int, size int64) error {
	for {
		if err := unix.Ftruncate(fd, size); err != unix.EINTR {
			return err
		}
	}
}

// Allocate gives a file its blocks in the range of size bytes at offset, so that
// writing a shared mapping of it cannot fault for lack of space; the file grows
// where the range reaches past its end. os.File.Truncate makes a hole instead,
// and a full disk then shows as a fault. See fallocate(2).
//
// Where the file system cannot, the error matches [errors.ErrUnsupported]; a
// full one answers ENOSPC. f is used without changing its mode.
func Allocate(f *os.File, offset, size int64) error {
	op := fmt.Sprintf("allocate %d bytes at offset %d", size, offset)
	switch {
	case f == nil:
		return bad(op, "the file is nil")
	case offset < 0:
		return bad(op, "negative offset")
	case size < 0:
		return bad(op, "negative size")
	case size > math.MaxInt64-offset:
		return &failure{op: op, hint: "the range ends past the largest file offset", err: unix.EFBIG}
	}
	err := control(f, func(fd int) error {
		if size == 0 {
			return nil // which fallocate refuses
		}
		for {
			if err := unix.Fallocate(fd, 0, offset, size); err != unix.EINTR {
				return err
			}
		}
	})
	if err != nil {
		return named(err, "%s", op)
	}
	return nil
}

// defaultHugePage returns the size of the kernel's default huge page.
func defaultHugePage() (uintptr, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kib uintptr
		if n, _ := fmt.Sscanf(lines.Text(), "Hugepagesize: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("the kernel has no huge pages: %w", errors.ErrUnsupported)
}
