//go:build linux

package live_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/live"
)

// A recorder is a test that fails where somebody can look.
type recorder struct {
	cleanups []func()
	errors   []string
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(f string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(f, args...))
}

func (r *recorder) end() {
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
}

func mapped(t *testing.T) mmap.ReadWrite {
	t.Helper()
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(1000))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func forget(t *testing.T) { mapped(t) } //mmapvet:ignore ignored a leak to be found

// Check finds what an early return has left, and what the collector took meanwhile, and
// nothing that is closed.
func TestCheck(t *testing.T) {
	before := mapped(t)
	defer before.Close()
	var r recorder
	live.Check(&r)
	closed := mapped(t)
	lost := mapped(t)
	pinned := mapped(t)
	pin, err := pinned.Pin()
	if err != nil {
		t.Fatal(err)
	}
	if closed.Close() != nil || pinned.Close() != nil {
		t.Fatal("close")
	}
	collected := mmap.ReadStats().Collected
	forget(t)
	for range 100 {
		if runtime.GC(); mmap.ReadStats().Collected > collected {
			break
		}
		time.Sleep(time.Millisecond)
	}
	r.end()
	pin.Unpin()
	if len(r.errors) != 2 {
		t.Fatalf("%d errors: %q", len(r.errors), r.errors)
	}
	want := fmt.Sprintf("a mapping of 1000 bytes at %#x, rw-, is not closed.", lost.Addr())
	if !strings.HasPrefix(r.errors[0], want) || !strings.Contains(r.errors[0], "live_test.TestCheck\n") {
		t.Error(r.errors[0])
	}
	if !strings.Contains(r.errors[1], "the collector has unmapped it") || !strings.Contains(r.errors[1], "live_test.forget\n") {
		t.Error(r.errors[1])
	}
	for _, e := range r.errors {
		_, stack, _ := strings.Cut(e, "made in\n")
		if !strings.HasPrefix(stack, "github.com/mmarinus/mmap/live_test.mapped\n") {
			t.Errorf("the stack begins with %s", stack)
		}
	}
	lost.Close()
	var again recorder
	live.Check(&again)
	mapped(t).Close()
	if again.end(); len(again.errors) > 0 {
		t.Error(again.errors)
	}
}

func count(addr uintptr) (n int, stack []uintptr) {
	for m := range live.All() {
		if m.Addr == addr {
			n, stack = n+1, m.Stack
		}
	}
	return n, stack
}

func TestAll(t *testing.T) {
	old := mapped(t)
	defer old.Close()
	live.Record(true)
	defer live.Record(false)
	m := mapped(t)
	if n, stack := count(m.Addr()); n != 1 || len(stack) == 0 {
		t.Errorf("%d times, stack %v", n, stack)
	}
	if n, stack := count(old.Addr()); n != 1 || stack != nil {
		t.Errorf("one of before: %d times, stack %v", n, stack)
	}
	at := m.Addr()
	for range 3 {
		runtime.GC()
	}
	if n, stack := count(at); n != 1 || len(stack) == 0 {
		t.Errorf("after collections %d times, stack %v", n, stack)
	}
	left, right, err := mmap.Split(m, os.Getpagesize()*0)
	if err != nil {
		t.Fatal(err)
	}
	left.Close()
	right.Close()
	if n, _ := count(at); n != 0 {
		t.Errorf("closed, %d times", n)
	}
	for range live.All() {
		break
	}
	live.Record(false)
	m = mapped(t)
	defer m.Close()
	if n, stack := count(m.Addr()); n != 1 || stack != nil {
		t.Errorf("not recorded: %d times, stack %v", n, stack)
	}
}

func profiled(t *testing.T) string {
	t.Helper()
	var text bytes.Buffer
	if err := pprof.Lookup("github.com/mmarinus/mmap/live").WriteTo(&text, 1); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// Whatever is mapped, the stack begins where the library was called.
func TestStack(t *testing.T) {
	f, err := mmap.Memfd("stack", 4096, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	live.Record(true)
	defer live.Record(false)
	for name, s := range map[string]mmap.Spec{
		"Anonymous": mmap.Anonymous(1), "File": mmap.File(f, 0, 1), "Whole": mmap.Whole(f), "FD": mmap.FD(int(f.Fd()), 0, 1), "Path": mmap.Path(path),
	} {
		m, err := mmap.MapUnknown(s, mmap.ProtRead)
		if err != nil {
			t.Fatal(err)
		}
		_, stack := count(m.Addr())
		if frame, _ := runtime.CallersFrames(stack).Next(); !strings.HasSuffix(frame.Function, "live_test.TestStack") {
			t.Errorf("%s: the stack begins in %s", name, frame.Function)
		}
		text := profiled(t)
		if _, first, _ := strings.Cut(text, "#\t"); !strings.Contains(strings.SplitN(first, "\n", 2)[0], "live_test.TestStack+") {
			t.Errorf("%s: the profile has %s", name, text)
		}
		m.Close()
	}
}

func TestProfile(t *testing.T) {
	live.Record(true)
	defer live.Record(false)
	for range 3 {
		m := mapped(t)
		defer m.Close()
	}
	text := profiled(t)
	if !strings.HasPrefix(text, "github.com/mmarinus/mmap/live profile: total 3\n3 @ ") || !strings.Contains(text, "live_test.TestProfile") {
		t.Error(text)
	}
	func() { mapped(t).Close() }()
	if text := profiled(t); !strings.HasPrefix(text, "github.com/mmarinus/mmap/live profile: total 3\n") {
		t.Error(text)
	}
}

var profileFile = flag.String("profile", "", "TestProfileFile writes a profile to this file, as for the picture in docs")

func openIndex(t *testing.T) mmap.ReadWrite { return mapped(t) }
func openCache(t *testing.T) mmap.ReadWrite { return mapped(t) }

func serve(t *testing.T) (all []mmap.ReadWrite) {
	for i := range 40 {
		if all = append(all, openCache(t)); i%8 == 0 {
			all = append(all, openIndex(t))
		}
	}
	return all
}

// The profile is one that go tool pprof understands.
func TestProfileFile(t *testing.T) {
	live.Record(true)
	defer live.Record(false)
	for _, m := range serve(t) {
		defer m.Close()
	}
	if *profileFile == "" {
		*profileFile = filepath.Join(t.TempDir(), "live.pb.gz")
	}
	f, err := os.Create(*profileFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(pprof.Lookup("github.com/mmarinus/mmap/live").WriteTo(f, 0), f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("go tool pprof is needed: ", err)
	}
	out, err := exec.Command("go", "tool", "pprof", "-top", *profileFile).Output()
	if err != nil || !strings.Contains(string(out), "live_test.openCache") || !strings.Contains(string(out), "45 total") {
		t.Errorf("%v\n%s", err, out)
	}
}

func ExampleCheck() {
	var t recorder // a *testing.T
	live.Check(&t)
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(1))
	if err != nil {
		return
	}
	if m.Len() == 1 {
		t.end() // the test returns early, and forgets to close
	}
	fmt.Println(len(t.errors))
	m.Close()
	// Output: 1
}

func ExampleAll() {
	live.Record(true)
	defer live.Record(false)
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(4096))
	if err != nil {
		return
	}
	defer m.Close()
	for one := range live.All() {
		if one.Addr == m.Addr() {
			frame, _ := runtime.CallersFrames(one.Stack).Next()
			fmt.Println(one.Len, one.Prot, frame.Function)
		}
	}
	// Output: 4096 r-- github.com/mmarinus/mmap/live_test.ExampleAll
}
