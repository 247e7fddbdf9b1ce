// Package procmaps reads the kernel's table of what is mapped in a process,
// /proc/PID/maps, as proc_pid_maps(5) describes it.
//
// [Open] opens the table of a process. [Table.Regions] streams it, [Table.At]
// and [Table.Next] look one address up: with a question to the kernel where it
// takes one (PROCMAP_QUERY, Linux 6.11), else by reading. [Parse] and [Scan]
// read text that comes from elsewhere, a core dump's note or a bug report.
//
// The text is ambiguous in two cases. The kernel writes a newline in a name
// as \012 and leaves a backslash alone, so a file whose name holds these four
// characters is reported with a newline. It appends " (deleted)" to the name of
// an unlinked file, so a file whose name ends like that is reported as deleted.
package procmaps

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
)

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

const (
	deleted = " (deleted)"
	newline = `\012` // the only character that the kernel escapes here

	// maxLine bounds what a reader that sends no newline can make Scan hold. It
	// leaves room for any path: one longer than PATH_MAX exists where directories
	// were made relative to each other.
	maxLine = 1 << 20
)

// Parse reads one line of the table, with or without the newline at its end.
// A line that cannot be parsed is an error that quotes it: besides what
// proc_pid_maps(5) does not allow, an empty region, and one whose addresses are
// hidden, as grsecurity does. What has a meaning is read all the same: padding that
// emulators do differently, a dash for "private" as in WSL 1, and 0 for the end of a
// 32-bit address space.
func Parse(line string) (Region, error) {
	return parse(strings.TrimSuffix(line, "\n"))
}

// Scan reads a table line by line. For a line that cannot be parsed it yields the error
// of [Parse], and goes on with the next one if the loop does. An error of reading, and
// [bufio.ErrTooLong] for a line longer than 1 MiB, end it. It holds one line at a
// time. The sequence can be ranged over once, as r can be read once.
func Scan(r io.Reader) iter.Seq2[Region, error] {
	return func(yield func(Region, error) bool) {
		b := bufio.NewReader(r)
		for {
			line, err := readLine(b)
			if err == io.EOF {
				return
			}
			var region Region
			ends := err != nil
			if !ends {
				region, err = parse(line)
			}
			if !yield(region, err) || ends {
				return
			}
		}
	}
}

// readLine returns the next line without its newline, valid until the next
// call. What stands before an error is not a line, because its name may be cut off;
// before the end of the file it is.
func readLine(b *bufio.Reader) ([]byte, error) {
	line, err := b.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		long := bytes.Clone(line)
		for err == bufio.ErrBufferFull && len(long) <= maxLine {
			line, err = b.ReadSlice('\n')
			long = append(long, line...)
		}
		line = long
	}
	switch {
	case len(line) > maxLine:
		return nil, bufio.ErrTooLong
	case err == io.EOF && len(line) > 0, err == nil:
		return bytes.TrimSuffix(line, []byte{'\n'}), nil
	}
	return nil, err
}

// parse reads a line without its newline.
func parse[T string | []byte](line T) (Region, error) {
	r, name, err := parseNumbers(line)
	if err == nil {
		r.setName(string(name))
	}
	return r, err
}

// parseNumbers reads everything but the name, and returns that as it stands, so
// that only a line that is wanted costs the allocation.
func parseNumbers[T string | []byte](line T) (r Region, name T, err error) {
	if r, at := quick(line); at > 0 {
		return r, line[at:], nil
	}
	return parseAny(line)
}

// digits has the values of digits, and more than 15 for all else.
var digits = func() (d [256]uint8) {
	for i := range d {
		d[i] = 0xff
	}
	for i, c := range "0123456789abcdef" {
		d[c] = uint8(i)
	}
	return d
}()

