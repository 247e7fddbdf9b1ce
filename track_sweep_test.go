//go:build linux

package mmap

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mmarinus/mmap/internal/attach"
	"github.com/mmarinus/mmap/internal/testkit"
	"golang.org/x/sys/unix"
)

// A trackedKind is a kind of memory whose writes can be tracked.
type trackedKind struct {
	name string
	page int                     // its size
	spec func(t testing.TB) Spec // of 8 pages or more
}

// trackedKinds are all kinds that there are here. Huge ones need a pool of 16.
func trackedKinds(t testing.TB) (kinds []trackedKind) {
	pg := int(pageSize)
	add := func(name string, page int, spec func(t testing.TB) Spec) {
		kinds = append(kinds, trackedKind{name, page, spec})
	}
	memfd := func(t testing.TB) Spec {
		f := must(Memfd("tracked", int64(8*pg), 0))
		t.Cleanup(func() { f.Close() })
		return File(f, 0, 8*pg)
	}
	// Its pages are not in the page cache.
	file := func(t testing.TB) Spec {
		f, _ := scratch(t, 8*pg)
		check(t, f.Sync())
		check(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
		return File(f, 0, 8*pg)
	}
	add("private", pg, func(testing.TB) Spec { return Anonymous(8 * pg) })
	add("shared", pg, func(testing.TB) Spec { return Anonymous(8 * pg).Shared() })
	add("memfd", pg, func(t testing.TB) Spec { return memfd(t).Shared() })
	add("private memfd", pg, memfd)
	add("file", pg, func(t testing.TB) Spec { return file(t).Shared() })
	add("private file", pg, file)
	missing := func(name, why string) {
		if t, ok := t.(*testing.T); ok {
			t.Run(name, func(t *testing.T) { t.Skip(why) })
		}
	}
	if !hasSecret(t) {
		missing("secret", "no secret memory")
	} else {
		add("secret", pg, func(testing.TB) Spec { return Secret(8 * pg) })
	}
	if thp := int(transparentHuge()); thp == 0 {
		missing("transparent huge", "no transparent huge pages")
	} else {
		add("transparent huge", pg, func(testing.TB) Spec { return Anonymous(2 * thp).Align(thp) })
	}
	if _, _, err := hugeFlags(0); !(err == nil && (os.Getenv("MMAP_TEST_MACHINE") == "1" || number("/proc/meminfo", "HugePages_Free:") >= 16)) {
		missing("huge", "no pool of huge pages")
	} else {
		size := int(withHugePages(t, 16))
		add("huge", size, func(testing.TB) Spec { return Anonymous(8 * size).HugePages(0) })
	}
	return kinds
}

// fromFile reports whether its pages come from a file system, which can be one in memory.
func (k trackedKind) fromFile() bool {
	var fs unix.Statfs_t
	return strings.HasSuffix(k.name, "file") && unix.Statfs(os.TempDir(), &fs) == nil && fs.Type != unix.TMPFS_MAGIC
}

// mapped maps one, and closes it at the end of the test.
func (k trackedKind) mapped(t testing.TB) ReadWrite {
	m := must(Map[ReadWrite](k.spec(t)))
	t.Cleanup(func() { m.Close() })
	if k.name == "transparent huge" {
		m.Advise(0, m.Len(), AdviceHugePage)
	}
	return m
}

// trackable skips a test where the kernel cannot track.
func trackable(t testing.TB) {
	t.Helper()
	testkit.Needs(t, "UFFD_FEATURE_WP_ASYNC", "PAGEMAP_SCAN")
}

// sweptCalls are all operations of a mapping that can be tried beside a tracker.
func sweptCalls() (names []string, calls map[string]func(m ReadWrite) error) {
	calls = map[string]func(m ReadWrite) error{
		"read":         func(m ReadWrite) error { return second(m.ReadAt(make([]byte, m.Len()), 0)) },
		"write":        func(m ReadWrite) error { return second(m.WriteAt(make([]byte, m.Len()), 0)) },
		"sync":         func(m ReadWrite) error { return m.Sync(0, m.Len()) },
		"start sync":   func(m ReadWrite) error { return m.StartSync(0, m.Len()) },
		"invalidate":   func(m ReadWrite) error { return m.Invalidate(0, m.Len()) },
		"prefault":     func(m ReadWrite) error { return m.Prefault(0, m.Len()) },
		"write fault":  func(m ReadWrite) error { return m.PrefaultWrite(0, m.Len()) },
		"collapse":     func(m ReadWrite) error { return m.Collapse(0, m.Len()) },
		"lock":         func(m ReadWrite) error { return m.Lock(0, m.Len()) },
		"lock later":   func(m ReadWrite) error { return m.LockOnFault(0, m.Len()) },
		"unlock":       func(m ReadWrite) error { return m.Unlock(0, m.Len()) },
		"lock, unlock": func(m ReadWrite) error { return errors.Join(m.Lock(0, m.Len()), m.Unlock(0, m.Len())) },
		"lock, discard": func(m ReadWrite) error {
			return errors.Join(m.LockOnFault(0, m.Len()), m.DiscardLocked(0, m.Len()))
		},
		"resident": func(m ReadWrite) error { return second(m.Resident(0, m.Len())) },
		"nodes":    func(m ReadWrite) error { return second(m.Nodes(0, m.Len())) },
		"policy":   func(m ReadWrite) error { return m.SetPolicy(0, m.Len(), PolicyBind, 0) },
		"name":     func(m ReadWrite) error { return m.SetName("swept") },
		"regions":  func(m ReadWrite) error { return second(m.Regions()) },
		"discard":  func(m ReadWrite) error { return m.Discard(0, m.Len()) },
		"punch":    func(m ReadWrite) error { return m.Punch(0, m.Len()) },
		"free":     func(m ReadWrite) error { return m.Free(0, m.Len()) },
		"wipe":     func(m ReadWrite) error { return m.WipeOnFork(0, m.Len()) },
		"guard":    func(m ReadWrite) error { return m.InstallGuardPages(0, m.Len()) },
		"guard, unguard": func(m ReadWrite) error {
			return errors.Join(m.InstallGuardPages(0, m.Len()), m.RemoveGuardPages(0, m.Len()))
		},
		"unguard": func(m ReadWrite) error { return m.RemoveGuardPages(0, m.Len()) },
		"grow":    func(m ReadWrite) error { return Grow(m, m.Cap()) },
		"fork":    func(ReadWrite) error { return exec.Command("/bin/true").Run() },
		"seal":    func(m ReadWrite) error { return m.Seal() },
	}
	for a, name := range adviceNames {
		if name != "" {
			calls[name] = func(m ReadWrite) error { return m.Advise(0, m.Len(), Advice(a)) }
		}
	}
	for name := range calls {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, calls
}

// Nothing that the library does beside a tracker waits for ever, and whatever it does, the
// writes after it are noted. What hangs does so in the kernel, in a child that is killed.
func TestTrackSweep(t *testing.T) {
	trackable(t)
	const child, first = "TestTrackSweep", "MMAP_TRACK_SWEEP_FROM"
	if os.Getenv("MMAP_TEST_CHILD") == child {
		from, _ := strconv.Atoi(os.Getenv(first))
		sweepTracked(t, from)
		return
	}
	const patience = 15 * time.Second
	for from := 0; from >= 0; {
		cmd := exec.Command(os.Args[0], "-test.run=^"+child+"$", "-test.v")
		cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir(), "MMAP_TEST_CHILD="+child, fmt.Sprint(first, "=", from), quick)
		cmd.Stderr = os.Stderr
		out := must(cmd.StdoutPipe())
		check(t, cmd.Start())
		hung := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		var lines []string
		for s := bufio.NewScanner(out); s.Scan(); hung.Reset(patience) {
			lines = append(lines, s.Text())
		}
		err, done := cmd.Wait(), from
		killed := !hung.Stop()
		last := ""
		for _, line := range lines {
			if rest, ok := strings.CutPrefix(line, "case "); ok {
				last = rest
				fmt.Sscan(rest, &done)
			}
		}
		switch {
		case killed:
			t.Errorf("never returns: %s", last)
			from = done + 1
		case err != nil || !slices.ContainsFunc(lines, func(s string) bool { return strings.HasPrefix(s, "--- PASS: "+child) }):
			t.Fatalf("%v\n%s", err, strings.Join(lines, "\n"))
		default:
			t.Logf("%d cases", done+1)
			from = -1
		}
	}
}

func sweepTracked(t *testing.T, from int) {
	names, calls := sweptCalls()
	at := -1
	for _, k := range trackedKinds(t) {
		for _, name := range names {
			for _, when := range []string{"untouched", "touched", "locked", "paged"} {
				if at++; at < from || name == "seal" && k.name == "huge" { // which the pool would not get back
					continue
				}
				fmt.Printf("case %d: %s, %s, %s\n", at, k.name, when, name)
				t.Run(fmt.Sprintf("%s/%s/%s", k.name, when, name), func(t *testing.T) {
					swept(t, k, when, calls[name])
				})
			}
		}
	}
}

// swept makes a call beside a tracker.
func swept(t *testing.T, k trackedKind, when string, call func(m ReadWrite) error) {
	m := k.mapped(t)
	refused := false
	switch when {
	case "touched":
		check(t, second(m.WriteAt(make([]byte, m.Len()), 0)))
	case "locked":
		refused = m.LockOnFault(0, m.Len()) == nil && k.fromFile()
	case "paged":
		pages, err := attach.Pager(m.Untyped(), func(int) error { return ErrFault }, nil)
		if err != nil {
			wants(t, "paging", err, errors.ErrUnsupported) // of a file system's file and of secret memory
			return
		}
		contents := make([]byte, m.Len())
		check(t, pages.Install(0, contents[:k.page]))
		defer func() {
			if absent, err := pages.Present(0, m.Len()); err != nil || !absent {
				t.Errorf("at the end all pages are in memory: %v, %v", absent, err)
			}
		}()
		inner := call
		call = func(m ReadWrite) error {
			err := inner(m)
			return errors.Join(err, pages.Install(0, contents))
		}
	}
	tracker, err := m.Track()
	if refused {
		wants(t, "Track of locked pages of a file", err, ErrBusy)
		return
	}
	check(t, err)
	defer tracker.Close()
	err = call(m)
	t.Log(err)
	guarded := m.RemoveGuardPages(0, m.Len())
	check(t, second(m.ReadAt(make([]byte, m.Len()), 0)))
	check(t, tracker.Reset(0, m.Len()))
	check(t, second(m.WriteAt([]byte{1}, int64(k.page))))
	check(t, second(m.WriteAt([]byte{1}, int64(3*k.page))))
	want := []Span{{k.page, k.page}, {3 * k.page, k.page}}
	if got := must(tracker.Take(0, m.Len())); !slices.Equal(got, want) {
		t.Errorf("written are %v, want %v; the call: %v; guard pages: %v", got, want, err, guarded)
	}
}
