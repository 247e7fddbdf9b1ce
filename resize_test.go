//go:build linux

package mmap

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/internal/testkit"
	"golang.org/x/sys/unix"
)

// patchwork maps 8 pages that the kernel has as many areas for, with different
// contents, at an address with free space of as many pages before and behind.
func patchwork(t testing.TB) Unknown {
	t.Helper()
	pg := int(pageSize)
	f, _ := scratch(t, 8*pg)
	u, err := MapUnknown(Anonymous(8*pg).At(spot(t, 24)+8*pageSize), ProtRead|ProtWrite)
	check(t, err)
	t.Cleanup(func() { u.Close() })
	check(t, u.Place(3*pg, File(f, int64(pg), pg).Shared(), ProtRead))
	check(t, u.Place(4*pg, File(f, int64(5*pg), 2*pg), ProtRead|ProtWrite))
	for i := range 8 {
		if i != 3 && i != 5 { // of the file's pages one stays clean
			check(t, second(u.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, pg), int64(i*pg))))
		}
	}
	check(t, u.ProtectRange(0, pg, ProtRead|ProtWrite|ProtExec))
	check(t, u.LockOnFault(pg, pg))
	check(t, u.ProtectRange(2*pg, pg, ProtNone))
	check(t, u.Advise(5*pg, pg, AdviceSequential))
	check(t, u.Advise(6*pg, pg, AdviceDontDump))
	check(t, u.Advise(7*pg, pg, AdviceDontFork))
	if n := len(must(u.Regions())); n != 8 {
		t.Fatalf("%d areas:\n%s", n, table(t, u))
	}
	return u
}

// Move takes everything with it, and leaves nothing behind.
func TestMove(t *testing.T) {
	pg := int(pageSize)
	f, _ := scratch(t, 8*pg)
	fd, err := Memfd("move", int64(8*pg), 0)
	check(t, err)
	defer fd.Close()
	for name, s := range map[string]Spec{
		"anonymous": Anonymous(3*pg - 5), "shared": Anonymous(3 * pg).Shared(), "reserve": Anonymous(pg + 1).Reserve(4 * pg),
		"empty": Anonymous(0), "empty with a reserve": Anonymous(0).Reserve(4 * pg), "file": File(f, int64(pg), 2*pg).Shared(),
		"odd offset": File(f, int64(pg)+7, 2*pg), "odd offset with a reserve": File(f, 7, pg).Reserve(4 * pg).Shared(),
		"memfd": File(fd, 0, 8*pg).Shared(), "secret": Secret(2 * pg), "secret with a reserve": Secret(pg).Reserve(3 * pg),
		"droppable": Anonymous(2 * pg).Droppable(), "locked": Anonymous(pg).Lock().Reserve(2 * pg), "not reserved": Anonymous(pg).NoReserve(),
	} {
		lead := uintptr(s.offset) % pageSize
		at := spot(t, 8) + lead
		m, err := Map[ReadWrite](s.At(at))
		if name == "droppable" && Probe("MAP_DROPPABLE") != nil || strings.HasPrefix(name, "secret") && Probe("memfd_secret") != nil {
			continue
		}
		check(t, err)
		length, capacity := m.Len(), m.Cap()
		if _, err := m.WriteAt(bytes.Repeat([]byte{0x5a}, length), 0); length > 0 {
			check(t, err)
		}
		was, layout := pictureOf(t, m), len(must(m.Regions()))
		to := spot(t, 16) + 8*pageSize + lead
		next, err := Move(m, to)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			m.Close()
			continue
		}
		if next.Addr() != to || next.Len() != length || next.Cap() != capacity || next.Prot() != ProtRead|ProtWrite {
			t.Errorf("%s: %v of %d is %v of %d", name, to, capacity, next, next.Cap())
		}
		unmapped(t, name, page(at), 8)
		samePicture(t, name, was, pictureOf(t, next))
		if n := len(must(next.Regions())); n != layout {
			t.Errorf("%s: %d areas, not %d", name, n, layout)
		}
		_, err = Move(m, at)
		wants(t, name+": the old handle", err, ErrMoved)
		// The reserve has come along.
		if check(t, Grow(next, capacity)); capacity > length {
			check(t, second(next.WriteAt([]byte{1}, int64(capacity)-1)))
		}
		check(t, next.Close())
		unmapped(t, name+", closed", page(to), 8)
	}
}

