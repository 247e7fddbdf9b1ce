package mmap

import (
	"fmt"
	"math"
	"math/bits"
	"os"
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
