//go:build linux

package mmap

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/internal/testkit"
	"golang.org/x/sys/unix"
)

// tracked tracks a mapping until the end of the test.
func tracked(t testing.TB, m interface{ Track() (*Tracker, error) }) *Tracker {
	t.Helper()
	tracker, err := m.Track()
	check(t, err)
	t.Cleanup(func() { tracker.Close() })
	return tracker
}

// takes fails unless Take of all returns the pages with these numbers.
func takes(t testing.TB, what string, m mapping, tracker *Tracker, size int, pages ...int) {
	t.Helper()
	got, err := tracker.Take(0, m.Len())
	check(t, err)
	if want := spansOf(size, pages...); !slices.Equal(got, want) {
		t.Errorf("%s: took %v, want %v", what, got, want)
	}
}

// spansOf returns pages, in ascending order, as spans.
func spansOf(size int, pages ...int) (spans []Span) {
	for _, p := range pages {
		if n := len(spans); n > 0 && spans[n-1].Off+spans[n-1].Len == p*size {
			spans[n-1].Len += size
		} else {
			spans = append(spans, Span{p * size, size})
		}
	}
	return spans
}

func upTo(n int) (pages []int) {
	for i := range n {
		pages = append(pages, i)
	}
	return pages
}

// eachTrackedKind runs a test for each kind of memory.
func eachTrackedKind(t *testing.T, f func(t *testing.T, k trackedKind)) {
	trackable(t)
	for _, k := range trackedKinds(t) {
		t.Run(k.name, func(t *testing.T) { f(t, k) })
	}
}

func TestTrack(t *testing.T) {
	eachTrackedKind(t, func(t *testing.T, k trackedKind) {
		m, pg := k.mapped(t), k.page
		put := func(page int) { check(t, second(m.WriteAt([]byte{1}, int64(page*pg)))) }
		put(7) // before
		tracker := tracked(t, m)
		takes(t, "at first", m, tracker, pg)
		check(t, second(m.ReadAt(make([]byte, m.Len()), 0)))
		takes(t, "after reads", m, tracker, pg)
		for _, page := range []int{1, 2, 5, 7} {
			put(page)
		}
		want := spansOf(pg, 1, 2, 5, 7)
		for range 2 {
			if got := must(tracker.Written(0, m.Len())); !slices.Equal(got, want) {
				t.Errorf("written: %v, want %v", got, want)
			}
		}
		// Ranges are widened to whole pages, and nothing beyond is touched.
		if got, want := must(tracker.Take(2*pg+1, 1)), spansOf(pg, 2); !slices.Equal(got, want) {
			t.Errorf("a byte of page 2: %v, want %v", got, want)
		}
		if got, want := must(tracker.Take(3*pg-1, 2*pg+2)), spansOf(pg, 5); !slices.Equal(got, want) {
			t.Errorf("from the end of page 2 into page 5: %v, want %v", got, want)
		}
		put(5)
		takes(t, "the rest", m, tracker, pg, 1, 5, 7)
		takes(t, "nothing", m, tracker, pg)
		check(t, tracker.Mark(3*pg+1, pg))
		put(3)
		takes(t, "marked", m, tracker, pg, 3, 4)
		check(t, second(m.ReadAt(make([]byte, m.Len()), 0)))
		takes(t, "marked, taken and read", m, tracker, pg)
		put(0)
		check(t, tracker.Mark(2*pg, 4*pg))
		check(t, tracker.Reset(3*pg, pg))
		check(t, tracker.Reset(0, 1))
		takes(t, "reset", m, tracker, pg, 2, 4, 5)
		put(3)
		takes(t, "written after the reset", m, tracker, pg, 3)
		// The kernel's own writes are seen.
		r, w, err := os.Pipe()
		check(t, err)
		check(t, second(w.Write([]byte{1})))
		w.Close()
		if k.name != "secret" { // which the kernel cannot write to
			check(t, m.Update(func(b []byte) error { return second(r.Read(b[6*pg : 6*pg+1])) }))
			takes(t, "read(2) into it", m, tracker, pg, 6)
		}
		r.Close()
	})
}