// A Move that cannot be changes nothing at all.
func TestMoveRefused(t *testing.T) {
	pg := int(pageSize)
	f, _ := scratch(t, 4*pg)
	free := spot(t, 40)
	const wall = math.MaxUint - math.MaxUint>>1 // no process has memory here, or it is the kernel's; not on s390x
	first, last := mapped[None](t, Anonymous(pg).At(free)), mapped[None](t, Anonymous(pg).At(free+30*pageSize))
	for name, s := range map[string]Spec{
		"anonymous": Anonymous(4 * pg), "reserve": Anonymous(pg).Reserve(4 * pg), "odd offset": File(f, 7, 3*pg+5).Shared(), "empty": Anonymous(0),
	} {
		lead := uintptr(s.offset)
		at := free + 10*pageSize + lead
		m := mapped[ReadWrite](t, s.At(at))
		cases := map[string]struct {
			to   uintptr
			want []error
		}{
			"0": {0, []error{os.ErrInvalid, unix.EINVAL}}, "1 past": {at + 16*pageSize + 1, []error{os.ErrInvalid}},
			"1 before": {at + 16*pageSize - 1, []error{os.ErrInvalid}}, "the first page": {lead, []error{os.ErrInvalid}},
			"the last byte": {math.MaxUint, []error{os.ErrInvalid}},
		}
		if name != "empty" {
			for name, to := range map[string]uintptr{
				"itself": at, "its tail": at + pageSize, "its head": at - pageSize, "its last page": at + 3*pageSize,
				"a neighbour's place": first.Addr() + lead, "the last page is taken": last.Addr() - 3*pageSize + lead,
			} {
				cases[name] = struct {
					to   uintptr
					want []error
				}{to, []error{unix.EEXIST, os.ErrExist}}
			}
			cases["the end of the address space"] = struct {
				to   uintptr
				want []error
			}{-pageSize + lead, []error{unix.ENOMEM}}
			if math.MaxUint > 1<<32 && runtime.GOARCH != "s390x" { // where it is all the process's
				cases["half of the address space"] = struct {
					to   uintptr
					want []error
				}{wall + lead, []error{unix.ENOMEM}}
			}
		}
		if sys.Race {
			window := uint64(raceStart)
			cases["the window of the race detector"] = struct {
				to   uintptr
				want []error
			}{uintptr(window) + 2*pageSize + lead, []error{os.ErrInvalid}}
			cases["the window's edge"] = struct {
				to   uintptr
				want []error
			}{uintptr(window) - pageSize + lead, []error{os.ErrInvalid}}
			if name == "empty" {
				delete(cases, "the window's edge")
			}
		}
		around := fmt.Sprint(must(regionsOf(free, free+40*pageSize)))
		for what, c := range cases {
			next, err := Move(m, c.to)
			wants(t, name+" to "+what, err, c.want...)
			if err != nil && !strings.HasPrefix(err.Error(), fmt.Sprintf("mmap: move to %#x: ", c.to)) {
				t.Errorf("%s to %s: %v", name, what, err)
			}
			if next != m || m.Addr() != at || m.Len() != s.size {
				t.Fatalf("%s to %s: %v is now %v", name, what, m, next)
			}
			if is := fmt.Sprint(must(regionsOf(free, free+40*pageSize))); is != around {
				t.Errorf("%s to %s: was\n%s\nis\n%s", name, what, around, is)
			}
		}
		pin := must(m.Pin())
		_, err := Move(m, at+16*pageSize)
		wants(t, name+", pinned", err, ErrBusy)
		pin.Unpin()
		check(t, m.View(func([]byte) error {
			_, err := Move(m, at+16*pageSize)
			wants(t, name+", viewed", err, ErrBusy)
			return nil
		}))
		check(t, m.Close())
		_, err = Move(m, at)
		wants(t, name+", closed", err, ErrClosed)
	}
	_, err := Move(ReadWrite{}, free)
	wants(t, "zero", err, ErrClosed)
}

