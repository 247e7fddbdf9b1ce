//go:build linux

package mmap

import (
	"cmp"
	"errors"
	"math/bits"
	"os"
	"strings"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// Memfd makes an anonymous file of size bytes, with seals: memory that can be mapped as
// often as needed with [File], and passed to other processes. name is for the kernel's
// tables. The file goes when its last descriptor and its last mapping are gone. See
// memfd_create(2).
//
// Prefer SealShrink: no mapping of the file can then fault by truncation. SealWrite is set
// before anything could be written; to seal contents, see [AddSeals]. With
// vm.memfd_noexec=2, Memfd without SealExec fails with EACCES.
func Memfd(name string, size int64, seals Seal) (*os.File, error) {
	f, err := newMemfd(name, size, seals, 0, kernel.PageSize)
	return f, named(err, "memfd %q of %v, seals %v", name, fail.Count(size), seals)
}

// MemfdHuge is Memfd on huge pages of hugePage bytes, 0 for the kernel's default. The size
// is rounded up to whole huge pages. The pages come from the pool when the file is mapped,
// or by [Allocate]: both fail if the pool is empty.
func MemfdHuge(name string, size int64, seals Seal, hugePage int) (f *os.File, err error) {
	granule, flags, err := hugeFlags(hugePage)
	whole := (size + int64(granule) - 1) &^ int64(granule-1)
	switch {
	case err != nil:
	case size < 0:
		err = fail.Bad("", "negative size")
	case whole < size:
		err = fail.Hint(unix.EFBIG, "the size ends past the largest file offset")
	default:
		f, err = newMemfd(name, whole, seals, unix.MFD_HUGETLB|flags, granule)
	}
	return f, named(err, "memfd %q of %v, seals %v, in huge pages of %d", name, fail.Count(size), seals, hugePage)
}

func newMemfd(name string, size int64, seals Seal, flags int, granule uintptr) (*os.File, error) {
	// Without either flag Linux 6.3 logs a complaint; before it, both are
	// EINVAL.
	flags |= unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	exec := unix.MFD_EXEC
	if seals&SealExec != 0 {
		exec = unix.MFD_NOEXEC_SEAL
	}
	if size < 0 {
		return nil, fail.Bad("", "negative size")
	}
	fd, err := unix.MemfdCreate(name, flags|exec)
	if err == unix.EINVAL && seals&SealExec == 0 {
		fd, err = unix.MemfdCreate(name, flags)
	}
	switch {
	case err == nil:
	case err == unix.EINVAL && (len(name) > maxMemfdName || strings.Contains(name, "\x00")):
		return nil, fail.Hint(err, "a name has at most %d bytes, and no zero among them", maxMemfdName)
	case err == unix.EACCES && seals&SealExec == 0 && kernel.Number("/proc/sys/vm/memfd_noexec", "") == 2:
		return nil, fail.Hint(err, "vm.memfd_noexec is 2: use SealExec")
	default:
		if err = kernel.ScarceHuge(kernel.Blame("memfd_create", err), uint64(size), granule); seals&SealExec != 0 {
			err = kernel.Blame("MFD_NOEXEC_SEAL", err)
		}
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "memfd:"+name)
	if err = truncate(fd, size); err == nil && seals != 0 {
		err = addSeals(fd, seals)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// maxMemfdName is NAME_MAX without "memfd:"; see memfd_create(2).
const maxMemfdName = 249

// AddSeals adds seals to a file of [Memfd] or [MemfdHuge], such as SealWrite when its
// contents are complete; F_ADD_SEALS of fcntl(2).
//
// While a mapping could still write to the file, SealWrite is EBUSY. Every shared mapping
// made before SealWrite or SealFutureWrite could, also one that is only read, because it
// may become writable. After SealSeal every call is EPERM. SealExec is for Memfd: added
// later, to a file that can be executed, it adds the seals of writing and of the size as
// well. AddSeals does not change the mode of f.
func AddSeals(f *os.File, seals Seal) error {
	err := control(f, func(fd int) error { return addSeals(fd, seals) })
	return named(err, "add seals %v to %s", seals, nameOf(f))
}

func addSeals(fd int, seals Seal) error {
	if !isInt32(int(seals)) {
		return fail.Bad("", "no such seals")
	}
	_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, int(seals))
	has := 0
	if err != nil {
		has = kernel.Seals(fd)
	}
	switch {
	case err == unix.EBUSY && seals&SealWrite != 0:
		err = fail.Hint(err, "a shared mapping of it that can be written is still there")
	case err == unix.EINVAL && has < 0:
		err = fail.Hint(err, "only a file in memory, as of Memfd, can be sealed")
	case err == unix.EINVAL && seals&^(1<<len(sealNames)-1) != 0:
		err = fail.Hint(err, "no such seals")
	case err == unix.EPERM && has > 0 && Seal(has)&SealSeal != 0:
		err = fail.Hint(err, "it has SealSeal, as every file on a tmpfs does")
	case err == unix.EPERM && kernel.OpenMode(fd) == unix.O_RDONLY:
		err = fail.Hint(err, "the file is open for reading only")
	}
	if seals&SealFutureWrite != 0 {
		err = kernel.Blame("F_SEAL_FUTURE_WRITE", err)
	}
	if seals&SealExec != 0 {
		err = kernel.Blame("MFD_NOEXEC_SEAL", err)
	}
	return err
}

func truncate(fd int, size int64) error {
	return sys.Retry(func() error { return unix.Ftruncate(fd, size) })
}

// Allocate gives a file its blocks in the range of size bytes at offset, so that writing a
// shared mapping of it cannot fault for lack of space; fallocate(2). If the range reaches
// past the end of the file, the file becomes longer. [os.File.Truncate] makes a hole
// instead, and a full disk then shows as a fault.
//
// If the file system cannot do it, the error matches [errors.ErrUnsupported]. If the file is
// not open for writing, the error is EBADF. If the file system is full, it is ENOSPC: the
// file may then keep the blocks that it got, and be longer. [os.File.Truncate] to the old
// size frees those past it; Allocate does not, because somebody else may use them by then.
// Allocate does not change the mode of f.
func Allocate(f *os.File, offset, size int64) error {
	err := control(f, func(fd int) error {
		switch {
		case size < 0:
			return fail.Bad("", "negative size")
		case offset < 0:
			return fail.Bad("", "negative offset")
		case size == 0:
			return nil // which fallocate refuses
		}
		err := sys.Retry(func() error { return unix.Fallocate(fd, 0, offset, size) })
		switch {
		case err == unix.EBADF && kernel.OpenMode(fd) == unix.O_RDONLY:
			err = fail.Hint(err, "the file is open for reading only")
		case err == unix.EFBIG && offset+size < 0:
			err = fail.Hint(err, "the range ends past the largest file offset")
		case err == unix.EPERM && kernel.Seals(fd) > 0:
			err = fail.Hint(err, "the file has the seals %v", Seal(kernel.Seals(fd)))
		case err == unix.ENOSPC:
			err = fail.Hint(err, "the file may keep the blocks that it got: Truncate frees those past a size")
		}
		return err
	})
	return named(err, "allocate %v of %s at offset %d", fail.Count(size), nameOf(f), offset)
}

// hugeFlags returns the size of huge pages of so many bytes, 0 for the kernel's
// default, and the flags by which mmap(2) and memfd_create(2) know it.
func hugeFlags(size int) (granule uintptr, flags int, err error) {
	switch {
	case size == 0:
		n, err := kernel.ReadNumber("/proc/meminfo", "Hugepagesize:")
		if n <<= 10; err != nil { // in a chroot, say
			n, err = kernel.HugeBlock(0)
		}
		if n == 0 {
			err = fail.Hint(cmp.Or(err, errors.ErrUnsupported), "the kernel tells of no huge pages")
		}
		return uintptr(n), 0, err
	case size <= int(kernel.PageSize) || size&(size-1) != 0:
		return 0, 0, fail.Bad("", "%d is no size of a huge page", size)
	}
	return uintptr(size), bits.TrailingZeros(uint(size)) << unix.MAP_HUGE_SHIFT, nil
}
