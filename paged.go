//go:build linux

package mmap

import (
	"fmt"

	"github.com/mmarinus/mmap/internal/attach"
	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/place"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// This file is what package paging needs of a mapping: pages that are absent, and no zeros.
// With UFFD_FEATURE_SIGBUS nobody waits in a fault, and nobody handles one.

// What a pager asks of the kernel, beside what a tracker does.
const uffdAbsent = sys.UFFD_FEATURE_SIGBUS | sys.UFFD_FEATURE_MISSING_SHMEM | sys.UFFD_FEATURE_MISSING_HUGETLBFS

func init() {
	attach.Pager = func(m any, cause func(off int) error, readOn attach.ReadOn) (attach.Pages, error) {
		p, err := m.(Mapping).page(cause)
		p.readOn = readOn
		return p, named(err, "page")
	}
}

// A pagedRegion implements attach.Pages.
type pagedRegion struct {
	of       ticket
	on       *attachment
	pageSize int
	readOn   attach.ReadOn
}

// page makes the pages of the mapping that are not in memory absent.
func (t ticket) page(cause func(off int) error) (*pagedRegion, error) {
	p := &pagedRegion{of: t, on: &attachment{mode: sys.UFFDIO_REGISTER_MODE_MISSING, cause: cause}}
	err := t.pinned(func(r *region) error {
		more := r.has()
		if !more.growth.TryLock() { // Grow may wait for storage
			return errAttached()
		}
		defer more.growth.Unlock()
		switch {
		case !r.IsUniform() || r.addr.Load() != r.Base:
			return fail.Bad("", "it has pages of several kinds, or begins within one")
		case r.lock() != place.Unlocked:
			return fail.Bad("", "Spec.Lock brings pages in, and so would Grow, as zeros")
		}
		p.pageSize = int(r.Plain().Granule)
		features, name := uint64(uffdAbsent), "UFFD_FEATURE_SIGBUS"
		if kernel.Probe("UFFD_FEATURE_WP_ASYNC") == nil { // then it can be tracked
			p.on.mode |= sys.UFFDIO_REGISTER_MODE_WP
			features, name = uffdAbsent|uffdWrites, "UFFD_FEATURE_WP_ASYNC"
		}
		return r.attach(p.on, features, name, func() error { return nil })
	})
	return p, err
}

func (p *pagedRegion) PageSize() int { return p.pageSize }

// within runs f over the pages of a range, while the descriptor is open; see region.pages.
func (p *pagedRegion) within(op string, off, n int, whole bool, f func(r *region, addr, size uintptr) error) error {
	return p.of.within(op, off, n, whole, func(r *region, addr, size uintptr) error {
		p.on.inUse.RLock()
		defer p.on.inUse.RUnlock()
		return f(r, addr, size)
	})
}

func (p *pagedRegion) Present(off, n int) (all bool, err error) {
	all = true
	err = p.within("presence", off, n, false, func(_ *region, addr, size uintptr) error {
		in, err := place.Resident(addr, size)
		all = in == int(size/kernel.PageSize)
		return err
	})
	return all && err == nil, err
}

func (p *pagedRegion) Install(off int, contents []byte) error {
	n := min(len(contents), Mapping{p.of}.Len()-off)
	return p.within("fetch", off, n, false, func(r *region, addr, size uintptr) error {
		mode := uint64(0)
		if p.on.tracking.Load() != nil {
			mode = sys.UFFDIO_COPY_MODE_WP // its contents are not written, but fetched
		}
		for size > 0 {
			n, err := sys.UffdCopy(p.on.fd, addr, contents[:size], mode)
			switch {
			case n > 0: // EAGAIN says that it is not all
			case err == unix.EEXIST:
				n = p.pageSize // which is there already
			case err == unix.EFAULT:
				return fail.Hint(fmt.Errorf("%w (%w)", ErrFault, err), "the page may be past the end of its file")
			case err != nil:
				return kernel.Scarce(err, kernel.Demand{})
			}
			addr, size, contents = addr+uintptr(n), size-uintptr(n), contents[n:]
		}
		return nil
	})
}

// ReadAt is transfer, but has the way for bytes of one page written out: by a call of transfer,
// 64 bytes took a ninth longer than by the mapping itself.
func (p *pagedRegion) ReadAt(b []byte, off int64) (n int, err error) {
	t := p.of
	if !t.pinWord() {
		n, err = t.transfer(b, off, ProtRead)
	} else if at, ok := t.r.onePage(off, uintptr(len(b)), ProtRead); !ok {
		n, err = t.r.transferRest(nil, b, off, ProtRead)
	} else if failed := t.r.readPage(b, at); failed != nil {
		err = *failed
	} else {
		return len(b), nil
	}
	if err != nil {
		return p.readOn(b, off, n, err)
	}
	return n, nil
}

// readPage copies bytes of one page out of a region that is pinned in its word, and unpins.
// The result points to the error, if there is one: one word is faster than the two of an error.
//
// It is a function of its own so that readOn is not called by the deferred function: the source
// would run in the middle of the fault's panic, and its stacks and panics would show that.
func (r *region) readPage(b []byte, at uintptr) (failed *error) {
	g := guard{r: r, at: at, need: ProtRead}
	g.enter()
	defer func() {
		if !g.left {
			failed = new(error)
			g.rescueUnpin(recover(), failed)
		}
	}()
	copy(b, memory(at, len(b)))
	g.leave()
	r.Unpin(nil, r)
	return nil
}

func (p *pagedRegion) Evict(off, n int) error {
	return p.within("eviction", off, n, true, func(r *region, addr, size uintptr) error {
		advice, name := unix.MADV_DONTNEED, "MADV_DONTNEED"
		if flags := r.Plain().Flags; flags&unix.MAP_TYPE != unix.MAP_PRIVATE {
			advice, name = unix.MADV_REMOVE, "MADV_REMOVE" // or the file would keep them
			if size != uintptr(n) && flags&unix.MAP_ANONYMOUS == 0 {
				return fail.Bad("", "the last page can hold other bytes of the file: leave it out, or map whole pages")
			}
		}
		err := whyNot(sys.Madvise(addr, size, advice), name, "the pages are locked, or cannot be written")
		if err == unix.EPERM { // by Seal, or the file's seals
			err = ErrSealed
		}
		if on := p.on.tracking.Load(); on != nil && err == nil {
			err = on.protect(addr, size) // absent pages that are not protected count as written
		}
		return err
	})
}

// absent returns what a fault at an address means, where the region is paged and the page
// is not in memory; otherwise nil.
func (r *region) absent(addr uintptr) error {
	a := r.attachment()
	if a == nil || a.cause == nil {
		return nil
	}
	if in, err := place.Resident(kernel.Page(addr), kernel.PageSize); err != nil || in > 0 {
		return nil
	}
	return a.cause(int(addr - r.Base))
}

// orAbsent gives the error of a call that could not bring a page in its cause.
func (r *region) orAbsent(err error) error {
	if f, ok := err.(*FaultError); ok && f.Err == ErrFault {
		if cause := r.absent(f.Addr); cause != nil {
			f.Err, f.seen = cause, ""
		}
	}
	return err
}