// Mappings of several kernel areas move and grow as one.
func TestRemapAreas(t *testing.T) {
	pg := int(pageSize)
	for name, c := range map[string]struct {
		use    func(u Unknown, from uintptr) (Unknown, error)
		pages  int
		stays  bool
		behind bool
	}{
		"move":             {use: func(u Unknown, at uintptr) (Unknown, error) { return Move(u, at+12*pageSize) }, pages: 8},
		"move down":        {use: func(u Unknown, at uintptr) (Unknown, error) { return Move(u, at-8*pageSize) }, pages: 8},
		"grow":             {use: func(u Unknown, _ uintptr) (Unknown, error) { return Resize(u, 11*pg+1) }, pages: 12},
		"grow elsewhere":   {use: func(u Unknown, _ uintptr) (Unknown, error) { return Resize(u, 20*pg) }, pages: 20, behind: true},
		"grow by a byte":   {use: func(u Unknown, _ uintptr) (Unknown, error) { return Resize(u, 8*pg+1) }, pages: 9, behind: true},
		"same size":        {use: func(u Unknown, _ uintptr) (Unknown, error) { return Resize(u, 8*pg) }, pages: 8, stays: true, behind: true},
		"shrink":           {use: func(u Unknown, _ uintptr) (Unknown, error) { return Resize(u, 4*pg+1) }, pages: 5, stays: true},
		"shrink to a byte": {use: func(u Unknown, _ uintptr) (Unknown, error) { return Resize(u, 1) }, pages: 1, stays: true},
	} {
		u := patchwork(t)
		from := u.Addr()
		if c.behind {
			mapped[Read](t, Anonymous(pg).At(from+8*pageSize))
		}
		was := pictureOf(t, u)
		next, err := c.use(u, from)
		check(t, err)
		defer next.Close()
		is := pictureOf(t, next)
		if len(is) != c.pages || c.stays && next.Addr() != from {
			t.Errorf("%s: from %#x to %v, %d pages", name, from, next, len(is))
		}
		samePicture(t, name, was[:min(8, c.pages)], is)
		for i := 8; i < c.pages; i++ { // new pages are as the last, and zeros
			if is[i] != is[8] || is[8][:4] != was[7][:4] || is[i] == was[7] {
				t.Errorf("%s: new page %d is %q, the last one was %q", name, i, is[i], was[7])
			}
		}
		if next.Addr() != from {
			unmapped(t, name, from, 8)
		} else if c.stays {
			unmapped(t, name, from+uintptr(c.pages)*pageSize, max(0, 8-c.pages))
		}
		_, err = Resize(u, 1)
		wants(t, name+": the old handle", err, ErrMoved)
		// The account of permissions has come along.
		if n, err := next.ReadAt(make([]byte, 4*pg), 0); n != min(2*pg, next.Len()) {
			t.Errorf("%s: read %d, %v", name, n, err)
		}
		if c.pages > 4 {
			if n, _ := next.WriteAt(make([]byte, pg), int64(3*pg)); n != 0 {
				t.Errorf("%s: wrote %d bytes where that is forbidden", name, n)
			}
		}
	}
	// With a reserve, and of a known type: what is in the middle has become
	// areas of its own by a lock and an advice.
	for _, size := range []int{4 * pg, 6 * pg, 30 * pg} {
		m := mapped[ReadWrite](t, Anonymous(4*pg).Reserve(8*pg).At(spot(t, 16)))
		check(t, second(m.WriteAt(bytes.Repeat([]byte{9}, 4*pg), 0)))
		check(t, m.Lock(pg, 1))
		check(t, m.Advise(2*pg, 1, AdviceDontFork))
		was, from := pictureOf(t, m), m.Addr()
		m, err := Resize(m, size)
		check(t, err)
		samePicture(t, "with a reserve", was, pictureOf(t, m))
		if unmapped(t, "the reserve", from+uintptr(size), max(0, 8-size/pg)); m.Cap() != size {
			t.Error("the reserve is still there:", m.Cap())
		}
		if size > 8*pg {
			unmapped(t, "the old place", from, 8)
		}
		check(t, m.Close())
	}
}

