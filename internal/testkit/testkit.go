//go:build linux

// Package testkit is what the tests at the top and those in systemtest share: files
// and free addresses, children, limits of the process, filters of system calls, and
// what the kernel says of pages. It knows nothing of package mmap, so that the tests
// inside that package can import it. Only tests do.
package testkit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// Check ends the test on an error.
func Check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Must returns v, and panics on an error.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Second returns the error of a call with two results.
func Second[T any](_ T, err error) error { return err }

// Wants fails unless err matches every one of the targets.
func Wants(t testing.TB, what string, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("%s: got %v, want one that matches %v", what, err, target)
		}
	}
}

// Explained fails unless err matches errno, and says all the parts.
func Explained(t testing.TB, what string, err, errno error, parts ...string) {
	t.Helper()
	Wants(t, what, err, errno)
	for _, part := range parts {
		if err != nil && !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %q does not say %q", what, err, part)
		}
	}
}

// Scratch makes a file with n bytes that differ from page to page.
func Scratch(t testing.TB, n int) (*os.File, []byte) {
	t.Helper()
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i + i/int(kernel.PageSize) + 1)
	}
	name := filepath.Join(t.TempDir(), "scratch")
	Check(t, os.WriteFile(name, data, 0o600))
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	Check(t, err)
	t.Cleanup(func() { f.Close() })
	return f, data
}

// Content returns what a file has, without space around it; "" if it cannot be read.
func Content(file string) string {
	b, _ := os.ReadFile(file)
	return strings.TrimSpace(string(b))
}

// Needs skips the test, and says why, if the kernel lacks a feature; see kernel.Probe.
func Needs(t testing.TB, features ...string) {
	t.Helper()
	for _, feature := range features {
		if err := kernel.Probe(feature); err != nil {
			t.Skip(err)
		}
	}
}

// Lacking fails unless err, of what needs a feature, says why that is not there, as Probe says
// it in missing: the kernel lacks it, or it is forbidden. The one is not the other.
func Lacking(t testing.TB, what string, err, missing error) {
	t.Helper()
	text, class := refusal(missing)
	Explained(t, what, err, class, text)
	if errors.Is(err, errors.ErrUnsupported) != (class == errors.ErrUnsupported) {
		t.Errorf("%s: %v, and the probe: %v", what, err, missing)
	}
}

// Unavailable reports whether err says that the kernel lacks a feature, or that the feature is
// forbidden. The latter is believed only if Probe says it as well.
func Unavailable(err error) bool {
	for i := 0; errors.Is(err, unix.EPERM) && i < len(kernel.Features); i++ {
		missing := kernel.Probe(strings.Fields(kernel.Features[i].Names)[0])
		if text, class := refusal(missing); class == unix.EPERM && strings.Contains(err.Error(), text) {
			return true
		}
	}
	return errors.Is(err, errors.ErrUnsupported)
}

// refusal returns the text of an error of Probe, without the probe, and what it matches.
func refusal(missing error) (text string, class error) {
	var forbidden *fail.Error
	if errors.As(missing, &forbidden) && forbidden.Err == unix.EPERM {
		return forbidden.Hint, unix.EPERM
	}
	return fmt.Sprint(missing), errors.ErrUnsupported
}

// Capable reports whether this process has a capability, as root has outside of containers.
func Capable(capability int) bool {
	var has [2]unix.CapUserData
	err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &has[0])
	return err == nil && has[capability/32].Effective&(1<<(capability%32)) != 0
}

// CanLock skips where this process may not lock so many bytes.
func CanLock(t testing.TB, n int) {
	t.Helper()
	var limit unix.Rlimit
	Check(t, unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit))
	if limit.Cur < uint64(n) && !Capable(unix.CAP_IPC_LOCK) {
		t.Skipf("RLIMIT_MEMLOCK is %d, and %d bytes are to be locked", limit.Cur, n)
	}
}

// HasSecret reports whether there is secret memory.
func HasSecret(t testing.TB) bool {
	fd, err := sys.MemfdSecret(0)
	if err != nil {
		t.Log("no secret memory here: ", err)
		return false
	}
	unix.Close(fd)
	return true
}
