//go:build linux

package mmap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// This file is a file system that does as it is told; fuse(4). A goroutine that
// waits for a page in memory stays on its processor, and cannot be stopped for the
// collector. So who serves the pages is another process. It dies with the test,
// which frees whatever waits for it.

// fuseLife is how long a test with a file system may take. Then the file system
// goes, and the test ends with a trace of its goroutines.
const fuseLife = 60 * time.Second

// A fuseFS is such a file system. Any file of it exists that has the name of a
// behaviour, the number of the page from which on it behaves so (0 is left out), and
// what makes it another file, after a dot: eio, gate2, gate2.b. They have 16 pages.
//
//	good      nothing special
//	eio       reading is EIO
//	gate      reading is held until let or fail
//	gatewrite writing to storage is held
//	gateopen  open(2) is held
//	gatestat  stat(2) and fstat(2) are held
//	direct    reading and writing pass the page cache by: FOPEN_DIRECT_IO
type fuseFS struct {
	dir   string
	asked chan string // a request is held: "READ gate2 3", with the page or 0
	acks  chan string
	ctl   *os.File
}

const fusePages = 16

// fuseData is what every file contains.
func fuseData() []byte {
	b := make([]byte, fusePages*pageSize)
	for i := range b {
		b[i] = byte(i + i/int(pageSize) + 1)
	}
	return b
}

// mountFUSE runs the test in a child process with a mount namespace of its own, and
// mounts a file system there. In the parent it reports how the child did, and returns
// nil. The child has no collections: while a fault waits, one would wait for it.
func mountFUSE(t *testing.T) *fuseFS {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting is not allowed: not root")
	}
	dev, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	for _, missing := range []error{unix.ENOENT, unix.ENODEV, unix.ENXIO, unix.EPERM} {
		if errors.Is(err, missing) {
			t.Skip("no FUSE here: ", err)
		}
	}
	check(t, err)
	defer dev.Close() // the end of the last descriptor is the end of the file system
	if !byItself(t) {
		return nil
	}
	const inside = "MMAP_TEST_NAMESPACE"
	if os.Getenv(inside) == "" {
		// Only the calling thread is in the new namespace, until the process begins
		// anew from it.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNS); err == unix.EPERM {
			t.Skip("mounting is not allowed: ", err)
		} else {
			check(t, err)
		}
		check(t, unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
		t.Fatal(syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), inside+"=1")))
	}
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(8) // every goroutine that waits for a page has one
	fs := &fuseFS{dir: t.TempDir(), asked: make(chan string, 1000), acks: make(chan string)}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", dev.Fd())
	check(t, unix.Mount("fuse", fs.dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options))
	t.Cleanup(func() { check(t, unix.Unmount(fs.dir, unix.MNT_DETACH)) })
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	theirs := os.NewFile(uintptr(pair[1]), "control")
	fs.ctl = os.NewFile(uintptr(pair[0]), "control")
	server := exec.Command("/proc/self/exe", "the FUSE server of "+t.Name())
	server.Env = append(os.Environ(), "MMAP_TEST_FUSE=1", quick)
	server.Stderr, server.ExtraFiles = os.Stderr, []*os.File{dev, theirs}
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for the server dies with the thread that made it
		started <- server.Start()
		ended <- server.Wait()
	}()
	check(t, <-started)
	theirs.Close()
	t.Cleanup(func() {
		check(t, unix.Shutdown(pair[0], unix.SHUT_RDWR)) // a close would wait for who reads
		check(t, <-ended)
		fs.ctl.Close()
	})
	go func() {
		defer close(fs.acks)
		b := make([]byte, 100)
		for {
			n, err := unix.Read(pair[0], b)
			if err == unix.EINTR {
				continue
			} else if n <= 0 {
				return
			}
			if m := string(b[:n]); m == "done" {
				fs.acks <- m
			} else {
				fs.asked <- m
			}
		}
	}()
	return fs
}

func (fs *fuseFS) path(name string) string { return filepath.Join(fs.dir, name) }

// let lets all requests that are held go on, and from now on holds none.
func (fs *fuseFS) let(t testing.TB) { t.Helper(); fs.tell(t, "let") }

// fail answers them, and those that follow, with EIO.
func (fs *fuseFS) fail(t testing.TB) { t.Helper(); fs.tell(t, "fail") }

// hold holds again, which is how it begins.
func (fs *fuseFS) hold(t testing.TB) { t.Helper(); fs.tell(t, "hold") }

