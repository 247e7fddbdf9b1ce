//go:build linux

package systemtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/mmarinus/mmap"
	placement "github.com/mmarinus/mmap/internal/place"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

const mib = 1 << 20

func TestAddressSpaceLimit(t *testing.T) {
	if !alone(t) {
		return
	}
	f, _ := scratch(t, 1)
	large := mapped[mmap.ReadWrite](t, mmap.Anonymous(200*mib).NoReserve())
	reserve := mapped[mmap.ReadWrite](t, mmap.Anonymous(1).Reserve(200*mib))
	u := must(mmap.MapUnknown(mmap.Anonymous(200*mib+2*int(pageSize)).NoReserve(), mmap.ProtRead))
	divided, rest, err := mmap.Split(u, 200*mib)
	check(t, err)
	check(t, divided.ProtectRange(0, mib, mmap.ProtNone)) // two areas, and no room behind them
	check(t, rest.Protect(mmap.ProtExec))
	small := mapped[mmap.ReadWrite](t, mmap.Anonymous(1))
	free := nowhere(t, 200*mib/int(pageSize))
	says := fmt.Sprintf("RLIMIT_AS is %d", limit(t, unix.RLIMIT_AS, "VmSize", 100*mib))
	used := counted(t, "VmSize")
	for what, s := range map[string]mmap.Spec{
		"map": mmap.Anonymous(300 * mib), "no-reserve": mmap.Anonymous(300 * mib).NoReserve(), "shared": mmap.Anonymous(300 * mib).Shared(), "file": mmap.File(f, 0, 300*mib),
		"reserve": mmap.Anonymous(1).Reserve(300 * mib), "align": mmap.Anonymous(1).Align(512 * mib), "locked": mmap.Anonymous(300 * mib).Lock(), "near": mmap.Anonymous(300 * mib).Near(free),
	} {
		_, err := mmap.Map[mmap.Read](s)
		explained(t, what, err, unix.ENOMEM, says)
	}
	before := state(t, large)
	_, err = mmap.Resize(large, 400*mib)
	explained(t, "resize", err, unix.ENOMEM, says, "resize to 419430400 bytes")
	_, err = mmap.Over[mmap.Read](large, mmap.Anonymous(200*mib).NoReserve()) // stages the new pages
	explained(t, "over", err, unix.ENOMEM, says)
	_, err = mmap.Move(large, free)
	explained(t, "move", err, unix.ENOMEM, says)
	kept(t, "all of it", large, before)
	before = state(t, divided)
	explained(t, "place", divided.Place(0, mmap.Anonymous(200*mib), mmap.ProtRead), unix.ENOMEM, says)
	_, err = mmap.Resize(divided, 200*mib+1)
	explained(t, "resize of two areas, which moves", err, unix.ENOMEM, says)
	kept(t, "all of it", divided, before)
	// What is held already is not asked for again.
	check(t, mmap.Grow(reserve, 200*mib))
	check(t, second(reserve.WriteAt([]byte{1}, 200*mib-1)))
	small, err = mmap.Resize(small, mib)
	check(t, err)
	check(t, second(small.WriteAt([]byte{1}, mib-1)))
	if now := counted(t, "VmSize"); now > used+50*mib {
		t.Errorf("the failures have left %d bytes of address space", now-used)
	}
}

