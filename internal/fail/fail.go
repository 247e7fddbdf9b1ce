//go:build linux

// Package fail has the error that says what was asked, and what can be done about its
// failure.
package fail

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Error is an operation that failed, or a step of one.
type Error struct {
	Op   string // the operation, with its arguments; "" for a step
	Hint string // what the caller can do about it, or ""; of os.ErrClosed: what is closed
	Err  error
}

func (e *Error) Error() string {
	text := e.Err.Error()
	switch {
	case e.Err == os.ErrClosed: // which speaks of a file
		text = cmp.Or(e.Hint, "mapping is closed")
	case e.Hint != "":
		text = e.Hint + ": " + text
	}
	if e.Op == "" {
		return text
	}
	return "mmap: " + e.Op + ": " + text
}

// Unwrap returns why it failed.
func (e *Error) Unwrap() error { return e.Err }

// Is adds what syscall.Errno.Is does not know: EINVAL is os.ErrInvalid, unless it is
// Unsupported, and ENODEV is errors.ErrUnsupported.
func (e *Error) Is(target error) bool {
	switch target {
	case os.ErrInvalid:
		return errors.Is(e.Err, unix.EINVAL) && !errors.Is(e.Err, errors.ErrUnsupported)
	case errors.ErrUnsupported:
		return errors.Is(e.Err, unix.ENODEV)
	}
	return false
}

// Hint returns err with a hint.
func Hint(err error, format string, args ...any) error {
	return &Error{Hint: fmt.Sprintf(format, args...), Err: err}
}

// Bad reports an argument that can never be right: it matches os.ErrInvalid and EINVAL.
func Bad(op, format string, args ...any) error {
	return &Error{Op: op, Hint: fmt.Sprintf(format, args...), Err: unix.EINVAL}
}

// Unsupported gives an errno which says that the arguments are wrong its meaning where
// they are right. It still matches the errno.
func Unsupported(err error) error { return fmt.Errorf("%w (%w)", errors.ErrUnsupported, err) }

// Named gives the error of a step the operation that it was part of.
func Named(err error, op string) error {
	if e, ok := err.(*Error); ok {
		e.Op = op
		return e
	}
	return &Error{Op: op, Err: err}
}

// A Count of bytes prints with its unit.
type Count int64

func (n Count) String() string {
	if n == 1 {
		return "1 byte"
	}
	return fmt.Sprintf("%d bytes", int64(n))
}
