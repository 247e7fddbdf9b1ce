//go:build linux

package systemtest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/sys"
	"github.com/mmarinus/mmap/internal/testkit"
	"github.com/mmarinus/mmap/paging"
	"golang.org/x/sys/unix"
)

// A use is a way to use a feature, and the version that its error names.
type use struct {
	since string
	use   func() error
}

func uses(t testing.TB) map[string]use {
	pg := int(pageSize)
	m := mapped[mmap.ReadWrite](t, mmap.Anonymous(2*pg))
	none := mapped[mmap.None](t, mmap.Anonymous(2*pg))
	huge := mapped[mmap.ReadWrite](t, mmap.Anonymous(4<<20).Align(2<<20))
	shut := func(m mapping, err error) error {
		if err == nil {
			m.Close()
		}
		return err
	}
	memfd := func(seals mmap.Seal) func() error {
		return func() error {
			f, err := mmap.Memfd("uses", int64(pg), seals)
			if err == nil {
				f.Close()
			}
			return err
		}
	}
	return map[string]use{
		"MADV_HUGEPAGE":        {"2.6.38", func() error { return m.Advise(0, pg, mmap.AdviceHugePage) }},
		"MADV_MERGEABLE":       {"2.6.32", func() error { return m.Advise(0, pg, mmap.AdviceMergeable) }},
		"mbind":                {"2.6.18", func() error { return m.SetPolicy(0, pg, mmap.PolicyDefault) }},
		"move_pages":           {"2.6.18", func() error { return second(m.Nodes(0, pg)) }},
		"memfd_create":         {"3.17", memfd(0)},
		"MLOCK_ONFAULT":        {"4.4", func() error { return none.LockOnFault(0, pg) }},
		"MADV_FREE":            {"4.5", func() error { return m.Free(0, pg) }},
		"MADV_WIPEONFORK":      {"4.14", func() error { return m.WipeOnFork(0, pg) }},
		"F_SEAL_FUTURE_WRITE":  {"5.1", memfd(mmap.SealFutureWrite)},
		"MADV_COLD":            {"5.4", func() error { return m.Advise(0, pg, mmap.AdviceCold) }},
		"memfd_secret":         {"5.14", func() error { return shut(mmap.Map[mmap.Read](mmap.Secret(pg))) }},
		"MADV_POPULATE_READ":   {"5.14", func() error { return m.Prefault(0, pg) }},
		"PR_SET_VMA_ANON_NAME": {"5.17", func() error { return m.SetName("uses") }},
		"MADV_DONTNEED_LOCKED": {"5.18", func() error { return m.DiscardLocked(0, pg) }},
		"MADV_COLLAPSE":        {"6.1", func() error { return huge.Collapse(0, huge.Len()) }},
		"MFD_NOEXEC_SEAL":      {"6.3", memfd(mmap.SealExec)},
		"PAGEMAP_SCAN": {"6.7", func() error {
			fd, err := sys.OpenSelfPagemap()
			check(t, err)
			defer unix.Close(fd)
			if _, err = new(sys.PageScan).Scan(fd, nil, false); err == unix.ENOTTY {
				return mmap.Probe("PAGEMAP_SCAN") // Track fails before it asks
			}
			return err
		}},
		"UFFD_FEATURE_SIGBUS": {"4.14", func() error {
			paged := mapped[mmap.Read](t, mmap.Anonymous(pg))
			return second(paging.New(paged, strings.NewReader("")))
		}},
		"UFFD_FEATURE_WP_ASYNC": {"6.7", func() error {
			tracker, err := m.Track()
			if err == nil {
				tracker.Close()
			}
			return err
		}},
		"mseal":              {"6.10", func() error { return mapped[mmap.None](t, mmap.Anonymous(pg)).Seal() }},
		"MAP_DROPPABLE":      {"6.11", func() error { return shut(mmap.Map[mmap.Read](mmap.Anonymous(pg).Droppable())) }},
		"MADV_GUARD_INSTALL": {"6.13", func() error { return mapped[mmap.ReadWrite](t, mmap.Anonymous(pg)).InstallGuardPages(0, pg) }},
	}
}

// Probe says what using the feature says. It seals a page, so it is apart.
func TestFeatures(t *testing.T) {
	if !byItself(t) {
		return
	}
	testFeatures(t)
}