func (fs *fuseFS) tell(t testing.TB, what string) {
	t.Helper()
	check(t, second(fs.ctl.WriteString(what)))
	if _, ok := <-fs.acks; !ok {
		t.Fatal("the FUSE server has gone")
	}
}

// wait waits until a request is held that nobody has waited for, and returns which.
func (fs *fuseFS) wait(t testing.TB) string {
	t.Helper()
	select {
	case m := <-fs.asked:
		return m
	case <-time.After(fuseLife / 4):
		t.Fatal("no request is held")
	}
	return ""
}

// fuseServer is the other side.
type fuseServer struct {
	sync.Mutex
	dev, ctl int
	told     string
	names    []string // of nodes from 2 on
	data     [][]byte
	held     [][]byte // requests
}

func init() {
	if os.Getenv("MMAP_TEST_FUSE") != "" {
		parent := os.Getppid()
		time.AfterFunc(fuseLife, func() {
			fmt.Fprintln(os.Stderr, "FUSE: the test takes too long")
			unix.Kill(parent, unix.SIGQUIT)
			os.Exit(1) // and everybody who waits is told ENOTCONN
		})
		s := &fuseServer{dev: 3, ctl: 4, told: "hold"}
		go s.serve()
		s.obey()
		os.Exit(0)
	}
}

// obey does what the test says, until it ends.
func (s *fuseServer) obey() {
	b := make([]byte, 100)
	for {
		n, err := unix.Read(s.ctl, b)
		if err == unix.EINTR {
			continue
		} else if n <= 0 {
			return
		}
		s.Lock()
		s.told = string(b[:n])
		held := s.held
		s.held = nil
		for _, in := range held {
			s.handle(in)
		}
		unix.Write(s.ctl, []byte("done"))
		s.Unlock()
	}
}

func (s *fuseServer) serve() {
	buf := make([]byte, 1<<20)
	for {
		n, err := unix.Read(s.dev, buf)
		if err == unix.ENODEV {
			return // unmounted
		} else if err == nil {
			s.Lock()
			s.handle(bytes.Clone(buf[:n]))
			s.Unlock()
		}
	}
}

// The requests, of linux/fuse.h.
const (
	fuseLookup, fuseForget, fuseGetattr, fuseSetattr  = 1, 2, 3, 4
	fuseOpen, fuseRead, fuseWrite, fuseStatfs         = 14, 15, 16, 17
	fuseRelease, fuseFsync, fuseFlush, fuseInit       = 18, 20, 25, 26
	fuseOpendir, fuseReleasedir, fuseInterrupt        = 27, 29, 36
	fuseDestroy, fuseBatchForget, fuseFallocate       = 38, 42, 43
	fuseDirectIO, fuseKeepCache, fuseSizeIsSet, enter = 1 << 0, 1 << 1, 1 << 3, 40
)

