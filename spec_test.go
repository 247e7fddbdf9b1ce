//go:build linux

package mmap_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// The sources of FuzzSpecs.
const (
	zeroSpec = iota
	specAnonymous
	specFile
	specFD
	specReadOnly
	specPath
	specSecret
	specNil
	specClosed
	specSources
)

// specSteps are the methods of a Spec, each with the letters that stand for it.
// A method with an argument has two letters, for one argument and another. The
// methods of a group exclude or override each other; all else may be exchanged.
var specSteps = []struct {
	letters string
	group   int
	do      func(s mmap.Spec, p *plan, arg int64) mmap.Spec
}{
	{"s", 0, func(s mmap.Spec, p *plan, _ int64) mmap.Spec { p.shared = true; return s.Shared() }},
	{"nN", 1, func(s mmap.Spec, p *plan, arg int64) mmap.Spec { p.place("near", arg); return s.Near(uintptr(arg)) }},
	{"aA", 1, func(s mmap.Spec, p *plan, arg int64) mmap.Spec { p.place("at", arg); return s.At(uintptr(arg)) }},
	{"oO", 1, func(s mmap.Spec, p *plan, arg int64) mmap.Spec {
		p.place("onto", arg)
		return s.UnsafeOnto(uintptr(arg))
	}},
	{"lL", 2, func(s mmap.Spec, p *plan, arg int64) mmap.Spec { p.align = &arg; return s.Align(int(arg)) }},
	{"rR", 3, func(s mmap.Spec, p *plan, arg int64) mmap.Spec { p.reserve = &arg; return s.Reserve(int(arg)) }},
	{"hH", 4, func(s mmap.Spec, p *plan, arg int64) mmap.Spec { p.huge = &arg; return s.HugePages(int(arg)) }},
	{"p", 5, func(s mmap.Spec, _ *plan, _ int64) mmap.Spec { return s.Populate() }},
	{"c", 6, func(s mmap.Spec, _ *plan, _ int64) mmap.Spec { return s.PopulateCached() }},
	{"k", 7, func(s mmap.Spec, p *plan, _ int64) mmap.Spec { p.lock = "lo"; return s.Lock() }},
	{"f", 7, func(s mmap.Spec, p *plan, _ int64) mmap.Spec { p.lock = "lf"; return s.LockOnFault() }},
	{"u", 8, func(s mmap.Spec, p *plan, _ int64) mmap.Spec { p.noReserve = true; return s.NoReserve() }},
	{"w", 9, func(s mmap.Spec, p *plan, _ int64) mmap.Spec { p.low = true; return s.Low() }},
	{"d", 10, func(s mmap.Spec, p *plan, _ int64) mmap.Spec { p.droppable = true; return s.Droppable() }},
	{"y", 11, func(s mmap.Spec, p *plan, _ int64) mmap.Spec { p.synchronous = true; return s.Synchronous() }},
}

// A plan is what a sequence of steps should come to.
type plan struct {
	source                 uint8
	prot                   mmap.Prot
	size, offset           int64
	shared, noReserve, low bool
	droppable, synchronous bool
	placement, lock        string
	places                 int
	addr                   uint64
	align, reserve, huge   *int64 // the last one said
}

func (p *plan) place(how string, addr int64) {
	p.placement, p.addr = how, uint64(addr)
	p.places++
}

func (p *plan) anonymous() bool { return p.source == specAnonymous }
func (p *plan) isFile() bool {
	return p.source != specAnonymous && p.source != specSecret && p.source != zeroSpec
}
func (p *plan) fixed() bool  { return p.placement == "at" || p.placement == "onto" }
func (p *plan) lead() uint64 { return uint64(p.offset) % uint64(onePage) }

func (p *plan) capacity() int64 {
	if p.reserve != nil {
		return *p.reserve
	}
	return p.size
}

// A specRule is a reason for Map to fail: one that it must give, or one that it
// may give because of the machine.
type specRule struct {
	broken bool
	err    error
}