func testFeatures(t *testing.T) (missing int) {
	for name, c := range uses(t) {
		err, want := c.use(), mmap.Probe(name)
		if want == nil {
			// Whether pages can be made huge is up to chance.
			if err != nil && (name != "MADV_COLLAPSE" || errors.Is(err, errors.ErrUnsupported)) {
				t.Errorf("%s is there and does not work: %v", name, err)
			}
			continue
		}
		missing++
		t.Log(want)
		// Without Probe it is known that a filter forbids the call.
		if forbidden(name) {
			explained(t, name, want, unix.EPERM, "probe "+name, forbidding(name))
		} else {
			explained(t, name, want, errors.ErrUnsupported, name+" needs Linux "+c.since)
		}
		lacking(t, name, err, want)
		if again := mmap.Probe(name); again == nil || again.Error() != want.Error() {
			t.Errorf("%s: %v and then %v", name, want, again)
		}
	}
	// Two names of one feature have one answer, by the name that was asked for.
	for one, other := range map[string]string{
		"MADV_MERGEABLE": "MADV_UNMERGEABLE", "MADV_HUGEPAGE": "MADV_NOHUGEPAGE", "MADV_WIPEONFORK": "MADV_KEEPONFORK",
		"MADV_COLD": "MADV_PAGEOUT", "MADV_POPULATE_READ": "MADV_POPULATE_WRITE", "MADV_GUARD_INSTALL": "MADV_GUARD_REMOVE",
	} {
		if a, b := mmap.Probe(one), mmap.Probe(other); (a == nil) != (b == nil) || b != nil && !strings.HasPrefix(b.Error(), other+" needs Linux") {
			t.Errorf("%s: %v; %s: %v", one, a, other, b)
		}
	}
	for _, name := range []string{"", " ", "mse", "MSEAL", "mseal ", "MADV_COLD MADV_PAGEOUT", "MADV_COLD ", "MADV_DONTNEED", "mseal\x00"} {
		err := mmap.Probe(name)
		if wants(t, name, err, os.ErrInvalid, unix.EINVAL); errors.Is(err, errors.ErrUnsupported) || !strings.Contains(fmt.Sprint(err), "probe "+name) {
			t.Errorf("%q: %v", name, err)
		}
	}
	return missing
}

// asOld makes this process, which is a child of a test, run as on Linux 4.3: all
// that is newer fails as it did then.
func asOld(t testing.TB) {
	t.Helper()
	const all = ^uint32(0)
	rules := []rule{
		{Call: unix.SYS_MLOCK2, Errno: unix.ENOSYS}, {Call: unix.SYS_MBIND, Errno: unix.ENOSYS},
		{Call: unix.SYS_MOVE_PAGES, Errno: unix.ENOSYS},
		{Call: 447, Errno: unix.ENOSYS}, {Call: 462, Errno: unix.ENOSYS}, // memfd_secret, mseal
		{Call: unix.SYS_PRCTL, Arg: 0, Mask: all, Is: unix.PR_SET_VMA, Errno: unix.EINVAL}, noQuery,
		{Call: unix.SYS_IOCTL, Arg: 1, Mask: all, Is: 0xc0606610, Errno: unix.ENOTTY}, // PAGEMAP_SCAN
		{Call: unix.SYS_IOCTL, Arg: 1, Mask: all, Is: 0xc018aa3f, Errno: unix.EINVAL}, // UFFDIO_API
	}
	lacksBits := func(call, arg uintptr, bits uint32) {
		rules = append(rules, rule{Call: call, Arg: arg, Mask: bits, Is: bits, Errno: unix.EINVAL})
	}
	lacksBits(unix.SYS_MREMAP, 3, unix.MREMAP_DONTUNMAP)
	lacksBits(unix.SYS_MEMFD_CREATE, 1, unix.MFD_NOEXEC_SEAL)
	lacksBits(unix.SYS_MEMFD_CREATE, 1, unix.MFD_EXEC)
	for _, a := range []uint32{
		unix.MADV_HUGEPAGE, unix.MADV_NOHUGEPAGE, unix.MADV_MERGEABLE, unix.MADV_UNMERGEABLE, unix.MADV_FREE,
		unix.MADV_WIPEONFORK, unix.MADV_COLD, unix.MADV_PAGEOUT, unix.MADV_POPULATE_READ, unix.MADV_POPULATE_WRITE,
		unix.MADV_DONTNEED_LOCKED, unix.MADV_COLLAPSE, sys.MADV_GUARD_INSTALL, sys.MADV_GUARD_REMOVE,
	} {
		rules = append(rules, rule{Call: unix.SYS_MADVISE, Arg: 2, Mask: all, Is: a, Errno: unix.EINVAL})
	}
	// Of mmap2 and fcntl64 on 32-bit; on s390x the arguments are in memory.
	mmap, fcntl := mmapNumber, uintptr(unix.SYS_FCNTL)
	if unsafe.Sizeof(0) == 4 {
		fcntl = 221
	}
	if mmap == 0 {
		t.Skip("a filter cannot see the arguments of mmap(2) on ", runtime.GOARCH)
	}
	for _, kind := range []uint32{unix.MAP_SHARED_VALIDATE, unix.MAP_DROPPABLE} {
		rules = append(rules, rule{Call: mmap, Arg: 3, Mask: unix.MAP_TYPE, Is: kind, Errno: unix.EINVAL})
	}
	const future = unix.F_SEAL_FUTURE_WRITE
	rules = append(rules, rule{Call: fcntl, Arg: 2, Mask: future | ^uint32(0x3f), Is: future, Errno: unix.EINVAL})
	if forbidden("UFFD_FEATURE_SIGBUS") { // then nobody is told of features
		rules = append(rules, rule{Call: unix.SYS_USERFAULTFD, Errno: unix.ENOSYS})
	}
	filtered(t, rules)
}