func TestDataLimit(t *testing.T) {
	if !alone(t) {
		return
	}
	zero := must(os.OpenFile("/dev/zero", os.O_RDWR, 0))
	defer zero.Close()
	says := fmt.Sprintf("RLIMIT_DATA is %d", limit(t, unix.RLIMIT_DATA, "VmData", 100*mib))
	for what, s := range map[string]mmap.Spec{
		"map": mmap.Anonymous(300 * mib), "device": mmap.File(zero, 0, 300*mib),
		"align":          mmap.Anonymous(300 * mib).Align(2 * mib),
		"with a reserve": mmap.Anonymous(300 * mib).Reserve(301 * mib), "no-reserve": mmap.Anonymous(300 * mib).NoReserve(),
	} {
		_, err := mmap.Map[mmap.ReadWrite](s)
		explained(t, what, err, unix.ENOMEM, says)
	}
	// It counts private memory that can be written.
	ro := mapped[mmap.Read](t, mmap.Anonymous(300*mib))
	mapped[mmap.ReadWrite](t, mmap.Anonymous(300*mib).Shared())
	before := state(t, ro)
	_, err := mmap.Protect[mmap.ReadWrite](ro)
	explained(t, "protect", err, unix.ENOMEM, says)
	_, err = mmap.Over[mmap.ReadWrite](ro, mmap.Anonymous(300*mib))
	explained(t, "over", err, unix.ENOMEM, says)
	u := must(mmap.Forget(ro))
	explained(t, "protect a range", u.ProtectRange(0, 299*mib, mmap.ProtRead|mmap.ProtWrite), unix.ENOMEM, says)
	explained(t, "place", u.Place(0, mmap.Anonymous(299*mib), mmap.ProtRead|mmap.ProtWrite), unix.ENOMEM, says)
	kept(t, "all of it", u, before)
	m := mapped[mmap.ReadWrite](t, mmap.Anonymous(1).Reserve(300*mib))
	before = state(t, m)
	explained(t, "grow", mmap.Grow(m, 300*mib), unix.ENOMEM, says, "grow to 314572800 bytes")
	kept(t, "grow", m, before)
	_, err = mmap.Resize(m, 400*mib)
	explained(t, "resize", err, unix.ENOMEM, says)
	_, err = mmap.Resize(m, 299*mib)
	explained(t, "resize within the reserve", err, unix.ENOMEM, says)
	kept(t, "resize", m, before)
	if check(t, mmap.Grow(m, mib)); m.Len() != mib {
		t.Error(m)
	}
}

