package procmaps

import (
	"bytes"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// oracle is the grammar of a line, written without a look at parse.go.
var oracle = regexp.MustCompile(`(?s)^(0*[0-9a-f]{1,16})-(0*[0-9a-f]{1,16}) ([r-])([w-])([x-])([sp]) (0*[0-9a-f]{1,16}) (0*[0-9a-f]{1,8}):(0*[0-9a-f]{1,8}) ([0-9]+)(?: +([^ \n][^\n]*)?)?$`)

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
	if !ok || r.Start >= r.End {
		return Region{}, false
	}
	return r, true
}

// kernelForm is what a 64-bit kernel prints, the column of the name aside: a
// number has no more zeros in front than its column is wide.
var kernelForm = regexp.MustCompile(`^([0-9a-f]{8}|[1-9a-f][0-9a-f]{8,})-([0-9a-f]{8}|[1-9a-f][0-9a-f]{8,}) .... ([0-9a-f]{8}|[1-9a-f][0-9a-f]{8,}) ([0-9a-f]{2}|[1-9a-f][0-9a-f]{2,}):([0-9a-f]{2}|[1-9a-f][0-9a-f]{2,}) (0|[1-9][0-9]*) `)

func inKernelForm(line string) bool {
	head := kernelForm.FindString(line)
	if head == "" || len(head) == len(line) {
		return head != ""
	}
	at := max(len(head), 72) + 1
	return len(line) > at && line[at] != ' ' && strings.Trim(line[len(head):at], " ") == ""
}

func FuzzMaps(f *testing.F) {
	for _, test := range kernelLines {
		f.Add([]byte(test.line + "\n")) // what 64-bit kernels print
	}
	for _, test := range otherLines {
		f.Add([]byte(test.line)) // 32-bit kernels, emulators; no newline at the end
	}
	const line = "00400000-00452000 r-xp 00000000 08:02 173521 /x\n"
	f.Add([]byte(line + line))                                                // two lines
	f.Add([]byte(line + "\n" + line))                                         // an empty line is an error
	f.Add([]byte(line[:20]))                                                  // cut off
	f.Add([]byte("0000000-00001000 r-xp 0 0:0 00000000000000000000000000"))   // more digits than any number has
	f.Add([]byte(line + "0040000:-00452000 r-xp 00000000 08:02 173521 /x\n")) // the character after 9
	f.Add([]byte("00452000-00400000 r-xp 00000000 08:02 173521 /x\n"))        // turned round
	f.Add([]byte("1-2 ---p 0 0:0 18446744073709551616\n"))                    // one more than fits
	f.Add([]byte("1-00000000000000002 ---p 0 0:0 0\n"))                       // 17 digits, yet it fits
	f.Add([]byte("1-2 ---p 0 0:0 0 \\012 (deleted) (deleted)\n"))             // nothing but what is rewritten
	f.Add([]byte("1-2 ---p 0 0:0 0  (deleted)\r\x00\xff"))                    // bytes that are no text

	f.Fuzz(func(t *testing.T, text []byte) {
		var got []Region
		var failed error
		for r, err := range Scan(bytes.NewReader(text)) {
			if failed != nil {
				t.Fatalf("%v after the error %v", r, failed)
			}
			if failed = err; err == nil {
				got = append(got, r)
			}
		}

		// What the slow parser makes of it: the lines up to the first bad one.
		lines := strings.Split(string(text), "\n")
		if lines[len(lines)-1] == "" {
			lines = lines[:len(lines)-1]
		}
		var want []Region
		bad := false
		for _, line := range lines {
			r, ok := slowParse(line)
			one, err := Parse(line)
			if ok != (err == nil) || one != r {
				t.Fatalf("Parse(%q)\n got %#v, %v\nwant %#v, %v", line, one, err, r, ok)
			}
			if bad = !ok; bad {
				break
			}
			want = append(want, r)
			if inKernelForm(line) && r.String() != line {
				t.Fatalf("String:\n got %q\nwant %q", r.String(), line)
			}
		}
		if !slices.Equal(got, want) || bad != (failed != nil) {
			t.Fatalf("Scan(%q)\n got %v, %v\nwant %v, bad %v", text, got, failed, want, bad)
		}

		for _, r := range got {
			if again, err := Parse(r.String()); err != nil || again != r {
				t.Fatalf("%#v\nprints as %q,\nwhich parses as %#v, %v", r, r.String(), again, err)
			}
		}
	})
}