// On a kernel of 2015 every feature is missing and says so, and the rest works.
func TestOldKernel(t *testing.T) {
	if !byItself(t) {
		return
	}
	asOld(t)
	if n := testFeatures(t); n != len(uses(t))-1 { // memfd_create itself is there
		t.Errorf("%d features are missing", n)
	}
	pg := int(pageSize)
	f, err := mmap.Memfd("old", int64(pg), mmap.SealShrink)
	check(t, err)
	defer f.Close()
	_, err = mmap.Memfd(strings.Repeat("too long", 40), 0, mmap.SealShrink)
	if wants(t, "long name", err, unix.EINVAL); errors.Is(err, errors.ErrUnsupported) {
		t.Error("nothing is missing here:", err)
	}
	_, err = mmap.Map[mmap.Read](mmap.File(f, 0, pg).Shared().Synchronous())
	wants(t, "MAP_SYNC", err, errors.ErrUnsupported)
	// MAP_POPULATE does what madvise(2) would.
	in, err := mapped[mmap.ReadWrite](t, mmap.Anonymous(2*pg).Populate()).ResidentPages(0, 2*pg)
	if check(t, err); !in[0] || !in[1] {
		t.Error("populated are", in)
	}
	// An Unknown of two areas, the kernel's table read as text.
	u, err := mmap.MapUnknown(mmap.Anonymous(2*pg).At(spot(t, 8)), mmap.ProtRead|mmap.ProtWrite)
	check(t, err)
	check(t, second(u.WriteAt([]byte{5}, 0)))
	check(t, u.ProtectRange(pg, pg, mmap.ProtRead))
	_, err = mmap.Assert[mmap.ReadWrite](u)
	wants(t, "assert", err, mmap.ErrPermission)
	was := pictureOf(t, u)
	// Without MREMAP_DONTUNMAP there would be no way back: refused, unchanged.
	_, err = mmap.Move(u, spot(t, 8))
	wants(t, "move of two areas", err, unix.EINVAL)
	mapped[mmap.Read](t, mmap.Anonymous(1).At(u.Addr()+2*pageSize))
	_, err = mmap.Resize(u, 5*pg)
	wants(t, "resize of two areas", err, unix.EINVAL)
	samePicture(t, "refused", was, pictureOf(t, u))
	check(t, u.Protect(mmap.ProtRead))
	ro, err := mmap.Assert[mmap.Read](u)
	check(t, err)
	ro, err = mmap.Resize(ro, 5*pg)
	check(t, err)
	ro, err = mmap.Move(ro, spot(t, 8))
	check(t, err)
	_, err = ro.Nodes(0, pg)
	wants(t, "nodes", err, errors.ErrUnsupported)
	// Lock does without the prefault that tells why it would fail.
	err = ro.Lock(0, pg)
	if err != nil {
		wants(t, "lock", err, errors.ErrUnsupported)
	}
	b := make([]byte, 1)
	if check(t, second(ro.ReadAt(b, 0))); b[0] != 5 {
		t.Error(b)
	}
	check(t, ro.Close())
}

