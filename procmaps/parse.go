package procmaps

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"iter"
	"strings"
)

const (
	deleted = " (deleted)"
	newline = `\012` // the only character that the kernel escapes here

	// maxLine bounds what a reader that sends no newline can make Scan hold. It
	// leaves room for any path: one longer than PATH_MAX exists where directories
	// were made relative to each other.
	maxLine = 1 << 20
)

// Parse reads one line of the table, with or without the newline at its end.
// A line that proc_pid_maps(5) does not allow is an error that quotes it. Of the
// padding it is tolerant, because emulators pad differently: numbers may have
// fewer digits, and any number of spaces may stand before the name.
func Parse(line string) (Region, error) {
	return parse(strings.TrimSuffix(line, "\n"))
}

// Scan reads a table line by line, to the end or the first error. It holds one
// line at a time, and refuses one longer than 1 MiB with [bufio.ErrTooLong].
// The sequence can be ranged over once, as r can be read once.
func Scan(r io.Reader) iter.Seq2[Region, error] {
	return func(yield func(Region, error) bool) {
		b := bufio.NewReader(r)
		for {
			line, err := readLine(b)
			if err == io.EOF {
				return
			}
			var region Region
			if err == nil {
				region, err = parse(line)
			}
			if !yield(region, err) || err != nil {
				return
			}
		}
	}
}

// readLine returns the next line without its newline, valid until the next
// call. What stands before an error is not a line, for its name may be cut off;
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
	f := fields[T]{rest: line}
	r.Start = f.number("start", 16, 64, '-')
	r.End = f.number("end", 16, 64, ' ')
	r.Perms = f.perms()
	r.Offset = f.number("offset", 16, 64, ' ')
	r.Major = uint32(f.number("major device number", 16, 32, ':'))
	r.Minor = uint32(f.number("minor device number", 16, 32, ' '))
	r.Inode = f.number("inode", 10, 64, ' ')
	name = f.name()
	if f.bad == "" && r.Start >= r.End {
		f.bad = "end"
	}
	if f.bad != "" {
		return Region{}, name, fmt.Errorf("procmaps: bad %s in the line %.300q", f.bad, string(line))
	}
	return r, name, nil
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
func (f *fields[T]) number(column string, base uint64, bits int, end byte) (n uint64) {
	limit := ^uint64(0) >> (64 - bits)
	i := 0
	for ; i < len(f.rest) && f.rest[i] != end; i++ {
		digit := base
		switch c := f.rest[i]; {
		case '0' <= c && c <= '9':
			digit = uint64(c - '0')
		case 'a' <= c && c <= 'f':
			digit = uint64(c - 'a' + 10)
		}
		if digit >= base || n > (limit-digit)/base {
			f.fail(column)
			return 0
		}
		n = n*base + digit
	}
	if i == 0 || i == len(f.rest) && end != ' ' {
		f.fail(column)
		return 0
	}
	f.rest = f.rest[min(i+1, len(f.rest)):]
	return n
}

// perms takes the permissions and the space after them.
func (f *fields[T]) perms() (p Perms) {
	if len(f.rest) < 5 || f.rest[4] != ' ' {
		f.fail("permissions")
		return 0
	}
	for i := range 4 {
		switch f.rest[i] {
		case "rwxs"[i]:
			p |= 1 << i
		case "---p"[i]:
		default:
			f.fail("permissions")
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
			f.fail("name")
		}
	}
	return f.rest[i:]
}

func (f *fields[T]) fail(column string) {
	if f.bad == "" {
		f.bad = column
	}
}
