package mmap

import (
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// Seal makes the mapping, its reserve included, what it is until the process
// ends; mseal(2), Linux 6.10 on 64-bit processors. Nobody can change its
// permissions, move, replace or unmap it, not even a bug elsewhere in the
// process. From then on Protect, Over, Resize, Move, Place, Close, growth into the
// reserve and the methods that destroy contents answer [ErrSealed], and the
// mapping is never collected. Access, Split, Forget and Assert, which ask nothing
// of the kernel, go on, as does Release.
func (t ticket) Seal() error {
	err := t.whole(func(r *region) error {
		if r.size > 0 {
			if err := sys.Mseal(r.base, r.size); err != nil {
				return blame("mseal", err)
			}
		}
		r.sealed.Store(true)
		return nil
	})
	return named(err, "seal")
}

// SetName names the mapping, its reserve included, in the kernel's tables, where
// [Mapping] Regions shows it as [anon:name]; PR_SET_VMA_ANON_NAME of prctl(2),
// Linux 5.17. It is for anonymous memory; a Memfd has a name of its own. The
// name has at most 79 bytes, printable ASCII without any of \ ` $ [ and ]; an
// empty one takes the name away.
func (t ticket) SetName(name string) error {
	err := t.whole(func(r *region) error {
		if r.size == 0 {
			return nil
		}
		err := blame("PR_SET_VMA_ANON_NAME", sys.SetName(r.base, r.size, name))
		switch err {
		case unix.EBADF:
			err = &failure{hint: "a file has a name", err: err}
		case unix.EINVAL:
			err = &failure{hint: "not a name of at most 79 printable characters without any of \\ ` $ [ ]", err: err}
		}
		return err
	})
	return named(err, "name %q", name)
}