// What a limit has refused may be there: the answer is not kept.
func TestProbeAtLimit(t *testing.T) {
	if !byItself(t) {
		return
	}
	if errors.Is(mmap.Probe("memfd_secret"), errors.ErrUnsupported) {
		t.Skip("this kernel has no memfd_secret(2)")
	}
	var old unix.Rlimit
	check(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: old.Max}))
	_, err := mmap.Memfd("none", 0, 0)
	if wants(t, "no more descriptors", err, unix.EMFILE); errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	check(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old))
	check(t, mmap.Probe("memfd_create"))
}

// needed are the calls without which there is no such feature.
var needed = map[string]uintptr{
	"mbind": unix.SYS_MBIND, "move_pages": unix.SYS_MOVE_PAGES, "mseal": 462, "memfd_secret": 447, "memfd_create": unix.SYS_MEMFD_CREATE,
	"UFFD_FEATURE_SIGBUS": unix.SYS_USERFAULTFD, "UFFD_FEATURE_WP_ASYNC": unix.SYS_USERFAULTFD,
}

// forbidden reports whether a call that a feature needs is EPERM, which without a filter none is.
func forbidden(feature string) bool {
	call, arg := needed[feature], uintptr(0)
	switch call {
	case 0:
		return false
	case unix.SYS_USERFAULTFD:
		arg = 1 // UFFD_USER_MODE_ONLY, for which nobody needs privileges
	}
	fd, _, e := unix.Syscall6(call, arg, 0, 0, 0, 0, 0)
	if e == 0 && fd > 0 {
		unix.Close(int(fd))
	}
	return e == unix.EPERM
}

// forbidding is what errors say of that.
func forbidding(feature string) string {
	if strings.HasPrefix(feature, "UFFD_") {
		feature = "userfaultfd(2)"
	}
	return feature + " is forbidden here, as by the seccomp filter of a container"
}

// A seccomp filter that forbids a feature shows in Probe, and in what needs the feature.
func TestForbidden(t *testing.T) {
	if !byItself(t) {
		return
	}
	needed := maps.Clone(needed)
	var rules []rule
	for name, call := range needed {
		if err := mmap.Probe(name); errors.Is(err, errors.ErrUnsupported) {
			t.Log("not tested: ", err)
			delete(needed, name)
			continue
		}
		rules = append(rules, rule{Call: call, Errno: unix.EPERM})
	}
	uses := uses(t)
	for i := range kernel.Features { // a filter comes before the program, as a rule
		kernel.Features[i].Forget()
	}
	filtered(t, rules)
	for name := range needed {
		for _, err := range []error{mmap.Probe(name), uses[name].use(), mmap.Probe(name)} {
			explained(t, name, err, unix.EPERM, forbidding(name))
			if errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("%s: the kernel has it: %v", name, err)
			}
		}
	}
	if needed["mbind"] != 0 {
		explained(t, "a policy", mmap.Probe("MPOL_PREFERRED_MANY"), unix.EPERM, forbidding("mbind"))
	}
}

// A filter of move_pages(2) alone is no matter of mbind(2), nor the other way round.
func TestForbiddenMovePages(t *testing.T) {
	if !byItself(t) {
		return
	}
	testkit.Needs(t, "mbind", "move_pages")
	for i := range kernel.Features {
		kernel.Features[i].Forget()
	}
	filtered(t, []rule{{Call: unix.SYS_MOVE_PAGES, Errno: unix.ENOSYS}})
	m := mapped[mmap.ReadWrite](t, mmap.Anonymous(1))
	wants(t, "mbind", m.SetPolicy(0, 1, mmap.PolicyDefault), nil)
	for _, err := range []error{second(m.Nodes(0, 1)), mmap.Probe("move_pages")} {
		explained(t, "move_pages", err, errors.ErrUnsupported, "move_pages needs Linux 2.6.18", ", or the seccomp filter here hides it: ")
	}
}
