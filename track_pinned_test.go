//go:build linux

package mmap

import (
	"bytes"
	"encoding/binary"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the kernel writes into a buffer that was registered with io_uring before is not seen,
// as the documentation says. It has to be marked.
func TestTrackRegisteredBuffer(t *testing.T) {
	trackable(t)
	pg := int(pageSize)
	m := mapped[ReadWrite](t, Anonymous(4*pg))
	check(t, second(m.WriteAt(make([]byte, 4*pg), 0)))
	tracker := tracked(t, m)
	f, data := scratch(t, pg)
	ring := newUring(t)
	ring.register(m.Addr()+pageSize, pg)
	must(tracker.Take(0, 4*pg)) // to pin pages for writing counts as a write
	ring.readFixed(int(f.Fd()), m.Addr()+pageSize, pg)
	got := make([]byte, pg)
	if check(t, second(m.ReadAt(got, int64(pg)))); !bytes.Equal(got, data) {
		t.Error("nothing was read")
	}
	takes(t, "a registered buffer was written", m, tracker, pg)
	check(t, tracker.Mark(pg, pg))
	takes(t, "marked", m, tracker, pg, 1)
	check(t, second(unix.Pread(int(f.Fd()), Bare(m.Addr()+2*pageSize, pg), 0)))
	takes(t, "pread(2)", m, tracker, pg, 2)
}

// Neither is a read with O_DIRECT that has begun before.
func TestTrackDirect(t *testing.T) {
	trackable(t)
	fs := mountFUSE(t)
	if fs == nil {
		return
	}
	pg := int(pageSize)
	m := mapped[ReadWrite](t, Anonymous(4*pg))
	check(t, second(m.WriteAt(make([]byte, 4*pg), 0)))
	tracker := tracked(t, m)
	f, err := os.OpenFile(fs.path("gate"), os.O_RDONLY|unix.O_DIRECT, 0)
	check(t, err)
	defer f.Close()
	done := make(chan error)
	go func() { done <- second(unix.Pread(int(f.Fd()), Bare(m.Addr()+pageSize, pg), 0)) }()
	fs.wait(t)
	must(tracker.Take(0, 4*pg))
	fs.let(t)
	check(t, <-done)
	got := make([]byte, pg)
	if check(t, second(m.ReadAt(got, int64(pg)))); !bytes.Equal(got, fuseData()[:pg]) {
		t.Error("nothing was read")
	}
	takes(t, "read with O_DIRECT", m, tracker, pg)
}

// A uring is an io_uring(7) of one entry, for one request.
type uring struct {
	t           testing.TB
	fd          uintptr
	params      [30]uint32 // struct io_uring_params
	queue, sqes []byte
}

// Places in the params.
const (
	sqTail, sqArray = 11, 16
	cqes            = 25
)

func newUring(t testing.TB) *uring {
	r := &uring{t: t}
	fd, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&r.params)), 0)
	if e != 0 {
		t.Skip("io_uring_setup(2) is not allowed, or not there: ", e)
	}
	r.fd = fd
	t.Cleanup(func() { unix.Close(int(fd)) })
	const sqesAt = 0x1000_0000
	mapRing := func(at int64) []byte {
		b, err := unix.Mmap(int(fd), at, int(pageSize), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		check(t, err)
		t.Cleanup(func() { unix.Munmap(b) })
		return b
	}
	r.queue, r.sqes = mapRing(0), mapRing(sqesAt)
	return r
}

// register registers a buffer, whose pages are pinned from then on.
func (r *uring) register(addr uintptr, size int) {
	r.t.Helper()
	iovec := [2]uintptr{addr, uintptr(size)}
	const registerBuffers = 0
	_, _, e := unix.Syscall6(unix.SYS_IO_URING_REGISTER, r.fd, registerBuffers, uintptr(unsafe.Pointer(&iovec)), 1, 0, 0)
	if runtime.KeepAlive(&iovec); e != 0 {
		r.t.Skip("a buffer cannot be registered with io_uring: ", e)
	}
}

// readFixed reads the beginning of a file into the registered buffer, which is at addr.
func (r *uring) readFixed(fd int, addr uintptr, size int) {
	r.t.Helper()
	const opReadFixed, getEvents = 4, 1
	sqe := r.sqes[:64] // struct io_uring_sqe; what is not set is 0
	sqe[0] = opReadFixed
	binary.NativeEndian.PutUint32(sqe[4:], uint32(fd))
	binary.NativeEndian.PutUint64(sqe[16:], uint64(addr))
	binary.NativeEndian.PutUint32(sqe[24:], uint32(size))
	binary.NativeEndian.PutUint32(r.queue[r.params[sqArray]:], 0)
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&r.queue[r.params[sqTail]])), 1)
	if _, _, e := unix.Syscall6(unix.SYS_IO_URING_ENTER, r.fd, 1, 1, getEvents, 0, 0); e != 0 {
		r.t.Fatal("io_uring_enter(2): ", e)
	}
	cqe := r.queue[r.params[cqes]:] // struct io_uring_cqe
	if n := int32(binary.NativeEndian.Uint32(cqe[8:])); int(n) != size {
		r.t.Fatalf("%d bytes were read, not %d", n, size)
	}
}