// attempts are changes of a patchwork that a failure must undo.
func attempts(u Unknown, more int) map[string]error {
	_, move := Move(u, u.Addr()+12*pageSize)
	_, resize := Resize(u, more)
	return map[string]error{"move": move, "resize": resize}
}

// steady fails unless f, called often, leaves the address space as large as it
// was: each call that kept its 64 MiB would show.
func steady(t testing.TB, what string, f func()) {
	t.Helper()
	size := func() (pages uint64) {
		text, err := os.ReadFile("/proc/self/statm")
		check(t, err)
		fmt.Sscan(string(text), &pages)
		return pages * uint64(pageSize)
	}
	f()
	before := size()
	for range 20 {
		f()
	}
	if after := size(); after > before+10*64<<20 {
		t.Errorf("%s: address space has grown from %d to %d bytes", what, before, after)
	}
}

// One area that cannot go, wherever it is: everything is back where it was.
func TestRemapFailure(t *testing.T) {
	testkit.Needs(t, "mseal")
	if !byItself(t) {
		return
	}
	for stuck := range 8 {
		u := patchwork(t)
		at := u.Addr()
		wall := mapped[Read](t, Anonymous(1).At(at+8*pageSize))
		check(t, sys.Mseal(at+uintptr(stuck)*pageSize, pageSize))
		was, around := pictureOf(t, u), fmt.Sprint(must(regionsOf(at-8*pageSize, at+16*pageSize)))
		steady(t, fmt.Sprint("area ", stuck), func() {
			for what, err := range attempts(u, 64<<20) {
				wants(t, fmt.Sprintf("%s with area %d sealed", what, stuck), err, unix.EPERM, ErrPermission)
			}
		})
		if is := fmt.Sprint(must(regionsOf(at-8*pageSize, at+16*pageSize))); is != around || u.Addr() != at || u.Len() != 8*int(pageSize) {
			t.Errorf("area %d: was\n%s\nis\n%s", stuck, around, is)
		}
		samePicture(t, fmt.Sprint("area ", stuck), was, pictureOf(t, u))
		check(t, wall.Close())
		wants(t, "close", u.Close(), ErrSealed, unix.EPERM)
		samePicture(t, "close", was, pictureOf(t, u))
		// What is not sealed can be changed.
		for i := range 8 {
			err := u.ProtectRange(i*int(pageSize), int(pageSize), ProtRead)
			if (err == nil) != (i != stuck) {
				t.Errorf("page %d, %d is sealed: %v", i, stuck, err)
			}
		}
		// Changes that reach the sealed page go back to where they began.
		was = pictureOf(t, u)
		wants(t, "protect", u.Protect(ProtNone), unix.EPERM, ErrPermission)
		wants(t, "place", u.Place(0, Anonymous(u.Len()), ProtRead), unix.EPERM)
		_, err := Over[Read](u, Anonymous(u.Len()))
		wants(t, "over", err, unix.EPERM)
		samePicture(t, "changes", was, pictureOf(t, u))
	}
}

// heapRoom lets the Go heap have room before a limit keeps it from growing.
func heapRoom() {
	// And threads: the runtime ends the program where it cannot make one.
	var ready, done sync.WaitGroup
	ready.Add(16)
	for range 16 {
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread() // it stays, and waits for work
			ready.Done()
			ready.Wait()
		})
	}
	done.Wait()
	clear(make([]byte, 32<<20))
	runtime.GC()
}

