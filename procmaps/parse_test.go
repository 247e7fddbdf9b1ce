//go:build linux

package procmaps

import (
	"strconv"
	"strings"
	"testing"
)

// kernelLines are lines that a 64-bit kernel prints.
var kernelLines = []struct {
	line string
	want Region
}{
	{"00400000-00452000 r-xp 00000000 08:02 173521                             /usr/bin/dbus-daemon",
		Region{Start: 0x400000, End: 0x452000, Perms: Read | Exec, Major: 8, Minor: 2, Inode: 173521, Name: "/usr/bin/dbus-daemon"}},
	{"00e03000-00e24000 rw-p 00000000 00:00 0                                  [heap]",
		Region{Start: 0xe03000, End: 0xe24000, Perms: Read | Write, Name: "[heap]"}},
	{"7ffc53f1d000-7ffc53f3e000 rw-p 00000000 00:00 0                          [stack]",
		Region{Start: 0x7ffc53f1d000, End: 0x7ffc53f3e000, Perms: Read | Write, Name: "[stack]"}},
	{"7ffc53f53000-7ffc53f57000 r--p 00000000 00:00 0                          [vvar]",
		Region{Start: 0x7ffc53f53000, End: 0x7ffc53f57000, Perms: Read, Name: "[vvar]"}},
	{"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]",
		Region{Start: 0xffffffffff600000, End: 0xffffffffff601000, Perms: Exec, Name: "[vsyscall]"}},
	{"c000000000-c000400000 rw-p 00000000 00:00 0 ",
		Region{Start: 0xc000000000, End: 0xc000400000, Perms: Read | Write}},
	{"c000400000-c004000000 ---p 00000000 00:00 0 ",
		Region{Start: 0xc000400000, End: 0xc004000000}},
	{"7f1c5ba00000-7f1c5ba01000 rwxs 00000000 00:00 0 ",
		Region{Start: 0x7f1c5ba00000, End: 0x7f1c5ba01000, Perms: Read | Write | Exec | Shared}},
	{"7f1c5ba21000-7f1c5ba22000 rw-s 00000000 00:01 1057                       /dev/zero (deleted)",
		Region{Start: 0x7f1c5ba21000, End: 0x7f1c5ba22000, Perms: Read | Write | Shared, Minor: 1, Inode: 1057, Name: "/dev/zero", Deleted: true}},
	{"7f1c5ba22000-7f1c5ba23000 -w-s 00003000 00:01 2                          /memfd:a name (deleted)",
		Region{Start: 0x7f1c5ba22000, End: 0x7f1c5ba23000, Perms: Write | Shared, Offset: 0x3000, Minor: 1, Inode: 2, Name: "/memfd:a name", Deleted: true}},
	{"7f1c5ba23000-7f1c5ba24000 rw-s 00000000 00:01 32768                      /SYSV00000000 (deleted)",
		Region{Start: 0x7f1c5ba23000, End: 0x7f1c5ba24000, Perms: Read | Write | Shared, Minor: 1, Inode: 32768, Name: "/SYSV00000000", Deleted: true}},
	{"7f1c5ba24000-7f1c5ba25000 rw-s 00000000 00:0e 11                         anon_inode:[perf_event]",
		Region{Start: 0x7f1c5ba24000, End: 0x7f1c5ba25000, Perms: Read | Write | Shared, Minor: 14, Inode: 11, Name: "anon_inode:[perf_event]"}},
	{"7f1c5ba25000-7f1c5ba26000 rw-s 00000000 00:08 4026                       socket:[4026]",
		Region{Start: 0x7f1c5ba25000, End: 0x7f1c5ba26000, Perms: Read | Write | Shared, Minor: 8, Inode: 4026, Name: "socket:[4026]"}},
	{"7f1c5ba26000-7f1c5ba27000 rw-p 00000000 00:00 0                          [anon: Go: heap]",
		Region{Start: 0x7f1c5ba26000, End: 0x7f1c5ba27000, Perms: Read | Write, Name: "[anon: Go: heap]"}},
	{"7f1c5ba27000-7f1c5ba28000 rw-s 00000000 00:01 7                          [anon_shmem:x]",
		Region{Start: 0x7f1c5ba27000, End: 0x7f1c5ba28000, Perms: Read | Write | Shared, Minor: 1, Inode: 7, Name: "[anon_shmem:x]"}},
	{"7f1c5ba28000-7f1c5ba29000 r--p 00000000 fe:00 12                         /tmp/two words",
		Region{Start: 0x7f1c5ba28000, End: 0x7f1c5ba29000, Perms: Read, Major: 0xfe, Inode: 12, Name: "/tmp/two words"}},
	{`7f1c5ba29000-7f1c5ba2a000 r--p 00000000 fe:00 13                         /tmp/\012two\012lines\012`,
		Region{Start: 0x7f1c5ba29000, End: 0x7f1c5ba2a000, Perms: Read, Major: 0xfe, Inode: 13, Name: "/tmp/\ntwo\nlines\n"}},
	{`7f1c5ba2a000-7f1c5ba2b000 r--p 00000000 fe:00 14                         /tmp/\011\\ \01 \0123`,
		Region{Start: 0x7f1c5ba2a000, End: 0x7f1c5ba2b000, Perms: Read, Major: 0xfe, Inode: 14, Name: `/tmp/\011\\ \01 ` + "\n3"}},
	{"7f1c5ba2b000-7f1c5ba2c000 r--p 00000000 fe:00 15                         /tmp/x  ",
		Region{Start: 0x7f1c5ba2b000, End: 0x7f1c5ba2c000, Perms: Read, Major: 0xfe, Inode: 15, Name: "/tmp/x  "}},
	{"7f1c5ba2c000-7f1c5ba2d000 r--p 00000000 fe:00 16                         /tmp/x\r\t\xff\x01",
		Region{Start: 0x7f1c5ba2c000, End: 0x7f1c5ba2d000, Perms: Read, Major: 0xfe, Inode: 16, Name: "/tmp/x\r\t\xff\x01"}},
	{"7f1c5ba2d000-7f1c5ba2e000 r--p 00000000 fe:00 17                         /tmp/x (deleted) (deleted)",
		Region{Start: 0x7f1c5ba2d000, End: 0x7f1c5ba2e000, Perms: Read, Major: 0xfe, Inode: 17, Name: "/tmp/x (deleted)", Deleted: true}},
	{"7f1c5ba2e000-7f1c5ba2f000 r--p 00000000 fe:00 18                         /tmp/x (deleted) ",
		Region{Start: 0x7f1c5ba2e000, End: 0x7f1c5ba2f000, Perms: Read, Major: 0xfe, Inode: 18, Name: "/tmp/x (deleted) "}},
	// As long as the numbers can be. The padding is used up; one space stays.
	{"ffffffff00000000-ffffffffffffffff rwxs fffffffffffff000 fff:fffff 18446744073709551615  /x",
		Region{Start: 0xffffffff00000000, End: 0xffffffffffffffff, Perms: Read | Write | Exec | Shared, Offset: 0xfffffffffffff000, Major: 0xfff, Minor: 0xfffff, Inode: 1<<64 - 1, Name: "/x"}},
}

