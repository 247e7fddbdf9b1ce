//go:build linux

package mmap

import (
	"fmt"
	"strings"

	"github.com/mmarinus/mmap/internal/perms"
	"golang.org/x/sys/unix"
)

// Prot is a set of permissions, the prot argument of mmap(2). It prints as
// the kernel's tables do: r-x.
type Prot uint8

// The permissions. Combine them with |.
const (
	ProtNone  Prot = unix.PROT_NONE
	ProtRead  Prot = unix.PROT_READ
	ProtWrite Prot = unix.PROT_WRITE
	ProtExec  Prot = unix.PROT_EXEC

	protAll = ProtRead | ProtWrite | ProtExec
)

// String returns the permissions as in /proc/PID/maps: r-x.
func (p Prot) String() string {
	if p&^protAll != 0 {
		return fmt.Sprintf("Prot(%#x)", uint8(p))
	}
	return perms.Prot(p).String()
}

// isInt32 reports whether n keeps its value as the int of a system call: of a wider
// number the kernel sees the lower 32 bits only.
func isInt32(n int) bool { return int(int32(n)) == n }

// allows reports whether p contains all of need.
func (p Prot) allows(need Prot) bool { return p&need == need }

// Seal is a set of seals of a [Memfd], each a promise of the kernel that
// something can never happen to the file again: F_SEAL_* of fcntl(2).
type Seal int

// The seals. Combine them with |.
const (
	SealSeal        Seal = unix.F_SEAL_SEAL         // no further seals
	SealShrink      Seal = unix.F_SEAL_SHRINK       // never shorter: a mapping of it cannot fault by truncation
	SealGrow        Seal = unix.F_SEAL_GROW         // never longer
	SealWrite       Seal = unix.F_SEAL_WRITE        // contents never change
	SealFutureWrite Seal = unix.F_SEAL_FUTURE_WRITE // no new way to write; shared writable mappings that exist stay
	SealExec        Seal = unix.F_SEAL_EXEC         // the file cannot be executed, and never will (Linux 6.3)
)

var sealNames = [...]string{"SEAL", "SHRINK", "GROW", "WRITE", "FUTURE_WRITE", "EXEC"}

// String returns the names in fcntl(2), as F_SEAL_SHRINK|F_SEAL_GROW, and 0 for none.
func (s Seal) String() string {
	var names []string
	for i, name := range sealNames {
		if s&(1<<i) != 0 {
			names, s = append(names, "F_SEAL_"+name), s&^(1<<i)
		}
	}
	if s != 0 {
		names = append(names, fmt.Sprintf("%#x", int(s)))
	}
	if len(names) == 0 {
		return "0"
	}
	return strings.Join(names, "|")
}