// handle answers a request, or holds it.
func (s *fuseServer) handle(in []byte) {
	ne := binary.NativeEndian
	op, node, body := ne.Uint32(in[4:]), ne.Uint64(in[16:]), in[enter:]
	var errno unix.Errno
	var out []byte
	put := func(values ...any) {
		for _, v := range values {
			out, _ = binary.Append(out, ne, v)
		}
	}
	attr := func(node uint64) { // struct fuse_attr
		mode, size := uint32(unix.S_IFDIR|0o755), 0
		if node > 1 {
			mode, size = unix.S_IFREG|0o777, len(s.data[node-2])
		}
		put(node, uint64(size), uint64(size/512), [3]uint64{}, [3]uint32{}, mode, uint32(1))
		put([3]uint32{}, uint32(pageSize), uint32(0))
	}
	kind, from, off := "", 0, 0
	if node > 1 && node-2 < uint64(len(s.names)) {
		name, _, _ := strings.Cut(s.names[node-2], ".")
		kind = strings.TrimRight(name, "0123456789")
		from, _ = strconv.Atoi(name[len(kind):])
	}
	if op == fuseRead || op == fuseWrite {
		off = int(ne.Uint64(body[8:]))
	}
	reached := off/int(pageSize) >= from
	gates := map[string]uint32{"gate": fuseRead, "gatewrite": fuseWrite, "gateopen": fuseOpen, "gatestat": fuseGetattr}
	switch name := ""; {
	case gates[kind] != op || op == 0 || !reached || s.told == "let":
		if kind == "eio" && op == fuseRead && reached {
			errno = unix.EIO
		}
	case s.told == "fail":
		errno = unix.EIO
	default:
		s.held = append(s.held, in)
		name = map[uint32]string{fuseRead: "READ", fuseWrite: "WRITE", fuseOpen: "OPEN", fuseGetattr: "GETATTR"}[op]
		unix.Write(s.ctl, fmt.Appendf(nil, "%s %s %d", name, s.names[node-2], off/int(pageSize)))
		return
	}
	if errno == 0 {
		switch op {
		case fuseForget, fuseBatchForget, fuseInterrupt:
			return // to which there is no answer
		case fuseInit: // without read-ahead: a page is a request
			put([4]uint32{7, 31, 0, 0}, [2]uint16{16, 12}, [2]uint32{1 << 16, 1}, make([]uint32, 9))
		case fuseLookup:
			name := strings.TrimRight(string(body), "\x00")
			first, _, _ := strings.Cut(name, ".")
			switch k := strings.TrimRight(first, "0123456789"); {
			case node != 1 || gates[k] == 0 && k != "good" && k != "eio" && k != "direct":
				errno = unix.ENOENT
			default:
				i := 0
				for i < len(s.names) && s.names[i] != name {
					i++
				}
				if i == len(s.names) {
					s.names, s.data = append(s.names, name), append(s.data, fuseData())
				}
				put(uint64(i+2), [4]uint64{}) // nothing of it is valid any longer than for this request
				attr(uint64(i + 2))
			}
		case fuseSetattr:
			if size := ne.Uint64(body[16:]); ne.Uint32(body)&fuseSizeIsSet != 0 {
				s.data[node-2] = append(s.data[node-2], make([]byte, size)...)[:size]
			}
			put([2]uint64{})
			attr(node)
		case fuseGetattr:
			put([2]uint64{})
			attr(node)
		case fuseOpen:
			flags := uint32(fuseKeepCache)
			if kind == "direct" {
				flags = fuseDirectIO
			}
			put(uint64(0), flags, uint32(0))
		case fuseRead:
			data := s.data[node-2]
			start := min(off, len(data))
			out = data[start:min(start+int(ne.Uint32(body[16:])), len(data))]
		case fuseWrite:
			b := body[40:]
			if short := off + len(b) - len(s.data[node-2]); short > 0 {
				s.data[node-2] = append(s.data[node-2], make([]byte, short)...)
			}
			copy(s.data[node-2][off:], b)
			put(uint32(len(b)), uint32(0))
		case fuseStatfs:
			put([5]uint64{1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20})
			put([4]uint32{uint32(pageSize), 255, uint32(pageSize)}, [6]uint32{})
		case fuseOpendir:
			put([2]uint64{})
		case fuseRelease, fuseReleasedir, fuseFlush, fuseFsync, fuseDestroy:
		default:
			errno = unix.ENOSYS
		}
	}
	if errno != 0 {
		out = nil
	}
	head, _ := binary.Append(nil, ne, []uint32{uint32(16 + len(out)), uint32(-int32(errno))})
	unix.Write(s.dev, append(append(head, in[8:16]...), out...))
}