// What destroys contents counts as a write, whatever the kernel says of it.
func TestTrackDestroys(t *testing.T) {
	calls := map[string]func(m ReadWrite, off, n int) error{
		"discard": ReadWrite.Discard, "discard locked": ReadWrite.DiscardLocked, "free": ReadWrite.Free, "punch": ReadWrite.Punch,
		"guard": ReadWrite.InstallGuardPages, "unguard": ReadWrite.RemoveGuardPages,
	}
	eachTrackedKind(t, func(t *testing.T, k trackedKind) {
		for name, destroy := range calls {
			t.Run(name, func(t *testing.T) {
				m, pg := k.mapped(t), k.page
				check(t, second(m.WriteAt(make([]byte, m.Len()), 0)))
				tracker := tracked(t, m)
				if err := destroy(m, 2*pg, 3*pg); errors.Is(err, ErrBusy) {
					if name != "guard" || k.name == "private" || k.name == "transparent huge" {
						t.Error(err)
					}
					return
				} else if err != nil {
					t.Log(err) // what is refused may have happened in part
				}
				takes(t, name, m, tracker, pg, 2, 3, 4)
				m.RemoveGuardPages(0, m.Len())
				check(t, tracker.Reset(0, m.Len()))
				check(t, second(m.ReadAt(make([]byte, m.Len()), 0)))
				takes(t, "read", m, tracker, pg)
				check(t, second(m.WriteAt([]byte{1}, int64(3*pg))))
				takes(t, "written", m, tracker, pg, 3)
				if m.WipeOnFork(2*pg, pg) == nil {
					takes(t, "wipe on fork, which changes nothing here", m, tracker, pg)
				}
			})
		}
	})
}

// A page that was written, and has then gone from the page tables, is not forgotten.
func TestTrackEviction(t *testing.T) {
	eachTrackedKind(t, func(t *testing.T, k trackedKind) {
		m, pg := k.mapped(t), k.page
		tracker := tracked(t, m)
		check(t, second(m.WriteAt([]byte{1}, int64(pg))))
		check(t, second(m.WriteAt([]byte{1}, int64(6*pg))))
		m.Sync(0, m.Len())
		// This is how the kernel takes pages away, without the library's notice.
		if sys.Madvise(m.Addr(), uintptr(m.Len()), unix.MADV_PAGEOUT) != nil && k.name != "secret" && k.name != "huge" {
			t.Error("not paged out")
		}
		if slices.Contains([]string{"shared", "memfd", "file"}, k.name) { // whose contents are elsewhere
			check(t, sys.Madvise(m.Addr(), uintptr(m.Len()), unix.MADV_DONTNEED))
		}
		got := must(tracker.Take(0, m.Len()))
		for _, want := range spansOf(pg, 1, 6) {
			if !slices.ContainsFunc(got, func(s Span) bool { return s.Off <= want.Off && s.Off+s.Len >= want.Off+want.Len }) {
				t.Errorf("took %v, which lacks %v", got, want)
			}
		}
	})
}

// An offset that is on no page boundary, and a length that is none.
func TestTrackUnaligned(t *testing.T) {
	trackable(t)
	pg := int(pageSize)
	f, _ := scratch(t, 4*pg)
	m := mapped[ReadWrite](t, File(f, 7, 2*pg+100))
	tracker := tracked(t, m)
	check(t, second(m.WriteAt(make([]byte, m.Len()), 0)))
	if got, want := must(tracker.Written(0, m.Len())), []Span{{0, 2*pg + 100}}; !slices.Equal(got, want) {
		t.Errorf("all: %v, want %v", got, want)
	}
	if got, want := must(tracker.Take(pg, 1)), []Span{{pg - 7, pg}}; !slices.Equal(got, want) {
		t.Errorf("the second page: %v, want %v", got, want)
	}
	if got, want := must(tracker.Take(0, m.Len())), []Span{{0, pg - 7}, {2*pg - 7, 107}}; !slices.Equal(got, want) {
		t.Errorf("the first and the last page: %v, want %v", got, want)
	}
}

