//go:build linux

package mmap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/mmarinus/mmap/internal/testkit"
	"golang.org/x/sys/unix"
)

// Each seal forbids what it says and nothing else, alone and with any others.
func TestMemfdSeals(t *testing.T) {
	size := int64(pageSize) + 5
	const writes = SealWrite | SealFutureWrite
	for what, c := range map[string]struct {
		by Seal
		do func(f *os.File) error
	}{
		"shorten":           {SealShrink, func(f *os.File) error { return f.Truncate(size - 1) }},
		"empty":             {SealShrink, func(f *os.File) error { return f.Truncate(0) }},
		"lengthen":          {SealGrow, func(f *os.File) error { return f.Truncate(size + 1) }},
		"allocate past end": {SealGrow, func(f *os.File) error { return Allocate(f, 0, size+1) }},
		"write past end":    {SealGrow | writes, func(f *os.File) error { return second(f.WriteAt([]byte{1}, size)) }},
		"write":             {writes, func(f *os.File) error { return second(f.WriteAt([]byte{1}, 0)) }},
		"punch": {writes, func(f *os.File) error {
			return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, int64(pageSize))
		}},
		"map writable": {writes, func(f *os.File) error {
			m, err := Map[ReadWrite](File(f, 0, int(size)).Shared())
			if err == nil {
				err = errors.Join(m.Punch(0, int(pageSize)), m.Close())
			}
			return err
		}},
		"make writable": {writes, func(f *os.File) error {
			m, err := Map[Read](File(f, 0, int(size)).Shared())
			if err != nil {
				return err // before Linux 6.7, of a file with SealWrite
			}
			defer m.Close()
			rw, err := Protect[ReadWrite](m)
			if err == nil {
				err = errors.Join(second(rw.WriteAt([]byte{1}, 0)), rw.Close())
			}
			return err
		}},
		"write a private copy": {0, func(f *os.File) error {
			m := mapped[ReadWrite](t, File(f, 0, int(size)))
			return errors.Join(second(m.WriteAt([]byte{1}, 0)), m.Close())
		}},
		"change access":    {0, func(f *os.File) error { return unix.Fchmod(int(f.Fd()), mode(f)&^0o444) }},
		"change execution": {SealExec, func(f *os.File) error { return unix.Fchmod(int(f.Fd()), mode(f)^0o111) }},
		"seal":             {SealSeal, func(f *os.File) error { return addSeals(int(f.Fd()), SealShrink) }},
	} {
		for seals := Seal(0); seals <= SealSeal|SealShrink|SealGrow|SealWrite|SealFutureWrite|SealExec; seals++ {
			f, err := Memfd("seals", size, seals)
			if seals&SealExec != 0 && Probe("MFD_NOEXEC_SEAL") != nil {
				if wants(t, "SealExec", err, errors.ErrUnsupported); f != nil {
					t.Error("a file with an error")
				}
				break
			}
			check(t, err)
			err = c.do(f)
			if seals&c.by == 0 {
				if err != nil {
					t.Errorf("%s with seals %#x: %v", what, seals, err)
				}
			} else {
				wants(t, what, err, ErrPermission)
				got := make([]byte, size+1)
				if n, err := f.ReadAt(got, 0); n != int(size) || err != io.EOF || !bytes.Equal(got, make([]byte, size+1)) {
					t.Errorf("%s with seals %#x, refused: there are %d bytes, %v, and not zeros", what, seals, n, err)
				}
			}
			f.Close()
		}
	}
}

func mode(f *os.File) uint32 {
	var st unix.Stat_t
	unix.Fstat(int(f.Fd()), &st)
	return st.Mode & 0o777
}

// With SealShrink a mapping cannot fault by truncation, because there is none;
// without, it can.
func TestMemfdTruncation(t *testing.T) {
	pg := int(pageSize)
	for _, seals := range []Seal{0, SealShrink, SealGrow} {
		f, err := Memfd("truncated", int64(4*pg), seals)
		check(t, err)
		m := mapped[ReadWrite](t, File(f, 0, 4*pg).Shared())
		check(t, second(m.WriteAt(bytes.Repeat([]byte{7}, 4*pg), 0)))
		for _, size := range []int64{int64(3 * pg), int64(pg), 0} {
			err := f.Truncate(size)
			if (err == nil) != (seals&SealShrink == 0) {
				t.Errorf("seals %#x: truncate: %v", seals, err)
			}
			n, err := m.ReadAt(make([]byte, 4*pg), 0)
			if seals&SealShrink != 0 {
				if n != 4*pg || err != nil {
					t.Error("sealed, and yet ", n, err)
				}
				check(t, m.Prefault(0, 4*pg))
			} else if fault := (*FaultError)(nil); !errors.As(err, &fault) || n != int(size) || fault.Offset != n {
				t.Errorf("seals %#x, %d bytes left: read %d, %v", seals, size, n, err)
			}
		}
		f.Close() // the mapping keeps the memory
		if _, err := m.ReadAt(make([]byte, pg), int64(3*pg)); (err == nil) != (seals&SealShrink != 0) {
			t.Error("after the file was closed: ", err)
		}
	}
}