// Too little address space, at once or half-way.
func TestRemapAddressLimit(t *testing.T) {
	if !byItself(t) {
		return
	}
	const size, most = 256 << 20, 200 << 20
	u := patchwork(t)
	mapped[Read](t, Anonymous(1).At(u.Addr()+8*pageSize))
	was := pictureOf(t, u)
	big, err := MapUnknown(Anonymous(size).NoReserve().At(spot(t, size/int(pageSize))), ProtRead|ProtWrite)
	check(t, err)
	check(t, second(big.WriteAt([]byte{1, 2}, most-1)))
	check(t, big.ProtectRange(most, size-most, ProtRead)) // two areas
	space := spot(t, size/int(pageSize))
	heapRoom()
	var old unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_AS, &old))
	var pages uint64
	text, err := os.ReadFile("/proc/self/statm")
	check(t, err)
	fmt.Sscan(string(text), &pages)
	failures, moves := 0, 0
	for room := uint64(64 << 20); room <= 3*size; room += 32 << 20 {
		what, from := fmt.Sprintf("%d MiB left", room>>20), big.Addr()
		check(t, unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: pages*uint64(pageSize) + room, Max: old.Max}))
		moved, move := Move(big, space)
		resized, resize := Resize(u, size)
		check(t, unix.Setrlimit(unix.RLIMIT_AS, &old))
		for name, err := range map[string]error{"move": move, "resize": resize} {
			if err == nil {
				moves++
				continue
			}
			failures++
			if wants(t, what+": "+name, err, unix.ENOMEM); !strings.Contains(fmt.Sprint(err), "RLIMIT_AS is ") {
				t.Errorf("%s: %s: %v does not name RLIMIT_AS", what, name, err)
			}
		}
		if move == nil {
			from, space = space, from
		}
		if big = moved; resize == nil {
			resized, err = Resize(resized, 8*int(pageSize))
			check(t, err)
		}
		u = resized
		samePicture(t, what, was, pictureOf(t, u))
		b := make([]byte, 2)
		if check(t, second(big.ReadAt(b, most-1))); big.Addr() != from || len(must(big.Regions())) != 2 || b[0] != 1 || b[1] != 2 {
			t.Errorf("%s: %v, %v\n%s", what, b, big, table(t, big))
		}
		unmapped(t, what, space, size/int(pageSize))
	}
	if failures < 2 || moves < 2 {
		t.Errorf("%d failed, %d did not", failures, moves)
	}
	check(t, u.Close())
	check(t, big.Close())
}

// Locks come along, those of a neighbour in the same area stay, and the kernel's
// count is right afterwards.
func TestRemapLocked(t *testing.T) {
	if !byItself(t) {
		return // VmLck is of the process
	}
	pg := int(pageSize)
	canLock(t, 70*pg)
	before := vmLocked()
	for name, use := range map[string]func(u Unknown) (Unknown, error){
		"move":   func(u Unknown) (Unknown, error) { return Move(u, spot(t, 4)) },
		"grow":   func(u Unknown) (Unknown, error) { return Resize(u, 64*pg) },
		"shrink": func(u Unknown) (Unknown, error) { return Resize(u, 3*pg) },
	} {
		for _, locks := range []string{"xx----", "xxx--x", "xxx---", "-----x", "--xx--", "xxxxxx", "---xx-"} {
			what := name + " of " + locks
			at := spot(t, 8)
			left, u, err := Split(must(MapUnknown(Anonymous(6*pg).At(at), ProtRead|ProtWrite)), 2*pg)
			check(t, err)
			wall := mapped[Read](t, Anonymous(pg).At(at+6*pageSize))
			check(t, u.ProtectRange(3*pg, pg, ProtRead))
			for i, c := range locks {
				if c == 'x' && i < 2 {
					check(t, left.LockOnFault(i*pg, pg))
				} else if c == 'x' {
					check(t, u.LockOnFault((i-2)*pg, pg))
				}
			}
			next, err := use(u)
			check(t, err)
			got := pagesWith(t, left, "lo") + pagesWith(t, next, "lo")
			if n := min(6, len(got)); got[:n] != locks[:n] {
				t.Errorf("%s: %s is locked", what, got)
			}
			check(t, errors.Join(left.Close(), next.Close(), wall.Close()))
			if after := vmLocked(); after != before {
				t.Errorf("%s: %d bytes are locked, were %d", what, after, before)
			}
		}
	}
}

