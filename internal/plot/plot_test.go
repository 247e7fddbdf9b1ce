package main

import (
	"encoding/xml"
	"errors"
	"io"
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
		picture, missing := os.ReadFile(filepath.Join(out, c.file))
		if missing == nil {
			pictures[c.file] = string(picture)
		} else if !errors.Is(missing, os.ErrNotExist) {
			t.Fatal(missing)
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
	for file, texts := range map[string][]string{
		"fault.svg":         {"anonymous", "prefault", "250 ns", "log scale", "up to 3 runs", "GOMAXPROCS: 2.", "goos: linux."},
		"peers-counter.svg": {"processes 2", "mmap-update", "flock+pwrite", "5.00 ms", "GOMAXPROCS: 1.", "kernel: 6.8.0-1017-azure."},
		"peers-scan.svg":    {"mmap-go+lock", "9.00 GB/s", "more is better"},
		"live.svg":          {"live 50000", "map+close"},
	} {
		for _, text := range texts {
			if !strings.Contains(pictures[file], text) {
				t.Errorf("%s lacks %q", file, text)
			}
		}
		decoder := xml.NewDecoder(strings.NewReader(pictures[file]))
		for err = nil; err == nil; _, err = decoder.Token() {
		}
		if err != io.EOF {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestInputs(t *testing.T) {
	for _, c := range []struct{ input, err, log string }{
		{"BenchmarkFault/source=x/way=y 1 0 ns/page\nBenchmarkUnknown 1 NaN ns/op\n", "", "live.svg is not drawn"},
		{"PASS\n", "no benchmark", ""},
		{"BenchmarkUnknown 1 ns/op\n", ":1: parsing measurement", ""},
		{"BenchmarkFault/source=x/way=y 1 NaN ns/page\n", "cannot be drawn", ""},
		{"cpu: a\nBenchmarkFault/source=x/way=y 1 1 ns/page\ncpu: b\nBenchmarkFault/source=x/way=y 1 1 ns/page\n", "cpu is a and b", ""},
	} {
		path := filepath.Join(t.TempDir(), "bench.txt")
		if err := os.WriteFile(path, []byte(c.input), 0o600); err != nil {
			t.Fatal(err)
		}
		pictures, log, err := drawn(t, path)
		if (err == nil) != (c.err == "") || (err == nil) != (len(pictures) == 1) || err != nil && !strings.Contains(err.Error(), c.err) || !strings.Contains(log, c.log) {
			t.Errorf("%q: %d pictures, said %q, error %v", c.input, len(pictures), log, err)
		}
	}
}

// A bar starts at 0, or it lies.
func TestAxis(t *testing.T) {
	for _, c := range []struct {
		values []float64
		line   float64
		want   axis
	}{
		{[]float64{90, 200}, 0, axis{bars: true}},
		{[]float64{0, 200}, 0, axis{bars: true}},
		{[]float64{0}, 0, axis{bars: true}},
		{[]float64{20e-9, 5e-3}, 0, axis{log: true}},
		{[]float64{0.9, 1.2}, 1, axis{}},
		{[]float64{1}, 1, axis{}},
		{[]float64{0.9, 40}, 1, axis{log: true}},
	} {
		a := newAxis([]*group{{rows: []row{{runs: c.values}}}}, c.line)
		if a.bars != c.want.bars || a.log != c.want.log || a.bars && a.Min != 0 || len(a.ticks) > 9 {
			t.Errorf("%v: %+v", c.values, a)
		}
		for _, v := range c.values {
			if n := a.Norm(v); !(n >= 0 && n <= 1) {
				t.Errorf("%v: %v is at %v", c.values, v, n)
			}
		}
	}
}