// musts are the rules of the documentation.
func (p *plan) musts() []specRule {
	lead, page := p.lead(), uint64(onePage)
	bothSides := new(big.Int).Add(big.NewInt(p.offset), big.NewInt(p.size))
	return []specRule{
		{p.source == zeroSpec || p.source == specNil, os.ErrInvalid},
		{p.source == specClosed, os.ErrClosed},
		{p.prot > 7, os.ErrInvalid},
		{p.size < 0 || p.offset < 0, os.ErrInvalid},
		{!bothSides.IsInt64(), unix.EOVERFLOW},
		{p.places > 1, os.ErrInvalid},
		{p.fixed() && (p.addr < page || p.addr%page != lead), os.ErrInvalid},
		{p.align != nil && (*p.align <= 0 || *p.align&(*p.align-1) != 0), os.ErrInvalid},
		{p.align != nil && *p.align > 0 && lead%uint64(*p.align) != 0, os.ErrInvalid},
		{p.align != nil && *p.align > 0 && p.fixed() && p.addr%uint64(*p.align) != 0, os.ErrInvalid},
		{p.capacity() < p.size || p.capacity() < 0, os.ErrInvalid},
		{p.huge != nil && !p.anonymous(), os.ErrInvalid},
		{p.huge != nil && *p.huge != 0 && (*p.huge <= int64(page) || *p.huge&(*p.huge-1) != 0), os.ErrInvalid},
		{p.droppable && (!p.anonymous() || p.shared || p.huge != nil || p.lock != ""), os.ErrInvalid},
		{p.droppable && mmap.Probe("MAP_DROPPABLE") != nil && p.capacity() > 0, errors.ErrUnsupported},
		{p.synchronous && (!p.shared || !p.isFile()), os.ErrInvalid},
		{p.synchronous && p.placement == "at", os.ErrInvalid},
		{p.synchronous && p.capacity() > 0, unix.EOPNOTSUPP}, // there is no persistent memory
		{p.low && p.fixed(), os.ErrInvalid},
		{p.low && runtime.GOARCH != "amd64", errors.ErrUnsupported},
		{p.source == specReadOnly && p.shared && p.prot&mmap.ProtWrite != 0 && p.size > 0, unix.EACCES},
		{p.source == specSecret && p.prot&mmap.ProtExec != 0 && p.size > 0, mmap.ErrPermission},
		{p.source == specSecret && mmap.Probe("memfd_secret") != nil, errors.ErrUnsupported},
	}
}

// mays are what the machine can lack.
func (p *plan) mays() []specRule {
	large := p.size > 1<<20 || p.capacity() > 1<<20
	locked := p.lock != "" || p.source == specSecret
	return []specRule{
		{large || p.huge != nil || locked || p.low || p.align != nil, unix.ENOMEM},
		{large && p.isFile(), unix.EOVERFLOW}, // past the largest page of a file
		{p.offset > 1<<40, unix.EOVERFLOW},
		{p.huge != nil, errors.ErrUnsupported},
		{p.huge != nil && p.fixed(), os.ErrInvalid}, // not on its boundary
		{locked, unix.EAGAIN},
		{locked, unix.EPERM},
		{p.lock == "lo", mmap.ErrFault},
		{p.source == specPath && p.prot&mmap.ProtExec != 0, mmap.ErrPermission}, // no programs on that file system
	}
}

// An outcome is what mapping a Spec came to, without what differs each time.
type outcome struct {
	err      string
	len, cap int
	prot     mmap.Prot
	addr     uintptr // if it was said
	perms    procmaps.Perms
	flags    string // in the kernel's other table
}

// errorClasses are what outcomes tell apart.
var errorClasses = []error{os.ErrInvalid, os.ErrClosed, os.ErrPermission, os.ErrExist, errors.ErrUnsupported, unix.EOVERFLOW, unix.ENOMEM, unix.EAGAIN, unix.EPERM, unix.EACCES, unix.EOPNOTSUPP}

