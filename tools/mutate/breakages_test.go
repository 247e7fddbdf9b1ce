package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var every = flag.Bool("every", false, "run all default tests of the place where the breakage is noticed, and list those that notice")

// A breakage is a bug made on purpose: in file, new takes the place of old.
type breakage struct {
	what, file, old, new string
	by                   string // the test that notices it
}

var breakages = []breakage{
	{"a change that stops half-way is not undone", "protect.go", "back := r.restore(start, end); back != nil", "back := error(nil); back != nil", "TestOperations"},
	{"a transition does not move the generation on", "internal/latch/latch.go", "\ts += genOne\n", "", "TestOperations"},
	{"a length is rounded down", "internal/kernel/table.go", "r := (n + granule - 1) &^ (granule - 1)", "r := n &^ (granule - 1)", "TestOperations"},
	{"Split does not take the reserve along", "split.go", "r.Size-at, r.Room, r.Plain()", "r.Size-at, 0, r.Plain()", "TestOperations"},
	{"a transition does not look for pins", "internal/latch/latch.go", "if w&(busy|pinMask) != 0 {", "if w&busy != 0 {", "TestOperations"},
	{"a transition does not look for pins in stripes", "internal/latch/latch.go", "\t\t\tif l.stripes.Load().idle() {\n\t\t\t\treturn OK", "\t\t\tif true {\n\t\t\t\treturn OK", "TestStripes"},
	{"Close unmaps what is pinned", "internal/latch/latch.go", "case w&pinMask != 0:", "case w&pinMask != 0 && false:", "TestOperations"},
	{"Grow has its new length before it has the pages", "resize.go", "if end <= data {", "if r.len.Store(uintptr(size)); size == 0 || end <= data {", "TestDataLimit"},
	{"the first byte is that of the page", "spec.go", "b.lead = uintptr(s.offset - b.Offset)", "b.lead = 0", "TestOperations"},
	{"the account of permissions is not kept", "unknown.go", "\tr.setProt(start, end, p)\n", "", "TestOperations"},
	{"an Unknown allows what any of its pages allows", "internal/perms/perms.go", "all := All\n\tfor _, run := range runs {\n\t\tall &= run.Prot", "all := Prot(0)\n\tfor _, run := range runs {\n\t\tall |= run.Prot", "TestOperations"},
	{"mappings that are no neighbours are joined", "split.go", "|| end != r.addr.Load() {\n\t\treturn false\n\t}\n\treturn l.Size == 0 || r.Size == 0 || l.Base+l.Size == r.Base", "{\n\t\treturn false\n\t}\n\treturn end > 0", "TestOperations"},
	{"a mapping at an address replaces what is there", "internal/place/map.go", "fixed = unix.MAP_FIXED_NOREPLACE", "fixed = unix.MAP_FIXED", "TestOperations"},
	{"the reserve that Resize gives up stays mapped", "resize.go", "\t\tleftover.Abandon(r.Base+data, r.Room)\n", "", "TestOperations"},
	{"Regions are clipped, but not their offsets", "internal/kernel/table.go", "\t\t\tr.Offset += cut\n", "", "TestRegionsClipped"},
	{"a copy does not stop at each page", "transfer.go", "part := min(size, int(kernel.PageSize-c.at&(kernel.PageSize-1)))", "part := size + int(kernel.PageSize-kernel.PageSize)", "TestTruncated"},
	{"a guard leaves its flag set", "fault.go", "\tg.restore()\n\tg.left = true", "\tg.left = true", "TestWaysOut"},
	{"a guard takes every fault for its own", "fault.go", "return addr-r.Base < r.Size }", "return true }", "TestNestedGuards"},
	{"a call that an older kernel refuses is not tried again", "memfd.go", "if err == unix.EINVAL && seals&SealExec == 0 {", "if false {", "TestOldKernel"},
	{"an access does not wait for a transition", "internal/latch/latch.go", "\tcase w&partial != 0:\n", "\tcase w&busy != 0:\n\t\treturn Busy\n\tcase w&partial != 0:\n", "TestStress"},
	{"the last pin in a stripe does not unmap", "internal/latch/pin.go", "\t\tline.pins.Add(-1)\n", "\t\tline.pins.Add(-1)\n\t\treturn OK\n", "TestStripes"},
	{"Join keeps the first when the second is busy", "internal/latch/latch.go", "\t\t\tfirst.GiveUp(s)\n", "", "TestJoin"},
	{"a transition begins while another runs", "internal/latch/latch.go", "if w&(busy|pinMask) != 0 {", "if w&pinMask != 0 {", "TestConcurrent"},
	{"a lock is not given up when a page cannot be brought in", "lock.go", "\t\t\tplace.UnlockAllBut(before, addr, addr+size)\n", "\t\t\t_ = before\n", "TestLockNoLimit"},
	{"a huge page makes its neighbours huge", "internal/perms/perms.go", "\treturn (*p.runs)[p.find(off)].Kind\n", "\tk := (*p.runs)[p.find(off)].Kind\n\tk.Granule = p.Largest()\n\treturn k\n", "TestHugePageAmongSmall"},
	{"the end of a round gives no passes", "internal/latch/drain.go", "d.passes, d.held = d.passes+d.held, 0", "d.held = 0", "TestDrainBesideReaders"},
	{"what a transition in place changes is done again", "unknown.go", "t.r.Stay(t.state)", "t.giveUp()", "TestDrainAgain"},
	{"the collector unmaps what is lent", "region.go", "mark&^old&(isLent|isSealed)", "mark&^old&isSealed", "TestCollection"},
	{"what destroys contents does not count as a write", "discard.go", "\t\t\t\ton.mark(stretch{start, start + size}) //", "\t\t\t\t_ = on //", "TestTrackDestroys"},
	{"Evict takes other bytes of a file along", "paged.go", "if size != uintptr(n) && flags&unix.MAP_ANONYMOUS == 0 {", "if false {", "TestEvictPart"},
	{"what comes before a failure is not delivered", "paging/paging.go", "\t\tk, again := p.m.ReadAt(", "\t\tif failed != nil {\n\t\t\treturn n, failed\n\t\t}\n\t\tk, again := p.m.ReadAt(", "TestReadAtPart"},
	{"a panic of the source is lost", "paging/round.go", "\t\tpanic(r.panicked)\n", "", "TestSourceLeaves"},
	{"who waits for a window takes less for all of it", "paging/windows.go", "if there, err := p.there(w); there || err != nil {\n\t\t\treturn err\n\t\t} else if f.err != nil {", "if f != nil {", "TestGrowBesideFetch"},
	{"what destroys contents counts as a write too early", "discard.go", "\t\terr := sys.Madvise(addr, size, l.advice)\n\t\tif a := r.attachment(); a != nil && !l.spares {\n\t\t\tif on := a.tracking.Load(); on != nil {\n\t\t\t\ton.mark(stretch{start, start + size}) // also of a call that has failed, perhaps half-way\n\t\t\t}\n\t\t}\n", "\t\tif a := r.attachment(); a != nil && !l.spares {\n\t\t\tif on := a.tracking.Load(); on != nil {\n\t\t\t\ton.mark(stretch{start, start + size})\n\t\t\t}\n\t\t}\n\t\terr := sys.Madvise(addr, size, l.advice)\n", "TestTrackDestroyOrder"},
	{"Close of a tracker does not wait for Take", "track.go", "\t\tt.on.inUse.RLock()\n\t\tdefer t.on.inUse.RUnlock()\n", "", "TestTrackCloseOrder"},
	{"Grow does not wait for Track", "track.go", "\t\tdefer more.growth.Unlock()\n", "\t\tmore.growth.Unlock()\n", "TestTrackGrowOrder"},
	{"Track does not wait for a fetch", "paged.go", "\t\tp.on.inUse.RLock()\n\t\tdefer p.on.inUse.RUnlock()\n", "", "TestTrackFetchOrder"},
	{"a Take that fails forgets what it has found", "track.go", "\t\t\tt.on.mark(in)\n\t\t\treturn err\n", "\t\t\treturn err\n", "TestTrackForeign"},
	{"a transition does not look for a tracker", "region.go", "if !t.r.is(marks) && !tracked {", "if !t.r.is(marks) {", "TestTrackRefuses"},
	{"a transition looks for a tracker once more when that can be closed", "region.go", "\tcase tracked:\n", "\tcase t.r.attachment() != nil:\n", "TestTrackClosedMeanwhile"},
	{"Join does not look for a tracker", "split.go", "left.r.attachment() != nil || right.r.attachment() != nil", "left.r.attachment() != nil", "TestTrackRefuses"},
	{"new pages count as written when they are read", "resize.go", "\t\terr = r.follow(at, size)\n", "", "TestTrackGrow"},
	{"the descriptors of a tracker stay open", "region.go", "\tr.detach(true)\n", "", "TestTrackClose"},
	{"a hole in tracked pages is passed over", "track.go", "if err == unix.ENOMEM {\n\t\terr = errLost", "if err == unix.ENOMEM {\n\t\terr = nil", "TestTrackForeign"},
	{"what somebody maps over tracked pages is passed over", "track.go", "if err == nil && n > 0 {", "if err != nil && n > 0 {", "TestTrackForeign"},
}