func TestLockLimit(t *testing.T) {
	if !alone(t) {
		return
	}
	pg := int(pageSize)
	secret := hasSecret(t)
	humble(t)
	most := limit(t, unix.RLIMIT_MEMLOCK, "VmLck", 16*uint64(pg))
	says := func(used int) string {
		return fmt.Sprintf("RLIMIT_MEMLOCK is %d, and %d are in use: ", most, used*pg)
	}
	locked := func(what string, pages int) {
		t.Helper()
		if got := counted(t, "VmLck"); got != uint64(pages*pg) {
			t.Errorf("%s: %d bytes are locked, not %d pages", what, got, pages)
		}
	}
	if secret {
		m := mapped[mmap.ReadWrite](t, mmap.Secret(pg))
		if secret = counted(t, "VmLck") > 0; !secret {
			t.Log("not tested: secret memory: this kernel does not count it")
		}
		check(t, m.Close())
	}
	at := nowhere(t, 18)
	for what, s := range map[string]mmap.Spec{
		"map": mmap.Anonymous(17 * pg).Lock(), "on fault": mmap.Anonymous(16*pg + 1).LockOnFault(), "shared": mmap.Anonymous(17 * pg).Shared().Lock(), "reserve": mmap.Anonymous(17 * pg).Reserve(18 * pg).Lock(),
	} {
		_, err := mmap.Map[mmap.ReadWrite](s.At(at))
		if explained(t, what, err, unix.ENOMEM, says(0)); isMapped(t, at) {
			t.Errorf("%s: and yet it is mapped", what)
		}
		locked(what, 0)
	}
	if secret {
		_, err := mmap.Map[mmap.ReadWrite](mmap.Secret(17 * pg))
		explained(t, "secret", err, unix.EAGAIN, says(0))
		_, err = mmap.Map[mmap.ReadWrite](mmap.Secret(1).Reserve(17 * pg))
		explained(t, "secret with its capacity", err, unix.EAGAIN, says(0))
		m := mapped[mmap.ReadWrite](t, mmap.Secret(16*pg))
		locked("secret", 16)
		check(t, m.Close())
	}
	// As much as there is, and not a page more.
	full := mapped[mmap.ReadWrite](t, mmap.Anonymous(16*pg).Lock())
	locked("full", 16)
	check(t, full.Lock(0, 16*pg)) // again: it counts once
	check(t, full.Unlock(4*pg, 12*pg))
	other := mapped[mmap.ReadWrite](t, mmap.Anonymous(32*pg))
	before := state(t, other)
	for what, err := range map[string]error{"lock": other.Lock(pg, 13*pg), "lock on fault": other.LockOnFault(pg, 13*pg)} {
		explained(t, what, err, unix.ENOMEM, says(4), fmt.Sprintf("of %d bytes at %d", 13*pg, pg))
		locked(what, 4)
		kept(t, what, other, before)
		flagged(t, what, other, "", "lo")
	}
	_, err := mmap.Over[mmap.ReadWrite](other, mmap.Anonymous(32*pg).Lock())
	explained(t, "over", err, unix.ENOMEM, says(4))
	u := must(mmap.Forget(other))
	explained(t, "place", u.Place(0, mmap.Anonymous(13*pg).LockOnFault(), mmap.ProtRead), unix.ENOMEM, says(4))
	kept(t, "all of it", u, before)
	locked("all of it", 4)
	// Growth by Grow and by Resize locks what it adds, or adds nothing.
	for what, s := range map[string]mmap.Spec{"grow": mmap.Anonymous(4 * pg).Lock(), "grow on fault": mmap.Anonymous(4 * pg).LockOnFault()} {
		m := mapped[mmap.ReadWrite](t, s.Reserve(32*pg))
		before := state(t, m)
		if explained(t, what, mmap.Grow(m, 12*pg+1), unix.ENOMEM, says(8)); m.Len() != 4*pg {
			t.Errorf("%s: grown to %d", what, m.Len())
		}
		kept(t, what, m, before)
		_, err := mmap.Resize(m, 13*pg)
		explained(t, what+", resize in the reserve", err, unix.ENOMEM, says(8))
		kept(t, what+", resize in the reserve", m, before)
		locked(what, 8)
		check(t, mmap.Grow(m, 12*pg))
		locked(what, 16)
		check(t, m.Close())
		m = mapped[mmap.ReadWrite](t, s)
		_, err = mmap.Resize(m, 13*pg)
		explained(t, what+", resize", err, unix.EAGAIN, says(8))
		locked(what, 8)
		m, err = mmap.Resize(m, 12*pg)
		check(t, err)
		locked(what, 16)
		check(t, m.Close())
		locked(what+", closed", 4)
	}
	// None at all is EPERM.
	check(t, full.Close())
	most = limit(t, unix.RLIMIT_MEMLOCK, "VmLck", 0)
	m := mapped[mmap.ReadWrite](t, mmap.Anonymous(pg))
	_, err = mmap.Map[mmap.ReadWrite](mmap.Anonymous(1).Lock())
	for what, err := range map[string]error{"map": err, "lock": m.Lock(0, pg), "lock on fault": m.LockOnFault(0, pg), "a byte": m.Lock(5, 1)} {
		explained(t, what, err, unix.EPERM, "RLIMIT_MEMLOCK is 0, and 0 are in use: ")
		wants(t, what, err, mmap.ErrPermission)
	}
	check(t, m.Lock(0, 0))
	check(t, m.Unlock(0, pg))
	if secret {
		_, err = mmap.Map[mmap.ReadWrite](mmap.Secret(1))
		explained(t, "secret", err, unix.EAGAIN, "RLIMIT_MEMLOCK is 0")
	}
}

// crowd returns a function that uses up all areas that the kernel gives the
// process, but n. Those that do not come in pairs are in the free pages at odd.
func crowd(t testing.TB, odd uintptr) (most int, free func(n int)) {
	t.Helper()
	fmt.Sscan(content("/proc/sys/vm/max_map_count"), &most)
	if most > 1<<18 {
		t.Skip("vm.max_map_count is too high to reach: ", most)
	}
	heap := bytes.Repeat([]byte{1}, 64*mib) // for the runtime, which ends the program
	runtime.KeepAlive(heap)
	runtime.GC() // at a limit, instead of making do
	base := must(mmap.Map[mmap.None](mmap.Anonymous((most + 64) * int(pageSize)))).Addr()
	pairs, single := 0, 0
	pair := func(prot int) error { return sys.Mprotect(base+uintptr(1+2*pairs)*pageSize, pageSize, prot) }
	return most, func(n int) {
		for ; pair(unix.PROT_READ) == nil; pairs++ {
		}
		more := func() bool {
			_, err := sys.Mmap(odd+2*uintptr(single)*pageSize, pageSize, unix.PROT_EXEC, placement.Holding|unix.MAP_FIXED_NOREPLACE, -1, 0)
			return err == nil
		}
		for ; more(); single++ {
		}
		for ; n >= 2 || n == 1 && single == 0; n -= 2 {
			pairs--
			check(t, pair(unix.PROT_NONE))
		}
		if n < 0 && more() {
			single++
		} else if n == 1 {
			single--
			check(t, sys.Munmap(odd+2*uintptr(single)*pageSize, pageSize))
		}
	}
}

