package mmap

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// A FaultError says that memory of a mapping could not be touched: a page past
// the end of a truncated file, a full or failing disk, a store through a slice
// lent for reading. It always matches [ErrFault], and the cause where that is
// proven.
type FaultError struct {
	// Addr is the address that the processor reported. On s390x it is the
	// start of the page.
	Addr uintptr
	// Offset in bytes from the start of the mapping: in ReadAt and WriteAt,
	// where the copy stopped; in a view, the byte at Addr, or the first one
	// where a page begins before the mapping.
	Offset int
	// Err is the cause, [ErrTruncated], [ErrPermission] or [ErrGuard], or else
	// ErrFault.
	Err error
}

func (e *FaultError) Error() string {
	return fmt.Sprintf("mmap: memory fault at %#x, offset %d: %v", e.Addr, e.Offset, e.Err)
}

// Is reports true for ErrFault.
func (e *FaultError) Is(target error) bool { return target == ErrFault }

// Unwrap returns the cause.
func (e *FaultError) Unwrap() error { return e.Err }

// fault describes a fault at an address that the region covers, of an access
// that stands at another. The caller still pins the region, so the kernel's
// table shows what the access found.
func (r *region) fault(addr, at uintptr) *FaultError {
	start := r.addr.Load() // on s390x addr is that of the page, which may begin before
	return &FaultError{Addr: addr, Offset: int(max(at, start) - start), Err: cause(addr)}
}

// cause returns why touching addr faulted, where that can be proven, and
// ErrFault elsewhere.
func cause(addr uintptr) error {
	table, err := procmaps.Open(0)
	if err != nil {
		return ErrFault
	}
	defer table.Close()
	area, ok, err := table.At(uint64(addr))
	if err != nil || !ok {
		return ErrFault
	}
	// In an area that can be read and not written, the fault may have been a
	// store or a page that has gone. A load tells: a store is refused before
	// the page is looked for.
	switch allowed := area.Perms & (procmaps.Read | procmaps.Write); {
	case allowed == 0:
		return ErrPermission
	case guarded(addr):
		return ErrGuard
	case allowed == procmaps.Read && loads(addr):
		return ErrPermission
	case truncated(area, uint64(addr)):
		return ErrTruncated
	}
	return ErrFault
}

// guarded reports whether addr lies in a guard page. Linux 6.13 and 6.14, which
// have these, do not tell yet.
func guarded(addr uintptr) bool {
	var entry [8]byte
	const guardRegion = 1 << 58
	return peek("/proc/self/pagemap", entry[:], addr/pageSize*8) && binary.NativeEndian.Uint64(entry[:])&guardRegion != 0
}

// loads reports whether a load from addr works.
func loads(addr uintptr) bool { return peek("/proc/self/mem", make([]byte, 1), addr) }

// peek reads from a file of the kernel's.
func peek(name string, p []byte, at uintptr) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = unix.Pread(int(f.Fd()), p, int64(at))
	return err == nil
}

// truncated reports whether addr, in area, is known to be a page past the end
// of the file. It keeps no descriptor of its own to ask: a dup would hold the
// caller's flock, and closing another would drop the process's POSIX locks.
func truncated(area procmaps.Region, addr uint64) bool {
	if area.Inode == 0 {
		return false
	}
	var st unix.Stat_t
	// The link of /proc leads to the file itself, whatever its name has
	// become, but only with CAP_CHECKPOINT_RESTORE.
	link := fmt.Sprintf("/proc/self/map_files/%x-%x", area.Start, area.End)
	if unix.Stat(link, &st) != nil {
		// File systems without a device of their own, such as btrfs, may give stat
		// another anonymous device, major number 0, than they give the table.
		err := unix.Stat(area.Name, &st)
		major, minor := unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))
		if err != nil || area.Deleted || st.Ino != area.Inode || major != area.Major || minor != area.Minor && major != 0 {
			return false
		}
	}
	page := (area.Offset + addr - area.Start) &^ uint64(pageSize-1)
	return st.Mode&unix.S_IFMT == unix.S_IFREG && page >= uint64(st.Size)
}

// A guard turns memory faults into errors. The flag of debug.SetPanicOnFault is
// set here only, and as it was on every way out: a return, a panic,
// runtime.Goexit.
//
//	g := guard{…}
//	g.enter()
//	defer func() {
//		if !g.left {
//			g.rescue(recover(), &err)
//		}
//	}()
//	… touch the memory …
//	g.leave()
//	r.unpin(line)
//
// The deferred function is written out at each place, for rescue itself deferred
// would make a view cost a sixth more.
type guard struct {
	r     *region // the mapping that is guarded, pinned by the caller; nil: see pins of rescue
	line  *stripe // rescue ends that pin
	at    uintptr // where a copy stands; 0: it is no copy
	outer bool    // the flag before
	left  bool    // by leave: there is nothing to rescue
}

func (g *guard) enter() { g.outer = debug.SetPanicOnFault(true) }

// leave ends the guard on the usual way out. The pin is the caller's again.
func (g *guard) leave() {
	debug.SetPanicOnFault(g.outer)
	g.left = true
}

// rescue ends the guard on every other way out than leave, p being what was
// recovered. pins are those of other mappings to guard; it does not end them.
func (g *guard) rescue(p any, err *error, pins ...*Pin) {
	debug.SetPanicOnFault(g.outer)
	if g.r != nil {
		defer g.r.unpin(g.line)
	}
	if p != nil {
		*err = g.claim(p, pins)
	}
}

// claim returns the error for a panic that is a fault of a guarded mapping. Any
// other panic goes on, and a fault elsewhere ends as it would have without a
// guard.
func (g *guard) claim(p any, pins []*Pin) error {
	_, known := p.(runtime.Error)
	fault, ok := p.(interface{ Addr() uintptr })
	if !known || !ok {
		panic(p)
	}
	addr := fault.Addr()
	if g.r != nil && g.r.covers(addr) {
		return g.r.fault(addr, cmp.Or(g.at, addr))
	}
	for _, pin := range pins {
		if pin != nil && pin.r.covers(addr) {
			return pin.r.fault(addr, addr)
		}
	}
	if !g.outer && addr >= pageSize {
		// Without this guard, the runtime would have ended the program with
		// its own report. It does so now, if the fault is still there: the
		// flag is off again.
		load(addr)
		store(addr)
	}
	panic(p)
}

// covers reports whether addr lies in the region's page range. The caller has
// pinned the region.
func (r *region) covers(addr uintptr) bool { return addr-r.base < r.size }

var pageSize = uintptr(os.Getpagesize())

// page returns the start of the page that addr lies in.
func page(addr uintptr) uintptr { return addr &^ (pageSize - 1) }
