//go:build linux

package procmaps

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// oracle is the grammar of a line, written without a look at parse.go.
var oracle = regexp.MustCompile(`(?s)^(0*[0-9a-f]{1,16})-(0*[0-9a-f]{1,16}) ([r-])([w-])([x-])([sp-]) (0*[0-9a-f]{1,16}) (0*[0-9a-f]{1,8}):(0*[0-9a-f]{1,8}) ([0-9]+)(?: +([^ \n][^\n]*)?)?$`)

// slowParse is an independent parser to compare with.
func slowParse(line string) (r Region, ok bool) {
	m := oracle.FindStringSubmatch(line)
	if m == nil {
		return Region{}, false
	}
	ok = true
	number := func(s string, base int) uint64 {
		n, err := strconv.ParseUint(s, base, 64)
		ok = ok && err == nil
		return n
	}
	r.Start, r.End, r.Offset = number(m[1], 16), number(m[2], 16), number(m[7], 16)
	r.Major, r.Minor = uint32(number(m[8], 16)), uint32(number(m[9], 16))
	r.Inode = number(m[10], 10)
	for i, bit := range []Perms{Read, Write, Exec, Shared} {
		if c := m[3+i]; c != "-" && c != "p" {
			r.Perms |= bit
		}
	}
	r.Name = strings.Join(strings.Split(m[11], "\\012"), "\n")
	if strings.HasSuffix(r.Name, " (deleted)") {
		r.Name, r.Deleted = r.Name[:len(r.Name)-len(" (deleted)")], true
	}
	if r.End == 0 && 0 < r.Start && r.Start < 1<<32 {
		r.End = 1 << 32
	}
	if !ok || r.Start >= r.End {
		return Region{}, false
	}
	return r, true
}

// kernelForm is what a 64-bit kernel prints, the column of the name aside: a
// number has no more zeros in front than its column is wide.
var kernelForm = regexp.MustCompile(`^([0-9a-f]{8}|[1-9a-f][0-9a-f]{8,})-([0-9a-f]{8}|[1-9a-f][0-9a-f]{8,}) ...[ps] ([0-9a-f]{8}|[1-9a-f][0-9a-f]{8,}) ([0-9a-f]{2}|[1-9a-f][0-9a-f]{2,}):([0-9a-f]{2}|[1-9a-f][0-9a-f]{2,}) (0|[1-9][0-9]*) `)

func inKernelForm(line string) bool {
	head := kernelForm.FindString(line)
	if head == "" || len(head) == len(line) || strings.Contains(head, "-00000000 ") {
		return head != "" && !strings.Contains(head, "-00000000 ")
	}
	at := max(len(head), 72) + 1
	return len(line) > at && line[at] != ' ' && strings.Trim(line[len(head):at], " ") == ""
}

// most bounds what the fuzzer chooses. The engine makes an interesting input
// shorter by trying to leave out every range of its bytes, for up to a minute
// each, in which nothing else goes on: of 200 bytes that takes about a second.
const most = 200

// FuzzMaps parses any text, and compares with the slow parser.
func FuzzMaps(f *testing.F) {
	add := func(text string) { f.Add([]byte(text), uint16(0)) }
	for _, test := range kernelLines {
		add(test.line + "\n") // what 64-bit kernels print
	}
	for _, test := range otherLines {
		add(test.line) // 32-bit kernels, emulators; no newline at the end
	}
	const line = "00400000-00452000 r-xp 00000000 08:02 173521 /x\n"
	add(line + line)                                                // two lines
	add(line + "\n" + line)                                         // an empty line is an error
	add(line[:20])                                                  // cut off
	add("0000000-00001000 r-xp 0 0:0 00000000000000000000000000")   // more digits than any number has
	add(line + "0040000:-00452000 r-xp 00000000 08:02 173521 /x\n") // the character after 9
	add("00452000-00400000 r-xp 00000000 08:02 173521 /x\n")        // turned round
	add("ffff0000-0 r-x- 0 0:0 0\n1-1 ---p 0 0:0 0\n")
	add("1-2 ---p 0 0:0 18446744073709551616\n")             // one more than fits
	add("1-00000000000000002 ---p 0 0:0 0\n")                // 17 digits, yet it fits
	add("1-2 ---p 0 ffffffff:100000000 0\n")                 // of the device numbers, one has 32 bits
	add("1-2 ---p 0 0:0 0 \\012 (deleted) (deleted)\n")      // nothing but what is rewritten
	add("1-2 ---p 0 0:0 0  (deleted)\r\x00\xff")             // bytes that are no text
	f.Add([]byte(line+"1-2 ---p 0 0:0 0 /x"), uint16(4<<10)) // a name longer than a buffer of the reader
	f.Add([]byte(line+"1-2 ---p 0 0:0 "), uint16(9<<10))     // a number that is

	f.Fuzz(func(t *testing.T, text []byte, longer uint16) {
		if len(text) > most || longer > 10<<10 {
			t.Skip("takes too long to make shorter")
		}
		text = append(bytes.Clone(text), bytes.Repeat([]byte{'7'}, int(longer))...)
		var got []Region
		failed := 0
		for r, err := range Scan(bytes.NewReader(text)) {
			if err == nil {
				got = append(got, r)
			} else {
				failed++
			}
		}

		// What the slow parser makes of it.
		lines := strings.Split(string(text), "\n")
		if lines[len(lines)-1] == "" {
			lines = lines[:len(lines)-1]
		}
		var want []Region
		bad := 0
		for _, line := range lines {
			r, ok := slowParse(line)
			one, err := Parse(line)
			if ok != (err == nil) || one != r {
				t.Fatalf("Parse(%q)\n got %#v, %v\nwant %#v, %v", line, one, err, r, ok)
			}
			careful, name, err := parseAny(line)
			if r, at := quick(line); at > 0 && (err != nil || r != careful || line[at:] != name) {
				t.Fatalf("%q is quickly\n%#v, %q, and with care\n%#v, %q, %v", line, r, line[at:], careful, name, err)
			}
			if !ok {
				bad++
				continue
			}
			want = append(want, r)
			if inKernelForm(line) && r.String() != line {
				t.Fatalf("String:\n got %q\nwant %q", r.String(), line)
			}
		}
		if !slices.Equal(got, want) || bad != failed {
			t.Fatalf("Scan(%q)\n got %v, %v\nwant %v, bad %v", text, got, failed, want, bad)
		}

		for _, r := range got {
			if again, err := Parse(r.String()); err != nil || again != r {
				t.Fatalf("%#v\nprints as %q,\nwhich parses as %#v, %v", r, r.String(), again, err)
			}
		}
	})
}

