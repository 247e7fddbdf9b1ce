//go:build linux

package mmap

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mmarinus/mmap/internal/testkit"
	"golang.org/x/sys/unix"
)

// nodesOnline returns the NUMA nodes that have memory.
func nodesOnline(t testing.TB) (nodes []int) {
	t.Helper()
	text, err := os.ReadFile("/sys/devices/system/node/has_memory")
	if err != nil || Probe("mbind") != nil {
		m := mapped[Read](t, Anonymous(1))
		lacks(t, "mbind", m.SetPolicy(0, 1, PolicyDefault))
		lacks(t, "move_pages", second(m.Nodes(0, 1)))
		t.Skip("no NUMA here: ", Probe("mbind"), err)
	}
	for part := range strings.SplitSeq(strings.TrimSpace(string(text)), ",") {
		first, last, many := strings.Cut(part, "-")
		from, to := must(strconv.Atoi(first)), 0
		if to = from; many {
			to = must(strconv.Atoi(last))
		}
		for ; from <= to; from++ {
			nodes = append(nodes, from)
		}
	}
	return nodes
}

// policies tells for each page of a mapping what numa_maps says of its area.
func policies(t testing.TB, m mapping) (pages []string) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/numa_maps")
	check(t, err)
	areas := map[uint64]string{}
	for line := range strings.Lines(string(text)) {
		at, rest, _ := strings.Cut(line, " ")
		what, _, _ := strings.Cut(strings.TrimSpace(rest)+" ", " ")
		if what == "prefer" || what == "weighted" { // (many), interleave
			fields := strings.Fields(rest)
			what = fields[0] + " " + fields[1]
		}
		areas[must(strconv.ParseUint(at, 16, 64))] = what
	}
	for _, r := range must(m.Regions()) {
		for range r.Size() / uint64(pageSize) {
			pages = append(pages, areas[r.Start])
		}
	}
	return pages
}

func TestSetPolicy(t *testing.T) {
	pg := int(pageSize)
	nodes := nodesOnline(t)
	node := nodes[0]
	for _, c := range []struct {
		p     Policy
		nodes []int
		want  string
	}{
		{PolicyLocal, nil, "local"}, {PolicyPreferred, nil, "local"}, {PolicyPreferred, []int{node}, fmt.Sprint("prefer:", node)},
		{PolicyPreferredMany, []int{node}, fmt.Sprint("prefer (many):", node)}, {PolicyBind, []int{node, node}, fmt.Sprint("bind:", node)},
		{PolicyInterleave, []int{node}, fmt.Sprint("interleave:", node)}, {PolicyWeightedInterleave, []int{node}, fmt.Sprint("weighted interleave:", node)},
	} {
		m, data := filled(t, 3*pg)
		err := m.SetPolicy(2*pg-1, 1, c.p, c.nodes...)
		if errors.Is(err, errors.ErrUnsupported) {
			t.Logf("not tested: %v", err)
			continue
		}
		check(t, err)
		if got := policies(t, m); !slices.Equal(got, []string{"default", c.want, "default"}) {
			t.Errorf("policy %d: %q, want %s in the middle", c.p, got, c.want)
		}
		check(t, m.SetPolicy(0, 3*pg, PolicyDefault))
		if got := policies(t, m); !slices.Equal(got, []string{"default", "default", "default"}) {
			t.Errorf("policy %d and back: %q", c.p, got)
		}
		holds(t, "policy", m, 0, data)
	}
	m, _ := filled(t, 3*pg)
	for _, c := range []struct {
		p     Policy
		nodes []int
	}{
		{PolicyBind, nil}, {PolicyInterleave, nil}, {PolicyPreferredMany, nil}, {PolicyWeightedInterleave, nil}, {PolicyDefault, []int{node}}, {PolicyLocal, []int{node}},
		{-1, nil}, {99, []int{node}}, {math.MaxInt32, []int{node}}, {PolicyBind, []int{-1}}, {PolicyBind, []int{1023}}, {PolicyBind, []int{1024}},
		{PolicyBind, []int{math.MaxInt}}, {PolicyBind, []int{math.MinInt}}, {PolicyBind, []int{node, 2000}}, {PolicyPreferred, []int{900}},
	} {
		err := m.SetPolicy(pg, pg, c.p, c.nodes...)
		if errors.Is(err, errors.ErrUnsupported) {
			continue // an older kernel does not even look at the nodes
		}
		wants(t, fmt.Sprint(c.p, c.nodes), err, os.ErrInvalid, unix.EINVAL)
		if names(t, err, pg, pg); !slices.Equal(policies(t, m), []string{"default", "default", "default"}) {
			t.Errorf("%d %v: %q", c.p, c.nodes, policies(t, m))
			check(t, m.SetPolicy(0, 3*pg, PolicyDefault))
		}
	}
}