// The kernel promises nothing that a mapping can break: SealWrite waits until
// nothing writes, SealFutureWrite lets what is there go on.
func TestMemfdSealLater(t *testing.T) {
	pg := int(pageSize)
	f, err := Memfd("later", int64(pg), 0)
	check(t, err)
	defer f.Close()
	m := mapped[ReadWrite](t, File(f, 0, pg).Shared())
	wants(t, "seal under a mapping", addSeals(int(f.Fd()), SealWrite), unix.EBUSY)
	check(t, addSeals(int(f.Fd()), SealFutureWrite))
	check(t, second(m.WriteAt([]byte("old"), 0)))
	_, err = Map[ReadWrite](File(f, 0, pg).Shared())
	wants(t, "a new mapping", err, ErrPermission, unix.EPERM)
	ro := mapped[Read](t, File(f, 0, pg).Shared())
	check(t, second(m.WriteAt([]byte("new"), 0)))
	b := make([]byte, 3)
	if check(t, second(ro.ReadAt(b, 0))); string(b) != "new" {
		t.Errorf("the other mapping has %q", b)
	}
	check(t, m.Close())
	check(t, addSeals(int(f.Fd()), SealWrite))
	wants(t, "write", second(f.WriteAt(b, 0)), unix.EPERM)
}

// The file is closed in other programs, and named in the kernel's tables.
func TestMemfdName(t *testing.T) {
	for _, name := range []string{"", "a", "two words", "new\nline", "/slash", "(deleted)", strings.Repeat("x", 249)} {
		f, err := Memfd(name, int64(pageSize), 0)
		check(t, err)
		if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%q: descriptor flags %#x, %v", name, flags, err)
		}
		m := mapped[Read](t, File(f, 0, int(pageSize)))
		if r := must(m.Regions()); len(r) != 1 || r[0].Name != "/memfd:"+name || !r[0].Deleted || f.Name() != "memfd:"+name {
			t.Errorf("%q: a file %q, mapped as %v", name, f.Name(), r)
		}
		check(t, m.Close())
		f.Close()
	}
}

func TestMemfdSizes(t *testing.T) {
	for _, c := range []struct {
		size int64
		want error
	}{
		{0, nil}, {1, nil}, {int64(pageSize), nil}, {int64(pageSize) + 1, nil}, {1 << 40, nil},
		{-1, os.ErrInvalid}, {-int64(pageSize), os.ErrInvalid}, {math.MinInt64, os.ErrInvalid},
	} {
		f, err := Memfd("size", c.size, SealShrink|SealGrow)
		if wants(t, "memfd", err, c.want); err != nil {
			continue
		}
		if st, err := f.Stat(); err != nil || st.Size() != c.size {
			t.Errorf("%d bytes: %v, %v", c.size, st, err)
		}
		if n := int(min(c.size, 3)); n > 0 {
			m := mapped[ReadWrite](t, File(f, c.size-int64(n), n).Shared())
			check(t, second(m.WriteAt([]byte("end")[:n], 0)))
			b := make([]byte, 3)
			if n, err := f.ReadAt(b, c.size-int64(n)); string(b[:n]) != "end"[:n] || err != nil && err != io.EOF {
				t.Errorf("%d bytes: the file ends with %q, %v", c.size, b, err)
			}
			check(t, m.Close())
		}
		f.Close()
	}
	for _, name := range []string{"a\x00b", strings.Repeat("x", 250)} {
		_, err := MemfdHuge(name, 1, 0, 0)
		if !errors.Is(err, errors.ErrUnsupported) {
			wants(t, "a bad name", err, os.ErrInvalid)
		}
	}
}

