package main

import (
	"encoding/xml"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// drawn returns the pictures of an input, by file, and what was said.
func drawn(t *testing.T, path string) (pictures map[string]string, log string, err error) {
	out, said, pictures := t.TempDir(), new(strings.Builder), map[string]string{}
	err = run(out, []string{path}, said)
	for _, c := range charts {
		if picture, missing := os.ReadFile(filepath.Join(out, c.file)); missing == nil {
			pictures[c.file] = string(picture)
		}
	}
	return pictures, said.String(), err
}

func TestPictures(t *testing.T) {
	pictures, log, err := drawn(t, "testdata/bench.txt")
	if err != nil || log != "" || len(pictures) != len(charts) {
		t.Fatalf("%d pictures, said %q, error %v", len(pictures), log, err)
	}
	if again, _, _ := drawn(t, "testdata/bench.txt"); !maps.Equal(pictures, again) {
		t.Error("the same input gives other bytes")
	}
	for file, texts := range map[string]string{
		"fault.svg":         "anonymous|prefault|250 ns|log scale|up to 3 runs|GOMAXPROCS: 2.|goos: linux.",
		"peers-counter.svg": "processes 2|mmap-update|flock+pwrite|5.00 ms|GOMAXPROCS: 1.|kernel: 6.8.0-1017-azure.",
		"peers-scan.svg":    "mmap-go+lock|9.00 GB/s|more is better",
		"live.svg":          "live 50000|map+close",
		"populate.svg":      "1GiB|16MiB/busy|less is better",
		"overhead.svg":      "map+close, anonymous, 4KiB",
	} {
		for text := range strings.SplitSeq(texts, "|") {
			if !strings.Contains(pictures[file], text) {
				t.Errorf("%s lacks %q", file, text)
			}
		}
		if err := xml.Unmarshal([]byte(pictures[file]), new(struct{})); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestInputs(t *testing.T) {
	const fault = "BenchmarkFault/source=x/way=y 1 "
	for input, want := range map[string]string{
		"PASS\n":                     "no benchmark",
		"BenchmarkUnknown 1 ns/op\n": ":1: parsing measurement",
		fault + "NaN ns/page\n":      "cannot be drawn",
		fault + "-1 ns/page\n":       "cannot be drawn",
		fault + "1 ns/page 0 x/op\n": "",
		fault + "0 ns/page\n":        "",
		"cpu: a\n" + fault + "1 ns/page\ncpu: b\n" + fault + "1 ns/page\n": ":4: not to be compared with what is before: cpu b",
	} {
		path := filepath.Join(t.TempDir(), "bench.txt")
		if err := os.WriteFile(path, []byte(input), 0o600); err != nil {
			t.Fatal(err)
		}
		pictures, log, err := drawn(t, path)
		if want == "" && (err != nil || len(pictures) != 1 || !strings.Contains(log, "live.svg is not drawn")) ||
			want != "" && (err == nil || len(pictures) != 0 || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %d pictures, said %q, error %v", input, len(pictures), log, err)
		}
	}
}

// A bar starts at 0, or it lies.
func TestAxis(t *testing.T) {
	for _, c := range []struct {
		low, high, line float64
		bars, log       bool
	}{{90, 200, 0, true, false}, {0, 200, 0, true, false}, {0, 0, 0, true, false}, {20e-9, 5e-3, 0, false, true},
		{0.9, 1.2, 1, false, false}, {1, 1, 1, false, false}, {0.9, 40, 1, false, true}} {
		a := newAxis([]*group{{rows: []*row{{runs: []float64{c.low, c.high}}}}}, c.line)
		if a.bars != c.bars || a.log != c.log || a.bars && a.Min != 0 || !(a.Norm(c.low) >= 0 && a.Norm(c.high) <= 1) || len(a.ticks) > 9 {
			t.Errorf("%v: %+v", c, a)
		}
	}
}
