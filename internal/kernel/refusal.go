//go:build linux

package kernel

import (
	"fmt"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/perms"
	"golang.org/x/sys/unix"
)

// This file explains the refusals of mmap(2) that users meet most. Each hint is
// proven by a question to the kernel, which is asked only when a call has failed.

// Denied explains why mmap(2) with these flags does not map a file that is open as fd.
func Denied(fd int, p perms.Prot, flags int, err error) error {
	shared := flags&unix.MAP_SHARED != 0
	writes := shared && p&perms.Write != 0
	mode := func() int { return fcntl(fd, unix.F_GETFL) & unix.O_ACCMODE }
	sealed := func() bool {
		seals := fcntl(fd, unix.F_GET_SEALS)
		return seals > 0 && seals&(unix.F_SEAL_WRITE|unix.F_SEAL_FUTURE_WRITE) != 0
	}
	switch {
	case err == unix.EACCES && mode() == unix.O_WRONLY:
		return fail.Hint(err, "the file is open for writing only, and every mapping needs one that can be read")
	case err == unix.EACCES && writes && mode() == unix.O_RDONLY:
		return fail.Hint(err, "the file is open for reading only: open it with os.O_RDWR, or leave Shared out")
	case err == unix.EPERM && writes && sealed():
		return fail.Hint(err, "the file is sealed against writing: leave Shared or the write permission out")
	case err == unix.EPERM && p&perms.Exec != 0 && FileSystem(fd).Flags&unix.ST_NOEXEC != 0:
		return fail.Hint(err, "the file system is mounted with noexec")
	case err == unix.ENODEV && shared && uint32(FileSystem(fd).Type) == unix.FUSE_SUPER_MAGIC:
		return fail.Hint(err, "this FUSE file passes the page cache by (direct_io), and can only be mapped private")
	case err == unix.ENODEV: // mmap(2) has no other reason
		return fail.Hint(err, "its file system or driver cannot map it, as that of /sys cannot: read it instead")
	}
	return err
}

// fcntl asks about a file, and returns -1 if there is no answer.
func fcntl(fd, what int) int {
	n, _ := unix.FcntlInt(uintptr(fd), what, 0)
	return n
}

// FileSystem describes the file system of an open file; of a type and with flags of 0 if
// that is unknown.
func FileSystem(fd int) (fs unix.Statfs_t) {
	unix.Fstatfs(fd, &fs)
	return fs
}

// DeniedExec explains why memory that is mapped already does not become executable.
func DeniedExec(p perms.Prot, err error) error {
	if p&perms.Exec != 0 && (err == unix.EACCES || err == unix.EPERM) {
		return fail.Hint(err, "memory may not become executable here (PR_SET_MDWE, MemoryDenyWriteExecute): "+
			"map it so at once, without a reserve")
	}
	return err
}

// Occupied explains why a place is not free: by the first area that lies in it.
func Occupied(base, size uintptr) error {
	g, ok := regionAt(base)
	if !ok || g.Start >= uint64(base+size) {
		return unix.EEXIST // and has gone
	}
	hint := fmt.Sprintf("%#x-%#x is mapped already, %v", g.Start, g.End, g.Perms)
	if g.Name != "" {
		hint += " " + g.Name
	}
	return &fail.Error{Hint: hint, Err: unix.EEXIST}
}

// Undivided explains EINVAL of a change of the pages [base, base+size) where the
// arguments are right: the driver of the memory does not let it be divided, as that
// of perf_event_open(2) since Linux 6.17.
func Undivided(base, size uintptr, err error) error {
	within := func(addr uintptr) bool { // an area, and not at its ends
		g, ok := regionAt(addr)
		return ok && g.Start < uint64(addr)
	}
	if err == unix.EINVAL && (within(base) || within(base+size)) {
		const hint = "the kernel does not divide this memory: Join the parts that it has been split in"
		return fail.Hint(fail.Unsupported(err), hint)
	}
	return err
}

// Unextended explains why mremap(2) does not make memory longer.
func Unextended(err error) error {
	if err == unix.EFAULT {
		err = fail.Hint(fail.Unsupported(err), "the kernel does not extend this kind of memory")
	}
	return err
}
