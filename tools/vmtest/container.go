//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A container is a process that may do less. What it may not do by default is taken from
// Docker's profile for seccomp(2), seccomp/default.json of github.com/moby/profiles, and from
// its list of capabilities, daemon/pkg/oci/caps/defaults.go of github.com/moby/moby. Podman's
// are pkg/seccomp/seccomp.json of github.com/containers/common and its containers.conf(5): a
// little less strict.

// forbidden are the system calls of the library and its tests that are EPERM there, and some
// of their kind. A profile lists what is allowed, so that a number without a call is forbidden,
// too. Docker's has allowed mseal(2) since 2025; under an older one runc(8) makes that ENOSYS,
// as Podman does, which to the tests is an older kernel.
var forbidden = []uint32{
	unix.SYS_USERFAULTFD, unix.SYS_MSEAL, unix.SYS_PROCESS_MADVISE, unix.SYS_PERF_EVENT_OPEN, unix.SYS_IO_URING_SETUP, 9999,
	unix.SYS_MBIND, unix.SYS_SET_MEMPOLICY, unix.SYS_GET_MEMPOLICY, unix.SYS_MOVE_PAGES, unix.SYS_MIGRATE_PAGES,
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_FSOPEN, unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_PIVOT_ROOT, unix.SYS_UNSHARE, unix.SYS_SETNS,
	unix.SYS_PIDFD_GETFD, unix.SYS_KCMP, unix.SYS_BPF, unix.SYS_KEYCTL, unix.SYS_QUOTACTL,
}

// allowed are the capabilities that root keeps.
var allowed = []int{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SETPCAP,
	unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW, unix.CAP_SYS_CHROOT, unix.CAP_MKNOD, unix.CAP_AUDIT_WRITE, unix.CAP_SETFCAP,
}

// memlock is RLIMIT_MEMLOCK where nobody has set it before Linux 5.16.
const memlock = 64 << 10

// contain runs a test binary as in a container. What takes privileges an ordinary user need
// not be kept from.
func contain(args []string) error {
	runtime.LockOSThread() // namespaces and capabilities are the thread's
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: min(limit.Cur, memlock), Max: min(limit.Max, memlock)}); err != nil {
		return fmt.Errorf("RLIMIT_MEMLOCK: %w", err)
	}
	if os.Geteuid() == 0 {
		if err := readOnly("/sys", "/proc/sys"); err != nil {
			fmt.Println("vmtest: /sys and /proc/sys are not read-only:", err)
		}
		if err := drop(); err != nil {
			return fmt.Errorf("capabilities: %w", err)
		}
	}
	if *uid != 0 {
		if err := become(*uid, args[0]); err != nil {
			return fmt.Errorf("user %d: %w", *uid, err)
		}
	}
	if err := filter(); err != nil {
		return fmt.Errorf("seccomp(2): %w", err)
	}
	return syscall.Exec(args[0], args, os.Environ())
}

// filter puts the profile into force.
func filter() error {
	const load, equal, bits, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ, unix.BPF_JMP | unix.BPF_JSET, unix.BPF_RET
	const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	refuse := func(e unix.Errno) unix.SockFilter {
		return unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(e)}
	}
	filter := []unix.SockFilter{{Code: load, K: 0}} // the number of the call
	for _, call := range forbidden {
		filter = append(filter, unix.SockFilter{Code: equal, K: call, Jf: 1}, refuse(unix.EPERM))
	}
	// The lower half of the first argument of clone(2), on s390x of the second.
	flags, ok := map[string]uint32{"ppc64": 20, "s390x": 28}[runtime.GOARCH]
	if !ok {
		flags = 16
	}
	filter = append(filter,
		// Of clone3(2) a filter cannot see the flags. Who gets ENOSYS takes clone(2).
		unix.SockFilter{Code: equal, K: unix.SYS_CLONE3, Jf: 1}, refuse(unix.ENOSYS),
		unix.SockFilter{Code: equal, K: unix.SYS_CLONE, Jf: 3},
		unix.SockFilter{Code: load, K: flags}, unix.SockFilter{Code: bits, K: namespaces, Jf: 1}, refuse(unix.EPERM),
		unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW})
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); e != 0 {
		return e
	}
	return nil
}

// readOnly makes directories read-only, in a mount namespace of its own.
func readOnly(dirs ...string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	for _, dir := range dirs {
		if err == nil {
			err = unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, "")
		}
		if err == nil {
			err = unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}
	return err
}

// drop gives up the capabilities that are not allowed.
func drop() error {
	var has [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &has[0]); err != nil {
		return err
	}
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if slices.Contains(allowed, c) {
			continue
		}
		unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0) // of those that the kernel knows
		has[c/32].Permitted &^= 1 << (c % 32)
	}
	for i := range has {
		has[i].Effective, has[i].Inheritable = has[i].Permitted, 0
	}
	return unix.Capset(&header, &has[0])
}

// become makes this process an ordinary user's, who finds the test binary where go test has put
// it, and no go command, as there is no cache for it.
func become(uid int, binary string) error {
	os.Setenv("PATH", "/bin")
	os.Setenv("HOME", "/tmp")
	for _, dir := range []string{filepath.Dir(binary), filepath.Dir(filepath.Dir(binary))} {
		if dir == os.TempDir() {
			continue // by hand it can lie there
		}
		if err := os.Chmod(dir, 0o711); err != nil {
			return err
		}
	}
	if err := unix.Setgroups(nil); err != nil {
		return err
	}
	if err := unix.Setresgid(uid, uid, uid); err != nil {
		return err
	}
	return unix.Setresuid(uid, uid, uid)
}