// A patchwork that has shrunk to nothing comes back with what all of it allowed.
func TestResizePatchworkToNothing(t *testing.T) {
	pg := int(pageSize)
	u := must(MapUnknown(Anonymous(3*pg), ProtRead|ProtWrite))
	check(t, u.ProtectRange(pg, pg, ProtRead))
	for _, size := range []int{0, 3 * pg} {
		var err error
		u, err = Resize(u, size)
		check(t, err)
		if p := u.Prot(); p != ProtRead {
			t.Errorf("%d bytes are %v", size, p)
		}
	}
	defer u.Close()
	if d := differing(u); d != "" {
		t.Error(d)
	}
	wants(t, "write", second(u.WriteAt([]byte{1}, 0)), ErrPermission)
}

// An ordinary user who has locked pages, and may lock no more.
func TestResizeLocked(t *testing.T) {
	if !byItself(t) {
		return
	}
	check(t, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 4 * uint64(pageSize), Max: 4 * uint64(pageSize)}))
	m := mapped[ReadWrite](t, Anonymous(2*int(pageSize)).Lock())
	if os.Geteuid() == 0 {
		check(t, unix.Setresuid(65534, 65534, 65534))
	}
	before := table(t, m)
	_, err := Resize(m, 64*int(pageSize))
	wants(t, "RLIMIT_MEMLOCK", err, unix.EAGAIN)
	if !strings.Contains(fmt.Sprint(err), "RLIMIT_MEMLOCK is ") {
		t.Errorf("%v does not name RLIMIT_MEMLOCK", err)
	}
	if after := table(t, m); after != before {
		t.Error("it has changed:", before, after)
	}
}

// At the limit vm.max_map_count, with just so many areas left: a move happens or
// does not.
func TestRemapMapLimit(t *testing.T) {
	var most int
	text, err := os.ReadFile("/proc/sys/vm/max_map_count")
	check(t, err)
	fmt.Sscan(string(text), &most)
	if most > 1<<18 {
		t.Skip("vm.max_map_count is too high to reach: ", most)
	}
	if !byItself(t) {
		return
	}
	pg := int(pageSize)
	free := spot(t, 64)
	u := patchwork(t)
	addr := u.Addr()
	for _, at := range []uintptr{addr, free} { // nothing grows in place
		mapped[Read](t, Anonymous(1).At(at+8*pageSize))
	}
	heapRoom()
	filler := mapped[None](t, Anonymous((most+64)*pg))
	used := filler.Addr() // every other page before it is an area of its own
	for ; err == nil; used += 2 * pageSize {
		err = sys.Mprotect(used, pageSize, unix.PROT_READ)
	}
	wants(t, "the limit", err, unix.ENOMEM)
	contents := func() (s string) {
		mem, err := os.Open("/proc/self/mem")
		check(t, err)
		defer mem.Close()
		b := make([]byte, pg)
		for i := range 8 {
			n, _ := mem.ReadAt(b, int64(u.Addr())+int64(i*pg))
			s += fmt.Sprintf("%d:%08x ", n, crc32.ChecksumIEEE(b[:n]))
		}
		for _, r := range must(u.Regions()) {
			s += fmt.Sprint(r.Perms, r.Size(), r.Offset, " ")
		}
		return s
	}
	was, failures, moves := contents(), 0, 0
	for spare := range 12 {
		from, target := u.Addr(), free
		if from == free {
			target = addr
		}
		next, err := Move(u, target)
		if err == nil {
			moves++
			unmapped(t, "moved", from, 8)
		} else if failures++; next != u || u.Addr() != from {
			t.Fatalf("%d areas left: %v from %#x", spare, next, from)
		} else {
			wants(t, "move", err, unix.ENOMEM)
			unmapped(t, "the target", target, 8)
		}
		u = next
		if next, err = Resize(u, 8*pg+1); err == nil {
			u, err = Resize(next, 8*pg)
			check(t, err)
		}
		if contents() != was {
			t.Fatalf("%d areas left, %v: was\n%s\nis\n%s", spare, err, was, contents())
		}
		used -= 2 * pageSize // frees two areas, or one
		check(t, sys.Mprotect(used, pageSize, unix.PROT_NONE))
	}
	if failures < 3 || moves < 3 {
		t.Errorf("%d moves failed and %d did not: the limit was not met", failures, moves)
	}
	check(t, filler.Close())
	check(t, u.Close())
}

