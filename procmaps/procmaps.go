// Package procmaps reads the kernel's table of what is mapped in a process,
// /proc/PID/maps, as proc_pid_maps(5) describes it.
//
// [Open] opens the table of a process. [Table.Regions] streams it, [Table.At]
// and [Table.Next] look one address up: with a question to the kernel where it
// takes one (PROCMAP_QUERY, Linux 6.11), else by reading. [Parse] and [Scan]
// read text that comes from elsewhere, a core dump's note or a bug report.
//
// Two things the text cannot tell apart. The kernel writes a newline in a name
// as \012 and leaves a backslash alone, so a file whose name holds these four
// characters is reported with a newline. It appends " (deleted)" to the name of
// an unlinked file, so a file whose name ends like that is reported as deleted.
package procmaps

import "fmt"

// Perms are a region's permissions, and whether it is shared.
type Perms uint8

// The bits of [Perms]. They have the values that PROCMAP_QUERY gives them.
const (
	Read Perms = 1 << iota
	Write
	Exec
	Shared // writes reach the file and other processes; else private (copy-on-write)
)

// String returns the table's second column, such as "r-xp" or "rw-s".
func (p Perms) String() string {
	s := []byte("---p")
	for i, c := range []byte("rwxs") {
		if p&(1<<i) != 0 {
			s[i] = c
		}
	}
	return string(s)
}

// A Region is one line of the table: pages next to each other that are mapped
// alike. Its numbers are as wide on a 32-bit processor, where a program may
// read the table of a 64-bit process.
type Region struct {
	Start, End   uint64 // the addresses [Start, End)
	Perms        Perms
	Offset       uint64 // of Start in the file, in bytes
	Major, Minor uint32 // the device that holds the file
	Inode        uint64 // 0 where there is no file

	// Name is the file's path, or what the kernel calls the memory: [heap],
	// [stack], [anon:name], anon_inode:[perf_event]. It is empty for anonymous
	// memory without a name, and has no " (deleted)" at its end: that is Deleted.
	Name    string
	Deleted bool // the file has been unlinked, or never had a name
}

// Size returns the region's length in bytes.
func (r Region) Size() uint64 { return r.End - r.Start }

// Contains reports whether addr lies in the region.
func (r Region) Contains(addr uint64) bool { return r.Start <= addr && addr < r.End }

// String returns the line as a 64-bit kernel prints it, without the newline at
// its end.
func (r Region) String() string {
	s := fmt.Sprintf("%08x-%08x %s %08x %02x:%02x %d ", r.Start, r.End, r.Perms, r.Offset, r.Major, r.Minor, r.Inode)
	if r.Name == "" {
		return s // the kernel leaves the space there
	}
	// The kernel pads to 25 + 6*sizeof(void *) - 1 columns and puts a space
	// after that in any case.
	s = fmt.Sprintf("%-72s %s", s, escape(r.Name))
	if r.Deleted {
		s += deleted
	}
	return s
}