// At and near vm.max_map_count every operation that divides areas, or makes one,
// either happens or says which limit it met, and leaves everything as it was.
func TestAreaLimit(t *testing.T) {
	if !alone(t) {
		return
	}
	pg := int(pageSize)
	canLock(t, 60*pg)
	f, _ := scratch(t, 3*pg)
	far := nowhere(t, 64)
	spare, alone, odd := far+pageSize, far+8*pageSize, far+16*pageSize
	block := func() (left, middle, right mmap.ReadWrite) {
		m := mapped[mmap.ReadWrite](t, mmap.Anonymous(9*pg).At(hole(t, 11)+pageSize))
		check(t, m.LockOnFault(0, 9*pg)) // which nothing around it is, nor what others map
		l, rest, err := mmap.Split(m, 3*pg)
		check(t, err)
		middle, right, err = mmap.Split(rest, 3*pg)
		check(t, err)
		return l, middle, right
	}
	_, m, _ := block()
	_, moving, _ := block() // these two do not merge with their neighbours again
	_, over, _ := block()
	_, lost, _ := block()
	u := must(mmap.MapUnknown(mmap.Anonymous(9*pg), mmap.ProtRead))
	growing := mapped[mmap.ReadWrite](t, mmap.Anonymous(0).Reserve(4*pg).At(alone))
	room, free := 12, func(int) {}
	undo := func(err error, back func() error) error {
		if err == nil {
			free(24) // the way back can be longer
			check(t, back())
			free(room)
		}
		return err
	}
	ops := map[string]func() error{
		"map": func() error {
			m, err := mmap.Map[mmap.WriteExec](mmap.Anonymous(pg).At(spare))
			return undo(err, m.Close)
		},
		"align": func() error {
			m, err := mmap.Map[mmap.WriteExec](mmap.Anonymous(pg).Align(mib))
			return undo(err, m.Close)
		},
		"reserve": func() error {
			m, err := mmap.Map[mmap.WriteExec](mmap.Anonymous(pg).Reserve(2 * pg).At(spare))
			return undo(err, m.Close)
		},
		"protect a range": func() error {
			back := func() error { return u.ProtectRange(3*pg, 3*pg, mmap.ProtRead) }
			return undo(u.ProtectRange(3*pg, 3*pg, mmap.ProtExec), back)
		},
		"place": func() error {
			return undo(u.Place(3*pg, mmap.File(f, 0, 3*pg), mmap.ProtRead), func() error { return u.Place(3*pg, mmap.Anonymous(3*pg), mmap.ProtRead) })
		},
		"protect": func() error {
			next, err := mmap.Protect[mmap.Read](m)
			return undo(err, func() (err error) { m, err = mmap.Protect[mmap.ReadWrite](next); return err })
		},
		"over": func() error {
			next, err := mmap.Over[mmap.Read](over, mmap.File(f, 0, 3*pg))
			return undo(err, func() (err error) {
				over, err = mmap.Over[mmap.ReadWrite](next, mmap.Anonymous(3*pg).LockOnFault())
				return err
			})
		},
		"move": func() error {
			was := moving.Addr()
			next, err := mmap.Move(moving, spare)
			return undo(err, func() (err error) { moving, err = mmap.Move(next, was); return err })
		},
		"unlock": func() error { return undo(m.Unlock(0, 3*pg), func() error { return m.LockOnFault(0, 3*pg) }) },
		"lock":   func() error { return undo(u.Lock(3*pg, 3*pg), func() error { return u.Unlock(3*pg, 3*pg) }) },
		"lock on fault": func() error {
			return undo(u.LockOnFault(3*pg, 3*pg), func() error { return u.Unlock(3*pg, 3*pg) })
		},
		"advise": func() error {
			return undo(m.Advise(0, 3*pg, mmap.AdviceDontFork), func() error { return m.Advise(0, 3*pg, mmap.AdviceDoFork) })
		},
		"wipe on fork": func() error {
			return undo(m.WipeOnFork(0, 3*pg), func() error { return m.Advise(0, 3*pg, mmap.AdviceKeepOnFork) })
		},
		"policy": func() error {
			back := func() error { return m.SetPolicy(0, 3*pg, mmap.PolicyDefault) }
			return undo(m.SetPolicy(0, 3*pg, mmap.PolicyBind, 0), back)
		},
		"name": func() error {
			return undo(m.SetName("middle"), func() error { return m.SetName("") })
		},
		"grow": func() error {
			return undo(mmap.Grow(growing, pg), func() (err error) {
				check(t, growing.Close())
				growing, err = mmap.Map[mmap.ReadWrite](mmap.Anonymous(0).Reserve(4 * pg).At(alone))
				return err
			})
		},
	}
	for name, missing := range map[string]error{
		"policy": mmap.Probe("mbind"), "name": mmap.Probe("PR_SET_VMA_ANON_NAME"),
	} {
		if missing != nil {
			t.Logf("not tested: %s: %v", name, missing)
			delete(ops, name)
		}
	}
	of := func(what string) mapping {
		switch what {
		case "protect a range", "place", "lock", "lock on fault":
			return u
		case "grow":
			return growing
		case "move":
			return moving
		case "over":
			return over
		}
		return m
	}
	before := map[string]string{"close": state(t, lost)} // now, while the kernel's table is short
	for what := range ops {
		before[what] = state(t, of(what))
	}
	var most int
	most, free = crowd(t, odd)
	says := fmt.Sprintf("vm.max_map_count is %d", most)
	tries := 2
	if sys.Race {
		tries = 1
	}
	failed, worked := map[string]int{}, map[string]int{}
	for ; room >= 0; room-- {
		free(room)
		for what, do := range ops {
			if failed[what] == tries {
				continue // every failure reads the whole table
			}
			if err := do(); err == nil {
				worked[what]++
				continue
			} else {
				failed[what]++
				errno := error(unix.ENOMEM)
				if errors.Is(err, unix.EAGAIN) {
					errno = unix.EAGAIN // which madvise(2) makes of it
				}
				explained(t, fmt.Sprintf("%s, %d areas left", what, room), err, errno, says)
			}
			kept(t, what, of(what), before[what])
		}
	}
	for what := range ops {
		if failed[what] == 0 || worked[what] == 0 {
			t.Errorf("%s: has worked %d times, and failed %d", what, worked[what], failed[what])
		}
	}
	if sys.Race {
		free(64) // or the race detector's own heap ends the program
		return
	}
	// What cannot be undone comes last.
	free(0)
	explained(t, "close", lost.Close(), unix.ENOMEM, says)
	_, err := mmap.Resize(lost, pg)
	explained(t, "shrink", err, unix.ENOMEM, says)
	if mmap.Probe("mseal") == nil {
		explained(t, "seal", lost.Seal(), unix.ENOMEM, says)
	}
	kept(t, "close", lost, before["close"])
	check(t, second(lost.WriteAt(bytes.Repeat([]byte{1}, 3*pg), 0)))
	free(9)
	check(t, lost.Close())
}

