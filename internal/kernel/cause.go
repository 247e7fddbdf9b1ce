//go:build linux

package kernel

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/mmarinus/mmap/internal/perms"
	"github.com/mmarinus/mmap/procmaps"
	"golang.org/x/sys/unix"
)

// A Cause of a fault.
type Cause uint8

// The causes.
const (
	Unproven   Cause = iota // nothing is certain, but that it has faulted
	Permission              // the page does not allow the access
	Guard                   // it is a guard page
	Truncated               // it is past the end of its file
)

// This file finds out why an access has faulted. It asks after the fact, and the
// world has gone on: a page can have come back. So that an access works now proves
// nothing, and a cause is named only if an access of the same kind is still
// refused for it.

// A Verdict is what can be said of a fault.
type Verdict struct {
	Cause Cause
	Seen  string // what was seen afterwards, which proves no cause
	Path  string // the name of the file beneath, in the kernel's table
}

// CauseOf returns why touching addr faulted, where that can be proven, and what else can
// be said. need is what the access was, perms.Read or perms.Write; 0 is what nobody
// knows, a load or a store by the caller's own code.
func CauseOf(addr uintptr, need perms.Prot) (v Verdict) {
	area, ok := regionAt(addr)
	if !ok || !area.Contains(uint64(addr)) {
		return v
	}
	if area.Inode != 0 {
		v.Path = area.Name
	}
	v.Seen, v.Cause = causeIn(area, addr, need)
	return v
}

// causeIn is CauseOf for an address in an area.
func causeIn(area procmaps.Region, addr uintptr, need perms.Prot) (seen string, c Cause) {
	allowed := area.Perms & (procmaps.Read | procmaps.Write | procmaps.Exec)
	switch {
	// The processor looks at the permissions before it looks for the page, so
	// this holds whatever the page is. Memory that can only be written can be
	// read, too, on most processors, and memory that can only be executed on some.
	case allowed == 0, need == perms.Write && allowed&procmaps.Write == 0:
		return "", Permission
	case guarded(addr):
		return "", Guard
	case truncated(area, uint64(addr)):
		return "", Truncated
	case allowed == procmaps.Exec && lasting(area):
		return "", Permission
	case allowed&procmaps.Read == 0 || !loads(addr):
		return full(area), Unproven
	}
	switch {
	case need == perms.Read:
		return "the page can be read now: it has come back", Unproven
	case allowed&procmaps.Write != 0: // a store can fail where a load does not, on a full disk
		return cmp.Or(full(area), "the page can be read now"), Unproven
	case lasting(area): // so it was there, and the fault was no load
		return "it was a store into memory lent for reading", Permission
	}
	return "the page can be read now: it was a store into memory lent for reading, or the page has come back", Unproven
}

// lasting reports whether the pages of an area cannot go while it is mapped, guard
// pages aside. That is so of private anonymous memory alone: whoever may open the
// links in /proc/PID/map_files can truncate even what has never had a name, such
// as shared anonymous memory. What the kernel maps by itself, [vvar] for one, has
// no inode either, but pages of its own kind.
func lasting(area procmaps.Region) bool {
	return area.Inode == 0 && area.Perms&procmaps.Shared == 0 &&
		(area.Name == "" || area.Name == "[heap]" || area.Name == "[stack]" || strings.HasPrefix(area.Name, "[anon:"))
}

// guarded reports whether addr lies in a guard page. Linux 6.13 and 6.14, which
// have these, do not tell yet.
func guarded(addr uintptr) bool {
	var entry [8]byte
	const guardRegion = 1 << 58
	return peek("/proc/self/pagemap", entry[:], addr/PageSize*8) && binary.NativeEndian.Uint64(entry[:])&guardRegion != 0
}

// loads reports whether a load from addr works. process_vm_readv(2) of its own memory
// is open to a process that is not dumpable, too; but a filter may forbid it.
func loads(addr uintptr) bool {
	var b [1]byte
	to := []unix.Iovec{{Base: &b[0]}}
	to[0].SetLen(1)
	_, err := unix.ProcessVMReadv(os.Getpid(), to, []unix.RemoteIovec{{Base: addr, Len: 1}}, 0)
	return err == nil || err != unix.EFAULT && peek("/proc/self/mem", b[:], addr)
}

// peek reads from a file of the kernel's.
func peek(name string, p []byte, at uintptr) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = unix.Pread(int(f.Fd()), p, int64(at))
	return err == nil
}

// Types of file systems. One of manyDevices may give stat(2) another anonymous device than
// it gives the table; on every other the minor number tells two of them apart. Those of
// kernelsOwn, the kernel's own, have files that stat as empty, and can be mapped.
var (
	manyDevices = []uint32{unix.BTRFS_SUPER_MAGIC, unix.OVERLAYFS_SUPER_MAGIC}
	kernelsOwn  = []uint32{unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.TRACEFS_MAGIC, unix.DEBUGFS_MAGIC}
)

// isOn reports whether a name leads to a file on a file system of one of these types.
func isOn(name string, types []uint32) bool {
	var fs unix.Statfs_t
	return unix.Statfs(name, &fs) == nil && slices.Contains(types, uint32(fs.Type))
}

// full says so if the file of an area that is written to is on a file system without
// free space. That proves no cause: it may have come to be full since.
func full(area procmaps.Region) string {
	var fs unix.Statfs_t
	const stores = procmaps.Shared | procmaps.Write // that reach the file
	if area.Perms&stores != stores || statFile(area, new(unix.Stat_t)) != nil ||
		unix.Statfs(area.Name, &fs) != nil || fs.Blocks == 0 || fs.Bavail > 0 || int64(fs.Flags)&unix.ST_RDONLY != 0 {
		return ""
	}
	return "the file system has no free space now"
}

// statFile is stat(2) of the file that an area's name leads to, if it is the file of
// the area.
func statFile(area procmaps.Region, st *unix.Stat_t) error {
	if err := unix.Stat(area.Name, st); err != nil {
		return err
	}
	major, minor := unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))
	device := major == area.Major && (minor == area.Minor || major == 0 && isOn(area.Name, manyDevices))
	if area.Deleted || st.Ino != area.Inode || !device {
		return unix.ESTALE
	}
	return nil
}

// truncated reports whether addr, in area, is known to be a page past the end
// of the file. It keeps no descriptor of its own to ask: a dup would hold the
// caller's flock, and closing another would drop the process's POSIX locks.
func truncated(area procmaps.Region, addr uint64) bool {
	if area.Inode == 0 {
		return false
	}
	var st unix.Stat_t
	// The link of /proc leads to the file itself, whatever its name has
	// become, but only with CAP_CHECKPOINT_RESTORE.
	link := fmt.Sprintf("/proc/self/map_files/%x-%x", area.Start, area.End)
	if unix.Stat(link, &st) != nil && statFile(area, &st) != nil {
		return false
	}
	if st.Size == 0 && isOn(area.Name, kernelsOwn) { // those files have a name
		return false
	}
	page := (area.Offset + addr - area.Start) &^ uint64(PageSize-1)
	return st.Mode&unix.S_IFMT == unix.S_IFREG && page >= uint64(st.Size)
}
