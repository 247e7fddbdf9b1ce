//go:build linux

package mmap

import (
	"cmp"
	"runtime"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/latch"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/place"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// This file is about what acts on the pages of n bytes at an offset.

// A span is the pages of a range, under a pin.
type span struct {
	r          *region
	line       *latch.Stripe
	addr, size uintptr // 0: there are no pages, and no pin
}

// span pins the pages of n bytes at off. If whole, the range must be one of whole
// pages; otherwise it is widened to the pages that hold it. Accesses, Grow and
// other spans may be at work at the same time.
func (t ticket) span(off, n int, whole bool) (span, error) {
	line, err := t.pin()
	if err != nil {
		return span{}, err
	}
	r := t.r
	more := r.more.Load()
	if more != nil {
		more.growing.Lock()
	}
	start, end, err := r.pages(off, n, whole)
	if more != nil {
		more.growing.Unlock()
	}
	if err != nil || start == end {
		r.unpin(line)
		return span{}, err
	}
	return span{r, line, r.Base + start, end - start}, nil
}

// end ends the span's pin, and names the error of what was done with the pages.
func (s *span) end(err error, op string, off, n int) error {
	if s.size > 0 {
		s.r.unpin(s.line)
	}
	if err != nil {
		return named(err, "%s of %v at %d", op, fail.Count(n), off)
	}
	return nil
}

// within runs f over the pages of n bytes at off.
func (t ticket) within(op string, off, n int, whole bool, f func(r *region, addr, size uintptr) error) error {
	s, err := t.span(off, n, whole)
	if s.size > 0 {
		err = f(s.r, s.addr, s.size)
	}
	return s.end(err, op, off, n)
}

const noBoundary = "the end is on no boundary of the page size %d, nor at the end of the mapping, %d"

// pages returns the pages, as offsets from base, that hold n bytes at off. If
// exact, the range must be one of whole pages.
func (r *region) pages(off, n int, exact bool) (start, end uintptr, err error) {
	size := int(r.len.Load())
	if off < 0 || n < 0 || off > size || n > size-off {
		return 0, 0, fail.Bad("", "the mapping has %v", fail.Count(size))
	}
	if r.is(isLost) {
		return 0, 0, errLost
	}
	if n == 0 {
		return 0, 0, nil
	}
	start = r.PageStart(r.offset(off))
	if end = min(r.PageEnd(r.offset(off+n)), r.Data()); off+n == size {
		end = r.Data() // after Over by smaller pages that is more
	}
	switch {
	case exact && off != 0 && start != r.offset(off):
		err = fail.Bad("", "the start is on no boundary of the page size %d", r.At(start).Granule)
	case exact && off+n != size && end != r.offset(off+n):
		err = fail.Bad("", noBoundary, r.At(end-1).Granule, size)
	}
	return start, end, err
}

// offset turns an offset from the first byte into one from base.
func (r *region) offset(off int) uintptr { return r.addr.Load() - r.Base + uintptr(off) }

// Prefault brings the pages of n bytes at off into memory for reading, widened to whole
// pages, so that touching them does not wait for storage; MADV_POPULATE_READ of madvise(2).
// It waits in a system call. A page fault that waits blocks one of the GOMAXPROCS processors
// of the Go scheduler, with all goroutines in its queue.
//
// If a page cannot be brought in, the error is a [*FaultError] of the lowest such page: all
// pages before it are in memory, and pages after it may be. A page without read permission
// is ErrPermission. Secret memory and some devices are [errors.ErrUnsupported].
//
// From 32 MiB on, the range is brought in piece by piece, so that other system calls on the
// address space get their turn. If the pages come from memory and not from storage, several
// threads help, for all calls together at most GOMAXPROCS and at most 16. New pages are
// placed as [Mapping.SetPolicy] says, or else on the nodes where these threads run. The
// same holds for PrefaultWrite, Lock and [Spec.Populate].
//
// Pages may go again before they are touched: see Lock.
func (m Mapping) Prefault(off, n int) error {
	return m.prefault("MADV_POPULATE_READ", off, n, ProtRead, unix.MADV_POPULATE_READ)
}

func (t ticket) prefault(name string, off, n int, need Prot, advice int) error {
	return t.within(name, off, n, false, func(r *region, addr, size uintptr) error {
		if err := r.allowed(off, n, need); err != nil {
			return err
		}
		kind := perms.Kind{Granule: kernel.PageSize} // of several kinds the kernel's table knows more
		if r.IsUniform() {
			kind = r.Plain()
		}
		return r.orAbsent(faulted(place.Stretch{Addr: addr, Size: size, Kind: kind}.Populate(advice), 0, r.addr.Load()))
	})
}

// allowed returns an error unless all pages of n bytes at off allow need.
func (r *region) allowed(off, n int, need Prot) error {
	if Prot(r.prot.Load()).allows(need) {
		return nil
	}
	if at, p, refused := r.refuses(off, n, need); refused {
		return fail.Hint(unix.EACCES, "%v page at offset %d", p, at)
	}
	return nil
}

// Collapse makes huge pages of the whole ones within n bytes at off, now, and whatever the
// system's policy for transparent huge pages; MADV_COLLAPSE of madvise(2). The contents stay.
// If no whole huge page lies within the range, the error matches EINVAL. If no huge page is
// to be had, it matches ENOMEM, EBUSY or EAGAIN. Beside a [Tracker] it returns ErrBusy,
// unless all pages count as written.
func (m Mapping) Collapse(off, n int) error {
	return m.within("MADV_COLLAPSE", off, n, false, func(r *region, addr, size uintptr) error {
		const hint = "no whole huge page lies within, or not for this kind of memory"
		huge := transparentHuge()
		if at, _ := kernel.Round(addr, max(huge, 1)); at+huge > addr+size {
			return whyNot(unix.EINVAL, "MADV_COLLAPSE", hint) // the kernel does nothing, and says nothing
		}
		err := sys.Madvise(addr, size, unix.MADV_COLLAPSE)
		if err == unix.EINVAL && r.attachment() != nil {
			return fail.Hint(ErrBusy, "pages that its Tracker watches do not become a huge page")
		}
		return whyNot(err, "MADV_COLLAPSE", hint)
	})
}

// transparentHuge returns the size of a transparent huge page, 0 if that is unknown.
func transparentHuge() uintptr {
	if n := kernel.Number("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", ""); n > 0 {
		return uintptr(n)
	}
	// Without /sys: what one page of a page table maps, with entries of 8 bytes.
	switch runtime.GOARCH {
	case "s390x":
		return 1 << 20 // a segment
	case "ppc64", "ppc64le", "386", "arm":
		return 0 // there it depends on the processor or on the kernel's configuration
	}
	return kernel.PageSize / 8 * kernel.PageSize
}

// Sync writes the changed pages of n bytes at off to their file, and waits until they are
// there; MS_SYNC of msync(2). The range is widened to whole pages; of a private mapping
// there is nothing to write. What storage could not keep is EIO or ENOSPC. Memory that has
// no storage, such as [Secret] or a driver's ring, is [errors.ErrUnsupported], and the
// other pages are synced.
func (m Mapping) Sync(off, n int) error { return m.sync("sync", off, n, unix.MS_SYNC) }

// StartSync is Sync that does not wait; MS_ASYNC. Since Linux 2.6.19 this does
// nothing: the kernel writes changed pages when it likes, usually within half a
// minute.
func (m Mapping) StartSync(off, n int) error { return m.sync("start of sync", off, n, unix.MS_ASYNC) }

// Invalidate asks for the pages of n bytes at off, widened to whole pages, to be as in
// their file; MS_INVALIDATE of msync(2). On Linux a mapping and its file are always the
// same, so this has no effect, except that it is EBUSY if a page is locked.
func (m Mapping) Invalidate(off, n int) error {
	return m.sync("invalidation", off, n, unix.MS_INVALIDATE)
}

func (t ticket) sync(op string, off, n, flags int) error {
	s, err := t.span(off, n, false)
	if s.size > 0 {
		// The flags and the range are right: it is the file that cannot be synced.
		if err = sys.Msync(s.addr, s.size, flags); err == unix.EINVAL {
			// The call ends there. What lies behind is synced all the same.
			unread := kernel.Survey(s.addr, s.addr+s.size, func(a kernel.Area) bool {
				if other := sys.Msync(a.Start, a.End-a.Start, flags); other != unix.EINVAL {
					err = cmp.Or(other, err)
				}
				return true
			})
			err = cmp.Or(unread, err)
		}
		if err == unix.EINVAL {
			err = fail.Hint(fail.Unsupported(err), "this kind of memory has no storage")
		}
	}
	return s.end(err, op, off, n)
}
