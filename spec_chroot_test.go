//go:build linux

package mmap

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Where /sys or /proc is missing, as in a chroot or a container, that says nothing
// of the kernel: its huge pages are what they are, and so is a pool that is empty.
func TestWithoutSysAndProc(t *testing.T) {
	for _, hidden := range []string{"/sys", "/proc"} {
		t.Run(hidden[1:], func(t *testing.T) {
			child, out, err := inMounts(t, quick)
			if !child {
				if err != nil {
					t.Errorf("%v\n%s", err, out)
				}
				return
			}
			sizes := pools(t)
			size, _, err := hugeFlags(0)
			if err != nil {
				t.Skip(err)
			}
			thp := transparentHuge()
			check(t, unix.Mount("tmpfs", hidden, "tmpfs", 0, ""))
			if names, err := os.ReadDir(hidden); err != nil || len(names) > 0 {
				t.Fatal(names, err)
			}
			if is, _, err := hugeFlags(0); is != size || err != nil {
				t.Errorf("huge pages of %d bytes, not %d: %v", is, size, err)
			}
			for page, free := range sizes {
				// More than there are, and for the kernel's default, too.
				n := max(1, 1<<30/page)
				if unsafe.Sizeof(n) == 8 {
					n = n<<10 + 1
				}
				if n <= free {
					continue
				}
				asked := []int{page}
				if uintptr(page) == size {
					asked = append(asked, 0)
				}
				for _, ask := range asked {
					_, err = Map[Read](Anonymous(n * page).HugePages(ask))
					explained(t, fmt.Sprint("pages of ", ask), err, unix.ENOMEM, fmt.Sprintf("%d huge pages are wanted", n))
					if errors.Is(err, errors.ErrUnsupported) {
						t.Error(err)
					}
					f, err := MemfdHuge("empty", int64(n*page), 0, ask)
					check(t, err)
					_, err = Map[Read](File(f, 0, n*page).Shared())
					explained(t, fmt.Sprint("memfd in pages of ", ask), err, unix.ENOMEM, fmt.Sprintf("%d huge pages are wanted", n))
					check(t, f.Close())
				}
			}
			for page := int(pageSize) << 1; page < 1<<30; page <<= 1 {
				if _, there := sizes[page]; !there {
					_, err = Map[Read](Anonymous(1).HugePages(page))
					wants(t, fmt.Sprint("pages of ", page), err, errors.ErrUnsupported)
					wants(t, fmt.Sprint("memfd in pages of ", page), second(MemfdHuge("none", 1, 0, page)), errors.ErrUnsupported)
				}
			}
			unsure := slices.Contains([]string{"ppc64", "ppc64le", "386", "arm"}, runtime.GOARCH)
			if is := transparentHuge(); is != thp && thp != 0 && !(is == 0 && unsure) {
				t.Errorf("transparent huge pages of %d bytes, not %d", is, thp)
			}
			if Probe("MADV_COLLAPSE") == nil && transparentHuge() > 0 {
				m := mapped[ReadWrite](t, Anonymous(int(thp)).Align(int(thp)))
				wants(t, "collapse of a part", m.Collapse(0, int(thp-pageSize)), unix.EINVAL)
			}
		})
	}
}