func errorClass(err error) (class string) {
	for _, c := range errorClasses {
		if errors.Is(err, c) {
			class += fmt.Sprintf("%v; ", c)
		}
	}
	return class
}

// specTest is the fixed part of FuzzSpecs.
type specTest struct {
	arena arena
	table *procmaps.Table
	files [specSources]*os.File
	name  string
}

// source returns the Spec of the source.
func (f *specTest) source(p *plan) mmap.Spec {
	switch size := int(p.size); p.source {
	case specAnonymous:
		return mmap.Anonymous(size)
	case specFD:
		return mmap.FD(int(f.files[specFD].Fd()), p.offset, size)
	case specFile, specReadOnly, specNil, specClosed:
		return mmap.File(f.files[p.source], p.offset, size)
	case specPath:
		return mmap.Path(f.name)
	case specSecret:
		return mmap.Secret(size)
	}
	return mmap.Spec{}
}

// outcome maps s, and closes it.
func (f *specTest) outcome(t *testing.T, s mmap.Spec, p *plan) (o outcome, failed error) {
	h, err := mmap.MapUnknown(s, p.prot)
	if err != nil {
		inert(t, h, mmap.ErrClosed)
		return outcome{err: errorClass(err)}, err
	}
	defer func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}()
	o = outcome{len: h.Len(), cap: h.Cap(), prot: h.Prot()}
	if p.fixed() {
		o.addr = h.Addr()
	}
	if p.align != nil && h.Cap() > 0 && h.Addr()%uintptr(*p.align) != 0 {
		t.Fatalf("%v is not aligned: %v", s, h)
	}
	if p.low && h.Cap() > 0 && uint64(h.Addr())+uint64(h.Cap()) > 1<<31 {
		t.Fatalf("%v is not low: %v", s, h)
	}
	if h.Len() == 0 {
		return o, nil
	}
	area, ok, err := f.table.At(uint64(h.Addr()))
	if err != nil || !ok {
		t.Fatalf("%v: nothing is mapped at %#x: %v", s, h.Addr(), err)
	}
	o.perms = area.Perms
	if p.isFile() && area.Offset+uint64(h.Addr())-area.Start != uint64(p.offset) {
		t.Fatalf("%v: the first byte is not at offset %d: %v", s, p.offset, area)
	}
	// The kernel tells in another table what else the pages are.
	var flags []string
	for _, flag := range vmFlags(t, h.Addr()) {
		if flag == "??" {
			flag = "lf" // which had no name of its own before Linux 6.2 or so
		}
		if flag == "lo" && p.source == specSecret {
			continue // it never leaves memory; not every kernel calls it locked
		}
		if slices.Contains([]string{"dp", "ht", "lf", "lo", "nr", "sf"}, flag) {
			flags = append(flags, flag)
		}
	}
	slices.Sort(flags)
	o.flags = strings.Join(flags, " ")
	return o, nil
}

// vmFlags returns the flags of the kernel's area around addr.
func vmFlags(t failer, addr uintptr) []string {
	file, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatalf("smaps: %v", err)
	}
	defer file.Close()
	inside := false
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line := lines.Text()
		if line[0] < 'A' || line[0] >= 'a' { // the others begin with a capital
			r, err := procmaps.Parse(line)
			inside = err == nil && r.Contains(uint64(addr))
		}
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && inside {
			return strings.Fields(flags)
		}
	}
	t.Fatalf("nothing is mapped at %#x", addr)
	return nil
}