// otherLines are lines that String does not give back.
var otherLines = []struct {
	line string
	want Region
}{
	// A 32-bit kernel pads to column 49.
	{"08048000-08053000 r-xp 00000000 08:01 1234       /bin/cat",
		Region{Start: 0x8048000, End: 0x8053000, Perms: Read | Exec, Major: 8, Minor: 1, Inode: 1234, Name: "/bin/cat"}},
	{"bf9ea000-bfa0b000 rw-p 00000000 00:00 0          [stack]",
		Region{Start: 0xbf9ea000, End: 0xbfa0b000, Perms: Read | Write, Name: "[stack]"}},
	{"ffff0000-ffff1000 r-xp 00000000 00:00 0          [vectors]",
		Region{Start: 0xffff0000, End: 0xffff1000, Perms: Read | Exec, Name: "[vectors]"}},
	{"b7fca000-b7fcb000 rw-s 00000000 00:05 12345678   /memfd:x (deleted)",
		Region{Start: 0xb7fca000, End: 0xb7fcb000, Perms: Read | Write | Shared, Minor: 5, Inode: 12345678, Name: "/memfd:x", Deleted: true}},
	// qemu-user does not pad numbers and ends the line after the inode.
	{"10000-11000 r--p 00000000 00:00 0",
		Region{Start: 0x10000, End: 0x11000, Perms: Read}},
	{"0-1000 ---p 0 0:0 0",
		Region{Start: 0, End: 0x1000}},
	{"00000000-00001000 ---p 00000000 00:00 0                                    ",
		Region{Start: 0, End: 0x1000}},
	// Not a suffix: there is nothing before it.
	{"00000000-00001000 ---p 00000000 00:00 0  (deleted)",
		Region{Start: 0, End: 0x1000, Name: "(deleted)"}},
}

// What a kernel prints is read quickly.
func TestQuick(t *testing.T) {
	for _, test := range kernelLines {
		if _, at := quick(test.line); at == 0 && test.want.Inode < 1e19 { // of 19 digits
			t.Errorf("not %q", test.line)
		}
	}
}

func TestParse(t *testing.T) {
	for _, test := range append(kernelLines, otherLines...) {
		for _, end := range []string{"", "\n"} {
			got, err := Parse(test.line + end)
			if err != nil || got != test.want {
				t.Errorf("Parse(%q)\n got %#v, %v\nwant %#v", test.line+end, got, err, test.want)
			}
		}
	}
}

func TestString(t *testing.T) {
	for _, test := range kernelLines {
		if got := test.want.String(); got != test.line {
			t.Errorf("String:\n got %q\nwant %q", got, test.line)
		}
	}
	for p, want := range map[Perms]string{0: "---p", Read: "r--p", Write: "-w-p", Exec: "--xp", Shared: "---s", 0xff: "rwxs"} {
		if got := p.String(); got != want {
			t.Errorf("Perms(%#x) = %q, want %q", uint8(p), got, want)
		}
	}
}