// A mapping at the end of the address space can be made longer than what lies
// behind it: it moves.
func TestResizeAtTop(t *testing.T) {
	m := mapped[mmap.ReadWrite](t, mmap.Anonymous(1))
	check(t, second(m.WriteAt([]byte{7}, 0)))
	m, err := mmap.Resize(m, 256*mib)
	if err != nil {
		t.Fatalf("from %#x: %v", m.Addr(), err)
	}
	b := make([]byte, 1)
	if check(t, second(m.ReadAt(b, 0))); b[0] != 7 {
		t.Error("the contents have not moved: ", b)
	}
	check(t, m.Close())
}

// memoryAndSwap returns what there is of it, with swap, as the kernel counts.
func memoryAndSwap() (n uint64) {
	for _, key := range []string{"\nSwapTotal:", "MemTotal:"} {
		_, rest, _ := strings.Cut("\n"+content("/proc/meminfo"), key)
		n += kilobytes(rest)
	}
	return n
}

// More than there is of memory and swap is refused where it would be charged,
// and nowhere else.
func TestOvercommit(t *testing.T) {
	pg := int(pageSize)
	mode, memory := content("/proc/sys/vm/overcommit_memory"), memoryAndSwap()
	if unsafe.Sizeof(pg) == 4 && memory > 1<<30 {
		t.Skipf("%d bytes of memory are more than the address space", memory)
	}
	large := int(memory) + 64*mib
	says, value := "vm.overcommit_memory", fmt.Sprintf("is %d", memory)
	switch mode {
	case "1":
		t.Skip("vm.overcommit_memory is 1: the kernel refuses nothing")
	case "2":
		value = "in use" // of which there is less
	}
	for what, s := range map[string]mmap.Spec{"map": mmap.Anonymous(large), "shared": mmap.Anonymous(large).Shared(), "with a reserve": mmap.Anonymous(large).Reserve(large + pg), "align": mmap.Anonymous(large).Align(mib)} {
		_, err := mmap.Map[mmap.ReadWrite](s)
		explained(t, what, err, unix.ENOMEM, says, value)
	}
	m := mapped[mmap.ReadWrite](t, mmap.Anonymous(1).Reserve(large))
	before := state(t, m)
	explained(t, "grow", mmap.Grow(m, large), unix.ENOMEM, says, value)
	_, err := mmap.Resize(m, large)
	explained(t, "resize in the reserve", err, unix.ENOMEM, says, value)
	_, err = mmap.Resize(m, large+pg)
	explained(t, "resize", err, unix.ENOMEM, says, value)
	kept(t, "all of it", m, before)
	ro := mapped[mmap.Read](t, mmap.Anonymous(large))
	before = state(t, ro)
	_, err = mmap.Protect[mmap.ReadWrite](ro)
	explained(t, "protect", err, unix.ENOMEM, says, value)
	_, err = mmap.Over[mmap.ReadWrite](ro, mmap.Anonymous(large))
	explained(t, "over", err, unix.ENOMEM, says, value)
	u := must(mmap.Forget(ro))
	defer u.Close()
	explained(t, "place", u.Place(0, mmap.Anonymous(large), mmap.ProtRead|mmap.ProtWrite), unix.ENOMEM, says, value)
	explained(t, "protect a range", u.ProtectRange(0, large-large%pg, mmap.ProtRead|mmap.ProtWrite),
		unix.ENOMEM, says, value)
	kept(t, "all of it", u, before)
	if mode == "0" {
		m := mapped[mmap.ReadWrite](t, mmap.Anonymous(large).NoReserve())
		check(t, second(m.WriteAt([]byte{1}, int64(large)-1)))
	}
}

