//go:build linux

package procmaps

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestScan(t *testing.T) {
	var text strings.Builder
	var want []Region
	for _, test := range append(kernelLines, otherLines...) {
		text.WriteString(test.line + "\n")
		want = append(want, test.want)
	}
	long := strings.Repeat("/"+strings.Repeat("\n", 255), 16) // 16 KiB as the kernel prints it
	r := Region{Start: 1, End: 2, Name: long}
	text.WriteString(r.String()) // without a newline at the end
	want = append(want, r)

	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"whole":    func(r io.Reader) io.Reader { return r },
		"bytes":    iotest.OneByteReader,
		"half":     iotest.HalfReader,
		"EOF last": iotest.DataErrReader,
	} {
		t.Run(name, func(t *testing.T) {
			i := 0
			for r, err := range Scan(wrap(strings.NewReader(text.String()))) {
				if err != nil {
					t.Fatal(err)
				}
				if i >= len(want) || r != want[i] {
					t.Fatalf("region %d of %d: %#v", i, len(want), r)
				}
				i++
			}
			if i != len(want) {
				t.Errorf("%d regions, want %d", i, len(want))
			}
		})
	}
}

func TestScanErrors(t *testing.T) {
	const line = "00400000-00452000 r-xp 00000000 08:02 173521 /x\n"
	collect := func(r io.Reader) (n int, errs []error) {
		for r, err := range Scan(r) {
			if err != nil {
				errs = append(errs, err)
				if r != (Region{}) {
					t.Errorf("%v beside the error %v", r, err)
				}
			} else {
				n++
			}
		}
		return n, errs
	}

	if n, errs := collect(strings.NewReader("")); n != 0 || errs != nil {
		t.Errorf("nothing: %d regions, %v", n, errs)
	}
	n, errs := collect(strings.NewReader(line + "rubbish\n" + line))
	if n != 2 || len(errs) != 1 || !strings.Contains(errs[0].Error(), `"rubbish"`) {
		t.Errorf("a malformed line: %d regions, %v", n, errs)
	}
	if n, errs := collect(strings.NewReader(line + "\n" + line)); n != 2 || len(errs) != 1 {
		t.Errorf("an empty line: %d regions, %v", n, errs)
	}
	broken := errors.New("broken")
	n, errs = collect(io.MultiReader(strings.NewReader(line), iotest.ErrReader(broken)))
	if n != 1 || len(errs) != 1 || !errors.Is(errs[0], broken) {
		t.Errorf("a broken reader: %d regions, %v", n, errs)
	}
	n, errs = collect(io.MultiReader(strings.NewReader(line+line[:len(line)-2]), iotest.ErrReader(broken)))
	if n != 1 || len(errs) != 1 || !errors.Is(errs[0], broken) {
		t.Errorf("a reader broken within a line: %d regions, %v", n, errs)
	}
	n, errs = collect(io.MultiReader(strings.NewReader(line), endless{}))
	if n != 1 || len(errs) != 1 || !errors.Is(errs[0], bufio.ErrTooLong) {
		t.Errorf("a line without an end: %d regions, %v", n, errs)
	}
	n = 0
	for range Scan(strings.NewReader(line + line)) {
		n++
		break
	}
	if n != 1 {
		t.Errorf("after break: %d", n)
	}
}

// endless sends the letter x for ever.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}
