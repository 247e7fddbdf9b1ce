package mmap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pools returns the sizes of the kernel's huge pages, and how many are free.
func pools(t testing.TB) map[int]int {
	t.Helper()
	dirs, err := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	check(t, err)
	free := map[int]int{}
	for _, dir := range dirs {
		var size, n, reserved int
		fmt.Sscanf(filepath.Base(dir), "hugepages-%dkB", &size)
		fmt.Sscan(content(dir+"/free_hugepages"), &n)
		fmt.Sscan(content(dir+"/resv_hugepages"), &reserved)
		free[size<<10] = n - reserved
	}
	return free
}

func content(file string) string {
	b, _ := os.ReadFile(file)
	return strings.TrimSpace(string(b))
}

// Too many huge pages are an error with how many, how many there are, and where
// to have more; a size that the kernel does not have is another one.
func TestHugePageErrors(t *testing.T) {
	says := regexp.MustCompile(`: (\d+) huge pages are wanted and (\d+) are free; the size of the pool is in (/sys/\S+/nr_hugepages): `)
	for size := range pools(t) {
		n := max(1, 1<<30/size)
		if unsafe.Sizeof(n) == 8 {
			n = n<<10 + 1
		}
		bytes := n*size - size + 1 // a part of a page is a page
		before := pools(t)[size]
		if before >= n {
			continue // a machine that has so many
		}
		for name, s := range map[string]Spec{
			"private": Anonymous(bytes), "shared": Anonymous(bytes).Shared(), "populated": Anonymous(bytes).Populate(), "aligned": Anonymous(bytes).Align(1), "locked": Anonymous(bytes).Lock(),
		} {
			_, err := Map[ReadWrite](s.HugePages(size))
			wants(t, name, err, unix.ENOMEM)
			text := fmt.Sprint(err)
			got := says.FindStringSubmatch(text)
			if got == nil || got[1] != strconv.Itoa(n) || got[3] != fmt.Sprintf("/sys/kernel/mm/hugepages/hugepages-%dkB/nr_hugepages", size>>10) {
				t.Errorf("%s, %d huge pages of %d bytes: %v", name, n, size, err)
			} else if pools(t)[size] == before && got[2] != strconv.Itoa(before) {
				t.Errorf("%d are free: %v", before, err)
			} else if content(got[3]) == "" {
				t.Errorf("%s has nothing", got[3])
			}
		}
		m := mapped[Read](t, Anonymous(n*size).NoReserve().Align(size))
		was := table(t, m)
		_, err := Over[Read](m, Anonymous(n*size).HugePages(size))
		if explained(t, "over", err, unix.ENOMEM, "/nr_hugepages"); table(t, m) != was {
			t.Errorf("over has failed, and left %s", table(t, m))
		}
		u := must(Forget(m))
		explained(t, "place", u.Place(0, Anonymous(n*size).HugePages(size), ProtRead), unix.ENOMEM, "/nr_hugepages")
		if table(t, u) != was {
			t.Errorf("place has failed, and left %s", table(t, u))
		}
		check(t, u.Close())
	}
	for bits := range unsafe.Sizeof(0)*8 - 1 {
		size := 1 << bits
		if _, ok := pools(t)[size]; ok {
			continue
		}
		_, err := Map[Read](Anonymous(1).HugePages(size))
		_, errFile := MemfdHuge("none", 1, 0, size)
		for name, err := range map[string]error{"map": err, "memfd": errFile} {
			if size <= int(pageSize) {
				wants(t, name+" in pages that are not huge", err, os.ErrInvalid)
			} else {
				wants(t, name+" in pages that there are none of", err, errors.ErrUnsupported)
			}
			if !strings.Contains(fmt.Sprint(err), fmt.Sprint(size)) {
				t.Errorf("%v does not say which, %d", err, size)
			}
		}
	}
}

// Huge pages of each size of which there are some: the length is the one asked
// for, the pages are as large as asked for, wherever they are.
func TestHugePageSizes(t *testing.T) {
	withHugePages(t, 4)
	for size, free := range pools(t) {
		if free < 1 {
			t.Logf("not tested: huge pages of %d bytes: the pool is empty", size)
			continue
		}
		for name, s := range map[string]Spec{
			"private": Anonymous(100), "shared": Anonymous(100).Shared(), "reserve": Anonymous(100).Reserve(size + 5), "no-reserve": Anonymous(100).NoReserve(),
			"populated": Anonymous(100).Populate(), "locked": Anonymous(100).Lock(), "less aligned": Anonymous(100).Align(int(pageSize)), "more aligned": Anonymous(100).Align(2 * size),
			"whole": Anonymous(size), "low": Anonymous(100).Low(), "low reserve": Anonymous(100).Low().Reserve(size + 5), "low aligned": Anonymous(100).Low().Align(2 * size),
			"low shared": Anonymous(100).Low().Shared(),
		} {
			m, err := Map[ReadWrite](s.HugePages(size))
			if s.low && errors.Is(err, errors.ErrUnsupported) {
				continue // TestLow says where
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if m.Len() != s.size || m.Addr()%uintptr(size) != 0 || s.low && uint64(m.Addr()) >= 1<<31 || s.aligned && m.Addr()%uintptr(s.align) != 0 {
				t.Errorf("%s: %v in huge pages of %d", name, m, size)
			}
			if r := must(m.Regions()); r[0].Size() != uint64(size) {
				t.Errorf("%s: %v", name, r)
			}
			flagged(t, name, m, "ht", "")
			if got := kilobytes(smapsOf(t, m.Addr())["KernelPageSize"]); got != uint64(size) {
				t.Errorf("%s: pages of %d bytes, not %d", name, got, size)
			}
			if in := inTable(t, m)[0]; in != (s.populate || s.lock != unlocked) {
				t.Errorf("%s: there from the start: %v", name, in)
			}
			check(t, second(m.WriteAt([]byte{1}, int64(m.Len()-1))))
			check(t, m.Close())
		}
		if free > 256 {
			continue // somebody uses them
		}
		// What is promised to a mapping that has not touched it is not free.
		promised := mapped[Read](t, Anonymous(1).HugePages(size))
		_, err := Map[Read](Anonymous(free * size).HugePages(size))
		explained(t, "one too many", err, unix.ENOMEM, fmt.Sprintf("%d huge pages are wanted and %d are free", free, free-1))
		check(t, promised.Close())
	}
}

// Without a reservation the pool can run out: a fault, and the program goes on.
func TestHugePagesRunOut(t *testing.T) {
	size := int(withHugePages(t, 2))
	m := mapped[ReadWrite](t, Anonymous(4*size).HugePages(0).NoReserve())
	flagged(t, "no-reserve", m, "ht nr", "")
	n := 0
	var err error
	for ; err == nil && n < 4; n++ {
		err = second(m.WriteAt([]byte{byte(n + 1)}, int64(n*size)))
	}
	var fault *FaultError
	if !errors.As(err, &fault) || fault.Offset != 2*size || errors.Is(err, ErrTruncated) || errors.Is(err, ErrPermission) {
		t.Errorf("page %d: %v", n, err)
	}
	if err := m.Prefault(0, 4*size); !errors.As(err, &fault) || fault.Offset != 2*size {
		t.Error("prefault: ", err)
	}
	b := make([]byte, 1)
	if check(t, second(m.ReadAt(b, int64(size)))); b[0] != 2 {
		t.Error("the page before has ", b)
	}
	// What is closed goes back to the pool.
	check(t, m.Close())
	if free := pools(t)[size]; free != 2 {
		t.Errorf("%d huge pages are free again", free)
	}
}