// A limit that was not met is not named: what is too large for the address
// space is that, however much there is of memory.
func TestLimitNotBlamed(t *testing.T) {
	if unsafe.Sizeof(0) == 4 || runtime.GOARCH == "s390x" {
		t.Skip("no int is larger than the address space")
	}
	huge := 1 << (unsafe.Sizeof(0)*8 - 3)
	f, _ := scratch(t, 1)
	for what, s := range map[string]mmap.Spec{
		"read-only": mmap.Anonymous(huge), "no-reserve": mmap.Anonymous(huge).NoReserve(), "reserve": mmap.Anonymous(1).Reserve(huge), "file": mmap.File(f, 0, huge),
		"shared no-reserve": mmap.Anonymous(huge).Shared().NoReserve(),
	} {
		_, err := mmap.Map[mmap.Read](s)
		if wants(t, what, err, unix.ENOMEM); strings.Contains(fmt.Sprint(err), "overcommit") || strings.Contains(fmt.Sprint(err), "RLIMIT") {
			t.Errorf("%s: nothing of this is charged: %v", what, err)
		}
	}
	if mmap.Probe("MAP_DROPPABLE") == nil {
		_, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(huge).Droppable())
		if wants(t, "droppable", err, unix.ENOMEM); strings.Contains(fmt.Sprint(err), "overcommit") {
			t.Errorf("droppable: nothing of this is charged: %v", err)
		}
	}
}