func TestTrackArguments(t *testing.T) {
	trackable(t)
	pg := int(pageSize)
	m := mapped[ReadWrite](t, Anonymous(3*pg))
	tracker := tracked(t, m)
	for name, call := range map[string]func(tracker *Tracker, off, n int) error{
		"take":    func(tracker *Tracker, off, n int) error { return second(tracker.Take(off, n)) },
		"written": func(tracker *Tracker, off, n int) error { return second(tracker.Written(off, n)) },
		"mark":    (*Tracker).Mark, "reset": (*Tracker).Reset,
	} {
		const most = int(^uint(0) >> 1)
		for _, c := range [][2]int{{-1, 1}, {0, -1}, {0, 3*pg + 1}, {3*pg + 1, 0}, {pg, most}, {most, most}} {
			explained(t, name, call(tracker, c[0], c[1]), os.ErrInvalid, name, fmt.Sprint(c[0]), fmt.Sprint(c[1]), fmt.Sprint(3*pg))
		}
		check(t, call(tracker, 3*pg, 0))
		for _, dead := range []*Tracker{nil, new(Tracker)} {
			wants(t, name+" of no tracker", call(dead, 0, 0), ErrClosed)
		}
	}
	wants(t, "close of no tracker", new(Tracker).Close(), ErrClosed)
	check(t, tracker.Close())
	for _, err := range []error{tracker.Close(), tracker.Mark(0, 1), tracker.Reset(0, 0), second(tracker.Take(0, 1)), second(tracker.Written(0, 0))} {
		wants(t, "after Close", err, ErrClosed)
	}
	wants(t, "Track of nothing", second(ReadWrite{}.Track()), ErrClosed)
	old := m
	m = must(Resize(m, pg))
	defer m.Close()
	wants(t, "Track of a moved mapping", second(old.Track()), ErrMoved)
	empty := tracked(t, mapped[ReadWrite](t, Anonymous(0)))
	if spans := must(empty.Take(0, 0)); len(spans) != 0 {
		t.Errorf("%v is written of nothing", spans)
	}
	check(t, empty.Close())
}

// A tracker refuses what a pin refuses, and nothing else.
func TestTrackRefuses(t *testing.T) {
	trackable(t)
	pg := int(pageSize)
	u := must(MapUnknown(Anonymous(4*pg), ProtRead|ProtWrite))
	defer u.Close()
	known := mapped[ReadWrite](t, Anonymous(4*pg))
	before := []string{state(t, u), state(t, known)}
	first, other := tracked(t, u), tracked(t, known)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, err := range map[string]error{
		"protect": second(Protect[Read](known)), "protect unknown": u.Protect(ProtRead), "protect range": u.ProtectRange(0, pg, ProtRead),
		"place": u.Place(0, Anonymous(pg), ProtRead), "over": second(Over[Read](known, Anonymous(4*pg))), "resize": second(Resize(known, pg)),
		"move": second(Move(known, spot(t, 8))), "split": third(Split(known, pg)), "forget": second(Forget(known)),
		"assert": second(Assert[ReadWrite](u)), "release": third(known.Release()), "track": second(known.Track()), "track unknown": second(u.Track()),
		"drain": known.Drain(ctx, func() error { return second(Protect[Read](known)) }),
	} {
		explained(t, name, err, ErrBusy, "racker")
	}
	kept(t, "all that", u, before[0])
	kept(t, "all that", known, before[1])
	check(t, first.Close())
	check(t, other.Close())
	left, right, err := Split(known, pg)
	check(t, err)
	half := tracked(t, right)
	wants(t, "join with a tracked mapping", second(Join(left, right)), ErrBusy)
	check(t, half.Close())
	known = must(Join(left, right))
	check(t, must(Protect[Read](known)).Close())
}

// Close of the mapping ends the tracker, and waits for nobody.
func TestTrackClose(t *testing.T) {
	trackable(t)
	if !byItself(t) {
		return
	}
	pg := int(pageSize)
	before := descriptors(t)
	m := must(Map[ReadWrite](Anonymous(4 * pg)))
	tracker := must(m.Track())
	pin := must(m.Pin())
	check(t, m.Close())
	wants(t, "Take after Close", second(tracker.Take(0, pg)), ErrClosed)
	wants(t, "Close of the tracker after that of the mapping", tracker.Close(), ErrClosed)
	if now := descriptors(t); len(now) != len(before)+2 {
		t.Errorf("under the last pin there are %v", now)
	}
	check(t, Guard(func() error { pin.Bytes()[0] = 1; return nil }, pin))
	check(t, pin.Unpin())
	if now := descriptors(t); len(now) != len(before) {
		t.Errorf("descriptors left: %v", now)
	}
	// Of what nobody closes, the collector closes the descriptors.
	func() {
		m := must(Map[ReadWrite](Anonymous(pg)))
		must(m.Track())
		graduate()
		r := m.r
		runtime.SetFinalizer(r, nil)
		r.collect()
	}()
	if now := descriptors(t); len(now) != len(before) {
		t.Errorf("descriptors left by the collector: %v", now)
	}
	// A close that waits for readers, beside a tracker.
	m = must(Map[ReadWrite](Anonymous(pg)))
	must(m.Track())
	check(t, m.Drain(t.Context(), m.Close))
	if now := descriptors(t); len(now) != len(before) {
		t.Errorf("descriptors left by Drain: %v", now)
	}
}

