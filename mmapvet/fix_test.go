package mmapvet_test

import (
	"go/format"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/tools/go/analysis/analysistest"
)

// TestFixes: a fix is what the golden file says, is formatted, compiles, and takes its report
// away.
func TestFixes(t *testing.T) {
	analysistest.RunWithSuggestedFixes(t, data(t), reporter(t), "./fixes")
	fixed, err := os.ReadFile(filepath.Join(data(t), "fixes", "fixes.go.golden"))
	if err != nil {
		t.Fatal(err)
	}
	formatted, err := format.Source(fixed)
	if err != nil || string(formatted) != string(fixed) {
		t.Error("the golden file is not formatted: ", err)
	}
	// The same without what it wants of the reports: there are none any more.
	fixed = wants.ReplaceAll(fixed, nil)
	dir := module(t, map[string]string{"fixes/fixes.go": string(fixed)})
	analysistest.Run(t, dir, reporter(t), "./fixes")
}
