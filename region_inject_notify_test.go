//go:build linux

package mmap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file fails system calls on purpose, and only as often as asked: with
// seccomp(2) user notification. A thread of a child process hands its system
// calls to the parent, which lets each go on or answers it with an errno.
//
// Which calls those are is told by the thread and by the instruction. A filter is
// a thread's own, and the one here is put on a thread that is locked to one
// goroutine, from which the runtime starts no other. All that Go code asks the
// kernel for comes from one instruction, of syscall.RawSyscall6; when the runtime
// itself maps memory, sleeps or wakes, it has other instructions. So its calls are
// not even seen, and neither are those of other threads, which prepare an operation
// and look at the outcome at full speed.

// ctl is the number of a system call without arguments, which nobody makes from there: with
// it the thread talks to the parent. The filter of a container allows it. What that forbids,
// such as a number without a call, the parent never hears of.
const ctl = unix.SYS_SCHED_YIELD

// What it asks for.
const (
	arm    = iota // from now on: call number, errno, at which occurrence, and how
	disarm        // returns how many calls were failed
	nth           // returns the number of the n-th call since arm, or -1 past the last
)

// How often a call fails.
const (
	never = iota
	once
	onwards    // this time and every time after it
	everything // this time, and from then on all calls of whatever number
)

// A notification is struct seccomp_notif, with its struct seccomp_data.
type notification struct {
	id         uint64
	pid, flags uint32
	number     int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

// A reply is struct seccomp_notif_resp.
type reply struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// failing is what the parent has been asked for, and what has come since.
type failing struct {
	armed           bool
	number, at, how uint64
	errno           int32
	matched         uint64
	failed          int
	calls           []int32
}

// fails notes a call, and reports whether it is one to fail. Not so close(2), if it
// is not the one that was asked for: whatever it answers, the kernel closes.
func (s *failing) fails(number int32) bool {
	s.calls = append(s.calls, number)
	if uint64(number) == s.number {
		s.matched++
	} else if s.how != everything || s.matched < s.at || number == unix.SYS_CLOSE {
		return false
	}
	if s.how == never || s.matched < s.at || s.how == once && s.matched > s.at {
		return false
	}
	s.failed++
	return true
}

// supervise answers the notifications of a listener until its thread has ended.
func supervise(listener int) error {
	runtime.LockOSThread() // it is woken on the processor of the thread that waits
	defer runtime.UnlockOSThread()
	const setFlags = 0x40082104 // of Linux 6.6, for speed alone
	unix.Syscall(unix.SYS_IOCTL, uintptr(listener), setFlags, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	var s failing
	for {
		poll := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil && err != unix.EINTR {
			return err
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			// POLLERR only says that a signal came while poll(2) waited for a lock.
			if poll[0].Revents&(unix.POLLHUP|unix.POLLNVAL) != 0 {
				return nil // nobody is left who could ask
			}
			continue
		}
		n, e := receive(listener)
		if e != 0 {
			continue // the call was interrupted meanwhile
		}
		a, was := reply{id: n.id}, s
		switch {
		case n.number == ctl && n.args[0] == arm:
			s = failing{armed: true, number: n.args[1], errno: int32(n.args[2]), at: n.args[3], how: n.args[4]}
		case n.number == ctl && n.args[0] == disarm:
			a.value, s.armed = int64(s.failed), false
		case n.number == ctl:
			a.value = -1
			if i := n.args[1]; i < uint64(len(s.calls)) {
				a.value = int64(s.calls[i])
			}
		case s.armed && s.fails(n.number):
			a.errno = -s.errno
		default:
			a.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
		}
		if send(listener, a) == unix.ENOENT {
			s = was // a signal has interrupted the call, which comes again
		}
	}
}

func receive(listener int) (n notification, e unix.Errno) {
	_, _, e = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n)))
	return n, e
}

func send(listener int, a reply) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&a)))
	return e
}

// paused runs f on a thread of its own, and something else while that is stopped: before
// the first system call with this number that has, as its argument with the number arg, is.
// Another thread of the process can do this only for calls in which a thread gives its
// processor of the scheduler away: those by syscall.Syscall.
func paused(t *testing.T, number, arg int, is uintptr, meanwhile func(), f func() error) error {
	t.Helper()
	type filtered struct {
		listener int
		err      error
	}
	ready, ended := make(chan filtered, 1), make(chan error, 1)
	go func() {
		defer close(ended)
		runtime.LockOSThread() // without an end: the thread ends with the goroutine
		listener, err := filteredThread(number)
		if ready <- (filtered{listener, err}); err == nil {
			ended <- f()
		}
	}()
	thread := <-ready
	if thread.err != nil {
		t.Skip("system calls cannot be stopped: ", thread.err)
	}
	defer unix.Close(thread.listener)
	for stopped := false; ; {
		select {
		case err := <-ended:
			if !stopped {
				t.Error("the system call was not made: ", err)
			}
			return err
		default:
		}
		poll := []unix.PollFd{{Fd: int32(thread.listener), Events: unix.POLLIN}}
		if n, _ := unix.Poll(poll, 1); n < 1 || poll[0].Revents&unix.POLLIN == 0 {
			continue
		}
		n, e := receive(thread.listener)
		if e == 0 && !stopped && uintptr(n.args[arg]) == is {
			stopped = true
			meanwhile()
		}
		send(thread.listener, reply{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE})
	}
}

// filteredThread puts the calling thread under the filter, which hands over the system
// calls with one number, or all calls if that is below 0.
func filteredThread(only int) (listener int, err error) {
	ip, err := callAddress()
	if err != nil {
		return -1, err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, err
	}
	const load, equal, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ, unix.BPF_RET
	half := binary.NativeEndian.AppendUint64(nil, ip)
	filter := []unix.SockFilter{
		{Code: load, K: 8}, {Code: equal, K: binary.NativeEndian.Uint32(half), Jf: 3},
		{Code: load, K: 12}, {Code: equal, K: binary.NativeEndian.Uint32(half[4:]), Jf: 1},
		{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF}, {Code: ret, K: unix.SECCOMP_RET_ALLOW},
	}
	if only >= 0 {
		number := []unix.SockFilter{{Code: load, K: 0}, {Code: equal, K: uint32(only), Jf: uint8(len(filter) - 1)}}
		filter = append(number, filter...)
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&prog)))
	if e != 0 {
		return -1, fmt.Errorf("seccomp(2) with a listener: %w", e)
	}
	return int(fd), nil
}

// callAddress returns where the kernel returns to after a system call of Go code: a
// thread that reads what system call it is in reads of that one.
func callAddress() (uint64, error) {
	fd, err := unix.Open("/proc/thread-self/syscall", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	text := make([]byte, 256)
	n, err := unix.Read(fd, text)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[:n]))
	if len(fields) != 9 {
		return 0, errors.New("/proc/thread-self/syscall tells nothing: " + string(text[:n]))
	}
	return strconv.ParseUint(fields[8], 0, 64)
}

// sendDescriptor and receiveDescriptor pass a listener on.
func sendDescriptor(socket, fd int) error {
	return unix.Sendmsg(socket, []byte{0}, unix.UnixRights(fd), nil, 0)
}

func receiveDescriptor(socket int) (int, error) {
	space := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), space, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(space[:n])
	if err != nil || len(messages) == 0 {
		return -1, errors.Join(err, os.ErrClosed)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}
