//go:build linux

package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/mmarinus/mmap/internal/fail"
	"github.com/mmarinus/mmap/internal/sys"
	"golang.org/x/sys/unix"
)

// A Demand is how many bytes more a call has asked for: of address space, of
// private writable memory, of memory counted as committed, and of locked memory.
type Demand struct {
	Space, Data, Charged, Locked uintptr
	Low                          int // MAP_32BIT, if the address space is wanted below 2 GiB
}

// Scarce explains err, where that is due to a limit that the Demand exceeds.
func Scarce(err error, want Demand) error {
	if err != unix.ENOMEM && err != unix.EAGAIN && (err != unix.EPERM || want.Locked == 0) {
		return err
	}
	// This comes first, and takes little memory: at the limit of areas a Go heap
	// that has to grow ends the program. mremap(2) gives up eight areas before it.
	if is, used := Number("/proc/sys/vm/max_map_count", ""), areaCount(); is > 0 && used+8 > is {
		return fail.Hint(err, "vm.max_map_count is %d, and %d are in use", is, used)
	}
	var can [2]unix.CapUserData
	unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &can[0])
	users, _ := os.ReadFile("/proc/self/uid_map") // the capability counts in the first namespace only
	all := strings.HasSuffix(string(users), " 4294967295\n") && can[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0
	locks := (err == unix.EAGAIN || want.Locked > 0) && !all
	_, unread := ReadNumber("/proc/self/status", "")
	mode := Number("/proc/sys/vm/overcommit_memory", "")
	own := func(key string) uint64 { return Number("/proc/self/status", key) << 10 }
	host := func(key string) uint64 { return Number("/proc/meminfo", key) << 10 }
	memory := host("MemTotal:") + host("SwapTotal:")
	for _, limit := range []struct {
		applies  bool
		name     string
		is, used uint64
		wants    uintptr
	}{
		{locks, "RLIMIT_MEMLOCK", rlimit(unix.RLIMIT_MEMLOCK), own("VmLck:"), max(want.Locked, want.Space)},
		{true, "RLIMIT_AS", rlimit(unix.RLIMIT_AS), own("VmSize:"), want.Space},
		{true, "RLIMIT_DATA", rlimit(unix.RLIMIT_DATA), own("VmData:"), want.Data},
		{mode == 2, "the commit limit of vm.overcommit_memory 2", host("CommitLimit:"), host("Committed_AS:"), want.Charged},
	} {
		if limit.applies && limit.used+uint64(limit.wants) > limit.is {
			hint := fmt.Sprintf("%s is %d", limit.name, limit.is)
			if unread == nil { // or nobody knows how many
				hint += fmt.Sprintf(", and %d are in use", limit.used)
			}
			return &fail.Error{Hint: hint, Err: err}
		}
	}
	switch {
	case want.Space > 0 && tryMmap(want.Space, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE, -1) != nil:
		err = fail.Hint(err, "the address space has no room for %d bytes", want.Space)
	case want.Low != 0 && tryMmap(want.Space, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE|want.Low, -1) != nil:
		err = fail.Hint(err, "there is no room for %d bytes below 2 GiB", want.Space)
	case mode == 0 && memory > 0 && uint64(want.Charged) > memory:
		err = fail.Hint(err, "memory with swap, for vm.overcommit_memory 0, is %d", memory)
	}
	return err
}

// areaCount counts the lines of the kernel's table without allocating.
func areaCount() (lines uint64) {
	if fd, err := sys.OpenSelfMaps(); err == nil {
		var buf [1024]byte
		for n, _ := unix.Read(fd, buf[:]); n > 0; n, _ = unix.Read(fd, buf[:]) {
			lines += uint64(bytes.Count(buf[:n], []byte("\n")))
		}
		unix.Close(fd)
	}
	return lines
}

// ScarceHuge is scarce for memory in huge pages of so many bytes.
func ScarceHuge(err error, size uint64, page uintptr) error {
	if page == PageSize || err != unix.ENOMEM && err != unix.EINVAL && err != unix.ENODEV {
		return err
	}
	// That /sys is missing, as in a container, says nothing of the kernel.
	// memfd_create(2) needs no page of the pool, and returns ENODEV where there
	// is no such size, while mmap(2) has EINVAL for that and more.
	if err != unix.ENOMEM {
		if _, no := HugeBlock(bits.TrailingZeros(uint(page)) << unix.MAP_HUGE_SHIFT); no == unix.ENODEV || no == unix.ENOSYS {
			err = fail.Hint(errors.ErrUnsupported, "this kernel has no huge pages of %d bytes", page)
		}
		return err
	}
	pool, wanted := fmt.Sprintf("/sys/kernel/mm/hugepages/hugepages-%dkB/", page>>10), size/uint64(page)
	free, unknown := ReadNumber(pool+"free_hugepages", "")
	free -= Number(pool+"resv_hugepages", "")
	switch {
	case unknown != nil:
		if limit := Scarce(err, Demand{Space: uintptr(size)}); limit != err {
			return limit
		}
		return fail.Hint(err, "%d huge pages are wanted; how many are free is in %s, which cannot be read", wanted, pool)
	case free < wanted:
		const hint = "%d huge pages are wanted and %d are free; the size of the pool is in %snr_hugepages"
		return fail.Hint(err, hint, wanted, free, pool)
	}
	return err
}

// HugeBlock asks the kernel, and no file of /proc or /sys, how large the huge pages
// are that flags of memfd_create(2) name.
func HugeBlock(flags int) (size uint64, err error) {
	var st unix.Stat_t
	fd, err := unix.MemfdCreate("probe", unix.MFD_CLOEXEC|unix.MFD_HUGETLB|flags)
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	return uint64(st.Blksize), done(fd, err)
}

// SmallestHuge returns the size of the smallest huge pages of the pools, or while that
// cannot be read a size that none is below.
func SmallestHuge() uintptr {
	if n := smallestHuge.Load(); n != 0 {
		return n
	}
	least := uintptr(0)
	pools, err := os.ReadDir("/sys/kernel/mm/hugepages")
	for _, pool := range pools {
		var n uintptr
		if fmt.Sscanf(pool.Name(), "hugepages-%dkB", &n); n > 0 && (least == 0 || n<<10 < least) {
			least = n << 10
		}
	}
	if err != nil || least == 0 {
		return 2 * PageSize
	}
	smallestHuge.Store(least)
	return least
}

var smallestHuge atomic.Uintptr // 0: not known yet

func rlimit(resource int) uint64 {
	limit := unix.Rlimit{Cur: unix.RLIM_INFINITY}
	unix.Getrlimit(resource, &limit)
	return limit.Cur
}

// Number returns the number that follows key in a file of the kernel's, 0 if
// there is none. It allocates only the name, for the sake of Scarce.
func Number(file, key string) uint64 {
	n, _ := ReadNumber(file, key)
	return n
}

// ReadNumber is number that says why the file cannot be read.
func ReadNumber(file, key string) (n uint64, err error) {
	var text [2048]byte
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Read(fd, text[:])
		unix.Close(fd)
	}
	_, rest, _ := bytes.Cut(text[:], []byte(key))
	rest = bytes.TrimLeft(rest, "\t ")
	end := bytes.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	n, _ = strconv.ParseUint(string(rest[:max(end, 0)]), 10, 64)
	return n, err
}