// What huge pages cannot do is refused before anything has changed.
func TestRemapHuge(t *testing.T) {
	huge := int(withHugePages(t, 4))
	pages := 8 * huge / int(pageSize)
	space := spot(t, 2*pages)
	space = (space + uintptr(huge) - 1) &^ (uintptr(huge) - 1)
	m := mapped[ReadWrite](t, Anonymous(huge+1).HugePages(0).At(space))
	check(t, second(m.WriteAt([]byte{7}, int64(huge))))
	before := table(t, m)
	same := func(what string, m mapping, err error, targets ...error) {
		t.Helper()
		if wants(t, what, err, targets...); err == nil || table(t, m) != before {
			t.Errorf("%s: %v: was\n%s\nis\n%s", what, err, before, table(t, m))
		}
	}
	_, err := Resize(m, 2*huge+1)
	same("resize", m, err)
	if !strings.Contains(fmt.Sprint(err), "huge pages") {
		t.Errorf("resize: %v does not say why", err)
	}
	_, err = Move(m, m.Addr()+uintptr(4*huge)+pageSize)
	same("move to a small page", m, err, os.ErrInvalid)
	to := m.Addr() + uintptr(4*huge)
	m, err = Move(m, to)
	check(t, err)
	b := make([]byte, 1)
	if check(t, second(m.ReadAt(b, int64(huge)))); b[0] != 7 || m.Addr() != to || isMapped(t, space) {
		t.Error("not moved:", b, m)
	}
	check(t, m.Close())

	// With a reserve, which is another area.
	m = mapped[ReadWrite](t, Anonymous(huge).HugePages(0).Reserve(3*huge).At(space))
	check(t, second(m.WriteAt([]byte{8}, 5)))
	before = table(t, m)
	moved, err := Move(m, to)
	if err == nil {
		if check(t, second(moved.ReadAt(b, 5))); b[0] != 8 || moved.Cap() != 3*huge || isMapped(t, space) || isMapped(t, space+uintptr(huge)) {
			t.Error("not moved:", b, m)
		}
		check(t, Grow(moved, huge+1))
	} else {
		if Probe("MAP_DROPPABLE") == nil { // before 6.11, the kernel does not tell which pages are huge
			t.Errorf("move of huge pages with a reserve: %v", err)
		}
		same("move with a reserve", m, err)
	}
	check(t, moved.Close())

	// Huge pages within small ones.
	u, err := MapUnknown(Anonymous(3*huge).At(space), ProtRead|ProtWrite)
	check(t, err)
	defer u.Close()
	check(t, u.Place(huge, Anonymous(huge).HugePages(0), ProtRead|ProtWrite))
	for i := range 3 {
		check(t, second(u.WriteAt([]byte{byte(i + 1)}, int64(i*huge+3))))
	}
	wall := mapped[Read](t, Anonymous(1).At(space+uintptr(3*huge)))
	before = table(t, u)
	next, err := Move(u, space+uintptr(4*huge))
	check(t, err)
	unmapped(t, "the old place", space, 3*huge/int(pageSize))
	next, err = Resize(next, 5*huge) // the last pages are small ones
	check(t, err)
	for i := range 3 {
		if check(t, second(next.ReadAt(b, int64(i*huge+3)))); b[0] != byte(i+1) {
			t.Errorf("part %d has %d", i, b[0])
		}
	}
	check(t, wall.Close())
	check(t, next.Close())
}

// Small pages in the place of a huge one are more than the length needs: what
// ends at the length reaches them all.
func TestOverHuge(t *testing.T) {
	huge := int(withHugePages(t, 1))
	m := mapped[ReadWrite](t, Anonymous(100).HugePages(0))
	small, err := Over[ReadWrite](m, Anonymous(100))
	check(t, err)
	u, err := Forget(small)
	check(t, err)
	defer func() { u.Close() }()
	check(t, u.Protect(ProtRead))
	if r := must(u.Regions()); len(r) != 1 || r[0].Size() != uint64(huge) || r[0].Perms.String() != "r--p" || u.Prot() != ProtRead {
		t.Error(r, u)
	}
	check(t, u.ProtectRange(0, 100, ProtRead|ProtWrite))
	check(t, u.Advise(0, 100, AdviceDontDump))
	if r := must(u.Regions()); len(r) != 1 || r[0].Perms.String() != "rw-p" {
		t.Error(r)
	}
	check(t, u.Discard(0, 100))
	check(t, must(Assert[ReadWrite](u)).Close())
}