// The size of a file in huge pages is rounded up; none is taken yet.
func TestMemfdHugeSize(t *testing.T) {
	granule, _, err := hugeFlags(0)
	if err != nil {
		_, err = MemfdHuge("none", 1, 0, 0)
		wants(t, "no huge pages", err, errors.ErrUnsupported)
		t.Skip(err)
	}
	huge := int64(granule)
	for _, page := range []int{0, int(granule)} {
		for _, c := range []struct {
			size, whole int64
			want        error
		}{
			{0, 0, nil}, {1, huge, nil}, {huge - 1, huge, nil}, {huge, huge, nil}, {huge + 1, 2 * huge, nil}, {1<<50 + 1, 1<<50 + huge, nil},
			{-1, 0, os.ErrInvalid}, {1 - huge, 0, os.ErrInvalid}, {-huge, 0, os.ErrInvalid}, {math.MinInt64, 0, os.ErrInvalid},
			{math.MaxInt64, 0, unix.EFBIG}, {math.MaxInt64 - huge + 2, 0, unix.EFBIG},
		} {
			f, err := MemfdHuge("size", c.size, SealGrow, page)
			if err != nil || c.want != nil {
				if wants(t, "size", err, c.want); f != nil {
					t.Errorf("%d bytes in huge pages of %d: a file, and %v", c.size, page, err)
					f.Close()
				}
				continue
			}
			if st, err := f.Stat(); err != nil || st.Size() != c.whole {
				t.Errorf("%d bytes: %v, %v", c.size, st.Size(), err)
			}
			wants(t, "grow", f.Truncate(c.whole+huge), unix.EPERM)
			f.Close()
		}
	}
	for _, page := range []int{-1, 1, 3, 3 << 20, math.MinInt, math.MaxInt} {
		_, err := MemfdHuge("page", 1, 0, page)
		wants(t, "no huge page", err, os.ErrInvalid)
	}
	_, err = MemfdHuge("seal", 1, 1<<20, 0)
	wants(t, "no seal", err, os.ErrInvalid)
}

// A memfd in huge pages: mapped in any length, sealed, and an error that says
// where to reserve when there are too few.
func TestMemfdHuge(t *testing.T) {
	huge := int(withHugePages(t, 2))
	pg := int(pageSize)
	f, err := MemfdHuge("huge", int64(huge)+1, SealShrink|SealGrow, 0)
	check(t, err)
	defer f.Close()
	m := mapped[ReadWrite](t, File(f, 0, huge+pg+1).Shared())
	if r := must(m.Regions()); m.Len() != huge+pg+1 || len(r) != 1 || r[0].Size() != uint64(2*huge) || r[0].Name != "/memfd:huge" {
		t.Error(m, r)
	}
	flagged(t, "huge", m, "ht sh", "")
	if got := kilobytes(smapsOf(t, m.Addr())["KernelPageSize"]); got != uint64(huge) {
		t.Error("pages of ", got)
	}
	check(t, second(m.WriteAt([]byte("across"), int64(huge)-3)))
	odd := mapped[Read](t, File(f, int64(huge)-3, 6).Shared()) // a private one takes pages of its own
	b := make([]byte, 6)
	if check(t, second(odd.ReadAt(b, 0))); string(b) != "across" || odd.Addr()%uintptr(huge) != uintptr(huge)-3 {
		t.Errorf("%q at %#x", b, odd.Addr())
	}
	wants(t, "shrink", f.Truncate(0), unix.EPERM)
	_, _, err = Split(m, pg)
	wants(t, "split of a huge page", err, os.ErrInvalid)
	wants(t, "discard of a part", m.Discard(0, pg), os.ErrInvalid)
	check(t, m.Prefault(0, m.Len()))

	more, err := MemfdHuge("more", int64(3*huge), 0, huge)
	check(t, err)
	defer more.Close()
	_, err = Map[Read](File(more, 0, 3*huge).Shared())
	wants(t, "map", err, unix.ENOMEM)
	for _, part := range []string{"3 huge pages are wanted and 0 are free", "hugepages/hugepages-", "kB/nr_hugepages", "memfd:more"} {
		if err != nil && !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %q", err, part)
		}
	}
	if err := Allocate(more, 0, int64(huge)); err == nil {
		t.Error("allocated from an empty pool")
	}
	old := mapped[Read](t, File(f, 0, 2*huge).Shared())
	before := table(t, old)
	_, err = Over[Read](old, File(more, 0, 2*huge).Shared())
	if wants(t, "over", err, unix.ENOMEM); table(t, old) != before {
		t.Error("over has failed, and left ", table(t, old))
	}
	check(t, second(old.ReadAt(b, int64(huge)-3)))
	if string(b) != "across" {
		t.Errorf("%q", b)
	}

	for _, seals := range []Seal{SealWrite, SealFutureWrite} {
		sealed, err := MemfdHuge("sealed", int64(huge), seals, 0)
		check(t, err)
		_, err = Map[ReadWrite](File(sealed, 0, huge).Shared())
		wants(t, "write what is sealed", err, ErrPermission)
		sealed.Close()
	}
}

