//go:build linux

package kernel

import (
	"fmt"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// This file explains the refusals of mmap(2) that users meet most. Each hint is
// proven by a question to the kernel, which is asked only when a call has failed.

// Denied explains why mmap(2) with these flags does not map a file that is open as fd.
func Denied(fd int, p perms.Prot, flags int, err error) error {
	hint, shared := "", flags&unix.MAP_SHARED != 0
	switch {
	case err == unix.EACCES:
		mode, no := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		switch mode &= unix.O_ACCMODE; {
		case no != nil:
		case mode == unix.O_WRONLY:
			hint = "the file is open for writing only, and every mapping needs one that can be read"
		case mode == unix.O_RDONLY && shared && p&perms.Write != 0:
			hint = "the file is open for reading only: open it with os.O_RDWR, or leave Shared out"
		}
	case err == unix.EPERM:
		var fs unix.Statfs_t
		seals, no := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
		switch {
		case no == nil && seals&(unix.F_SEAL_WRITE|unix.F_SEAL_FUTURE_WRITE) != 0 && shared && p&perms.Write != 0:
			hint = "the file is sealed against writing: leave Shared or the write permission out"
		case p&perms.Exec != 0 && unix.Fstatfs(fd, &fs) == nil && int64(fs.Flags)&unix.ST_NOEXEC != 0:
			hint = "the file system is mounted with noexec"
		}
	case err == unix.ENODEV && shared:
		var fs unix.Statfs_t
		if unix.Fstatfs(fd, &fs) == nil && uint32(fs.Type) == unix.FUSE_SUPER_MAGIC {
			hint = "this FUSE file passes the page cache by (direct_io), and can only be mapped private"
		}
	}
	if hint == "" {
		return err
	}
	return &fail.Error{Hint: hint, Err: err}
}

// DeniedExec explains why memory that is mapped already does not become executable.
func DeniedExec(p perms.Prot, err error) error {
	if p&perms.Exec != 0 && (err == unix.EACCES || err == unix.EPERM) {
		return &fail.Error{Hint: "memory may not become executable here (PR_SET_MDWE, MemoryDenyWriteExecute): " +
			"map it so at once, without a reserve", Err: err}
	}
	return err
}

// Occupied explains why a place is not free: by the first area that lies in it.
func Occupied(base, size uintptr) error {
	table, err := procmaps.Open(0)
	if err != nil {
		return unix.EEXIST
	}
	defer table.Close()
	g, ok, err := table.Next(uint64(base))
	if err != nil || !ok || g.Start >= uint64(base+size) {
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
	if err == unix.EINVAL && (cuts(base) || cuts(base+size)) {
		hint := "the kernel does not divide this memory: Join the parts that it has been split in"
		return &fail.Error{Hint: hint, Err: fail.Unsupported(err)}
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