// quick is parseAny for a line as kernels print them, and returns where the name begins: 0
// if the line is another.
func quick[T string | []byte](line T) (r Region, name int) {
	at := 0
	// number takes at most 16 hexadecimal digits, and the byte that ends them.
	number := func(end byte) (n uint64, ok bool) {
		from := at
		for at < len(line) && digits[line[at]] < 16 {
			n = n<<4 | uint64(digits[line[at]])
			at++
		}
		at++
		return n, at-1 > from && at-1 <= from+16 && at <= len(line) && line[at-1] == end
	}
	var ok [5]bool
	r.Start, ok[0] = number('-')
	r.End, ok[1] = number(' ')
	if !ok[0] || !ok[1] || r.Start >= r.End || len(line) < at+5 || line[at+4] != ' ' {
		return r, 0
	}
	for i := range 4 {
		switch line[at+i] {
		case "rwxs"[i]:
			r.Perms |= 1 << i
		case "---p"[i]:
		default:
			return r, 0
		}
	}
	at += 5
	var major, minor uint64
	r.Offset, ok[2] = number(' ')
	major, ok[3] = number(':')
	minor, ok[4] = number(' ')
	if !ok[2] || !ok[3] || !ok[4] || (major|minor)>>32 != 0 {
		return r, 0
	}
	r.Major, r.Minor = uint32(major), uint32(minor)
	from := at
	for at < len(line) && digits[line[at]] < 10 {
		r.Inode = r.Inode*10 + uint64(digits[line[at]])
		at++
	}
	if at == from || at > from+19 || at == len(line) || line[at] != ' ' {
		return r, 0
	}
	for at < len(line) && line[at] == ' ' {
		at++
	}
	for _, c := range []byte(line[at:]) {
		if c == '\n' {
			return r, 0
		}
	}
	return r, at
}

// parseAny is parseNumbers for any line.
func parseAny[T string | []byte](line T) (r Region, name T, err error) {
	f := fields[T]{rest: line}
	r.Start = f.number("start", 16, 64, '-')
	r.End = f.number("end", 16, 64, ' ')
	r.Perms = f.perms()
	r.Offset = f.number("offset", 16, 64, ' ')
	r.Major = uint32(f.number("major device number", 16, 32, ':'))
	r.Minor = uint32(f.number("minor device number", 16, 32, ' '))
	r.Inode = f.number("inode", 10, 64, ' ')
	name = f.name()
	if r.End == 0 && 0 < r.Start && r.Start < 1<<32 {
		r.End = 1 << 32 // which a 32-bit kernel cannot write
	}
	if f.bad == "" && r.Start >= r.End {
		f.bad = "end"
	}
	if f.bad != "" {
		return Region{}, name, &lineError{f.bad, string(line)}
	}
	return r, name, nil
}

// A lineError is a line that has no meaning, and the first column that is bad.
type lineError struct{ column, line string }

func (e *lineError) Error() string {
	return fmt.Sprintf("procmaps: bad %s in the line %.300q", e.column, e.line)
}

// setName sets the name from the way the kernel writes it.
func (r *Region) setName(s string) {
	s, r.Deleted = strings.CutSuffix(s, deleted)
	r.Name = strings.ReplaceAll(s, newline, "\n")
}

func escape(name string) string { return strings.ReplaceAll(name, "\n", newline) }

// fields takes a line apart from the left. It remembers the first column that
// is bad; what it returns after that means nothing.
type fields[T string | []byte] struct {
	rest T
	bad  string
}

// number takes a number without sign of at most so many bits, and the byte that
// ends it. The line may end instead of a space, as qemu-user's do.
func (f *fields[T]) number(column string, base, bits int, end rune) (n uint64) {
	for len(f.rest) > 1 && f.rest[0] == '0' && f.rest[1] == '0' {
		f.rest = f.rest[1:]
	}
	head := string(f.rest[:min(len(f.rest), 24)]) // which has a whole number, and fits on the stack
	text, _, ended := strings.Cut(head, string(end))
	n, err := strconv.ParseUint(text, base, bits)
	if err != nil || text != strings.ToLower(text) || !ended && (end != ' ' || len(head) < len(f.rest)) {
		f.bad = cmp.Or(f.bad, column)
		return 0
	}
	f.rest = f.rest[min(len(text)+1, len(f.rest)):]
	return n
}

// perms takes the permissions and the space after them.
func (f *fields[T]) perms() (p Perms) {
	if len(f.rest) < 5 || f.rest[4] != ' ' {
		f.bad = cmp.Or(f.bad, "permissions")
		return 0
	}
	for i := range 4 {
		switch f.rest[i] {
		case "rwxs"[i]:
			p |= 1 << i
		case "---p"[i], '-':
		default:
			f.bad = cmp.Or(f.bad, "permissions")
		}
	}
	f.rest = f.rest[5:]
	return p
}

// name takes what is left, without the padding.
func (f *fields[T]) name() T {
	i := 0
	for i < len(f.rest) && f.rest[i] == ' ' {
		i++
	}
	for j := i; j < len(f.rest); j++ {
		if f.rest[j] == '\n' {
			f.bad = cmp.Or(f.bad, "name")
		}
	}
	return f.rest[i:]
}
