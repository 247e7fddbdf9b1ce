//go:build linux

package fail

import (
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestText(t *testing.T) {
	for want, err := range map[string]error{
		"hint: invalid argument":                   Bad("", "hint"),
		"mmap: op 1: hint 2: invalid argument":     Bad("op 1", "hint %d", 2),
		"mmap: op: EOF":                            Named(io.EOF, "op"),
		"mmap: close: mapping is closed":           Named(os.ErrClosed, "close"),
		"mmap: second: hint: EOF":                  Named(Named(Hint(io.EOF, "hint"), "first"), "second"),
		"unsupported operation (invalid argument)": Unsupported(unix.EINVAL),
		"1 byte: no such device":                   Hint(unix.ENODEV, "%v", Count(1)),
		"0 bytes, -1 bytes: EOF":                   Hint(io.EOF, "%v, %v", Count(0), Count(-1)),
	} {
		if got := err.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		err, target error
		matches     bool
	}{
		{Bad("op", ""), os.ErrInvalid, true},
		{Bad("op", ""), unix.EINVAL, true},
		{Hint(Unsupported(unix.EINVAL), ""), os.ErrInvalid, false},
		{Hint(Unsupported(unix.EINVAL), ""), unix.EINVAL, true},
		{Hint(Unsupported(unix.EINVAL), ""), errors.ErrUnsupported, true},
		{Named(unix.ENODEV, "op"), errors.ErrUnsupported, true},
		{Named(unix.ENODEV, "op"), os.ErrInvalid, false},
		{Named(unix.EACCES, "op"), os.ErrPermission, true},
		{Named(io.EOF, "op"), io.EOF, true},
		{Named(io.EOF, "op"), errors.ErrUnsupported, false},
	} {
		if got := errors.Is(c.err, c.target); got != c.matches {
			t.Errorf("%v matches %v: %v", c.err, c.target, got)
		}
	}
}