// What the file system is told is what the kernel sees.
func TestFUSE(t *testing.T) {
	fs := mountFUSE(t)
	if fs == nil {
		return
	}
	pg, data := int(pageSize), fuseData()
	got, err := os.ReadFile(fs.path("good"))
	if check(t, err); !bytes.Equal(got, data) {
		t.Error("other contents")
	}
	_, err = os.Stat(fs.path("another"))
	wants(t, "no such file", err, unix.ENOENT)
	read := func(name string, at int) error {
		f, err := os.Open(fs.path(name))
		check(t, err)
		defer f.Close()
		b := make([]byte, pg)
		if _, err = f.ReadAt(b, int64(at*pg)); err == nil && !bytes.Equal(b, data[at*pg:][:pg]) {
			t.Errorf("%s: page %d is another", name, at)
		}
		return err
	}
	wants(t, "eio", read("eio", 0), unix.EIO)
	check(t, read("eio2", 1))
	wants(t, "eio2", read("eio2", 2), unix.EIO)
	check(t, read("direct", 3))
	check(t, read("gate2", 1))
	for _, c := range []struct {
		tell func(t testing.TB)
		name string
		want error
	}{{fs.let, "gate2", nil}, {fs.fail, "gate2.b", unix.EIO}} {
		fs.hold(t)
		ended := make(chan error)
		go func() { ended <- read(c.name, 3) }()
		if m := fs.wait(t); m != "READ "+c.name+" 3" {
			t.Error(m)
		}
		select {
		case err := <-ended:
			t.Error("not held: ", err)
		case <-time.After(20 * time.Millisecond):
		}
		c.tell(t)
		if err := <-ended; !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for name, want := range map[string]string{"gatestat": "GETATTR", "gateopen": "OPEN"} {
		fs.hold(t)
		ended := make(chan error)
		go func() {
			f, err := os.Open(fs.path(name))
			if err == nil {
				_, err = f.Stat()
				f.Close()
			}
			ended <- err
		}()
		if m := fs.wait(t); m != want+" "+name+" 0" {
			t.Error(m)
		}
		fs.let(t)
		check(t, <-ended)
	}
	fs.hold(t)
	f, err := os.OpenFile(fs.path("gatewrite"), os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	ended := make(chan error)
	go func() { ended <- second(f.WriteAt([]byte("written"), int64(pg))) }()
	if m := fs.wait(t); m != "WRITE gatewrite 1" {
		t.Error(m)
	}
	fs.let(t)
	check(t, <-ended)
	if b := make([]byte, 7); second(f.ReadAt(b, int64(pg))) != nil || string(b) != "written" {
		t.Errorf("%q", b)
	}
	// A fault in memory waits as well, and the rest of the program goes on.
	m := mapped[Read](t, Path(fs.path("gate.c")))
	fs.hold(t)
	go func() { ended <- second(m.ReadAt(make([]byte, 1), 0)) }()
	if m := fs.wait(t); m != "READ gate.c 0" {
		t.Error(m)
	}
	fs.fail(t)
	wants(t, "a held fault", <-ended, ErrFault)
	// The mapping has only a signal, a system call has the errno of storage.
	m = mapped[Read](t, Path(fs.path("eio2")))
	err = second(m.ReadAt(make([]byte, 1), int64(2*pg)))
	wants(t, "a fault", err, ErrFault)
	if errors.Is(err, ErrTruncated) || errors.Is(err, unix.EIO) {
		t.Error("a cause that nothing proves: ", err)
	}
	wants(t, "the same by a system call", read("eio2", 2), unix.EIO)
}

// A page that storage cannot give is an error, and soon.
func TestFUSEUnreadable(t *testing.T) {
	fs := mountFUSE(t)
	if fs == nil {
		return
	}
	pg := int(pageSize)
	for kind, s := range map[string]Spec{"private": Path(fs.path("eio2")), "shared": Path(fs.path("eio2")).Shared()} {
		m := mapped[ReadWrite](t, s)
		b, data := make([]byte, 4*pg), fuseData()
		n, err := 0, error(nil)
		for what, f := range map[string]func(){
			"read":           func() { n, err = m.ReadAt(b, 0) },
			"write":          func() { n, err = m.WriteAt(data[:4*pg], 0) },
			"prefault":       func() { n, err = 2*pg, m.Prefault(0, 4*pg) },
			"prefault write": func() { n, err = 2*pg, m.PrefaultWrite(0, 4*pg) },
			"view": func() {
				n, err = 2*pg, m.View(func(v []byte) error {
					for i := range b { // a copy may begin with the end
						b[i] = v[i]
					}
					return nil
				})
			},
		} {
			start := time.Now()
			f()
			fault := (*FaultError)(nil)
			if !errors.As(err, &fault) || n != 2*pg || fault.Offset != 2*pg || fault.Err != ErrFault {
				t.Errorf("%s, %s: %d, %v", kind, what, n, err)
			}
			if took := time.Since(start); took > time.Second {
				t.Errorf("%s, %s: %v", kind, what, took)
			}
		}
		if !bytes.Equal(b[:2*pg], data[:2*pg]) {
			t.Errorf("%s: other contents", kind)
		}
		check(t, m.Prefault(0, 2*pg))
		wants(t, "only reading", mapped[Read](t, s).Prefault(2*pg, pg), ErrFault)
	}
}

// A file that passes the page cache by can be mapped privately only.
func TestFUSEDirect(t *testing.T) {
	fs := mountFUSE(t)
	if fs == nil {
		return
	}
	m := mapped[ReadWrite](t, Path(fs.path("direct")))
	b := make([]byte, len(fuseData()))
	if check(t, second(m.ReadAt(b, 0))); !bytes.Equal(b, fuseData()) {
		t.Error("other contents")
	}
	_, err := Map[Read](Path(fs.path("direct")).Shared())
	wants(t, "shared", err, unix.ENODEV, errors.ErrUnsupported)
}
