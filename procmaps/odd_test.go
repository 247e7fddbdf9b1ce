//go:build linux

package procmaps

import (
	"strings"
	"testing"
)

// What has no meaning is an error with the line, and hides nothing that follows.
func TestOddLines(t *testing.T) {
	const text = `00000000-00000000 r-xp 00000000 00:00 0 
00400000-00401000 r-x- 00000000 00:00 0 /init
00500000-00500000 rw-p 00000000 00:00 0 
fffff000-00000000 r-xp 00000000 00:00 0 [vectors]
7ff000000000-00000000 r-xp 00000000 00:00 0 
what is this
7fff00000000-7fff00001000 rw-s 00000000 00:00 0 [stack]
`
	lines := strings.SplitAfter(text, "\n")
	i := 0
	for r, err := range Scan(strings.NewReader(text)) {
		switch i {
		case 1, 3, 6:
			if err != nil {
				t.Error(err)
			}
			if want := map[int]Region{
				1: {Start: 0x400000, End: 0x401000, Perms: Read | Exec, Name: "/init"},
				3: {Start: 0xfffff000, End: 1 << 32, Perms: Read | Exec, Name: "[vectors]"},
				6: {Start: 0x7fff00000000, End: 0x7fff00001000, Perms: Read | Write | Shared, Name: "[stack]"},
			}[i]; r != want {
				t.Errorf("%+v, want %+v", r, want)
			}
		default:
			if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(lines[i])) || r != (Region{}) {
				t.Errorf("%q: %v, %v", lines[i], r, err)
			}
		}
		i++
	}
	if i != 7 {
		t.Errorf("%d lines", i)
	}
	// Who does not go on has the first one only.
	n := 0
	for range Scan(strings.NewReader(text)) {
		n++
		break
	}
	if n != 1 {
		t.Errorf("%d after a break", n)
	}
}