// expected is the outcome of a plan that breaks no rule.
func (p *plan) expected() outcome {
	o := outcome{len: int(p.size), cap: int(p.capacity()), prot: p.prot}
	if p.fixed() {
		o.addr = uintptr(p.addr)
	}
	if p.size == 0 {
		return o
	}
	o.perms = procmaps.Perms(p.prot)
	if p.shared || p.source == specSecret {
		o.perms |= procmaps.Shared
	}
	var flags []string
	for _, flag := range []struct {
		name string
		has  bool
	}{
		{"dp", p.droppable},
		{"ht", p.huge != nil},
		{"lf", p.source != specSecret && p.huge == nil && p.lock != "" && (p.lock == "lf" || mmap.Probe("MADV_POPULATE_READ") == nil || p.prot&(mmap.ProtRead|mmap.ProtWrite) == 0)},
		{"lo", p.source != specSecret && p.lock != "" && p.huge == nil}, // huge pages stay anyway
		{"nr", p.noReserve || p.droppable || p.shared && p.anonymous() && p.huge == nil && pagesFor(0, int(p.capacity())) > pagesFor(0, int(p.size))},
	} {
		if flag.has {
			flags = append(flags, flag.name)
		}
	}
	o.flags = strings.Join(flags, " ")
	return o
}

// specArgs are the arguments of FuzzSpecs.
type specArgs struct {
	source, prot  uint8
	size, offset  int64
	steps         string // letters of specSteps; another byte stands for one of them
	addr, addr2   uint64 // 0, or within the arena
	align, align2 int64
	reserve, more int64
	huge, huge2   int64
	order         uint64 // in which the steps are repeated
	kept          uint8  // how many steps the Spec has that is kept
}

