//go:build linux

package testkit

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Quick keeps a child with the race detector from waiting for a second at exit.
const Quick = "GORACE=atexit_sleep_ms=0"

// InChild reports whether this is the child process that runs the test's other
// half. In the parent it runs that child and returns its output and error.
func InChild(t *testing.T, env ...string) (child bool, output string, err error) {
	t.Helper()
	return inChildWith(t, nil, env...)
}

// InMounts is InChild in a mount namespace of its own, where it is root.
func InMounts(t *testing.T, env ...string) (child bool, output string, err error) {
	t.Helper()
	return inNamespaces(t, 0, env...)
}

// inNamespaces is InMounts with further namespaces.
func inNamespaces(t *testing.T, more uintptr, env ...string) (child bool, output string, err error) {
	t.Helper()
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | more}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	child, output, err = inChildWith(t, attr, env...)
	if child {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") // or mounts spread
	}
	if errno := unix.Errno(0); errors.As(err, &errno) {
		t.Skip("a mount namespace is not allowed: ", err)
	}
	return child, output, err
}

func inChildWith(t *testing.T, attr *syscall.SysProcAttr, env ...string) (child bool, output string, err error) {
	t.Helper()
	if os.Getenv("MMAP_TEST_CHILD") == t.Name() {
		return true, "", nil
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	flag.Visit(func(f *flag.Flag) { // the child is as long as its parent
		if f.Name == "test.short" || f.Name == "rapid.checks" {
			cmd.Args = append(cmd.Args, "-"+f.Name+"="+f.Value.String())
		}
	})
	// A child that dies leaves its files to the parent.
	cmd.SysProcAttr = attr
	cmd.Env = append(append(os.Environ(), "TMPDIR="+t.TempDir(), "MMAP_TEST_CHILD="+t.Name()), env...)
	if testing.CoverMode() != "" {
		defer CollectCoverage(t, cmd)()
	}
	out, err := cmd.CombinedOutput()
	return false, string(out), err
}

// CollectCoverage lets a child write down what it covers in a place of its own,
// where it can do so without privileges, and returns a function that adds it to
// what the parent covers.
func CollectCoverage(t *testing.T, cmd *exec.Cmd) func() {
	from, to := t.TempDir(), flag.Lookup("test.gocoverdir").Value.String()
	Check(t, os.Chmod(filepath.Dir(from), 0o711))
	Check(t, os.Chmod(from, 0o777))
	cmd.Args = append(cmd.Args, "-test.gocoverdir="+from)
	return func() {
		files, err := os.ReadDir(from)
		Check(t, err)
		for _, f := range files {
			if to != "" {
				data, err := os.ReadFile(filepath.Join(from, f.Name()))
				Check(t, err)
				Check(t, os.WriteFile(filepath.Join(to, f.Name()), data, 0o600))
			}
		}
	}
}

// ByItself reports whether this is the child process in which a test runs that
// leaves something behind. The parent reports how it went.
func ByItself(t *testing.T) bool {
	t.Helper()
	child, out, err := InChild(t, Quick+" "+os.Getenv("GORACE")) // or each takes a second
	return reported(t, child, out, err)
}

// InOwnMounts is ByItself in a mount namespace of its own, where it is root.
func InOwnMounts(t *testing.T) bool {
	t.Helper()
	child, out, err := InMounts(t, Quick+" "+os.Getenv("GORACE"))
	return reported(t, child, out, err)
}

// InOwnPIDs is InOwnMounts in a namespace of processes of its own, with its own /proc, whose
// settings are not those of the machine.
func InOwnPIDs(t *testing.T) bool {
	t.Helper()
	child, out, err := inNamespaces(t, unix.CLONE_NEWPID, Quick+" "+os.Getenv("GORACE"))
	if child = reported(t, child, out, err); child {
		if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			t.Skip("mounting /proc is not allowed: ", err)
		}
	}
	return child
}

// reported passes on, in the parent, how the child went.
func reported(t *testing.T, child bool, out string, err error) bool {
	t.Helper()
	switch {
	case child:
	case err == nil && strings.Contains(out, "--- SKIP: "+t.Name()):
		t.Skip(out)
	case err != nil || !strings.Contains(out, "--- PASS: "+t.Name()):
		t.Errorf("%v\n%s", err, out)
	}
	return child
}

// Alone reports whether this is a child process that runs nothing but this
// test. What it does to its limits ends with it.
func Alone(t *testing.T) bool {
	t.Helper()
	child := ByItself(t)
	if child {
		debug.SetGCPercent(-1) // the runtime wants nothing for itself at a limit
	}
	return child
}

// Counted returns what the kernel counts for a limit, in bytes.
func Counted(t testing.TB, key string) uint64 {
	t.Helper()
	_, rest, ok := strings.Cut(Content("/proc/self/status"), key+":")
	if !ok {
		t.Fatal("no ", key)
	}
	return Kilobytes(rest)
}

// Limit sets a limit of this process to slack bytes more than what it uses.
func Limit(t testing.TB, resource int, key string, slack uint64) uint64 {
	t.Helper()
	most := Counted(t, key) + slack
	Check(t, unix.Setrlimit(resource, &unix.Rlimit{Cur: most, Max: most}))
	return most
}

// Humble gives up every privilege, as an ordinary user has none.
func Humble(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		Check(t, unix.Setresgid(65534, 65534, 65534))
		Check(t, unix.Setresuid(65534, 65534, 65534))
		Check(t, unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)) // or /proc/self is root's
	}
}

// DenyExecGain keeps this process, which is a child of a test, from making memory
// executable that was not, until it ends.
func DenyExecGain(t testing.TB) {
	t.Helper()
	const prSetMDWE, refuseExecGain = 65, 1
	if err := unix.Prctl(prSetMDWE, refuseExecGain, 0, 0, 0); err != nil {
		t.Skip("PR_SET_MDWE needs Linux 6.3: ", err)
	}
}