// What is written first and sealed afterwards stays, whoever has the file.
func TestAddSeals(t *testing.T) {
	pg := int(pageSize)
	f, err := Memfd("contents", int64(pg), SealShrink|SealGrow)
	check(t, err)
	defer f.Close()
	m := mapped[ReadWrite](t, File(f, 0, pg).Shared())
	check(t, second(m.WriteAt([]byte("final"), 0)))
	err = AddSeals(f, SealWrite)
	if wants(t, "while it can be written", err, unix.EBUSY); !strings.Contains(fmt.Sprint(err), "add seals F_SEAL_WRITE to \"memfd:contents\": ") {
		t.Error(err)
	}
	check(t, m.Close())
	check(t, AddSeals(f, SealWrite|SealSeal))
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Error("it can be written:", err)
	}
	_, err = Map[ReadWrite](File(f, 0, pg).Shared())
	wants(t, "mapped for writing", err, unix.EPERM, ErrPermission)
	b := make([]byte, 5)
	if check(t, second(mapped[Read](t, File(f, 0, pg).Shared()).ReadAt(b, 0))); string(b) != "final" {
		t.Errorf("%q", b)
	}
	wants(t, "after SealSeal", AddSeals(f, SealShrink), unix.EPERM)
	if err := Probe("MFD_NOEXEC_SEAL"); err != nil {
		wants(t, "no such seal", AddSeals(f, SealExec), errors.ErrUnsupported)
	}
	wants(t, "nil", AddSeals(nil, SealSeal), os.ErrInvalid)
	file, _ := scratch(t, 1)
	if err := AddSeals(file, SealSeal); !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
		t.Error("no memfd:", err) // on tmpfs a file is sealed against seals
	}
	closed, err := Memfd("closed", 0, 0)
	check(t, err)
	check(t, closed.Close())
	wants(t, "closed", AddSeals(closed, SealSeal), unix.EBADF, os.ErrClosed)
}

// What is refused is named, with the reason.
func TestMemfdRefused(t *testing.T) {
	explained(t, "size", second(Memfd("x", -1, 0)), unix.EINVAL, "negative size")
	for _, name := range []string{strings.Repeat("a", 250), "a\x00b"} {
		explained(t, "name", second(Memfd(name, 1, 0)), unix.EINVAL, "a name has at most 249 bytes, and no zero")
	}
	explained(t, "seals", second(Memfd("x", 1, 1<<20)), unix.EINVAL, "no such seals")

	file, _ := scratch(t, 10)
	name := fmt.Sprintf("%q", file.Name())
	if onTmpfs(t, file) {
		explained(t, "tmpfs", AddSeals(file, SealWrite), unix.EPERM, "add seals F_SEAL_WRITE to "+name+": it has SealSeal")
	} else {
		explained(t, "file", AddSeals(file, SealWrite), unix.EINVAL, "add seals F_SEAL_WRITE to "+name+": only a file in memory, as of Memfd, can be sealed")
	}
	explained(t, "nil", AddSeals(nil, SealWrite), unix.EINVAL, "to a nil file: ")
	f, err := Memfd("f", 10, SealGrow)
	check(t, err)
	defer f.Close()
	explained(t, "no seal", AddSeals(f, 1<<20), unix.EINVAL, "to \"memfd:f\": no such seals")
	ro, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	check(t, err)
	defer ro.Close()
	explained(t, "read-only", AddSeals(ro, SealWrite), unix.EPERM, "open for reading only")
	explained(t, "allocate", Allocate(f, 0, 11), unix.EPERM, "allocate 11 bytes of \"memfd:f\" at offset 0: the file has the seals F_SEAL_GROW")
	check(t, AddSeals(f, SealSeal))
	explained(t, "after SealSeal", AddSeals(f, SealWrite), unix.EPERM, "to \"memfd:f\": it has SealSeal")

	explained(t, "size", Allocate(file, 0, -1), unix.EINVAL, "negative size")
	explained(t, "offset", Allocate(file, -1, 1), unix.EINVAL, "negative offset")
	explained(t, "end", Allocate(file, math.MaxInt64, 10), unix.EFBIG, "of "+name, "past the largest file offset")
	roFile, err := os.Open(file.Name())
	check(t, err)
	defer roFile.Close()
	explained(t, "read-only", Allocate(roFile, 0, 10), unix.EBADF, "open for reading only")
}

// With vm.memfd_noexec=2 the error says what to do. A namespace of processes has a setting of
// its own, so this changes nothing of the machine.
func TestMemfdNoexec(t *testing.T) {
	if !testkit.InOwnPIDs(t) {
		return
	}
	if err := os.WriteFile("/proc/sys/vm/memfd_noexec", []byte("2"), 0); err != nil {
		t.Skip("setting vm.memfd_noexec needs Linux 6.3 and root: ", err)
	}
	explained(t, "memfd", second(Memfd("x", 10, 0)), unix.EACCES, "vm.memfd_noexec is 2: use SealExec")
	f, err := Memfd("x", 10, SealExec)
	check(t, err)
	check(t, f.Close())
}
