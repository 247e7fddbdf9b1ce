//go:build linux

package mmap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/mmarinus/mmap/internal/place"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// pools returns the sizes of the kernel's huge pages, and how many are free.
func pools(t testing.TB) map[int]int {
	t.Helper()
	dirs, err := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	check(t, err)
	free := map[int]int{}
	for _, dir := range dirs {
		var size, n, reserved int
		fmt.Sscanf(filepath.Base(dir), "hugepages-%dkB", &size)
		fmt.Sscan(content(dir+"/free_hugepages"), &n)
		fmt.Sscan(content(dir+"/resv_hugepages"), &reserved)
		free[size<<10] = n - reserved
	}
	return free
}

// Too many huge pages are an error with how many, how many there are, and where
// to have more; a size that the kernel does not have is another one.
func TestHugePageErrors(t *testing.T) {
	says := regexp.MustCompile(`: (\d+) huge pages are wanted and (\d+) are free; the size of the pool is in (/sys/\S+/nr_hugepages): `)
	for size := range pools(t) {
		n := max(1, 1<<30/size)
		if unsafe.Sizeof(n) == 8 {
			n = n<<10 + 1
		}
		bytes := n*size - size + 1 // a part of a page is a page
		before := pools(t)[size]
		if before >= n {
			continue // a machine that has so many
		}
		for name, s := range map[string]Spec{
			"private": Anonymous(bytes), "shared": Anonymous(bytes).Shared(), "populated": Anonymous(bytes).Populate(), "aligned": Anonymous(bytes).Align(1), "locked": Anonymous(bytes).Lock(),
		} {
			_, err := Map[ReadWrite](s.HugePages(size))
			wants(t, name, err, unix.ENOMEM)
			text := fmt.Sprint(err)
			got := says.FindStringSubmatch(text)
			if got == nil || got[1] != strconv.Itoa(n) || got[3] != fmt.Sprintf("/sys/kernel/mm/hugepages/hugepages-%dkB/nr_hugepages", size>>10) {
				t.Errorf("%s, %d huge pages of %d bytes: %v", name, n, size, err)
			} else if pools(t)[size] == before && got[2] != strconv.Itoa(before) {
				t.Errorf("%d are free: %v", before, err)
			} else if content(got[3]) == "" {
				t.Errorf("%s has nothing", got[3])
			}
		}
		m := mapped[Read](t, Anonymous(n*size).NoReserve().Align(size))
		was := table(t, m)
		_, err := Over[Read](m, Anonymous(n*size).HugePages(size))
		if explained(t, "over", err, unix.ENOMEM, "/nr_hugepages"); table(t, m) != was {
			t.Errorf("over has failed, and left %s", table(t, m))
		}
		u := must(Forget(m))
		explained(t, "place", u.Place(0, Anonymous(n*size).HugePages(size), ProtRead), unix.ENOMEM, "/nr_hugepages")
		if table(t, u) != was {
			t.Errorf("place has failed, and left %s", table(t, u))
		}
		check(t, u.Close())
	}
	for bits := range unsafe.Sizeof(0)*8 - 1 {
		size := 1 << bits
		if _, ok := pools(t)[size]; ok {
			continue
		}
		_, err := Map[Read](Anonymous(1).HugePages(size))
		_, errFile := MemfdHuge("none", 1, 0, size)
		for name, err := range map[string]error{"map": err, "memfd": errFile} {
			if size <= int(pageSize) {
				wants(t, name+" in pages that are not huge", err, os.ErrInvalid)
			} else {
				wants(t, name+" in pages that there are none of", err, errors.ErrUnsupported)
			}
			if !strings.Contains(fmt.Sprint(err), fmt.Sprint(size)) {
				t.Errorf("%v does not say which, %d", err, size)
			}
		}
	}
}

