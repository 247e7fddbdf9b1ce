package mmapvet_test

import (
	"path/filepath"
	"testing"

	"golang.org/x/tools/go/analysis/analysistest"

	"github.com/mmarinus/mmap/mmapvet"
)

// data is a module of its own, of which each package has what must be reported in report.go,
// and what looks like it and must not be in silent.go.
func data(t *testing.T) string {
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestReports(t *testing.T) {
	for _, category := range []string{"moved", "escape", "unclosed", "busy", "pins", "unsafebytes", "ignored"} {
		t.Run(category, func(t *testing.T) {
			analysistest.Run(t, data(t), mmapvet.New(), "./"+category)
		})
	}
}
