//go:build linux

package mmap

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// A Policy says from which NUMA nodes memory is taken; mbind(2).
type Policy int

// The policies. All but PolicyDefault and PolicyLocal want nodes.
const (
	PolicyDefault            Policy = unix.MPOL_DEFAULT             // that of the thread
	PolicyLocal              Policy = unix.MPOL_LOCAL               // the node of the processor that touches a page first
	PolicyPreferred          Policy = unix.MPOL_PREFERRED           // one node, or another if that is full
	PolicyPreferredMany      Policy = unix.MPOL_PREFERRED_MANY      // several nodes, or others (Linux 5.15)
	PolicyBind               Policy = unix.MPOL_BIND                // the nodes and no other
	PolicyInterleave         Policy = unix.MPOL_INTERLEAVE          // the nodes in turn, page by page
	PolicyWeightedInterleave Policy = unix.MPOL_WEIGHTED_INTERLEAVE // in turn, by weights (Linux 6.9)
)

var policyNames = [...]string{
	PolicyDefault: "MPOL_DEFAULT", PolicyLocal: "MPOL_LOCAL", PolicyPreferred: "MPOL_PREFERRED",
	PolicyPreferredMany: "MPOL_PREFERRED_MANY", PolicyBind: "MPOL_BIND", PolicyInterleave: "MPOL_INTERLEAVE",
	PolicyWeightedInterleave: "MPOL_WEIGHTED_INTERLEAVE",
}

// String returns the name in mbind(2).
func (p Policy) String() string { return nameIn(policyNames[:], "Policy", int(p)) }

// SetPolicy says from which NUMA nodes the pages of n bytes at off, widened to whole pages,
// are taken; mbind(2). It is for pages to come: those that are in memory stay where they
// are, see Nodes.
//
// Nodes that do not exist are ignored, unless none of them exists, which is EINVAL. Giving
// nodes to a policy that takes none, or none to one that needs some, is EINVAL.
// PolicyPreferred takes the lowest node, and without nodes does what PolicyLocal does. If
// the kernel refuses a part of the range, the pages before that part have the policy.
func (m Mapping) SetPolicy(off, n int, p Policy, nodes ...int) error {
	if !isInt32(int(p)) {
		return fail.Bad(fmt.Sprintf("policy of %v at %d", fail.Count(n), off), "%d is no policy", int(p))
	}
	var mask [1024 / bits.UintSize]uintptr // the largest configuration of Linux has 1024 nodes
	return m.within("policy", off, n, false, func(_ *region, addr, size uintptr) error {
		for _, node := range nodes {
			if node < 0 || node >= len(mask)*bits.UintSize {
				return fail.Bad("", "%v: %d is no node", p, node)
			}
			mask[node/bits.UintSize] |= 1 << (node % bits.UintSize)
		}
		err := sys.Mbind(addr, size, int(p), mask[:])
		if err == nil {
			return nil
		}
		hint := fmt.Sprintf("no policy %v, or not with the nodes %v", p, slices.Clone(nodes))
		return whyNot(kernel.Blame("mbind", err), p.String(), hint)
	})
}

// Nodes returns the NUMA node of each of the pages that hold n bytes at off; move_pages(2).
// It is -1 for a page that is not in memory, that this process has not touched, or that is
// anonymous and was only read. The result takes 8 bytes for each page, 2 GiB for 1 TiB: ask
// for parts of a large mapping.
func (m Mapping) Nodes(off, n int) (nodes []int, err error) {
	err = m.within("nodes", off, n, false, func(_ *region, addr, size uintptr) error {
		nodes = make([]int, 0, size/kernel.PageSize)
		var pages [512]uintptr
		var on [len(pages)]int32
		for end := addr + size; addr < end; {
			count := min((end-addr)/kernel.PageSize, uintptr(len(pages)))
			for i := range count {
				pages[i] = addr
				addr += kernel.PageSize
			}
			if err := sys.MovePages(pages[:count], on[:count]); err != nil {
				nodes = nil
				return kernel.Blame("move_pages", err)
			}
			for _, node := range on[:count] {
				nodes = append(nodes, max(int(node), -1))
			}
		}
		return nil
	})
	return nodes, err
}
