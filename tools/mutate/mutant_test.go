package main

import (
	"slices"
	"strings"
	"testing"
)

func TestMutants(t *testing.T) {
	src := []byte(`package p

func f(n int) (int, error) {
	if n < 2 {
		return n + 1, nil
	}
	n--
	defer g(n, 7)
	if err != nil {
		return 1, err
	}
	return 0, err
}
`)
	all, err := mutantsOf("p.go", src)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"if (n < 2) && false {", "if (n < 2) || true {", "if n <= 2 {", "if n >= 2 {", "if n < (2 + 1) {", "if n < (2 - 1) {",
		"return 0, nil", "return n - 1, nil", "return n + (1 + 1), nil", "return n + (1 - 1), nil",
		"n++", "", "", "defer g(7, n)", "defer g(n, (7 + 1))", "defer g(n, (7 - 1))",
		"if (err != nil) && false {", "if (err != nil) || true {", "if err == nil {", "return 0, err", "return 1, nil",
		"return 0, nil", "return (0 + 1), err", "return (0 - 1), err",
	}
	var got []string
	for _, m := range all {
		before, after := strings.Split(string(src), "\n"), strings.Split(string(m.apply(src)), "\n")
		line := after[m.line-1]
		got = append(got, strings.TrimSpace(line))
		before[m.line-1] = line
		if !slices.Equal(before, after) {
			t.Errorf("%v changes another line, too", m)
		}
		if diff := m.diff(src); !strings.HasSuffix(diff, "\n\t+"+line+"\n") {
			t.Errorf("%v: the diff is\n%s", m, diff)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
