//go:build linux

package kernel

import (
	"fmt"
	"strings"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// This file explains the refusals of mmap(2) that users meet most. Each hint is
// proven by a question to the kernel, which is asked only when a call has failed.

// Denied explains why mmap(2) with these flags does not map a file that is open as fd.
func Denied(fd int, p perms.Prot, flags int, err error) error {
	shared := flags&unix.MAP_SHARED != 0
	writes := shared && p&perms.Write != 0
	sealed := func() bool {
		seals := Seals(fd)
		return seals > 0 && seals&(unix.F_SEAL_WRITE|unix.F_SEAL_FUTURE_WRITE) != 0
	}
	switch {
	case err == unix.EACCES && OpenMode(fd) == unix.O_WRONLY:
		return fail.Hint(err, "the file is open for writing only, and every mapping needs one that can be read")
	case err == unix.EACCES && writes && OpenMode(fd) == unix.O_RDONLY:
		return fail.Hint(err, "the file is open for reading only: open it with os.O_RDWR, or leave Shared out")
	case err == unix.EPERM && writes && sealed():
		return fail.Hint(err, "the file is sealed against writing: leave Shared or the write permission out")
	case err == unix.EPERM && p&perms.Exec != 0 && uint32(FileSystem(fd).Type) == unix.SECRETMEM_MAGIC:
		return fail.Hint(err, noSecretExec)
	case err == unix.EPERM && p&perms.Exec != 0 && FileSystem(fd).Flags&unix.ST_NOEXEC != 0:
		return fail.Hint(err, noExec)
	case err == unix.ENODEV && shared && uint32(FileSystem(fd).Type) == unix.FUSE_SUPER_MAGIC:
		return fail.Hint(err, "this FUSE file passes the page cache by (direct_io), and can only be mapped private")
	case err == unix.ENODEV && fileType(fd) == unix.S_IFDIR:
		return fail.Hint(err, "it is a directory: map a file in it")
	case err == unix.ENODEV && (fileType(fd) == unix.S_IFIFO || fileType(fd) == unix.S_IFSOCK):
		return fail.Hint(err, PipeOrSocket)
	case err == unix.ENODEV: // mmap(2) has no other reason
		return fail.Hint(err, "its file system or driver cannot map it, as that of /sys cannot: read it instead")
	}
	return err
}

// PipeOrSocket is the hint for what has no pages.
const PipeOrSocket = "a pipe or socket cannot be mapped: read it, or use Anonymous or Memfd"

// fileType returns the type of an open file, as in the mode of stat(2).
func fileType(fd int) uint32 {
	var st unix.Stat_t
	unix.Fstat(fd, &st)
	return st.Mode & unix.S_IFMT
}

// Seals returns the seals of a file: -1 if it cannot have any.
func Seals(fd int) int { return fcntl(fd, unix.F_GET_SEALS) }

// OpenMode returns how a file is open: unix.O_RDONLY, O_WRONLY or O_RDWR.
func OpenMode(fd int) int { return fcntl(fd, unix.F_GETFL) & unix.O_ACCMODE }

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

// DeniedBoth explains why mmap(2) maps nothing that can be both written and executed.
func DeniedBoth(p perms.Prot, err error) error {
	const both = perms.Write | perms.Exec
	if p&both == both && (err == unix.EACCES || err == unix.EPERM) {
		return fail.Hint(err, "memory may not be writable and executable here (PR_SET_MDWE, MemoryDenyWriteExecute)")
	}
	return err
}

// DeniedExec explains why memory that is mapped already does not become executable.
func DeniedExec(p perms.Prot, err error) error {
	if p&perms.Exec != 0 && (err == unix.EACCES || err == unix.EPERM) {
		return fail.Hint(err, "memory may not become executable here (PR_SET_MDWE, MemoryDenyWriteExecute): "+
			"map it so at once, without a reserve")
	}
	return err
}

// DeniedChange explains why mprotect(2) does not give the pages [base, base+size) the
// permissions p.
func DeniedChange(base, size uintptr, p perms.Prot, err error) error {
	if err != unix.EACCES && err != unix.EPERM {
		return err
	}
	regions, _ := RegionsOf(base, base+size)
	for _, g := range regions {
		switch {
		case err == unix.EPERM || g.Inode == 0:
		case p&perms.Write != 0 && g.Perms&(procmaps.Shared|procmaps.Write) == procmaps.Shared:
			// What the file allowed was noted by mmap(2), and is shown nowhere else.
			return fail.Hint(err, "when it was mapped, the file was open for reading only, or sealed against writing")
		case p&perms.Exec == 0 || g.Perms&procmaps.Exec != 0:
		case strings.HasPrefix(g.Name, "/secretmem"):
			return fail.Hint(err, noSecretExec)
		case noexec(g):
			return fail.Hint(err, noExec)
		}
	}
	return DeniedExec(p, err)
}

const (
	noExec       = "the file system is mounted with noexec"
	noSecretExec = "secret memory cannot be executed"
)

// noexec reports whether the file of an area is on such a file system.
func noexec(area procmaps.Region) bool {
	var fs unix.Statfs_t
	return statFile(area, new(unix.Stat_t)) == nil && unix.Statfs(area.Name, &fs) == nil &&
		int64(fs.Flags)&unix.ST_NOEXEC != 0
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