func descriptors(t testing.TB) (open []string) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	for _, fd := range all {
		name, _ := os.Readlink("/proc/self/fd/" + fd.Name())
		if strings.Contains(name, "userfaultfd") || strings.HasSuffix(name, "/pagemap") {
			open = append(open, name)
		}
	}
	return open
}

// growing maps two pages with room for eight.
func (k trackedKind) growing(t *testing.T) ReadWrite {
	if k.name == "transparent huge" {
		t.Skip("the same as private")
	}
	s := k.spec(t)
	s.size = 2 * k.page
	return mapped[ReadWrite](t, s.Reserve(8*k.page))
}

// Pages that Grow adds are tracked.
func TestTrackGrow(t *testing.T) {
	eachTrackedKind(t, func(t *testing.T, k trackedKind) {
		pg, m := k.page, k.growing(t)
		tracker := tracked(t, m)
		check(t, Grow(m, 3*pg-1))
		check(t, second(m.ReadAt(make([]byte, 3*pg-1), 0)))
		takes(t, "grown", m, tracker, pg)
		check(t, second(m.WriteAt([]byte{1}, int64(3*pg-2))))
		check(t, Grow(m, 6*pg))
		for _, page := range []int{1, 3, 5} {
			check(t, second(m.WriteAt([]byte{1}, int64(page*pg))))
		}
		takes(t, "written", m, tracker, pg, 1, 2, 3, 5)
		check(t, Grow(m, 8*pg))
		check(t, second(m.WriteAt(make([]byte, 8*pg), 0)))
		takes(t, "all", m, tracker, pg, upTo(8)...)
		check(t, tracker.Close())
		check(t, second(m.WriteAt(make([]byte, 8*pg), 0)))
		again := tracked(t, m)
		takes(t, "again", m, again, pg)
		check(t, second(m.WriteAt([]byte{1}, int64(7*pg))))
		takes(t, "again, written", m, again, pg, 7)
	})
}

// Grow that cannot track its new pages adds none.
func TestTrackGrowFails(t *testing.T) {
	eachTrackedKind(t, func(t *testing.T, k trackedKind) {
		pg, m := k.page, k.growing(t)
		tracker, before := tracked(t, m), state(t, m)
		fd := tracker.on.fd
		tracker.on.fd = -1
		explained(t, "Grow without the kernel", Grow(m, 4*pg), unix.EBADF, "grow to")
		tracker.on.fd = fd
		kept(t, "Grow", m, before)
		check(t, Grow(m, 4*pg))
		check(t, second(m.WriteAt([]byte{1}, int64(3*pg))))
		takes(t, "grown after all", m, tracker, pg, 3)
	})
}

// A sealed mapping is tracked as another.
func TestTrackSeal(t *testing.T) {
	trackable(t)
	testkit.Needs(t, "mseal")
	if !byItself(t) {
		return
	}
	pg := int(pageSize)
	m := must(Map[ReadWrite](Anonymous(4 * pg)))
	tracker := must(m.Track())
	check(t, m.Seal())
	check(t, second(m.WriteAt([]byte{1}, int64(pg))))
	takes(t, "sealed", m, tracker, pg, 1)
	wants(t, "Close of a sealed mapping", m.Close(), ErrSealed)
	check(t, tracker.Close())
	tracker = must(m.Track())
	check(t, second(m.WriteAt([]byte{1}, int64(2*pg))))
	takes(t, "sealed before", m, tracker, pg, 2)
}

// Who needs no privileges has them.
func TestTrackUnprivileged(t *testing.T) {
	trackable(t)
	if !byItself(t) {
		return
	}
	humble(t)
	pg := int(pageSize)
	m := must(Map[ReadWrite](Anonymous(4 * pg)))
	defer m.Close()
	tracker := must(m.Track())
	check(t, second(m.WriteAt([]byte{1}, int64(pg))))
	takes(t, "unprivileged", m, tracker, pg, 1)
}

