//go:build linux

package mmap

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mmarinus/mmap/internal/attach"
	"golang.org/x/sys/unix"
)

// These tests stop a goroutine between two of its system calls.

// The ioctls before which they stop it.
const (
	pagemapScan  = 0xc0606610
	uffdRegister = 0xc020aa00
	uffdCopy     = 0xc028aa03
)

// ends reports whether f ends soon, without waiting for who is stopped.
func ends(f func()) (soon bool, done chan struct{}) {
	done = make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
		return true, done
	case <-time.After(200 * time.Millisecond):
		return false, done
	}
}

// A Take before contents are destroyed does not have the change, so the next one must, also
// where the kernel does not count it as a write.
func TestTrackDestroyOrder(t *testing.T) {
	trackable(t)
	pg := int(pageSize)
	f, _ := scratch(t, 4*pg)
	for name, c := range map[string]struct {
		of      Spec
		advice  uintptr
		destroy func(m ReadWrite, off, n int) error
	}{
		"punch":   {Anonymous(4 * pg).Shared(), unix.MADV_REMOVE, ReadWrite.Punch},
		"discard": {File(f, 0, 4*pg), unix.MADV_DONTNEED, ReadWrite.Discard},
	} {
		t.Run(name, func(t *testing.T) {
			m := mapped[ReadWrite](t, c.of)
			check(t, second(m.WriteAt(make([]byte, 4*pg), 0)))
			tracker := tracked(t, m)
			before := func() { takes(t, "before", m, tracker, pg) }
			check(t, paused(t, unix.SYS_MADVISE, 2, c.advice, before, func() error { return c.destroy(m, pg, pg) }))
			takes(t, "after", m, tracker, pg, 1)
		})
	}
}

// Close of a tracker waits for a Take: its descriptors could be somebody else's by then.
func TestTrackCloseOrder(t *testing.T) {
	trackable(t)
	pg := int(pageSize)
	m := mapped[ReadWrite](t, Anonymous(4*pg))
	tracker := tracked(t, m)
	check(t, second(m.WriteAt([]byte{1}, int64(pg))))
	var closed chan struct{}
	check(t, paused(t, unix.SYS_IOCTL, 1, pagemapScan, func() {
		soon := false
		if soon, closed = ends(func() { check(t, tracker.Close()) }); soon {
			t.Error("the tracker is closed while Take uses its descriptors")
		}
	}, func() error { takes(t, "beside Close", m, tracker, pg, 1); return nil }))
	<-closed
	wants(t, "Take after Close", second(tracker.Take(0, pg)), ErrClosed)
}

// Grow waits for Track: pages that come before the region has its tracker, and after it has
// been looked how many there are, would count as written without having been.
func TestTrackGrowOrder(t *testing.T) {
	trackable(t)
	pg := int(pageSize)
	m := mapped[ReadWrite](t, Anonymous(pg).Reserve(4*pg))
	var tracker *Tracker
	var grown chan struct{}
	check(t, paused(t, unix.SYS_IOCTL, 1, pagemapScan, func() {
		_, grown = ends(func() { check(t, Grow(m, 4*pg)) })
	}, func() (err error) { tracker, err = m.Track(); return err }))
	defer tracker.Close()
	<-grown
	takes(t, "grown", m, tracker, pg)
	check(t, second(m.WriteAt([]byte{1}, int64(2*pg))))
	takes(t, "written", m, tracker, pg, 2)
}

// Close of a tracker waits for a Grow that has new pages tracked.
func TestTrackGrowCloseOrder(t *testing.T) {
	trackable(t)
	pg := int(pageSize)
	m := mapped[ReadWrite](t, Anonymous(pg).Reserve(4*pg))
	tracker := tracked(t, m)
	var closed chan struct{}
	check(t, paused(t, unix.SYS_IOCTL, 1, uffdRegister, func() {
		soon := false
		if soon, closed = ends(func() { check(t, tracker.Close()) }); soon {
			t.Error("the tracker is closed while Grow uses its descriptor")
		}
	}, func() error { return Grow(m, 4*pg) }))
	<-closed
}

// Track waits for a fetch that has begun without it: what is fetched is not written.
func TestTrackFetchOrder(t *testing.T) {
	trackable(t)
	pg := int(pageSize)
	m := mapped[ReadWrite](t, Anonymous(4*pg))
	pages := must(attach.Pager(m.Untyped(), nothingFetched, nil))
	var tracker *Tracker
	var begun chan struct{}
	check(t, paused(t, unix.SYS_IOCTL, 1, uffdCopy, func() {
		_, begun = ends(func() { tracker = must(m.Track()) })
	}, func() error { return pages.Install(0, make([]byte, 4*pg)) }))
	<-begun
	takes(t, "fetched", m, tracker, pg)
	check(t, second(m.WriteAt([]byte{1}, int64(2*pg))))
	takes(t, "written", m, tracker, pg, 2)
}

// A transition that a tracker refuses says so, also if that is closed as soon as the
// transition lets it.
func TestTrackClosedMeanwhile(t *testing.T) {
	u := must(MapUnknown(Anonymous(int(pageSize)), ProtRead))
	defer u.Close()
	var over atomic.Bool
	var others sync.WaitGroup
	others.Go(func() {
		for more, a := u.r.has(), new(attachment); !over.Load(); {
			more.attached.Store(a)
			more.attached.Store(nil)
		}
	})
	refused := 0
	for end := time.Now().Add(time.Second); refused < 200_000 && time.Now().Before(end); {
		if err := u.acquireToChange(); err == nil {
			u.giveUp()
		} else if refused++; !errors.Is(err, ErrBusy) {
			t.Errorf("refused with %v", err)
			break
		}
	}
	over.Store(true)
	others.Wait()
	t.Logf("refused %d times", refused)
}
