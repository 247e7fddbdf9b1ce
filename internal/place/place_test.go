//go:build linux

package place

import (
	"errors"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

var page = kernel.PageSize

const rw = perms.Read | perms.Write

var memory = Backing{FD: -1, Granule: page, Flags: unix.MAP_PRIVATE | unix.MAP_ANONYMOUS}

// mapped maps pages, to the end of the test.
func mapped(t *testing.T, w Wish, base, data, whole uintptr, p perms.Prot) uintptr {
	t.Helper()
	at, err := w.Map(memory, base, data*page, whole*page, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sys.Munmap(at, whole*page) })
	return at
}

// is fails unless pages have these permissions: "rw-" for each, and a space for a hole.
func is(t *testing.T, what string, at uintptr, want ...string) {
	t.Helper()
	for i, p := range want {
		got := ""
		err := kernel.Survey(at+uintptr(i)*page, at+uintptr(i+1)*page, func(a kernel.Area) bool {
			got = a.Prot.String()
			return true
		})
		if err != nil || got != p {
			t.Errorf("%s: page %d is %q, want %q: %v", what, i, got, p, err)
		}
	}
}

func TestMap(t *testing.T) {
	is(t, "plain", mapped(t, Wish{}, 0, 2, 2, rw), "rw-", "rw-")
	is(t, "with a reserve", mapped(t, Wish{}, 0, 1, 3, perms.Read), "r--", "---", "---")
	is(t, "nothing but reserve", mapped(t, Wish{}, 0, 0, 2, rw), "---", "---")
	if at := mapped(t, Wish{Align: 64 * page}, 0, 3, 3, rw); at%(64*page) != 0 {
		t.Errorf("it is at %#x", at)
	}
	at := mapped(t, Wish{}, 0, 3, 3, perms.Read)
	if _, err := (Wish{Where: Exactly}).Map(memory, at+page, page, page, rw); !errors.Is(err, unix.EEXIST) {
		t.Error(err)
	}
	is(t, "after it was refused", at, "r--", "r--", "r--")
	if got, err := (Wish{Where: Onto}).Map(memory, at+page, page, page, rw); err != nil || got != at+page {
		t.Errorf("%#x, %v", got, err)
	}
	is(t, "onto", at, "r--", "rw-", "r--")
	locked := mapped(t, Wish{Lock: Locked, Populate: true}, 0, 1, 1, rw)
	if !IsLocked(locked, page) || IsLocked(at, 3*page) {
		t.Error("the wrong pages are locked")
	}
}

// What fails after the pages are there leaves nothing, and under Onto no hole.
func TestMapFails(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	empty := Backing{FD: int(f.Fd()), Granule: page, Flags: unix.MAP_SHARED}
	at := mapped(t, Wish{}, 0, 3, 3, rw)
	var fault *Fault
	if _, err := (Wish{Where: Onto, Lock: Locked}).Map(empty, at+page, page, page, perms.Read); !errors.As(err, &fault) || fault.Addr != at+page || fault.Base != at+page {
		t.Errorf("%v, %+v", err, fault)
	}
	is(t, "onto", at, "rw-", "rw-", "rw-")
	if err := sys.Munmap(at+page, page); err != nil {
		t.Fatal(err)
	}
	if _, err := (Wish{Where: Exactly, Lock: Locked}).Map(empty, at+page, page, page, perms.Read); !errors.As(err, &fault) {
		t.Error(err)
	}
	is(t, "exactly", at, "rw-", "", "rw-")
	if _, err := (Wish{}).Map(memory, 0, math.MaxInt&^(page-1), math.MaxInt&^(page-1), rw); !errors.Is(err, unix.ENOMEM) {
		t.Error(err)
	}
}

func TestStage(t *testing.T) {
	at := mapped(t, Wish{}, 0, 3, 3, perms.Read)
	if err := (Wish{}).Stage(memory, page, at+page, rw); err != nil {
		t.Error(err)
	}
	is(t, "staged", at, "r--", "rw-", "r--")
	closed := Backing{FD: 1 << 20, Granule: page, Flags: unix.MAP_PRIVATE}
	if err := (Wish{}).Stage(closed, page, at+page, perms.Read); !errors.Is(err, unix.EBADF) {
		t.Error(err)
	}
	is(t, "not staged", at, "r--", "rw-", "r--")
}

func TestHold(t *testing.T) {
	at, err := Hold(0, 3*page)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Munmap(at, 3*page)
	is(t, "held", at, "---", "---", "---")
	if _, err := Hold(at, page); !errors.Is(err, unix.EEXIST) {
		t.Error(err)
	}
	if hole, err := Fill(at, 3*page); hole || err != nil {
		t.Errorf("a hole where there is none: %v", err)
	}
	sys.Munmap(at+page, page)
	if hole, err := Fill(at+page, page); !hole || err != nil {
		t.Errorf("%v, %v", hole, err)
	}
	is(t, "filled", at, "---", "---", "---")
	sys.Munmap(at+2*page, page)
	if hole, err := Fill(at+page, 2*page); !hole || !errors.Is(err, unix.EEXIST) {
		t.Errorf("a stranger in a hole: %v, %v", hole, err)
	}
	sys.Mprotect(at, page, int(rw))
	AbandonHold(at, 2*page)
	is(t, "what is not held", at, "rw-", "---")
	AbandonHold(at+page, page)
	is(t, "what is held", at, "rw-", "")
}