// What a filter forbids is no lack of the kernel.
func TestTrackFiltered(t *testing.T) {
	for name, c := range map[string]struct {
		rule  rule
		errno error
		says  string
	}{
		"Userfaultfd": {rule{Call: unix.SYS_USERFAULTFD, Errno: unix.EPERM}, unix.EPERM, "seccomp"},
		"Scan":        {rule{Call: unix.SYS_IOCTL, Arg: 1, Mask: ^uint32(0), Is: 0xc0606610, Errno: unix.EPERM}, unix.EPERM, "track"},
	} {
		t.Run(name, func(t *testing.T) {
			if missing := Probe("UFFD_FEATURE_WP_ASYNC"); name == "Scan" || !errors.Is(missing, unix.EPERM) {
				trackable(t)
			}
			if !byItself(t) {
				return
			}
			m := must(Map[ReadWrite](Anonymous(1)))
			defer m.Close()
			filtered(t, []rule{c.rule})
			err := second(m.Track())
			explained(t, "Track", err, c.errno, "track", c.says)
			if errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("the kernel lacks nothing: %v", err)
			}
			if open := descriptors(t); len(open) > 0 {
				t.Errorf("descriptors left: %v", open)
			}
		})
	}
}

// A kernel that cannot is named: this one, or one of which a filter makes it.
func TestTrackUnsupported(t *testing.T) {
	const api = 0xc018aa3f // UFFDIO_API, which is EINVAL for features that the kernel does not know
	for name, lacks := range map[string][]rule{
		"Kernel":      nil,
		"Features":    {{Call: unix.SYS_IOCTL, Arg: 1, Mask: ^uint32(0), Is: api, Errno: unix.EINVAL}},
		"Userfaultfd": {{Call: unix.SYS_USERFAULTFD, Errno: unix.ENOSYS}},
	} {
		t.Run(name, func(t *testing.T) {
			if !byItself(t) {
				return
			}
			missing := Probe("UFFD_FEATURE_WP_ASYNC")
			switch {
			case name == "Kernel" && missing == nil:
				t.Skip("it is supported")
			case name == "Features" && errors.Is(missing, unix.EPERM):
				t.Skip(missing) // before the kernel is asked for features
			case lacks != nil:
				for i := range kernel.Features { // a filter comes before the program, as a rule
					kernel.Features[i].Forget()
				}
				filtered(t, lacks)
				missing = errors.New("UFFD_FEATURE_WP_ASYNC needs Linux 6.7")
			}
			m := mapped[ReadWrite](t, Anonymous(1))
			before := state(t, m)
			err := second(m.Track())
			if lacking(t, "Track", err, missing); !strings.HasPrefix(fmt.Sprint(err), "mmap: track: ") {
				t.Error(err)
			}
			kept(t, "Track", m, before)
			check(t, must(Protect[Read](m)).Close())
			if open := descriptors(t); len(open) > 0 {
				t.Errorf("descriptors left: %v", open)
			}
		})
	}
}