// FuzzRegion prints a region as kernels do, and parses that.
func FuzzRegion(f *testing.F) {
	f.Add(uint64(0x400000), uint64(0x452000), uint8(5), uint64(0), uint32(8), uint32(2), uint64(173521), "/bin/cat", false)
	f.Add(^uint64(0xfff), ^uint64(0), uint8(15), ^uint64(0xfff), ^uint32(0), ^uint32(0), ^uint64(0), "/x", true)   // the widest numbers
	f.Add(uint64(0), uint64(1), uint8(0), uint64(0), uint32(0), uint32(0), uint64(0), "", false)                   // the narrowest, and no name
	f.Add(uint64(0xffff0000), uint64(0), uint8(5), uint64(0), uint32(0), uint32(0), uint64(0), "[vectors]", false) // the end of 32 bits
	f.Add(uint64(2), uint64(1), uint8(0), uint64(0), uint32(0), uint32(0), uint64(0), "", false)                   // turned round
	f.Add(uint64(1), uint64(2), uint8(0), uint64(0), uint32(0), uint32(0), uint64(0), "", true)                    // deleted, but without a name
	f.Add(uint64(1<<32-1), uint64(1<<32), uint8(8), uint64(0), uint32(0), uint32(1), uint64(9), "a\nb\n", true)    // escaped, and a ninth digit
	f.Add(uint64(1), uint64(2), uint8(1), uint64(0), uint32(0), uint32(0), uint64(7), `/\012`, false)              // not told from a newline
	f.Add(uint64(1), uint64(2), uint8(1), uint64(0), uint32(0), uint32(0), uint64(7), "/x (deleted)", false)       // nor this from what the kernel appends
	f.Add(uint64(1), uint64(2), uint8(1), uint64(0), uint32(0), uint32(0), uint64(7), "  /a  b ", false)           // only a relative name can begin with a space

	f.Fuzz(func(t *testing.T, start, end uint64, perms uint8, offset uint64, major, minor uint32, inode uint64, name string, gone bool) {
		if len(name) > most {
			t.Skip("takes too long to make shorter")
		}
		r := Region{start, end, Perms(perms % 16), offset, major, minor, inode, name, gone && name != ""}
		column := name
		for i := strings.IndexByte(column, '\n'); i >= 0; i = strings.IndexByte(column, '\n') {
			column = column[:i] + "\\" + "012" + column[i+1:]
		}
		if r.Deleted {
			column += " (deleted)"
		}
		numbers := fmt.Sprintf("%08x-%08x %c%c%c%c %08x %02x:%02x %d ", start, end, "-r"[perms&1], "-w"[perms>>1&1], "-x"[perms>>2&1], "ps"[perms>>3&1], offset, major, minor, inode)
		// What cannot be told apart comes out as what the kernel more likely meant.
		want := r
		want.Name = strings.TrimLeft(column, " ")
		if cut := len(want.Name) - len(" (deleted)"); cut >= 0 && want.Name[cut:] == " (deleted)" {
			want.Name, want.Deleted = want.Name[:cut], true
		} else {
			want.Deleted = false
		}
		want.Name = strings.Join(strings.Split(want.Name, `\012`), "\n")
		good := start < end
		if end == 0 && 0 < start && start < 1<<32 { // of a 32-bit kernel
			want.End, good = 1<<32, true
		} else if !good {
			want = Region{}
		}
		for _, width := range []int{0, 48, 72} { // of an emulator, of a 32-bit kernel, of a 64-bit one
			line := numbers
			if column != "" {
				line = fmt.Sprintf("%-*s %s", width, numbers, column)
			}
			if got, err := Parse(line + "\n"); got != want || (err == nil) != good {
				t.Fatalf("Parse(%q)\n got %#v, %v\nwant %#v", line, got, err, want)
			}
			if width == 72 && r.String() != line {
				t.Fatalf("String:\n got %q\nwant %q", r.String(), line)
			}
		}
	})
}
