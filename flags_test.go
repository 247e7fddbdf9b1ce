//go:build linux

package mmap

import (
	"fmt"
	"math"
	"math/bits"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A number that does not fit where it goes is a bad argument. Of most the kernel
// sees the lower 32 bits only, and those are right here.
func TestNumbersAreNotCut(t *testing.T) {
	f, _ := scratch(t, int(pageSize))
	anonymous := mapped[ReadWrite](t, Anonymous(int(pageSize)))
	bad := func(what string, n int, err error) {
		t.Helper()
		wants(t, fmt.Sprintf("%s %d", what, n), err, os.ErrInvalid, unix.EINVAL)
	}
	for _, high := range []int{math.MinInt, -1 << (bits.UintSize / 2), 1 << (bits.UintSize / 2)} {
		if bits.UintSize == 32 {
			break // where every int fits
		}
		fd := high | int(f.Fd())
		s := FD(fd, 0, int(pageSize))
		bad("descriptor", fd, second(Map[Read](s)))
		bad("descriptor of an Unknown,", fd, second(MapUnknown(s, ProtRead)))
		u := must(MapUnknown(Anonymous(int(pageSize)), ProtRead))
		bad("descriptor to place,", fd, u.Place(0, s, ProtRead))
		bad("descriptor over,", fd, second(Over[Read](u, s)))
		check(t, u.Close())
		for _, n := range []int{high, high | int(SealGrow)} {
			m, err := Memfd("cut", 1, Seal(n))
			m.Close()
			bad("seals", n, err)
			m = must(Memfd("cut", 1, 0))
			bad("seals to add,", n, AddSeals(m, Seal(n)))
			check(t, m.Truncate(2)) // none was added
			check(t, m.Close())
		}
		for _, p := range []int{high, high | int(PolicyBind)} {
			bad("policy", p, anonymous.SetPolicy(0, int(pageSize), Policy(p), 0))
			bad("policy of nothing,", p, anonymous.SetPolicy(0, 0, Policy(p), 0))
		}
		bad("node", high, anonymous.SetPolicy(0, int(pageSize), PolicyBind, high))
		bad("advice", high, anonymous.Advise(0, int(pageSize), Advice(high)))
		bad("huge pages of", high+1, second(Map[Read](Anonymous(1).HugePages(high+1))))
	}
	// A negative descriptor that fits is one that is not open.
	for _, fd := range []int{-1, math.MinInt32} {
		wants(t, fmt.Sprint("descriptor ", fd), second(Map[Read](FD(fd, 0, 1))), unix.EBADF)
	}
}

// Constants print as the kernel's documentation names them.
func TestNames(t *testing.T) {
	for want, got := range map[string]fmt.Stringer{
		"0": Seal(0), "F_SEAL_SHRINK": SealShrink, "F_SEAL_SEAL|F_SEAL_GROW|F_SEAL_EXEC": SealSeal | SealGrow | SealExec,
		"F_SEAL_WRITE|F_SEAL_FUTURE_WRITE|0x80": SealWrite | SealFutureWrite | 0x80, "0x40": Seal(0x40),
		"MPOL_DEFAULT": PolicyDefault, "MPOL_WEIGHTED_INTERLEAVE": PolicyWeightedInterleave, "MPOL_LOCAL": PolicyLocal,
		"Policy(99)": Policy(99), "Policy(-1)": Policy(-1),
	} {
		if got.String() != want {
			t.Errorf("%q, want %q", got.String(), want)
		}
	}
	for p := PolicyDefault; p <= PolicyWeightedInterleave; p++ {
		if !strings.HasPrefix(p.String(), "MPOL_") {
			t.Errorf("policy %d is %v", int(p), p)
		}
	}
	pg := int(pageSize)
	u := must(MapUnknown(Anonymous(4*pg), ProtRead|ProtWrite))
	check(t, u.ProtectRange(pg, pg, ProtRead))
	check(t, u.ProtectRange(2*pg, pg, ProtNone))
	if got := u.String(); !strings.HasPrefix(got, "rw-/r--/--- mapping of ") {
		t.Error(got)
	}
	check(t, u.Protect(ProtRead))
	if got := u.String(); !strings.HasPrefix(got, "r-- mapping of ") {
		t.Error(got)
	}
	check(t, u.Close())
}