func TestTrackKindsRefused(t *testing.T) {
	trackable(t)
	pg := int(pageSize)
	f, _ := scratch(t, 2*pg)
	ro := must(os.Open(f.Name()))
	defer ro.Close()
	u := must(MapUnknown(File(ro, 0, pg).Shared(), ProtRead))
	defer u.Close()
	explained(t, "a file for reading only", second(u.Track()), unix.EPERM, "open for reading only")
	if Probe("MAP_DROPPABLE") == nil {
		m := mapped[ReadWrite](t, Anonymous(pg).Droppable())
		if tracker, err := m.Track(); err == nil { // before Linux 6.14 or so
			check(t, tracker.Close())
		} else {
			wants(t, "droppable memory", err, errors.ErrUnsupported)
		}
	}
	m := mapped[ReadWrite](t, Anonymous(2*pg))
	fd := must(sys.Userfaultfd(uffdWrites))
	check(t, sys.UffdRegister(fd, m.Addr()+pageSize, pageSize, sys.UFFDIO_REGISTER_MODE_WP))
	explained(t, "memory of another userfaultfd", second(m.Track()), unix.EBUSY, "another userfaultfd")
	unix.Close(fd)
	check(t, tracked(t, m).Close())
	// Locks of a file's pages, and guard pages, on both sides of Track.
	file := mapped[ReadWrite](t, File(f, 0, 2*pg).Shared())
	k := trackedKind{name: "file"}
	if k.fromFile() {
		check(t, file.LockOnFault(pg, 1))
		explained(t, "locked pages of a file", second(file.Track()), ErrBusy, "locked")
		check(t, file.Unlock(0, 2*pg))
		reserved := mapped[ReadWrite](t, File(f, 0, pg).Lock().Reserve(2*pg))
		check(t, reserved.Unlock(0, pg))
		explained(t, "pages of a file that Grow will lock", second(reserved.Track()), ErrBusy, "locked")
		unlocked := mapped[ReadWrite](t, File(f, 0, pg).Lock()) // and cannot grow
		check(t, unlocked.Unlock(0, pg))
		check(t, tracked(t, unlocked).Close())
		tracker := tracked(t, file)
		explained(t, "lock of a tracked file", file.Lock(0, pg), ErrBusy, "lock of", "Tracker")
		explained(t, "lock on fault of a tracked file", file.LockOnFault(0, pg), ErrBusy, "lock on fault of", "Tracker")
		check(t, tracker.Close())
		check(t, file.Lock(0, pg))
	}
	if Probe("MADV_GUARD_INSTALL") == nil {
		shared := mapped[ReadWrite](t, Anonymous(2*pg).Shared())
		tracker := tracked(t, shared)
		explained(t, "guard pages in shared memory", shared.InstallGuardPages(0, pg), ErrBusy, "MADV_GUARD_INSTALL", "Tracker")
		check(t, tracker.Close())
		// Adopted memory is asked what it is.
		at, size, err := must(Map[ReadWrite](Anonymous(2 * pg))).Release()
		check(t, err)
		adopted := must(UnsafeAdopt[ReadWrite](at, size))
		defer adopted.Close()
		tracked(t, adopted)
		check(t, adopted.InstallGuardPages(0, pg))
	}
}

// The kernel makes no huge page of pages that are watched, and says EINVAL, as if there were
// no whole huge page.
func TestTrackCollapse(t *testing.T) {
	trackable(t)
	huge := hugeSize(t)
	m := mapped[ReadWrite](t, Anonymous(huge).Align(huge))
	check(t, m.Advise(0, huge, AdviceNoHugePage))
	fill(t, m)
	check(t, m.Advise(0, huge, AdviceHugePage))
	tracker := tracked(t, m)
	explained(t, "collapse", m.Collapse(0, huge), ErrBusy, "MADV_COLLAPSE", "Tracker")
	check(t, tracker.Close())
	switch err := m.Collapse(0, huge); {
	case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EBUSY) && !errors.Is(err, ErrBusy):
		t.Skip("no huge page is to be had: ", err)
	default:
		check(t, err)
	}
}

// What somebody else maps into a tracked range, or unmaps, is not passed over in silence.
func TestTrackForeign(t *testing.T) {
	trackable(t)
	pg := int(pageSize)
	for name, change := range map[string]func(at uintptr) error{
		"mapped": func(at uintptr) error {
			const flags = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_FIXED
			must(sys.Mmap(at, pageSize, unix.PROT_READ|unix.PROT_WRITE, flags, -1, 0))
			memory(at, 1)[0] = 1
			return nil
		},
		"unmapped": func(at uintptr) error { return sys.Munmap(at, pageSize) },
	} {
		t.Run(name, func(t *testing.T) {
			m := mapped[ReadWrite](t, Anonymous(4*pg).At(spot(t, 8))) // where nobody maps anything else
			tracker := tracked(t, m)
			check(t, second(m.WriteAt([]byte{1}, 0)))
			check(t, change(m.Addr()+2*pageSize))
			wants(t, "Take", second(tracker.Take(0, m.Len())), errLost)
			wants(t, "Written", second(tracker.Written(0, m.Len())), errLost)
			// What Take had found is not lost, and neither is what Reset could not reset.
			if got := must(tracker.Take(0, 2*pg)); !slices.Equal(got, spansOf(pg, 0, 1)) {
				t.Errorf("after Take: %v", got)
			}
			wants(t, "Reset", tracker.Reset(0, m.Len()), errLost)
			if got := must(tracker.Take(0, 2*pg)); !slices.Equal(got, spansOf(pg, 0, 1)) {
				t.Errorf("after Reset: %v", got)
			}
		})
	}
}