// A reserve goes with its source: growth is into the new one.
func TestOverHugeReserve(t *testing.T) {
	huge := int(withHugePages(t, 3))
	f, err := MemfdHuge("file", int64(2*huge), 0, 0)
	check(t, err)
	defer f.Close()
	w := mapped[ReadWrite](t, File(f, 0, 2*huge).Shared())
	check(t, second(w.WriteAt([]byte("second"), int64(huge))))
	m := mapped[ReadWrite](t, Anonymous(huge).Reserve(2*huge).Align(huge))
	m, err = Over[ReadWrite](m, File(f, 0, huge).Shared())
	check(t, err)
	defer func() { m.Close() }()
	b := make([]byte, 6)
	check(t, Grow(m, 2*huge))
	if check(t, second(m.ReadAt(b, int64(huge)))); string(b) != "second" {
		t.Errorf("%q", b)
	}
}

// A move that fails half-way finds a stranger where the first pages were. From then on
// nothing of the mapping can be touched or changed, and nothing is done to the stranger.
func TestLost(t *testing.T) {
	if !sealing(t) {
		return
	}
	pg := int(pageSize)
	at := spot(t, 5) + pageSize
	left, err := MapUnknown(Anonymous(pg).At(at-pageSize), ProtRead)
	check(t, err)
	u, err := MapUnknown(Anonymous(3*pg).Reserve(4*pg).At(at), ProtRead|ProtWrite)
	check(t, err)
	// The pages are three areas: the first is moved without leaving anything behind, the
	// last cannot be moved.
	check(t, u.LockOnFault(0, pg))
	check(t, u.ProtectRange(pg, pg, ProtRead))
	check(t, sys.Mseal(at+2*pageSize, pageSize))
	stranger := func() {
		check(t, second(sys.Mmap(at, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE, -1, 0)))
		memory(at, 1)[0] = 7
	}
	err = paused(t, unix.SYS_MREMAP, 0, at+pageSize, stranger, func() error { return second(Move(u, spot(t, 4))) })
	var stopped *PartialError
	if !errors.As(err, &stopped) || !errors.Is(err, unix.EPERM) || !errors.Is(err, unix.EEXIST) {
		t.Fatalf("move: %v", err)
	}
	if p := u.ProtOf(0, pg); u.Prot() != ProtNone || p != ProtNone {
		t.Errorf("%v, and the first page allows %v", u, p)
	}
	b := make([]byte, 1)
	wants(t, "read", second(u.ReadAt(b, 0)), ErrPermission)
	wants(t, "write", second(u.WriteAt(b, 0)), ErrPermission)
	wants(t, "view", u.ViewRange(0, 1, func([]byte) error { return nil }), ErrPermission)
	w := u.Untyped()
	for name, err := range map[string]error{
		"discard": u.Discard(0, pg), "advise": w.Advise(0, pg, AdviceDontFork), "lock": w.Lock(0, pg), "unlock": w.Unlock(0, pg),
		"policy": w.SetPolicy(0, pg, PolicyLocal), "sync": w.Sync(0, pg), "name": w.SetName("x"), "seal": w.Seal(), "grow": Grow(u, 4*pg),
		"protect": u.Protect(ProtRead), "place": u.Place(0, Anonymous(pg), ProtRead), "move": second(Move(u, at)),
		"release": third(w.Release()), "track": second(u.Track()), "split": third(Split(u, pg)), "join": second(Join(left, u)),
	} {
		wants(t, name, err, errLost)
	}
	check(t, u.Close())
	if b := memory(at, 1); b[0] != 7 {
		t.Errorf("the stranger has %d", b[0])
	}
	memory(at, 1)[0]++ // it can be written
	check(t, sys.Munmap(at, pageSize))
}
