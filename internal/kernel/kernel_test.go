//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// mapped returns the address of pages of anonymous memory with these permissions.
func mapped(t *testing.T, prots ...perms.Prot) uintptr {
	t.Helper()
	size := uintptr(len(prots)) * PageSize
	at, err := sys.Mmap(0, size, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, -1, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range prots {
		if err := sys.Mprotect(at+uintptr(i)*PageSize, PageSize, int(p)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { sys.Munmap(at, size) })
	return at
}

func TestRound(t *testing.T) {
	const most = uintptr(math.MaxInt)
	for _, c := range []struct {
		n, granule, want uintptr
		fits             bool
	}{
		{0, 16, 0, true}, {1, 16, 16, true}, {16, 16, 16, true}, {17, 16, 32, true}, {most - 15, 16, most - 15, true},
		{most - 14, 16, most + 1, false}, {^uintptr(0), 16, 0, true}, {most + 1, 16, most + 1, false},
	} {
		if got, fits := Round(c.n, c.granule); fits != c.fits || fits && got != c.want {
			t.Errorf("%#x, granule %d: %#x, %v", c.n, c.granule, got, fits)
		}
	}
	if Page(3*PageSize+1) != 3*PageSize || Page(PageSize-1) != 0 {
		t.Error("the page of an address")
	}
}

// Areas come in ascending order, clipped to what was asked, without the holes.
func TestSurvey(t *testing.T) {
	at := mapped(t, 1, 1, 3, 0, 0, 5)
	sys.Munmap(at+3*PageSize, PageSize)
	var got []string
	look := func(start, end uintptr) {
		got = nil
		err := Survey(at+start*PageSize, at+end*PageSize, func(a Area) bool {
			got = append(got, fmt.Sprintf("%d-%d %v", (a.Start-at)/PageSize, (a.End-at)/PageSize, a.Prot))
			if a.PageSize != PageSize || a.Flags != 0 {
				t.Errorf("%+v", a)
			}
			return true
		})
		if err != nil {
			t.Error(err)
		}
	}
	if look(0, 6); !slices.Equal(got, []string{"0-2 r--", "2-3 rw-", "4-5 ---", "5-6 r-x"}) {
		t.Error(got)
	}
	if look(1, 3); !slices.Equal(got, []string{"1-2 r--", "2-3 rw-"}) {
		t.Error(got)
	}
	if look(3, 4); got != nil {
		t.Error(got)
	}
	if look(2, 2); got != nil {
		t.Error(got)
	}
	n := 0
	Survey(at, at+6*PageSize, func(Area) bool { n++; return false })
	if n != 1 {
		t.Errorf("it goes on %d times", n)
	}
	regions, err := RegionsOf(at+PageSize, at+3*PageSize)
	if err != nil || len(regions) != 2 || regions[0].Start != uint64(at+PageSize) || regions[1].End != uint64(at+3*PageSize) {
		t.Error(regions, err)
	}
}

func TestDiffers(t *testing.T) {
	at := mapped(t, 1, 1, 3)
	if err := Differs(at, 2*PageSize, perms.Read); err != nil {
		t.Error(err)
	}
	for want, err := range map[string]error{
		"are rw-, not r--":  Differs(at, 3*PageSize, perms.Read),
		"are r--, not rw-":  Differs(at, 3*PageSize, perms.Read|perms.Write),
		"nothing is mapped": Differs(0, PageSize, 0),
	} {
		if !errors.Is(err, unix.EACCES) || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestProbe(t *testing.T) {
	if err := Probe("nonsense"); !errors.Is(err, os.ErrInvalid) {
		t.Error(err)
	}
	if err := Probe("MADV_FREE"); err != nil {
		t.Error(err)
	}
	f := &Features[0]
	name, _, _ := strings.Cut(f.Names, " ")
	lacks, restore := f.lacks, f.Forget()
	f.lacks = func() error { return unix.EINVAL }
	err := Probe(name)
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), f.Since) {
		t.Errorf("what it lacks: %v", err)
	}
	if got := Blame(name, unix.EINVAL); got == nil || got.Error() != err.Error() {
		t.Error(got)
	}
	// A filter is named where there is one.
	status, err := os.ReadFile("/proc/self/status")
	filter := strings.Contains(string(status), "\nSeccomp:\t2\n")
	f.Forget()
	f.lacks = func() error { return unix.ENOSYS }
	if got := Probe(name); err != nil || !errors.Is(got, errors.ErrUnsupported) || strings.Contains(got.Error(), "seccomp") != filter {
		t.Errorf("with a filter %v: %v, %v", filter, got, err)
	}
	f.Forget()
	if f.lacks = func() error { return unix.EMFILE }; Probe(name) != nil || Blame(name, unix.EINVAL) != unix.EINVAL || Blame(name, nil) != nil {
		t.Error("what could not be asked is said to be missing")
	}
	f.lacks = lacks
	restore()
}

func TestNumber(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte("first:\t 12 kB\nsecond: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]uint64{"first:": 12, "second:": 7, "third:": 0, "": 0} {
		if got := Number(name, key); got != want {
			t.Errorf("%q: %d, want %d", key, got, want)
		}
	}
	if _, err := ReadNumber(name+"!", ""); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if n := testing.AllocsPerRun(10, func() { Number("/proc/self/status", "VmLck:") }); n > 2 { // in a race build
		t.Errorf("it allocates %v times", n)
	}
}

// What is at no limit stays as it is, and other errors, too.
func TestScarce(t *testing.T) {
	for _, err := range []error{nil, unix.ENOMEM, unix.EINVAL, unix.EPERM} {
		if got := Scarce(err, Demand{Space: PageSize}); got != err {
			t.Errorf("%v becomes %v", err, got)
		}
	}
	err := Scarce(unix.ENOMEM, Demand{Space: math.MaxInt &^ (PageSize - 1)})
	if !errors.Is(err, unix.ENOMEM) || err == unix.ENOMEM {
		t.Errorf("more than the address space: %v", err)
	}
}

func TestCause(t *testing.T) {
	at := mapped(t, 0, 1, 3)
	for what, c := range map[string]struct {
		page uintptr
		need perms.Prot
		want Cause
	}{
		"no permission": {0, perms.Read, Permission}, "a load that works": {1, perms.Read, Unproven}, "a store": {1, perms.Write, Permission},
		"an access where the load works": {1, 0, Permission}, "a store that works": {2, perms.Write, Unproven},
	} {
		if got := CauseOf(at+c.page*PageSize, c.need); got.Cause != c.want || got.Path != "" {
			t.Errorf("%s: %+v, want cause %d", what, got, c.want)
		}
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	file, err := sys.Mmap(0, PageSize, unix.PROT_READ, unix.MAP_SHARED, int(f.Fd()), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Munmap(file, PageSize)
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st); unix.Major(uint64(st.Dev)) == 0 {
		t.Log("not tested: a truncation: its device may not be the table's")
	} else if got := CauseOf(file, perms.Read); got.Cause != Truncated || got.Path != f.Name() {
		t.Errorf("past the end of a file: %+v", got)
	}
}

func TestRefusals(t *testing.T) {
	at := mapped(t, 1, 1)
	if err := Occupied(at+PageSize, PageSize); !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), fmt.Sprintf("%#x-%#x is mapped already", at, at+2*PageSize)) {
		t.Error(err)
	}
	if err := Undivided(at, 2*PageSize, unix.EINVAL); err != unix.EINVAL {
		t.Errorf("whole areas: %v", err)
	}
	if err := Undivided(at+PageSize, PageSize, unix.EINVAL); !errors.Is(err, errors.ErrUnsupported) || !errors.Is(err, unix.EINVAL) {
		t.Errorf("a part of one: %v", err)
	}
	if err := Undivided(at+PageSize, PageSize, unix.ENOMEM); err != unix.ENOMEM {
		t.Errorf("another error: %v", err)
	}
	if err := Unextended(unix.EFAULT); !errors.Is(err, errors.ErrUnsupported) || Unextended(unix.ENOMEM) != unix.ENOMEM {
		t.Error(err)
	}
	if DeniedExec(perms.Read, unix.EACCES) != unix.EACCES || DeniedExec(perms.Exec, unix.EACCES) == unix.EACCES {
		t.Error("only what is executable is refused for that")
	}
}