var replicate = flag.Duration("replicate", 250*time.Millisecond, "how long TestTrackReplication takes for each kind of memory")

// A replica that is fed by Take, beside writers and what destroys contents, is equal at the
// end.
func TestTrackReplication(t *testing.T) {
	eachTrackedKind(t, func(t *testing.T, k trackedKind) {
		m := k.mapped(t)
		tracker := tracked(t, m)
		pages := m.Len() / k.page
		replica := make([]byte, m.Len())
		check(t, second(m.ReadAt(replica, 0)))
		var stop atomic.Bool
		var all sync.WaitGroup
		for seed := range 4 {
			all.Go(func() {
				for i := seed + 1; !stop.Load(); i++ {
					at := int64(int(uint(i)*7919%uint(pages))*k.page + i%(k.page/64)*64)
					must(m.WriteAt([]byte{byte(i), byte(i >> 8), byte(seed)}, at))
				}
			})
		}
		all.Go(func() {
			for i := 1; !stop.Load(); i++ {
				off := i * 104729 % pages * k.page
				switch {
				case i%3 == 0 && strings.HasPrefix(k.name, "private"), k.name == "huge", k.name == "transparent huge":
					m.Discard(off, k.page)
				case k.name == "memfd", k.name == "shared", k.name == "file":
					m.Punch(off, k.page)
				default:
					m.Discard(off, k.page)
				}
				runtime.Gosched()
			}
		})
		copies := 0
		copyAll := func() {
			for _, s := range must(tracker.Take(0, m.Len())) {
				check(t, second(m.ReadAt(replica[s.Off:s.Off+s.Len], int64(s.Off))))
				copies++
			}
		}
		for end := time.Now().Add(*replicate); time.Now().Before(end); {
			copyAll()
		}
		stop.Store(true)
		all.Wait()
		copyAll()
		is := make([]byte, m.Len())
		check(t, second(m.ReadAt(is, 0)))
		for off := 0; off < len(is); off += k.page {
			if !slices.Equal(is[off:off+k.page], replica[off:off+k.page]) {
				t.Errorf("page %d differs after %d copies", off/k.page, copies)
			}
		}
		if copies == 0 {
			t.Error("nothing was copied")
		}
	})
}

// Take, Close, Grow, Track and the closing of the mapping at once.
func TestTrackConcurrent(t *testing.T) {
	trackable(t)
	pg := int(pageSize)
	for range 20 {
		m := must(Map[ReadWrite](Anonymous(4 * pg).Reserve(64 * pg)))
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				for {
					tracker, err := m.Track()
					if errors.Is(err, ErrClosed) {
						return
					} else if err != nil {
						wants(t, "Track", err, ErrBusy)
						continue
					}
					for range 5 {
						if _, err := tracker.Take(0, 4*pg); err != nil {
							wants(t, "Take", err, ErrClosed)
						}
					}
					if err := tracker.Close(); err != nil {
						wants(t, "Close", err, ErrClosed)
					}
				}
			})
		}
		all.Go(func() {
			for i := 5; i <= 64; i++ {
				check(t, Grow(m, i*pg))
				check(t, second(m.WriteAt(make([]byte, i*pg), 0)))
				check(t, m.Discard(0, pg))
			}
			check(t, m.Close())
		})
		all.Wait()
	}
	if open := descriptors(t); len(open) > 0 {
		t.Errorf("descriptors left: %v", open)
	}
}

// A child that has not executed anything yet does not keep a closed tracker's pages
// registered.
func TestTrackFork(t *testing.T) {
	trackable(t)
	pg := int(pageSize)
	m := mapped[ReadWrite](t, Anonymous(4*pg))
	var stop atomic.Bool
	var forks sync.WaitGroup
	forks.Go(func() {
		for !stop.Load() {
			exec.Command("/bin/true").Run()
		}
	})
	for range 300 {
		tracker, err := m.Track()
		if err != nil {
			t.Fatal(err)
		}
		check(t, second(m.WriteAt([]byte{1}, int64(pg))))
		takes(t, "beside forks", m, tracker, pg, 1)
		check(t, tracker.Close())
	}
	stop.Store(true)
	forks.Wait()
}
