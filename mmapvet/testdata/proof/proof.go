// Package proof has what the proofs share: tests that run what report.go has, and look whether
// that happens which the message says.
package proof

import (
	"bytes"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/mmarinus/mmap"
)

// Mapped maps n bytes of anonymous memory.
func Mapped[M mmap.Known](t *testing.T, n int) M {
	t.Helper()
	m, err := mmap.Map[M](mmap.Anonymous(n))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Unknown is that as an Unknown with permissions p.
func Unknown(t *testing.T, n int, p mmap.Prot) mmap.Unknown {
	t.Helper()
	u, err := mmap.MapUnknown(mmap.Anonymous(n), p)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Text maps at least a page that begins with a text.
func Text(t *testing.T, n int, text string) mmap.Read {
	t.Helper()
	rw := Mapped[mmap.ReadWrite](t, max(n, os.Getpagesize()))
	rw.WriteAt([]byte(text), 0)
	m, err := mmap.Protect[mmap.Read](rw)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// File is the path of a file with a text.
func File(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// Cut maps as much of a file as a page has, and truncates the file so that it ends after the
// first n of these bytes: to touch the others is a fault.
func Cut[M mmap.Known](t *testing.T, n int) M {
	t.Helper()
	page := os.Getpagesize()
	f, err := mmap.Memfd("cut", int64(2*page), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := mmap.Map[M](mmap.File(f, int64(page-n), page).Shared())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(page)); err != nil {
		t.Fatal(err)
	}
	return m
}

// Far is a free place with free ones around it, so that what is moved there leaves a hole.
func Far(t *testing.T) uintptr {
	t.Helper()
	m := Mapped[mmap.Read](t, 1<<20)
	defer m.Close()
	return m.Addr() + 1<<19
}

// Faults reports whether f touches memory that is not there.
func Faults(f func()) (is bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			_, is = r.(interface{ Addr() uintptr })
		}
	}()
	f()
	return false
}

// Gone looks whether it is a fault to touch what f returns, whose mapping f has closed. Now and
// then something else is mapped at that place before it is touched, so it is tried again.
func Gone(t *testing.T, name string, f func() (touch func())) {
	t.Helper()
	for range 20 {
		if Faults(f()) {
			return
		}
	}
	t.Errorf("%s: no fault", name)
}

// The proofs count mappings that nobody closes, so none may be collected meanwhile.
func init() { debug.SetGCPercent(-1) }

// Left returns how many more mappings there are after f.
func Left(f func()) int {
	before := mmap.ReadStats().Mappings
	f()
	return mmap.ReadStats().Mappings - before
}

// Logged returns what f logs.
func Logged(f func()) string {
	var out bytes.Buffer
	log.SetOutput(&out)
	defer log.SetOutput(os.Stderr)
	f()
	return out.String()
}

// InChild reports whether this is the child of that name, which has to do what crashes it.
// Where it is not, it runs the test once more in such a child, and returns what that said and
// whether it failed. Its temporary directory is one of the test, for it may not live to remove
// what it puts there.
func InChild(t *testing.T, name string) (here bool, out string, failed bool) {
	t.Helper()
	if child := os.Getenv("CHILD"); child != "" {
		return child == name, "", false
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "CHILD="+name, "TMPDIR="+t.TempDir())
	b, err := cmd.CombinedOutput()
	return false, string(b), err != nil
}

// Crashes looks whether f ends the program by a fault, in a child. It tries for long enough
// that a goroutine gets its turn.
func Crashes(t *testing.T, name string, f func()) {
	t.Helper()
	here, out, failed := InChild(t, name)
	switch {
	case here:
		f()
		os.Exit(0)
	case os.Getenv("CHILD") == "" && (!failed || !strings.Contains(out, "fault")):
		t.Errorf("%s: no fault\n%.500s", name, out)
	}
}
