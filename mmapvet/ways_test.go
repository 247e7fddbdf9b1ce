package mmapvet_test

import (
	"os/exec"
	"regexp"
	"slices"
	"testing"
)

var diagnostic = regexp.MustCompile(`(?m)^.*?([a-z]+/[a-z_]+\.go:\d+:\d+: [a-z]+: .*)$`)

// reports runs a command in testdata and returns what it reports, sorted.
func reports(t *testing.T, name string, args ...string) []string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = data(t)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Error("it reports nothing:", cmd)
	}
	var all []string
	for _, m := range diagnostic.FindAllSubmatch(out, -1) {
		all = append(all, string(m[1]))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// TestWays: go vet and the command by itself report the same, with each set of flags.
func TestWays(t *testing.T) {
	vet := tool(t)
	for _, flags := range [][]string{nil, {"-closed"}, {"-unguarded", "-unclosed.tests"}} {
		packages := []string{"./..."}
		alone := reports(t, vet, slices.Concat(flags, packages)...)
		byGo := reports(t, "go", slices.Concat([]string{"vet", "-vettool=" + vet}, flags, packages)...)
		if !slices.Equal(alone, byGo) {
			for _, r := range alone {
				if !slices.Contains(byGo, r) {
					t.Error("not by go vet: ", r)
				}
			}
			for _, r := range byGo {
				if !slices.Contains(alone, r) {
					t.Error("by go vet only: ", r)
				}
			}
		}
		if len(alone) < 150 {
			t.Errorf("%d reports, with %v", len(alone), flags)
		}
	}
}
