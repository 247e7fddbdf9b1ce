//go:build linux

package mmap

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/place"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// An attachment has the pages of a region registered with userfaultfd(2): for a tracker, for
// package paging, or both. It keeps transitions out, which would leave it behind, but not
// Close. Who holds a pin of the region can use the descriptor while holding inUse; the last
// unpin of a closed region closes it.
type attachment struct {
	fd       int
	mode     uint64 // of UFFDIO_REGISTER
	inUse    sync.RWMutex
	tracking atomic.Pointer[tracking] // nil: there is no tracker
	cause    func(off int) error      // of a fault on an absent page; nil: it is not paged
}

// What a tracker asks of the kernel.
const uffdWrites = sys.UFFD_FEATURE_PAGEFAULT_FLAG_WP | sys.UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
	sys.UFFD_FEATURE_WP_UNPOPULATED | sys.UFFD_FEATURE_WP_ASYNC

func errAttached() error {
	return fail.Hint(ErrBusy, "it has a Tracker or a pager, or is growing, being locked or given guard pages")
}

// attachment returns what keeps transitions out, and Close not; nil if there is nothing.
func (r *region) attachment() *attachment {
	if more := r.more.Load(); more != nil {
		return more.attached.Load()
	}
	return nil
}

// attach makes a the attachment of the region, if begin succeeds, which can use it already.
// name is that of the youngest of the features. The caller holds a pin and growth.
func (r *region) attach(a *attachment, features uint64, name string, begin func() error) (err error) {
	more := r.more.Load()
	if !more.beside.TryLock() {
		return errAttached()
	}
	defer func() {
		if err != nil {
			more.beside.Unlock()
		}
	}()
	for _, part := range r.stretches(nil, 0, r.Size) {
		grows := r.Room > 0 && part.Addr+part.Size == r.Base+r.Size // by pages that it locks, if any
		if !part.InMemory() && (place.IsLocked(part.Addr, part.Size) || grows && r.lock() != place.Unlocked) {
			const hint = "pages of a file are locked, or Grow would lock them: beside a tracker they never come into memory"
			return fail.Hint(ErrBusy, hint)
		}
	}
	if a.fd, err = sys.Userfaultfd(features); err == nil {
		if err = a.watch(r.Base, r.Size); err == nil {
			err = begin()
		}
		if err != nil {
			unix.Close(a.fd)
		}
	} else {
		err = kernel.Blame(name, err)
	}
	if err == nil {
		more.attached.Store(a)
	}
	return err
}

// detach ends the attachment, if there is one. A region that goes does so when its pages are
// unmapped, and no earlier: nobody finds pages that are not watched. The pages can be
// somebody else's by then.
func (r *region) detach(unmapped bool) {
	a := r.attachment()
	if a == nil {
		return
	}
	if on := a.tracking.Load(); on != nil {
		on.end()
	}
	if r.Size > 0 && !unmapped {
		// Or a child between fork(2) and execve(2) would keep the pages registered.
		sys.UffdUnregister(a.fd, r.Base, r.Size)
	}
	unix.Close(a.fd)
	r.more.Load().attached.Store(nil)
	r.more.Load().beside.Unlock()
}

// watch registers pages.
func (a *attachment) watch(base, size uintptr) error {
	if size == 0 {
		return nil
	}
	switch err := sys.UffdRegister(a.fd, base, size, a.mode); err {
	case nil:
		return nil
	case unix.EINVAL:
		return fail.Hint(fail.Unsupported(err), "not for this kind of memory")
	case unix.EBUSY:
		return fail.Hint(err, "a part of the mapping is registered with another userfaultfd(2)")
	case unix.EPERM:
		return fail.Hint(err, "a part is a shared mapping of a file that is open for reading only")
	default:
		return kernel.Scarce(err, kernel.Demand{})
	}
}

// follow makes new pages at addr part of what is watched.
func (r *region) follow(addr, size uintptr) error {
	a := r.attachment()
	if a == nil {
		return nil
	}
	a.inUse.RLock()
	defer a.inUse.RUnlock()
	if r.attachment() != a {
		return nil
	}
	err := a.watch(addr, size)
	if on := a.tracking.Load(); err == nil && on != nil {
		err = on.reset(addr, stretch{0, size})
	}
	return err
}

// alone keeps trackers away until end is called, for a call on stretches of pages that
// would never return beside one, but for those that are harmless. If there is one, it
// returns ErrBusy.
func (r *region) alone(parts []place.Stretch, harmless func(place.Stretch) bool) (end func(), err error) {
	end = func() {}
	if !slices.ContainsFunc(parts, func(part place.Stretch) bool { return !knownPrivate(part.Kind) }) {
		return end, nil
	}
	if beside := &r.has().beside; beside.TryRLock() {
		return beside.RUnlock, nil
	}
	for _, part := range parts {
		if !harmless(part) {
			return end, fail.Hint(ErrBusy, "beside a Tracker it would never return, or a pager would overwrite it")
		}
	}
	return end, nil
}

// knownPrivate reports whether pages are known to be private and anonymous. Of others the
// kernel is asked: see place.Stretch.IsPrivateMemory.
func knownPrivate(k perms.Kind) bool {
	return k.Flags&(unix.MAP_TYPE|unix.MAP_ANONYMOUS) == unix.MAP_PRIVATE|unix.MAP_ANONYMOUS
}
