//go:build linux

package leftover

import (
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

var page = uintptr(os.Getpagesize())

func mapped(t *testing.T, pages uintptr) uintptr {
	t.Helper()
	at, err := sys.Mmap(0, pages*page, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, -1, 0)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func isMapped(addr uintptr) bool { return sys.Msync(addr, page, unix.MS_ASYNC) != unix.ENOMEM }

func kept() int {
	left.Lock()
	defer left.Unlock()
	return len(left.ranges)
}

func TestAbandon(t *testing.T) {
	at := mapped(t, 3)
	if Abandon(at, 3*page); isMapped(at) || kept() != 0 {
		t.Error("it is there")
	}
	Abandon(at, 0)
	if kept() != 0 {
		t.Error("of nothing, something is kept")
	}
}

// What munmap(2) refuses is tried again after a collection. An address that is on no
// page is refused always.
func TestKeep(t *testing.T) {
	at := mapped(t, 1)
	Keep(at, page)
	Keep(at+5*page+1, page)
	defer func() { left.ranges = nil }()
	for range 100 {
		if runtime.GC(); kept() == 1 && !isMapped(at) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%d ranges are kept, and it is mapped: %v", kept(), isMapped(at))
}

// Neighbours are unmapped together, what is not next to them stays.
func TestWithNeighbours(t *testing.T) {
	at := mapped(t, 8)
	if WithNeighbours(at, page) || !isMapped(at) || kept() != 0 {
		t.Error("by itself it has not been refused")
	}
	left.Lock()
	left.ranges = []extent{{at, page}, {at + 2*page, page}, {at + 5*page, page}}
	left.Unlock()
	if !WithNeighbours(at+page, page) || isMapped(at) || isMapped(at+page) {
		t.Error("with its neighbours it has not been unmapped")
	}
	if !isMapped(at+5*page) || !isMapped(at+3*page) {
		t.Error("what is no neighbour has gone")
	}
	left.Lock()
	left.ranges = nil
	left.Unlock()
	sys.Munmap(at+2*page, 6*page)
}
