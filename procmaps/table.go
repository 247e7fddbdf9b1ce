//go:build linux

package procmaps

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// A Table is an open /proc/PID/maps. Several goroutines may use it at once, and
// its methods may be called while ranging over its regions.
//
// It belongs to the program that ran when it was opened: after the process has
// exited, or has executed another program, the table is empty; once its parent
// has waited for it, reading fails with [unix.ESRCH].
type Table struct {
	f       *os.File
	conn    syscall.RawConn // f's
	noQuery atomic.Bool     // PROCMAP_QUERY does not work here

	mu   sync.Mutex // held while reading f
	turn uint64     // the turn of the cursor that read last
}

// Open opens the table of a process, that of the calling one if pid is 0. It
// needs the right to ptrace(2) the process. The errors are those of open(2):
// [os.ErrNotExist] if there is no such process, [os.ErrPermission], and
// [unix.ESRCH] for a kernel thread, which has no memory of its own (older
// kernels give it an empty table instead).
func Open(pid int) (*Table, error) {
	path := "/proc/self/maps"
	if pid != 0 {
		path = fmt.Sprintf("/proc/%d/maps", pid)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	conn, _ := f.SyscallConn() // fails for a nil file only
	return &Table{f: f, conn: conn}, nil
}

// Close closes the file. From then on every method returns [os.ErrClosed].
func (t *Table) Close() error { return t.f.Close() }

// Regions streams the table from its start, each time it is ranged over. For a line
// that cannot be parsed it yields the error of [Parse], and goes on with the next one if
// the loop does. An error of reading ends it.
//
// The kernel hands the table over in pieces of about a page. If the process
// maps memory meanwhile, two regions may overlap, because the second was read
// after the change, and what has come or gone behind the reader is missed. What
// stays mapped throughout is never missed, and each region ends above the one
// before it.
func (t *Table) Regions() iter.Seq2[Region, error] {
	return func(yield func(Region, error) bool) {
		c := newCursor(t, 0)
		defer c.free()
		for {
			r, ok, err := c.next()
			if !ok && err == nil || !yield(r, err) || err != nil && !odd(err) {
				return
			}
		}
	}
}

// At returns the region that contains addr, and false if there is none.
func (t *Table) At(addr uint64) (Region, bool, error) {
	r, ok, err := t.Next(addr)
	if !r.Contains(addr) {
		return Region{}, false, err
	}
	return r, ok, err
}

// Next returns the region that contains addr, or else the first one above it,
// and false if there is none. Lines that cannot be parsed are passed over.
func (t *Table) Next(addr uint64) (Region, bool, error) {
	if !t.noQuery.Load() {
		r, err := t.query(addr)
		switch err {
		case nil:
			return r, true, nil
		case os.ErrClosed:
			return r, false, &os.PathError{Op: "ioctl", Path: t.f.Name(), Err: err}
		case unix.ENOENT, unix.ESRCH, unix.ENAMETOOLONG, unix.ENOMEM, unix.EINTR:
			// Nothing at addr or above it, or no process: the file has the last
			// word, for it also lists what is not among the process's areas,
			// [vsyscall] on amd64, [vectors] on arm. Or the name is longer than
			// the PATH_MAX bytes that the kernel has for it, however many we have;
			// and the others may pass.
		default:
			// ENOTTY from an older kernel, but a seccomp filter or an emulator
			// may answer anything.
			t.noQuery.Store(true)
		}
	}
	c := newCursor(t, addr)
	defer c.free()
	for {
		if r, ok, err := c.next(); !odd(err) {
			return r, ok, err
		}
	}
}

// odd reports whether an error is of one line only.
func odd(err error) bool {
	_, is := err.(*lineError)
	return is
}

// A query is a question to the kernel with everything it needs, kept for reuse
// so that asking does not allocate.
type query struct {
	sys.ProcmapQuery
	name [unix.PathMax]byte
	n    int // the name's length
	err  error
	ask  func(fd uintptr)
}

var queries = sync.Pool{New: func() any {
	q := new(query)
	q.ask = func(fd uintptr) { q.n, q.err = q.Query(int(fd), q.name[:]) }
	return q
}}

// query asks the kernel for the region that contains addr or the next above it.
func (t *Table) query(addr uint64) (Region, error) {
	q := queries.Get().(*query)
	defer queries.Put(q)
	q.Flags, q.Addr = sys.ProcmapNext, addr
	if t.conn.Control(q.ask) != nil {
		return Region{}, os.ErrClosed // the only reason for it to fail
	}
	if q.err != nil {
		return Region{}, q.err
	}
	const all = Read | Write | Exec | Shared
	r := Region{
		Start: q.Start, End: q.End, Perms: Perms(q.VMAFlags) & all, Offset: q.Offset,
		Major: q.Major, Minor: q.Minor, Inode: q.Inode,
	}
	r.setName(string(q.name[:q.n]))
	return r, nil
}

// A cursor goes through the table once.
//
// All cursors of a table share its file, and the kernel keeps one place in it.
// Reading from any other place makes the kernel print the table anew up to that
// byte, which is in the middle of a line if the table has changed. So a cursor
// that finds that another has read starts again at the top, and skips what it
// has already seen by address.
type cursor struct {
	t    *Table
	from uint64 // regions that end here or below are skipped
	turn uint64 // as in the table while no one else reads; 0 before it has read
	off  int64
	buf  *bufio.Reader

	column string // of the last name, as it stands in the table: the next is often the same
	name   string // and what it says
	gone   bool
}

var (
	cursors = sync.Pool{New: func() any {
		return &cursor{buf: bufio.NewReaderSize(nil, 8192)} // twice what the kernel sends at once
	}}
	errTurn = errors.New("another cursor has read")
)

func newCursor(t *Table, from uint64) *cursor {
	c := cursors.Get().(*cursor)
	c.t, c.from, c.turn, c.gone = t, from, 0, false
	c.buf.Reset(c)
	return c
}

func (c *cursor) free() {
	c.t, c.column, c.name = nil, "", ""
	cursors.Put(c)
}

// next returns the next region, and false at the table's end. It holds the lock
// until it has one, so that two cursors that take turns both get on.
func (c *cursor) next() (Region, bool, error) {
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	for {
		line, err := readLine(c.buf)
		switch err {
		case nil:
		case io.EOF:
			return Region{}, false, nil
		case errTurn:
			c.t.turn++
			c.turn, c.off = c.t.turn, 0
			c.buf.Reset(c)
			continue
		default:
			return Region{}, false, err
		}
		r, name, err := parseNumbers(line)
		if err != nil {
			return Region{}, false, err
		}
		if r.End > c.from {
			c.from = r.End
			if string(name) != c.column {
				c.column = string(name)
				r.setName(c.column)
				c.name, c.gone = r.Name, r.Deleted
			}
			r.Name, r.Deleted = c.name, c.gone
			return r, true, nil
		}
	}
}

// Read reads on from where the cursor is. It is for buf.
func (c *cursor) Read(p []byte) (int, error) {
	if c.turn == 0 || c.turn != c.t.turn {
		return 0, errTurn
	}
	n, err := c.t.f.ReadAt(p, c.off)
	c.off += int64(n)
	return n, err
}