func TestNodes(t *testing.T) {
	pg := int(pageSize)
	nodes := nodesOnline(t)
	testkit.Needs(t, "move_pages")
	const pages = 1300 // more than fit into one call
	m := apart[ReadWrite](t, Anonymous(pages*pg-1), pages)
	check(t, m.Advise(0, m.Len(), AdviceNoHugePage))
	if got := must(m.Nodes(0, m.Len())); len(got) != pages || slices.Max(got) != -1 {
		t.Errorf("%d pages, %v", len(got), slices.Max(got))
	}
	touched := []int{0, 510, 511, 512, 513, 1023, 1024, pages - 1}
	for _, p := range touched {
		n := nodes[p%len(nodes)]
		check(t, m.SetPolicy(p*pg, 1, PolicyBind, n))
		check(t, second(m.WriteAt([]byte{1}, int64(p*pg))))
	}
	for _, r := range [][2]int{{0, m.Len()}, {511*pg - 1, 2*pg + 2}, {m.Len() - 1, 1}, {512 * pg, 513 * pg}, {3, 0}} {
		got := must(m.Nodes(r[0], r[1]))
		for i, n := range got {
			p := r[0]/pg + i
			if want := slices.Contains(touched, p); want && n != nodes[p%len(nodes)] || !want && n != -1 {
				t.Errorf("%v: page %d is on node %d", r, p, n)
			}
		}
		if want := (r[0]+r[1]+pg-1)/pg - r[0]/pg; r[1] > 0 && len(got) != want || r[1] == 0 && got != nil {
			t.Errorf("%v: %d pages", r, len(got))
		}
	}
	t.Logf("with nodes %v", nodes)
}

// Of a large mapping that is nearly empty, Nodes takes what its result takes.
func TestNodesSparse(t *testing.T) {
	nodesOnline(t)
	testkit.Needs(t, "move_pages")
	m := mapped[ReadWrite](t, Anonymous(1<<30).NoReserve())
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	nodes := must(m.Nodes(0, m.Len()))
	runtime.ReadMemStats(&after)
	if len(nodes) != m.Len()/int(pageSize) || slices.Max(nodes) != -1 {
		t.Errorf("%d pages, up to %d", len(nodes), slices.Max(nodes))
	}
	if got, most := after.TotalAlloc-before.TotalAlloc, uint64(len(nodes)*8+64<<10); got > most {
		t.Errorf("%d bytes were allocated, for a result of %d", got, 8*len(nodes))
	}
}

// An error names the policy and the nodes.
func TestSetPolicyNames(t *testing.T) {
	nodesOnline(t)
	m := mapped[Read](t, Anonymous(100))
	explained(t, "bind", m.SetPolicy(5, 6, PolicyBind, 7, 2000), unix.EINVAL, "mmap: policy of 6 bytes at 5: MPOL_BIND: 2000 is no node: ")
	explained(t, "local", m.SetPolicy(5, 6, PolicyLocal, 0, 1), unix.EINVAL, "no policy MPOL_LOCAL, or not with the nodes [0 1]: ")
	explained(t, "none", m.SetPolicy(5, 6, 77), unix.EINVAL, "no policy Policy(77), or not with the nodes []: ")
}
