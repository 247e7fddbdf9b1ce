//go:build linux

package systemtest

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// What every access goes through is inlined, across the boundary of the packages.
func TestInlined(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("the compiler is needed: ", err)
	}
	cmd := exec.Command("go", "build", "-buildvcs=false", "-gcflags=-m", ".", "./paging")
	cmd.Dir = ".."
	if !usable(t) {
		cmd.Env = append(cmd.Environ(), "GOCACHE="+t.TempDir())
	}
	text, err := cmd.CombinedOutput()
	if err != nil {
		t.Skipf("go build cannot build the library here: %v\n%s", err, text)
	}
	calls := map[string]int{}
	for line := range strings.Lines(string(text)) {
		if place, call, ok := strings.Cut(strings.TrimSpace(line), ": inlining call to "); ok {
			file, _, _ := strings.Cut(strings.TrimPrefix(place, "./"), ":")
			calls[file+" "+call]++
		} else if _, name, ok := strings.Cut(strings.TrimSpace(line), ": can inline "); ok {
			calls["can inline "+name]++
		}
	}
	for call, n := range map[string]int{
		"transfer.go ticket.pinWord":         3,
		"transfer.go latch.(*Latch).Striped": 3,
		"transfer.go latch.(*Latch).PinOnce": 3,
		"transfer.go latch.(*Latch).Unpin":   3,
		"transfer.go (*guard).enter":         3,
		"transfer.go (*guard).leave":         3,
		"pin.go (*Pin).useOnce":              1,
		"pin.go (*Pin).endUse":               1,
		"can inline Guard":                   1,
		"can inline reader.View":             1,
		"can inline updater.View":            1,
		"can inline updater.Update":          1,
		"can inline reader.ReadAt":           1,
		"can inline writer.WriteAt":          1,
		"can inline (*Pager).ReadAt":         1,
	} {
		if calls[call] < n {
			t.Errorf("%s: %d times, want %d", call, calls[call], n)
		}
	}
	// What has neither a tracker nor a pager does not pay for one.
	for call := range calls {
		if file, name, _ := strings.Cut(call, " "); strings.Contains(name, "attachment") && slices.Contains([]string{"access.go", "pin.go", "transfer.go"}, file) {
			t.Errorf("an access looks for an attachment: %s", call)
		}
	}
}

// usable reports whether the go command has a build cache.
func usable(t *testing.T) bool {
	dir, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		return false
	}
	probe := exec.Command("test", "-w", strings.TrimSpace(string(dir)))
	return probe.Run() == nil
}