// TestBreakages breaks the library in one way after the other. Each time a part of
// the default run has to fail, which passes with the library as it is.
func TestBreakages(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	run := func(t *testing.T, pkg, by, file string, text []byte) (bool, string) {
		dir := t.TempDir()
		b := &bench{dir: dir, module: root}
		overlay := map[string]map[string]string{"Replace": {}}
		if file != "" {
			overlay["Replace"][filepath.Join(root, file)] = filepath.Join(dir, "broken.go")
			if err := os.WriteFile(filepath.Join(dir, "broken.go"), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		list, _ := json.Marshal(overlay)
		if err := os.WriteFile(filepath.Join(dir, "overlay.json"), list, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, v := b.compile(t.Context(), pkg, "-gcflags=-l", "-overlay="+filepath.Join(dir, "overlay.json")); v != survived {
			t.Fatal(out)
		}
		args := []string{"-test.run=^(" + by + ")$", "-test.v", "-rapid.nofailfile", "-rapid.shrinktime=0s"}
		if *every {
			args = append(args, "-test.run=.")
		}
		start := time.Now()
		out, v := b.command(t.Context(), filepath.Join(root, pkg), time.Minute, b.binary(pkg), args...)
		took := time.Since(start).Round(10 * time.Millisecond)
		if v == survived {
			return false, out
		}
		var failed []string
		for line := range strings.Lines(out) {
			if name, ok := strings.CutPrefix(line, "--- FAIL: "); ok {
				failed = append(failed, strings.TrimSpace(name))
			}
		}
		t.Logf("%v after %v: %s%s", by, took, strings.Join(failed, ", "), reason(out))
		return true, out
	}
	homes := homes(t, root)
	tests := map[string][]string{} // by the package that they are in
	for _, b := range breakages {
		home, ok := homes[b.by]
		if !ok {
			t.Fatalf("%s: there is no %s", b.what, b.by)
		}
		tests[home] = append(tests[home], b.by)
		t.Run(strings.ReplaceAll(b.what, " ", "_"), func(t *testing.T) {
			t.Parallel()
			src, err := os.ReadFile(filepath.Join(root, b.file))
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(src, []byte(b.old)); n != 1 {
				t.Fatalf("%s has %q %d times: what is it now?", b.file, b.old, n)
			}
			if noticed, out := run(t, home, b.by, b.file, bytes.Replace(src, []byte(b.old), []byte(b.new), 1)); !noticed {
				t.Errorf("%s does not notice\n%s", b.by, out)
			}
		})
	}
	for home, names := range tests {
		slices.Sort(names)
		if failed, out := run(t, home, strings.Join(slices.Compact(names), "|"), "", nil); failed {
			t.Errorf("the library as it is:\n%s", out)
		}
	}
}

// homes returns the package of each test that can notice a breakage: at the top, or in
// systemtest.
func homes(t *testing.T, root string) map[string]string {
	is, test := map[string]string{}, regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for _, pkg := range []string{"paging", ".", "systemtest"} { // a name that two have is that of the last
		files, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range test.FindAllSubmatch(text, -1) {
				is[string(m[1])] = pkg
			}
		}
	}
	return is
}