// Huge pages of each size of which there are some: the length is the one asked
// for, the pages are as large as asked for, wherever they are.
func TestHugePageSizes(t *testing.T) {
	withHugePages(t, 4)
	for size, free := range pools(t) {
		if free < 1 {
			t.Logf("not tested: huge pages of %d bytes: the pool is empty", size)
			continue
		}
		for name, s := range map[string]Spec{
			"private": Anonymous(100), "shared": Anonymous(100).Shared(), "reserve": Anonymous(100).Reserve(size + 5), "no-reserve": Anonymous(100).NoReserve(),
			"populated": Anonymous(100).Populate(), "locked": Anonymous(100).Lock(), "less aligned": Anonymous(100).Align(int(pageSize)), "more aligned": Anonymous(100).Align(2 * size),
			"whole": Anonymous(size), "low": Anonymous(100).Low(), "low reserve": Anonymous(100).Low().Reserve(size + 5), "low aligned": Anonymous(100).Low().Align(2 * size),
			"low shared": Anonymous(100).Low().Shared(),
		} {
			m, err := Map[ReadWrite](s.HugePages(size))
			if s.low && errors.Is(err, errors.ErrUnsupported) {
				continue // TestLow says where
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if m.Len() != s.size || m.Addr()%uintptr(size) != 0 || s.low && uint64(m.Addr()) >= 1<<31 || s.aligned && m.Addr()%s.wish.Align != 0 {
				t.Errorf("%s: %v in huge pages of %d", name, m, size)
			}
			if r := must(m.Regions()); r[0].Size() != uint64(size) {
				t.Errorf("%s: %v", name, r)
			}
			flagged(t, name, m, "ht", "")
			if got := kilobytes(smapsOf(t, m.Addr())["KernelPageSize"]); got != uint64(size) {
				t.Errorf("%s: pages of %d bytes, not %d", name, got, size)
			}
			if in := inTable(t, m)[0]; in != (s.wish.Populate || s.wish.Lock != place.Unlocked) {
				t.Errorf("%s: there from the start: %v", name, in)
			}
			check(t, second(m.WriteAt([]byte{1}, int64(m.Len()-1))))
			check(t, m.Close())
		}
		if free > 256 {
			continue // somebody uses them
		}
		// What is promised to a mapping that has not touched it is not free.
		promised := mapped[Read](t, Anonymous(1).HugePages(size))
		_, err := Map[Read](Anonymous(free * size).HugePages(size))
		explained(t, "one too many", err, unix.ENOMEM, fmt.Sprintf("%d huge pages are wanted and %d are free", free, free-1))
		check(t, promised.Close())
	}
}

// Without a reservation the pool can run out: a fault, and the program goes on.
func TestHugePagesRunOut(t *testing.T) {
	size := int(withHugePages(t, 2))
	m := mapped[ReadWrite](t, Anonymous(4*size).HugePages(0).NoReserve())
	flagged(t, "no-reserve", m, "ht nr", "")
	n := 0
	var err error
	for ; err == nil && n < 4; n++ {
		err = second(m.WriteAt([]byte{byte(n + 1)}, int64(n*size)))
	}
	var fault *FaultError
	if !errors.As(err, &fault) || fault.Offset != 2*size || errors.Is(err, ErrTruncated) || errors.Is(err, ErrPermission) {
		t.Errorf("page %d: %v", n, err)
	}
	if err := m.Prefault(0, 4*size); !errors.As(err, &fault) || fault.Offset != 2*size {
		t.Error("prefault: ", err)
	}
	b := make([]byte, 1)
	if check(t, second(m.ReadAt(b, int64(size)))); b[0] != 2 {
		t.Error("the page before has ", b)
	}
	// What is closed goes back to the pool.
	check(t, m.Close())
	if free := pools(t)[size]; free != 2 {
		t.Errorf("%d huge pages are free again", free)
	}
}

// A hugeModel is an Unknown with small and with huge pages in it.
type hugeModel struct {
	u     Unknown
	slot  int // the size of a huge page
	at    [2]uintptr
	pages []hugeModelPage // of the small size
}

type hugeModelPage struct {
	prot   Prot
	huge   bool
	locked bool
	tag    byte // its first byte
}

// TestHugeOperations runs random sequences of operations on a mapping with pages of
// two sizes: each operation goes by the size of the pages that it is asked for.
func TestHugeOperations(t *testing.T) {
	if !alone(t) {
		return
	}
	const slots = 4
	size := withHugePages(t, 2*slots+1)
	canLock(t, slots*int(size))
	m := &hugeModel{slot: int(size)}
	m.at[0], _ = round(nowhere(t, (2*slots+1)*int(size/pageSize)), size)
	m.at[1] = m.at[0] + slots*size
	before := counted(t, "VmLck")
	rapid.Check(t, func(t *rapid.T) {
		m.pages = make([]hugeModelPage, slots*size/pageSize)
		for i := range m.pages {
			m.pages[i].prot = ProtRead | ProtWrite
		}
		u, err := MapUnknown(Anonymous(slots*int(size)).At(m.at[0]), ProtRead|ProtWrite)
		if err != nil {
			t.Fatal(err)
		}
		m.u = u
		defer func() {
			if err := m.u.Close(); err != nil {
				t.Error(err)
			}
		}()
		t.Repeat(map[string]func(*rapid.T){
			"":           func(t *rapid.T) { m.check(t, before) },
			"place":      m.place,
			"place more": m.place,
			"over":       m.over,
			"protect":    m.protect,
			"write":      m.write,
			"lock":       m.lock,
			"unlock":     m.unlock,
			"resident":   m.resident,
			"discard":    m.discard,
			"split":      m.split,
			"move":       m.move,
		})
	})
}

// check compares the pages with the kernel's table, and their contents.
func (m *hugeModel) check(t *rapid.T, before uint64) {
	at, locked := m.u.Addr(), uint64(0)
	err := survey(at, at+uintptr(m.u.Len()), func(a area) bool {
		for ; at < a.End; at += pageSize {
			p := m.pages[(at-m.u.Addr())/pageSize]
			if at < a.Start || p.prot != Prot(a.Prot) || p.huge != (a.PageSize > pageSize) && Probe("MAP_DROPPABLE") == nil { // as old as the query
				t.Fatalf("page %#x: %v, and %+v", at, a, p)
			}
		}
		return true
	})
	if err != nil || at != m.u.Addr()+uintptr(m.u.Len()) {
		t.Fatalf("the table ends at %#x: %v", at, err)
	}
	for i, p := range m.pages {
		if p.locked {
			locked += uint64(pageSize)
		}
		var got [1]byte
		if p.tag == 0 || p.prot&ProtRead == 0 {
			continue
		}
		if _, err := m.u.ReadAt(got[:], int64(i)*int64(pageSize)); err != nil || got[0] != p.tag {
			t.Fatalf("page %d has %d, want %d: %v", i, got[0], p.tag, err)
		}
	}
	if is := number("/proc/self/status", "VmLck:")<<10 - before; is != locked {
		t.Fatalf("%d bytes are locked, want %d", is, locked)
	}
}

// draw draws a range of the mapping, mostly of whole small pages.
func (m *hugeModel) draw(t *rapid.T) (off, n int) {
	place := func(name string) int {
		pg := int(pageSize)
		odd := rapid.SampledFrom([]int{0, 0, 0, pg, m.slot / 2, m.slot - pg, 1}).Draw(t, name+" in it")
		return min(rapid.IntRange(0, len(m.pages)*pg/m.slot).Draw(t, name)*m.slot+odd, m.u.Len())
	}
	off, end := place("start"), place("end")
	if end < off {
		off, end = end, off
	}
	return off, end - off
}

// boundary reports whether a page begins at off, or the mapping ends there.
func (m *hugeModel) boundary(off int) bool {
	return off == m.u.Len() || off%int(pageSize) == 0 && (!m.pages[off/int(pageSize)].huge || m.lead(off) == 0)
}

// lead returns how far past a multiple of a huge page's size off is in memory.
func (m *hugeModel) lead(off int) int { return int((m.u.Addr() + uintptr(off)) % uintptr(m.slot)) }

// within returns the pages that hold n bytes at off, and where they begin.
func (m *hugeModel) within(off, n int) ([]hugeModelPage, int) {
	if n == 0 {
		return nil, 0
	}
	pg := int(pageSize)
	first, last := off/pg, (off+n-1)/pg
	if m.pages[first].huge {
		first -= m.lead(first*pg) / pg
	}
	if m.pages[last].huge {
		last += (m.slot-m.lead(last*pg))/pg - 1
	}
	return m.pages[first : last+1], first * int(pageSize)
}

// outcome fails unless an operation fails as it must, or not at all, and reports that.
func (m *hugeModel) outcome(t *rapid.T, err error, reasons ...error) bool {
	t.Helper()
	must := false
	for _, reason := range reasons {
		must = must || reason != nil
		if reason != nil && errors.Is(err, reason) {
			return false
		}
	}
	if must || err != nil {
		t.Fatalf("got %v, want %v", err, reasons)
	}
	return true
}

// unless returns err where ok is false.
func unless(ok bool, err error) error {
	if ok {
		return nil
	}
	return err
}

func drawAccess(t *rapid.T) Prot {
	return rapid.SampledFrom([]Prot{ProtNone, ProtRead, ProtRead | ProtWrite, ProtRead | ProtWrite}).Draw(t, "prot")
}

func (m *hugeModel) place(t *rapid.T) {
	off, n := m.draw(t)
	huge, p := rapid.Bool().Draw(t, "huge"), drawAccess(t)
	spec := Anonymous(n)
	fits := m.boundary(off) && m.boundary(off+n)
	if huge {
		spec, fits = spec.HugePages(0), fits && off%m.slot == 0 && (off+n)%m.slot == 0
	}
	if !m.outcome(t, m.u.Place(off, spec, p), unless(fits || n == 0, os.ErrInvalid)) {
		return
	}
	for i := off / int(pageSize); i < (off+n)/int(pageSize); i++ {
		m.pages[i] = hugeModelPage{prot: p, huge: huge}
	}
}

func (m *hugeModel) over(t *rapid.T) {
	spec, huge := Anonymous(m.u.Len()), rapid.Bool().Draw(t, "huge")
	if huge {
		spec = spec.HugePages(0)
	}
	next, err := Over[ReadWrite](m.u, spec)
	m.outcome(t, err)
	if m.u, err = Forget(next); err != nil {
		t.Fatal(err)
	}
	for i := range m.pages {
		m.pages[i] = hugeModelPage{prot: ProtRead | ProtWrite, huge: huge}
	}
}

func (m *hugeModel) protect(t *rapid.T) {
	off, n := m.draw(t)
	p := drawAccess(t)
	if m.outcome(t, m.u.ProtectRange(off, n, p), unless(n == 0 || m.boundary(off) && m.boundary(off+n), os.ErrInvalid)) {
		pages, _ := m.within(off, n)
		for i := range pages {
			pages[i].prot = p
		}
	}
}

func (m *hugeModel) write(t *rapid.T) {
	i := rapid.IntRange(0, len(m.pages)-1).Draw(t, "page")
	tag := byte(rapid.IntRange(1, 255).Draw(t, "tag"))
	_, err := m.u.WriteAt([]byte{tag}, int64(i)*int64(pageSize))
	if m.outcome(t, err, unless(m.pages[i].prot&ProtWrite != 0, ErrPermission)) {
		m.pages[i].tag = tag
	}
}

func (m *hugeModel) lock(t *rapid.T) {
	off, n := m.draw(t)
	pages, _ := m.within(off, n)
	onFault := rapid.Bool().Draw(t, "on fault")
	usable := true
	for _, p := range pages {
		usable = usable && p.prot != ProtNone
	}
	lock := m.u.Lock
	if onFault {
		lock = m.u.LockOnFault
	}
	if m.outcome(t, lock(off, n), unless(usable || onFault, ErrPermission)) {
		for i := range pages {
			pages[i].locked = !pages[i].huge // which the kernel does not lock
		}
	}
}

func (m *hugeModel) unlock(t *rapid.T) {
	off, n := m.draw(t)
	pages, _ := m.within(off, n)
	if m.outcome(t, m.u.Unlock(off, n)) {
		for i := range pages {
			pages[i].locked = false
		}
	}
}

func (m *hugeModel) resident(t *rapid.T) {
	off, n := m.draw(t)
	pages, start := m.within(off, n)
	in, err := m.u.ResidentPages(off, n)
	if err != nil || len(in) != len(pages) {
		t.Fatalf("%d bytes at %d: %d pages, %v, want %d", n, off, len(in), err, len(pages))
	}
	for i, p := range pages {
		if p.tag != 0 && !in[i] {
			t.Fatalf("page %d has been written and is not there", start/int(pageSize)+i)
		}
	}
}

func (m *hugeModel) discard(t *rapid.T) {
	off, n := m.draw(t)
	pages, _ := m.within(off, n)
	writable := true
	for _, p := range pages {
		if writable = writable && p.prot&ProtWrite != 0; p.locked {
			return // refused after the pages before them
		}
	}
	fits := n == 0 || m.boundary(off) && m.boundary(off+n)
	if m.outcome(t, m.u.Discard(off, n), unless(fits, os.ErrInvalid), unless(writable, ErrPermission)) {
		for i := range pages {
			pages[i].tag = 0
		}
	}
}

// split splits it, looks at the parts, and joins them again.
func (m *hugeModel) split(t *rapid.T) {
	off, _ := m.draw(t)
	fits := m.boundary(off)
	left, right, err := Split(m.u, off)
	if !m.outcome(t, err, unless(fits, os.ErrInvalid)) {
		return
	}
	whole := m.u
	defer func() {
		if m.u, err = Join(right, left); err != nil {
			m.u = whole
			t.Fatal(err)
		}
	}()
	all := m.pages
	rest := all
	for _, part := range []Unknown{left, right} {
		n := part.Len() / int(pageSize)
		if m.u, m.pages = part, rest[:n]; n > 0 {
			m.protect(t)
			m.resident(t)
		}
		rest = rest[n:]
	}
	m.pages = all
}

func (m *hugeModel) move(t *rapid.T) {
	to := m.at[0]
	if m.u.Addr() == to {
		to = m.at[1]
	}
	next, err := Move(m.u, to)
	m.outcome(t, err)
	m.u = next
}

// A huge page makes no other page huge.
func TestHugePageAmongSmall(t *testing.T) {
	huge := int(withHugePages(t, 1))
	pg := int(pageSize)
	space := nowhere(t, 4*huge/pg)
	at := (space + uintptr(huge) - 1) &^ uintptr(huge-1)
	u, err := MapUnknown(Anonymous(3*huge).At(at), ProtRead|ProtWrite)
	check(t, err)
	check(t, u.Place(huge, Anonymous(huge).HugePages(0), ProtRead|ProtWrite))
	check(t, u.ProtectRange(pg, pg, ProtRead))
	check(t, u.ProtectRange(2*huge+pg, pg, ProtRead))
	wants(t, "within the huge page", u.ProtectRange(huge+pg, pg, ProtRead), os.ErrInvalid)
	locks := counted(t, "VmLck")
	check(t, u.Lock(0, pg))
	if n := counted(t, "VmLck") - locks; n != uint64(pg) {
		t.Errorf("%d bytes are locked for a page", n)
	}
	if pages, err := u.ResidentPages(0, pg); err != nil || len(pages) != 1 {
		t.Errorf("%d pages, %v", len(pages), err)
	}
	if pages, err := u.ResidentPages(huge+1, 1); err != nil || len(pages) != huge/pg {
		t.Errorf("a huge page is %d pages, %v", len(pages), err)
	}
	left, right, err := Split(u, 2*huge)
	check(t, err)
	check(t, right.Lock(pg, 1))
	if n := counted(t, "VmLck") - locks; n != uint64(2*pg) {
		t.Errorf("%d bytes are locked for two pages", n)
	}
	middle, last, err := Split(right, pg)
	check(t, err)
	defer last.Close()
	wants(t, "split within the huge page", third(Split(left, huge+pg)), os.ErrInvalid)
	if u, err = Join(left, middle); err != nil || u.Len() != 2*huge+pg { //mmapvet:ignore moved the Split before it fails
		t.Error(u, err)
	}
	check(t, u.ProtectRange(2*huge, pg, ProtNone))
	check(t, u.Place(huge, Anonymous(huge), ProtRead)) // small ones again
	check(t, u.ProtectRange(huge+pg, pg, ProtNone))
	check(t, u.Close())
	m := mapped[ReadWrite](t, Anonymous(huge).HugePages(0))
	small, err := Over[ReadWrite](m, Anonymous(huge))
	check(t, err)
	if pages, err := small.ResidentPages(0, pg); err != nil || len(pages) != 1 {
		t.Errorf("after Over %d pages, %v", len(pages), err)
	}
	check(t, small.Close())
}

// Huge pages that have grown, were advised or protected in parts are several areas
// for good, and move all the same.
func TestMoveHugeAreas(t *testing.T) {
	huge := int(withHugePages(t, 3))
	pg := int(pageSize)
	at := (nowhere(t, 9*huge/pg) + uintptr(huge) - 1) &^ uintptr(huge-1)
	for what, areas := range map[string]func(u Unknown) error{
		"advised": func(u Unknown) error { return u.Advise(huge, huge, AdviceDontFork) },
		"protected": func(u Unknown) error {
			return errors.Join(u.ProtectRange(huge, huge, ProtRead), u.Protect(ProtRead|ProtWrite))
		},
	} {
		u := must(MapUnknown(Anonymous(3*huge).HugePages(0).At(at), ProtRead|ProtWrite))
		check(t, areas(u))
		movesWhole(t, what, u, at, huge)
	}
	m := mapped[ReadWrite](t, Anonymous(huge).HugePages(0).Reserve(3*huge).At(at))
	check(t, Grow(m, 2*huge))
	check(t, Grow(m, 3*huge))
	movesWhole(t, "grown", must(Forget(m)), at, huge)
}

func movesWhole(t *testing.T, what string, u Unknown, from uintptr, huge int) {
	t.Helper()
	for i := range 3 {
		check(t, second(u.WriteAt([]byte{byte(i + 1)}, int64(i*huge+5))))
	}
	u, err := Move(u, from+uintptr(4*huge))
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
	unmapped(t, what, from, 3*huge/int(pageSize))
	for i := range 3 {
		b := []byte{0}
		if _, err := u.ReadAt(b, int64(i*huge+5)); err != nil || b[0] != byte(i+1) {
			t.Errorf("%s: part %d has %d, %v", what, i, b[0], err)
		}
	}
	check(t, u.Close())
}

func third[A, B any](_ A, _ B, err error) error { return err }

// A part of a huge page can be neither protected, cut off, nor replaced.
func TestLandscapeHugeParts(t *testing.T) {
	huge, pg := int(withHugePages(t, 2)), int(pageSize)
	u, err := MapUnknown(Anonymous(2*huge).HugePages(0), ProtRead|ProtWrite)
	check(t, err)
	defer func() { u.Close() }()
	before := table(t, u)
	for what, err := range map[string]error{
		"protect": u.ProtectRange(0, pg, ProtRead), "place": u.Place(0, Anonymous(pg), ProtRead), "discard": u.Discard(pg, huge-pg),
		"split": second(0, func() error { _, _, err := Split(u, pg); return err }()),
	} {
		wants(t, what, err, os.ErrInvalid, unix.EINVAL)
	}
	if is := table(t, u); is != before {
		t.Errorf("was\n%s\nis\n%s", before, is)
	}
	check(t, u.ProtectRange(0, huge, ProtRead))
	u, err = Resize(u, huge+1) // rounds up
	if check(t, err); !isMapped(t, u.Addr()+uintptr(2*huge)-1) {
		t.Error("a part of the huge page is gone")
	}
}
