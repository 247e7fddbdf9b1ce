package mmap

import (
	"cmp"
	"fmt"
	"math/bits"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/place"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// Sync writes the changed pages of n bytes at off to their file, and waits
// until they are there; MS_SYNC of msync(2). The range is widened to whole
// pages; of a private mapping there is nothing to write. What storage could not
// keep is EIO, or ENOSPC. Memory that has no storage, such as [Secret] or a driver's
// ring, is [errors.ErrUnsupported]; the other pages of the range are synced then.
func (m Mapping) Sync(off, n int) error { return m.sync("sync", off, n, unix.MS_SYNC) }

// StartSync is Sync that does not wait; MS_ASYNC. Since Linux 2.6.19 this does
// nothing: the kernel writes changed pages when it likes, usually within half a
// minute.
func (m Mapping) StartSync(off, n int) error { return m.sync("start of sync", off, n, unix.MS_ASYNC) }

// Invalidate asks for the pages of n bytes at off, widened to whole pages, to be
// as in their file; MS_INVALIDATE. On Linux mappings and files are one, so all
// that is left of this is that locked pages answer EBUSY.
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

// Resident returns how many bytes of the pages that hold n bytes at off are in
// memory, a multiple of the page size; mincore(2). Of a file, it counts what
// the page cache holds, and where the process neither owns the file nor may
// write to it, everything.
func (m Mapping) Resident(off, n int) (int, error) {
	size := 0
	err := m.within("residency", off, n, false, func(_ *region, start, length uintptr) error {
		return place.EachResident(start, length, func(_ uintptr, in bool) {
			if in {
				size += int(kernel.PageSize)
			}
		})
	})
	return size, err
}

// ResidentPages returns for each of the pages that hold n bytes at off whether
// it is in memory, as Resident does. A huge page counts as many.
func (m Mapping) ResidentPages(off, n int) (pages []bool, err error) {
	err = m.within("residency", off, n, false, func(_ *region, start, length uintptr) error {
		return place.EachResident(start, length, func(_ uintptr, in bool) { pages = append(pages, in) })
	})
	return pages, err
}

// A Policy says from which NUMA nodes memory is taken; mbind(2).
type Policy int

// The policies. All but PolicyDefault and PolicyLocal want nodes.
const (
	PolicyDefault            Policy = unix.MPOL_DEFAULT             // that of the thread
	PolicyLocal              Policy = unix.MPOL_LOCAL               // the node of the processor that touches a page first
	PolicyPreferred          Policy = unix.MPOL_PREFERRED           // one node, or another if that is full
	PolicyPreferredMany      Policy = unix.MPOL_PREFERRED_MANY      // several nodes, or others if those are full (Linux 5.15)
	PolicyBind               Policy = unix.MPOL_BIND                // the nodes and no other
	PolicyInterleave         Policy = unix.MPOL_INTERLEAVE          // the nodes in turn, page by page
	PolicyWeightedInterleave Policy = unix.MPOL_WEIGHTED_INTERLEAVE // in turn, by the weights in /sys/kernel/mm/mempolicy (Linux 6.9)
)

// SetPolicy says from which NUMA nodes the pages of n bytes at off, widened to
// whole pages, are taken; mbind(2). It is for pages that come: those that are in
// memory stay where they are, see Nodes. If none of the nodes exists, or there are
// some or none where the policy wants the opposite, the error matches EINVAL;
// otherwise the kernel takes those that exist. PolicyPreferred takes the lowest
// of them, and of none the node that PolicyLocal would. Where it refuses a part of
// the range, the pages before that have the policy.
func (m Mapping) SetPolicy(off, n int, p Policy, nodes ...int) error {
	if !isInt32(int(p)) {
		return fail.Bad(fmt.Sprintf("policy of %v at %d", fail.Count(n), off), "%d is no policy", int(p))
	}
	var mask [1024 / bits.UintSize]uintptr // the largest configuration of Linux has 1024 nodes
	return m.within("policy", off, n, false, func(_ *region, addr, size uintptr) error {
		for _, node := range nodes {
			if node < 0 || node >= len(mask)*bits.UintSize {
				return fail.Bad("", "%d is no node", node)
			}
			mask[node/bits.UintSize] |= 1 << (node % bits.UintSize)
		}
		feature := map[Policy]string{PolicyPreferredMany: "MPOL_PREFERRED_MANY", PolicyWeightedInterleave: "MPOL_WEIGHTED_INTERLEAVE"}[p]
		err := kernel.Blame(cmp.Or(feature, "mbind"), sys.Mbind(addr, size, int(p), mask[:]))
		if err == unix.EINVAL {
			err = fail.Hint(err, "no such policy, or not with these nodes")
		}
		return kernel.Scarce(err, kernel.Demand{})
	})
}

// Nodes returns for each of the pages that hold n bytes at off the NUMA node
// that holds it; move_pages(2). It is -1 for a page that this process has not
// touched, for anonymous memory that was only read, and for what is not in memory.
func (m Mapping) Nodes(off, n int) (nodes []int, err error) {
	err = m.within("nodes", off, n, false, func(_ *region, addr, size uintptr) error {
		pages := make([]uintptr, size/kernel.PageSize)
		for i := range pages {
			pages[i] = addr + uintptr(i)*kernel.PageSize
		}
		on := make([]int32, len(pages))
		if err := kernel.Blame("mbind", sys.MovePages(pages, on)); err != nil {
			return err
		}
		for _, node := range on {
			nodes = append(nodes, max(int(node), -1))
		}
		return nil
	})
	return nodes, err
}