func TestParseMalformed(t *testing.T) {
	good := "00400000-00452000 r-xp 00001000 08:02 173521 /x"
	if _, err := Parse(good); err != nil {
		t.Fatal(err)
	}
	// Each is the good line with one part replaced; want is the column named.
	for _, test := range []struct{ old, new, want string }{
		{good, "", "start"},
		{good, "\n", "start"},
		{good, " ", "start"},
		{good, "-", "start"},
		{good, "00400000", "start"},
		{good, "00400000-", "end"},
		{good, "00400000-00452000", "permissions"},
		{good, "00400000-00452000 ", "permissions"},
		{good, "00400000-00452000 r-xp", "permissions"},
		{good, "00400000-00452000 r-xp ", "offset"},
		{good, "00400000-00452000 r-xp 00001000", "major"},
		{good, "00400000-00452000 r-xp 00001000 ", "major"},
		{good, "00400000-00452000 r-xp 00001000 08", "major"},
		{good, "00400000-00452000 r-xp 00001000 08:", "minor"},
		{good, "00400000-00452000 r-xp 00001000 08:02", "inode"},
		{good, "00400000-00452000 r-xp 00001000 08:02 ", "inode"},
		{"00400000-", " 00400000-", "start"},
		{"00400000-", "+0400000-", "start"},
		{"00400000-", "0x400000-", "start"},
		{"00400000-", "0040000:-", "start"}, // the character after 9
		{"00400000-", "0040000`-", "start"}, // the one before a
		{"00400000-", "0040000g-", "start"}, // the one after f
		{"00400000-", "0040000/-", "start"}, // the one before 0
		{"00400000-", "0040000A-", "start"},
		{"00400000-", "\x000400000-", "start"},
		{"00400000-", "\uff10-", "start"}, // a digit, but not one of ours
		{"00400000-", "10000000000000000-", "start"},
		{"00400000-", "00400000 -", "start"},
		{"00400000-", "00452000-", "end"}, // empty
		{"00400000-", "00453000-", "end"}, // turned round
		{"-00452000", "--00452000", "end"},
		{"-00452000", "-", "end"},
		{"-00452000", "-10000000000000000", "end"},
		{"-00452000 ", "-00452000  ", "permissions"},
		{"-00452000 ", "-00452000\t", "end"},
		{"r-xp", "r-x", "permissions"},
		{"r-xp", "r-xpp", "permissions"},
		{"r-xp", "R-xp", "permissions"},
		{"r-xp", "-rxp", "permissions"},
		{"r-xp", "p-xp", "permissions"},
		{"r-xp", "r-sp", "permissions"},
		{"r-xp ", "r-xp", "permissions"},
		{"r-xp ", "r-xp  ", "offset"},
		{"00001000", "-0001000", "offset"},
		{"00001000", "10000000000000000", "offset"},
		{"08:", ":", "major"},
		{"08:", "0g:", "major"},
		{"08:", "100000000:", "major"},
		{"08:02", "08-02", "major"},
		{":02", ":", "minor"},
		{":02", ":100000000", "minor"},
		{":02", ":02:03", "minor"},
		{"173521", "", "inode"},
		{"173521", "173a21", "inode"},
		{"173521", "-1", "inode"},
		{"173521", "18446744073709551616", "inode"},
		{"173521", "99999999999999999999", "inode"},
		{"173521 ", "173521\t", "inode"},
		{"173521 ", "173521\n", "inode"},
		{"/x", "/x\n/y", "name"},
		{"/x", "/x\n\n", "name"},
	} {
		line := strings.Replace(good, test.old, test.new, 1)
		r, err := Parse(line)
		if err == nil {
			t.Errorf("Parse(%q) = %#v", line, r)
			continue
		}
		if r != (Region{}) {
			t.Errorf("Parse(%q) = %#v beside the error", line, r)
		}
		quoted := strings.TrimSuffix(line, "\n")
		if !strings.Contains(err.Error(), "bad "+test.want) || !strings.Contains(err.Error(), strconv.Quote(quoted)) {
			t.Errorf("Parse(%q): %v; want %q and the line quoted", line, err, test.want)
		}
	}
}

func TestParseAllocs(t *testing.T) {
	line := kernelLines[0].line
	if n := testing.AllocsPerRun(100, func() { Parse(line) }); n != 0 {
		t.Errorf("Parse of a string: %v allocations; its name is a part of the line", n)
	}
	named, nameless := []byte(line), []byte("c000000000-c000400000 rw-p 00000000 00:00 0 ")
	if n := testing.AllocsPerRun(100, func() { parse(named) }); n != 1 {
		t.Errorf("parse of bytes: %v allocations, want 1 for the name", n)
	}
	if n := testing.AllocsPerRun(100, func() { parse(nameless) }); n != 0 {
		t.Errorf("parse of bytes without a name: %v allocations", n)
	}
}

func BenchmarkParse(b *testing.B) {
	line := kernelLines[0].line
	for b.Loop() {
		if _, err := Parse(line); err != nil {
			b.Fatal(err)
		}
	}
}