// Several areas are moved one by one, locked ones too, and come back if one cannot be.
func TestRelocate(t *testing.T) {
	small := func(uintptr) bool { return false }
	at := mapped(t, Wish{}, 0, 4, 4, rw)
	sys.Mprotect(at+page, page, int(perms.Read))
	if err := Locked.Apply(Stretch{at, page, memory.Kind(rw)}); err != nil {
		t.Fatal(err)
	}
	to, err := Hold(0, 6*page)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Munmap(to, 6*page)
	if err := Relocate(at, 4*page, to, 6*page, small); err != nil {
		t.Fatal(err)
	}
	is(t, "moved", to, "rw-", "r--", "rw-", "rw-", "rw-", "rw-")
	is(t, "left behind", at, "", "", "", "")
	if !IsLocked(to, page) || IsLocked(to+page, page) {
		t.Error("the lock has not moved along")
	}
	// The last area cannot be longer than the address space: all come back.
	if _, err := Hold(at, 4*page); err != nil {
		t.Skip("somebody else is there: ", err)
	}
	err = Relocate(to, 4*page, at, math.MaxInt&^(page-1)-at, small)
	if stuck := new(Stuck); err == nil || errors.As(err, &stuck) {
		t.Error(err)
	}
	is(t, "back", to, "rw-", "r--", "rw-", "rw-")
	if !IsLocked(to, page) {
		t.Error("the lock has not come back")
	}
}

func TestLocks(t *testing.T) {
	at := mapped(t, Wish{}, 0, 3, 3, rw)
	part := func(first, n uintptr, k perms.Kind) Stretch { return Stretch{at + first*page, n * page, k} }
	if err := Unlocked.Apply(part(0, 3, memory.Kind(rw))); err != nil || IsLocked(at, 3*page) {
		t.Error("it is locked: ", err)
	}
	if err := LockedOnFault.Apply(part(1, 1, memory.Kind(rw))); err != nil || IsLocked(at, page) || !IsLocked(at+page, page) {
		t.Error(err)
	}
	areas, held := LockedAreas(nil, at, 3*page)
	if len(areas) != 1 || areas[0].Start != at+page || held != page {
		t.Errorf("%v, %d", areas, held)
	}
	if err := Locked.Apply(part(0, 3, memory.Kind(rw))); err != nil || !IsLocked(at+2*page, page) {
		t.Error(err)
	}
	UnlockAllBut(areas, at, at+3*page)
	if IsLocked(at, page) || !IsLocked(at+page, page) || IsLocked(at+2*page, page) {
		t.Error("the wrong pages are unlocked")
	}
	droppable := perms.Kind{Prot: rw, Granule: page, Flags: unix.MAP_DROPPABLE | unix.MAP_ANONYMOUS}
	if err := Locked.Apply(part(0, 1, droppable)); !errors.Is(err, os.ErrInvalid) || !strings.Contains(err.Error(), "droppable") {
		t.Error(err)
	}
	none := memory.Kind(0)
	if Locked.Of(none) != LockedOnFault || Locked.Of(memory.Kind(perms.Read)) != Locked || Unlocked.Of(none) != Unlocked {
		t.Error("how pages without permissions are locked")
	}
	if Locked.Later() != LockedOnFault || LockedOnFault.Later() != LockedOnFault || Unlocked.Later() != Unlocked {
		t.Error("how pages are locked that are faulted in later")
	}
}

func TestPopulate(t *testing.T) {
	if !Populates() {
		t.Skip("before Linux 5.14")
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(5 * page)); err != nil {
		t.Fatal(err)
	}
	file := Backing{FD: int(f.Fd()), Granule: page, Flags: unix.MAP_SHARED}
	at, err := (Wish{}).Map(file, 0, 9*page, 9*page, perms.Read)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Munmap(at, 9*page)
	var fault *Fault
	if err := (Stretch{at, 9 * page, file.Kind(perms.Read)}).Populate(unix.MADV_POPULATE_READ); !errors.As(err, &fault) || fault.Addr != at+5*page {
		t.Errorf("%v, %+v from %#x", err, fault, at)
	}
	if in, err := Resident(at, 5*page); err != nil || in != 5 {
		t.Errorf("%d pages are there, %v", in, err)
	}
	none := mapped(t, Wish{}, 0, 1, 1, 0)
	if err := (Stretch{none, page, memory.Kind(0)}).Populate(unix.MADV_POPULATE_READ); !errors.Is(err, errors.ErrUnsupported) || errors.Is(err, os.ErrInvalid) {
		t.Error(err)
	}
	if err := FaultIn([]Stretch{{none, page, memory.Kind(0)}, {at, 5 * page, file.Kind(perms.Read)}}); err != nil {
		t.Error(err)
	}
}
