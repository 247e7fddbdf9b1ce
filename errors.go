//go:build linux

package mmap

import (
	"errors"
	"fmt"
	"os"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// The errors that callers tell apart, with [errors.Is]. An error that comes
// from a system call matches its errno as well. A bad argument matches
// [os.ErrInvalid] and EINVAL; what the kernel, the file system or the processor
// cannot do matches [errors.ErrUnsupported].
var (
	// ErrClosed is returned by a closed handle, and by a zero one.
	ErrClosed = os.ErrClosed
	// ErrPermission says that a page does not allow the access, or that the
	// kernel does not allow the change.
	ErrPermission = os.ErrPermission
	// ErrMoved is returned by a handle that a transition has consumed: the
	// mapping belongs to the handle that the transition returned.
	ErrMoved = errors.New("handle was consumed by a transition")
	// ErrBusy is returned by a transition of a mapping that is being accessed, is
	// pinned, or is in another transition. [Mapping.Drain] waits for them. It is also
	// returned beside a [Tracker], or a pager of package paging: by every transition, and by
	// the few calls that Track names. Nothing waits for these: close the Tracker; a pager
	// is closed with its mapping.
	ErrBusy = errors.New("mapping is in use")
	// ErrCapacity is returned by Grow beyond what was reserved.
	ErrCapacity = errors.New("beyond the reserved capacity")
	// ErrFault says that touching the memory failed: SIGSEGV or SIGBUS.
	ErrFault = errors.New("memory could not be touched")
	// ErrTruncated is the cause of a fault on a page that lies past the end
	// of its file.
	ErrTruncated = errors.New("page is past the end of the file")
	// ErrGuard is the cause of a fault on a page of InstallGuardPages. To tell it takes
	// Linux 6.15, and /proc/self/pagemap, which is closed to a process that is not
	// dumpable (PR_SET_DUMPABLE of prctl(2)). Otherwise the fault is an error all the
	// same, and the cause is ErrFault.
	ErrGuard = errors.New("guard page")
	// ErrSealed is returned by what would change a mapping after its Seal. It matches
	// EPERM and ErrPermission, too.
	ErrSealed = fmt.Errorf("mapping is sealed (%w)", unix.EPERM)
)

// named gives the error of an inner step the operation that it was part of.
func named(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	op := fmt.Sprintf(format, args...)
	switch e := err.(type) {
	case *FaultError:
		return e // it says where
	case *PartialError:
		if e.Op == "" { // or it is of an earlier operation, and others read it
			e.Op = op
		}
		return e
	}
	return fail.Named(err, op)
}

// errLost refuses to change a range that is no longer all the library's own.
var errLost = errors.New("another mapping has taken a part of the range")

// A PartialError is a change that stopped half-way and could not be undone. This is rare:
// it takes a mapping of several kernel areas, a system call that fails for one of them, and
// a kernel that also refuses the way back.
//
// A handle with known permissions then allows only [Forget], Regions and Close; everything
// else returns this error. An [Unknown] goes on with the permissions that its pages have
// now.
type PartialError struct {
	Op      string            // the operation, with its arguments
	Err     error             // why it stopped
	Undo    error             // why it could not be undone
	Regions []procmaps.Region // what the kernel said of the mapping's pages afterwards
}

func (e *PartialError) Error() string {
	return fmt.Sprintf("mmap: %s: stopped half-way: %v; the way back: %v", e.Op, e.Err, e.Undo)
}

// Unwrap returns both errors.
func (e *PartialError) Unwrap() []error { return []error{e.Err, e.Undo} }
