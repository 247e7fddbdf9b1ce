//go:build linux

package testkit

import (
	"encoding/binary"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Rule makes a system call fail, if bits of an argument are as given. Without
// an errno it does nothing, and succeeds.
type Rule struct {
	Call, Arg uintptr
	Mask, Is  uint32
	Errno     unix.Errno
}

// NoQuery takes PROCMAP_QUERY away.
var NoQuery = Rule{unix.SYS_IOCTL, 1, ^uint32(0), 0xc0686611, unix.ENOTTY}

// MmapNumber is the number of mmap(2), on 32-bit of mmap2(2); 0 where a filter cannot
// see its arguments.
var MmapNumber = map[string]uintptr{
	"386": 192, "arm": 192, "amd64": 9, "arm64": 222, "riscv64": 222, "loong64": 222, "ppc64le": 90,
}[runtime.GOARCH]

// Filtered puts rules into force for all threads; seccomp(2).
func Filtered(t testing.TB, rules []Rule) {
	t.Helper()
	const load, equal = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ
	const and, ret = unix.BPF_ALU | unix.BPF_AND, unix.BPF_RET
	low := uint32(16) // the half of an argument that counts
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		low += 4
	}
	var filter []unix.SockFilter
	for _, r := range rules { // each is six instructions: no jump is longer
		filter = append(filter,
			unix.SockFilter{Code: load, K: 0}, unix.SockFilter{Code: equal, K: uint32(r.Call), Jf: 4},
			unix.SockFilter{Code: load, K: low + 8*uint32(r.Arg)}, unix.SockFilter{Code: and, K: r.Mask},
			unix.SockFilter{Code: equal, K: r.Is, Jf: 1},
			unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(r.Errno)})
	}
	filter = append(filter, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW})
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	Check(t, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&prog)))
	if e != 0 {
		t.Skip("seccomp(2): ", e)
	}
}
