//go:build linux

package mmap

import (
	"fmt"
	"os"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/kernel"
	"golang.org/x/sys/unix"
)

// This file opens the files behind a Spec.

// openPath opens a regular file for a mapping with permissions p.
func (s *Spec) openPath(p Prot) (fd int, err error) {
	// Opening a device can have effects, and opening a pipe waits: look first.
	var st unix.Stat_t
	if unix.Stat(s.name, &st) == nil {
		if err := regular(&st); err != nil {
			return -1, err
		}
	}
	mode := unix.O_RDONLY
	if s.shared && p&ProtWrite != 0 {
		mode = unix.O_RDWR // mmap(2) wants a readable descriptor even for writing
	}
	// Something else may have taken the name meanwhile, for which O_NONBLOCK is. But a
	// file under a lease of fcntl(2), such as an oplock of Samba, is then EAGAIN, where
	// open(2) waits until the lease is given up.
	switch fd, err = openFD(s.name, mode|unix.O_NONBLOCK|unix.O_NOCTTY); err {
	case nil:
		return fd, nil
	case unix.EAGAIN:
		return openWaiting(s.name, mode)
	}
	return -1, &os.PathError{Op: "open", Path: s.name, Err: err}
}

func openFD(name string, mode int) (fd int, err error) {
	for { // and not sys.Retry, which would return twice after the system call
		if fd, err = unix.Open(name, mode|unix.O_CLOEXEC, 0); err != unix.EINTR {
			return fd, err
		}
	}
}

// openWaiting opens a regular file as open(2) does, which waits for a lease to be
// broken: /proc/sys/fs/lease-break-time at most.
func openWaiting(name string, mode int) (fd int, err error) {
	// O_PATH touches nothing, waits for no lease, and holds on to what it has found: what
	// is seen to be a regular file is what is opened, whatever has the name by then.
	at, err := openFD(name, unix.O_PATH)
	if err == nil {
		defer unix.Close(at)
		var st unix.Stat_t
		if err = unix.Fstat(at, &st); err == nil {
			err = regular(&st)
		}
	}
	if err == nil {
		fd, err = openFD(fmt.Sprintf("/proc/self/fd/%d", at), mode)
		if err == unix.ENOENT { // without /proc there is the name only
			fd, err = openFD(name, mode|unix.O_NOCTTY)
		}
	}
	if no, ok := err.(*fail.Error); ok {
		return -1, no
	} else if err != nil {
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// regular returns an error unless st is of a regular file.
func regular(st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return nil
	case unix.S_IFDIR:
		return fail.Hint(unix.EISDIR, "use the path of a file in it")
	case unix.S_IFCHR, unix.S_IFBLK:
		return fail.Hint(unix.ENODEV, "a device has no length of its own: open it and use File with a size")
	}
	return fail.Hint(unix.ENODEV, kernel.PipeOrSocket)
}