// FuzzSpecs chains the methods of a Spec. What comes out is what a table of the
// rules says, in whatever order independent methods are called; and a Spec that
// was kept maps the same before and after others were made of it.
func FuzzSpecs(f *testing.F) {
	page := int64(onePage)
	add := func(a specArgs) {
		f.Add(a.source, a.prot, a.size, a.offset, a.steps, a.addr, a.addr2, a.align, a.align2, a.reserve, a.more, a.huge, a.huge2, a.order, a.kept)
	}
	for source := range uint8(specSources) {
		add(specArgs{source: source, prot: 1, size: page})                                // no steps at all
		add(specArgs{source: source, prot: 3, size: page, steps: "s", kept: 0})           // the kept one is private
		add(specArgs{source: source, prot: 3, size: page, offset: 7, steps: "kfsu"})      // the last lock wins
		add(specArgs{source: source, prot: 3, size: page, steps: "fkps", order: 5})       // here the other one
		add(specArgs{source: source, prot: 3, size: page, steps: "y"})                    // not shared
		add(specArgs{source: source, prot: 3, size: page, steps: "ys"})                   // only on persistent memory
		add(specArgs{source: source, prot: 4, size: page, steps: "rs", reserve: 1 << 20}) // executable, with a reserve
	}
	plain := specArgs{source: specAnonymous, prot: 3, size: page, addr: 1 << 20, addr2: 1<<20 + 4*uint64(page),
		align: 4 * page, align2: 16 * page, reserve: 2 * page, more: 6 * page, huge2: 2 << 20, order: 9, kept: 1}
	for _, steps := range []string{
		"rR", "Rr", // the last capacity wins
		"lL", "Ll", // and the last alignment
		"hH", "Hh", // and the last size of huge pages
		"a", "o", "n", // each placement
		"an", "na", "aa", "nn", "oa", "aA", // two of them, even the same one twice
		"al", "lo", // an address that is a multiple
		"wa", "aw", "wn", "w", "wl", "wr", "wh", // low, and where else
		"d", "ds", "sd", "dk", "fd", "hd", "dr", "du", "dp", // droppable, and what that excludes
		"shr", "uhr", "khR", // huge pages with a reserve
		"sukrpcl",       // all that goes together
		"lLrRkfsupcnw",  // with repeats
		"s\x00\xffq~kz", // any byte stands for a step
	} {
		a := plain
		a.steps = steps
		add(a)
	}
	bad := func(change func(a *specArgs)) {
		a := plain
		change(&a)
		add(a)
	}
	bad(func(a *specArgs) { a.steps, a.reserve = "rR", 1 })                                    // a bad capacity is mended by a good one
	bad(func(a *specArgs) { a.steps, a.more = "rR", 1 })                                       // and the other way round
	bad(func(a *specArgs) { a.steps, a.align = "l", 48 })                                      // no power of two
	bad(func(a *specArgs) { a.steps, a.align = "lL", -8 })                                     // mended
	bad(func(a *specArgs) { a.steps, a.huge2 = "H", 3<<20 })                                   // no size of a huge page
	bad(func(a *specArgs) { a.steps, a.addr = "a", 0 })                                        // address 0
	bad(func(a *specArgs) { a.steps, a.addr = "a", 1<<20+1 })                                  // no page boundary
	bad(func(a *specArgs) { a.steps, a.source, a.offset, a.addr = "a", specFile, 9, 1<<20+9 }) // congruent with the file offset
	bad(func(a *specArgs) { a.steps, a.source, a.offset, a.align = "l", specFD, 8, 8 })        // an alignment that an offset allows
	bad(func(a *specArgs) { a.steps, a.size, a.reserve = "r", 0, 0 })                          // empty
	bad(func(a *specArgs) { a.steps, a.size = "sr", 0 })                                       // empty, with a capacity
	bad(func(a *specArgs) { a.steps, a.size = "r", -1 })                                       // negative
	bad(func(a *specArgs) { a.source, a.offset, a.size = specFile, math.MaxInt64, 1 })         // past the largest offset
	bad(func(a *specArgs) { a.steps, a.prot = "k", 8 })                                        // no such permission
	bad(func(a *specArgs) { a.steps, a.prot = "kr", 0 })                                       // locked, and nothing to fault in
	bad(func(a *specArgs) { a.steps, a.prot, a.source = "s", 2, specReadOnly })                // what the file does not allow

	if seeding() {
		random := rand.New(rand.NewPCG(5, 0))
		for range 200 {
			a := plain
			a.source, a.order, a.kept = uint8(1+random.IntN(specSecret)), random.Uint64(), uint8(random.Uint32())
			for range 2 + random.IntN(5) {
				step := specSteps[random.IntN(len(specSteps))]
				a.steps += step.letters[random.IntN(len(step.letters)):][:1]
			}
			add(a)
		}
	}

	dir := f.TempDir()
	fixed := &specTest{arena: newArena(f), name: filepath.Join(dir, "file")}
	contents := make([]byte, 12*onePage)
	if err := os.WriteFile(fixed.name, contents, 0o600); err != nil {
		f.Fatal(err)
	}
	open := func(file *os.File, err error) *os.File {
		if err != nil {
			f.Fatal(err)
		}
		f.Cleanup(func() { file.Close() })
		return file
	}
	file := open(mmap.Memfd("specs", int64(len(contents)), 0))
	fixed.files = [specSources]*os.File{specFile: file, specFD: file,
		specReadOnly: open(os.Open(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))), specClosed: open(os.Open(fixed.name))}
	fixed.files[specClosed].Close()
	var err error
	if fixed.table, err = procmaps.Open(0); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { fixed.table.Close() })
	strict, _ := os.ReadFile("/proc/sys/vm/overcommit_memory")

	f.Fuzz(func(t *testing.T, source, prot uint8, size, offset int64, steps string, addr, addr2 uint64, align, align2, reserve, more, huge, huge2 int64, order uint64, kept uint8) {
		p := plan{source: source % specSources, prot: mmap.Prot(prot), size: size, offset: offset}
		for _, n := range []int64{size, align, align2, reserve, more, huge, huge2} {
			if int64(int(n)) != n {
				t.Skip("wider than an int of this processor")
			}
		}
		if len(steps) > 16 {
			t.Skip("all is said twice by then")
		}
		if p.source == specPath {
			p.size, p.offset = int64(len(contents)), 0
		}
		if !p.isFile() {
			p.offset = 0
		}
		where := func(addr uint64) int64 {
			if addr == 0 {
				return 0
			}
			return int64(uint64(fixed.arena.Start) + addr%uint64(fixed.arena.End-fixed.arena.Start))
		}
		args := [2][4]int64{{where(addr), align, reserve, huge}, {where(addr2), align2, more, huge2}}
		most := max(p.size, reserve, more)
		step := func(s mmap.Spec, p *plan, b byte) (mmap.Spec, int) {
			for _, step := range specSteps {
				if i := strings.IndexByte(step.letters, b); i >= 0 {
					return step.do(s, p, args[i][max(0, min(step.group-1, 3))]), step.group
				}
			}
			panic(b)
		}
		// Nothing of this may eat the memory of the machine, or replace what is
		// beyond the arena.
		const letters = "snNaAoOlLrRhHpckfuwdy"
		keys := []byte(steps)
		for i, b := range keys {
			if strings.IndexByte(letters, b) < 0 {
				keys[i] = letters[int(b)%len(letters)]
			}
			switch b := keys[i]; {
			case most > 1<<20 && strings.IndexByte("pckf", b) >= 0,
				most > int64(arenaPages*onePage) && strings.IndexByte("oO", b) >= 0:
				keys[i] = 'u'
			}
		}
		onto := bytes.ContainsAny(keys, "oO")
		switch {
		case onto && bytes.ContainsAny(keys, "hH"):
			t.Skip("replaces more than the arena")
		case p.source == specSecret && most > 1<<20:
			t.Skip("secret memory is locked with its whole capacity")
		case sys.Race && most > 1<<40:
			t.Skip("it may reach the Go heap of a race build")
		}

		first := fixed.source(&p)
		last := p
		spec, keptSpec, keptPlan := first, first, last
		var before outcome
		var groups [12][]byte
		for i, b := range keys {
			if i == int(kept)%len(keys) {
				keptSpec, keptPlan = spec, last
				before, _ = fixed.outcome(t, keptSpec, &keptPlan)
			}
			var group int
			spec, group = step(spec, &last, b)
			groups[group] = append(groups[group], b)
		}
		if last.source == specSecret {
			last.lock = "" // it is locked already
		}
		got, failed := fixed.outcome(t, spec, &last)
		fixed.judge(t, spec, &last, got, failed, string(strict[:1]) == "2")

		if len(keys) == 0 {
			return
		}
		if after, _ := fixed.outcome(t, keptSpec, &keptPlan); after != before {
			t.Fatalf("%v, kept: was %+v, is %+v", keptSpec, before, after)
		}
		// The same in another order, which a group keeps to.
		random, other, ignored := rand.New(rand.NewPCG(order, 0)), first, p
		for range keys {
			i := random.IntN(len(groups))
			for len(groups[i]) == 0 {
				i = (i + 1) % len(groups)
			}
			other, _ = step(other, &ignored, groups[i][0])
			groups[i] = groups[i][1:]
		}
		if again, err := fixed.outcome(t, other, &last); again != got {
			t.Fatalf("%s of %v: %+v, %v; in another order %+v, %v", keys, first, got, failed, again, err)
		}
	})
}

// judge compares an outcome with the rules.
func (f *specTest) judge(t *testing.T, s mmap.Spec, p *plan, got outcome, err error, strict bool) {
	var broken []error
	for _, rule := range p.musts() {
		if rule.broken {
			broken = append(broken, rule.err)
		}
	}
	if err == nil {
		want := p.expected()
		if strict {
			want.flags, got.flags = strings.ReplaceAll(want.flags, "nr", ""), strings.ReplaceAll(got.flags, "nr", "")
		}
		if len(broken) > 0 || got != want {
			t.Fatalf("%v as %v: got\n%+v, want\n%+v, %v", s, p.prot, got, want, broken)
		}
		return
	}
	for _, rule := range p.mays() {
		if rule.broken {
			broken = append(broken, rule.err)
		}
	}
	for _, reason := range broken {
		if errors.Is(err, reason) {
			return
		}
	}
	t.Fatalf("%v as %v: %v, want %v", s, p.prot, err, broken)
}
