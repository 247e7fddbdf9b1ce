//go:build linux

package mmap

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// A page that has come back when the kernel is asked why it was not there is no
// lack of permission. The file is truncated and written again all the time.
func TestPageComesBack(t *testing.T) {
	pg := int(pageSize)
	f, data := scratch(t, 4*pg)
	m := mapped[Read](t, Path(f.Name()))
	const least, most = 300, 200_000 // faults to see, and accesses to make
	var stop atomic.Bool
	var writer sync.WaitGroup
	writer.Go(func() {
		for !stop.Load() {
			if err := f.Truncate(0); err != nil {
				t.Error(err)
			}
			if _, err := f.WriteAt(data, 0); err != nil {
				t.Error(err)
			}
		}
	})
	defer writer.Wait()
	defer stop.Store(true)
	faults, back := 0, 0
	p := make([]byte, m.Len())
	for i := 0; i < most && (faults < least || back == 0); i++ {
		_, err := m.ReadAt(p, 0)
		if i%2 == 0 {
			err = m.View(func(b []byte) error { _ = bytes.Count(b, []byte{0xff}); return nil })
		}
		if err == nil {
			continue
		}
		var fault *FaultError
		if faults++; !errors.As(err, &fault) || errors.Is(err, ErrPermission) || errors.Is(err, ErrGuard) {
			t.Fatalf("access %d, fault %d: %v", i, faults, err)
		}
		if fault.Err == ErrFault {
			back++
		}
	}
	t.Logf("%d faults, and the page was back in %d", faults, back)
	if faults == 0 {
		t.Error("nothing has faulted")
	}
}

// What the kernel's table says is held against what the access was: to read or
// to write, or nobody knows.
func TestCauseOfKind(t *testing.T) {
	f, _ := scratch(t, int(pageSize))
	const permission = "permission denied"
	for _, test := range []struct {
		what string
		spec Spec
		prot int
		// by what the access was: a load, a store, or nobody knows
		load, store, either string
	}{
		{"anonymous", Anonymous(1), unix.PROT_READ, "it has come back", permission, permission + ": it was a store"},
		{"anonymous", Anonymous(1), unix.PROT_READ | unix.PROT_WRITE, "it has come back", "can be read now", "can be read now"},
		{"anonymous", Anonymous(1), unix.PROT_NONE, permission, permission, permission},
		{"anonymous", Anonymous(1), unix.PROT_EXEC, permission, permission, permission},
		{"shared anonymous", Anonymous(1).Shared(), unix.PROT_READ, "it has come back", permission, "or the page has come back"},
		{"file", File(f, 0, 1), unix.PROT_READ, "it has come back", permission, "or the page has come back"},
		{"shared file", File(f, 0, 1).Shared(), unix.PROT_READ, "it has come back", permission, "or the page has come back"},
		{"file", File(f, 0, 1), unix.PROT_READ | unix.PROT_WRITE, "it has come back", "can be read now", "can be read now"},
		{"file", File(f, 0, 1), unix.PROT_NONE, permission, permission, permission},
		{"file", File(f, 0, 1), unix.PROT_EXEC, "touched", permission, "touched"},
	} {
		m := mapped[ReadWrite](t, test.spec)
		if err := sys.Mprotect(page(m.Addr()), pageSize, test.prot); err != nil {
			t.Logf("%s, %v: %v", test.what, Prot(test.prot), err) // a policy forbids to execute it
			continue
		}
		for need, want := range map[Prot]string{ProtRead: test.load, ProtWrite: test.store, 0: test.either} {
			what := test.what + ", " + Prot(test.prot).String() + ", access " + need.String()
			cause := ErrFault
			if len(want) >= len(permission) && want[:len(permission)] == permission {
				cause = ErrPermission
			}
			fault := m.r.fault(m.Addr(), m.Addr(), m.r.addr.Load(), need)
			if explained(t, what, fault, cause, want); errors.Is(fault, ErrPermission) != (cause == ErrPermission) {
				t.Errorf("%s: %v", what, fault)
			}
		}
	}
	check(t, os.Truncate(f.Name(), 0))
	m := mapped[Read](t, File(f, 0, 1))
	for _, need := range []Prot{ProtRead, 0} {
		if fault := m.r.fault(m.Addr(), m.Addr(), m.r.addr.Load(), need); fault.Err != ErrTruncated {
			t.Errorf("truncated, access %v: %v", need, fault)
		}
	}
}

// Of a shared page that can be read, and is on a full file system, that is said: a store
// can have failed there for lack of space.
func TestCauseFull(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	f := onSmallDisk(t, 64<<10)
	cause := func(m ReadWrite, need Prot) error { return m.r.fault(m.Addr(), m.Addr(), m.Addr(), need) }
	check(t, Allocate(f, 0, 32<<10))
	shared, private := mapped[ReadWrite](t, File(f, 0, 10).Shared()), mapped[ReadWrite](t, File(f, 0, 10))
	explained(t, "not full", cause(shared, ProtWrite), ErrFault, "the page can be read now")
	check(t, Allocate(f, 0, 64<<10))
	for _, need := range []Prot{ProtWrite, 0} {
		explained(t, "full", cause(shared, need), ErrFault, "the file system has no free space now")
		explained(t, "private", cause(private, need), ErrFault, "the page can be read now")
	}
	explained(t, "a load", cause(shared, ProtRead), ErrFault, "it has come back")
}
