// Package plugin makes mmapvet a linter of golangci-lint, by its module plugin system; see
// docs/mmapvet.md for the two files that this takes.
package plugin

import (
	"fmt"

	"github.com/golangci/plugin-module-register/register"
	"golang.org/x/tools/go/analysis"

	"github.com/mmarinus/mmap/mmapvet"
)

func init() { register.Plugin("mmapvet", New) }

// settings are those of the linter in .golangci.yml: the flags of the command.
type settings struct {
	Closed        bool `json:"closed"`
	Unguarded     bool `json:"unguarded"`
	UnclosedTests bool `json:"unclosed-tests"`
}

// New returns the linter with its settings.
func New(conf any) (register.LinterPlugin, error) {
	s, err := register.DecodeSettings[settings](conf)
	if err != nil {
		return nil, fmt.Errorf("mmapvet: %w", err)
	}
	a := mmapvet.New()
	for name, on := range map[string]bool{
		"closed": s.Closed, "unguarded": s.Unguarded, "unclosed.tests": s.UnclosedTests,
	} {
		if err := a.Flags.Set(name, fmt.Sprint(on)); err != nil {
			return nil, fmt.Errorf("mmapvet: %w", err)
		}
	}
	run := a.Run
	a.Run = func(pass *analysis.Pass) (any, error) {
		short := *pass
		short.Report = func(d analysis.Diagnostic) {
			d.Related = nil // golangci-lint makes each of them an issue, and the message names the line
			pass.Report(d)
		}
		return run(&short)
	}
	return linter{a}, nil
}

type linter struct{ analyzer *analysis.Analyzer }

func (l linter) BuildAnalyzers() ([]*analysis.Analyzer, error) {
	return []*analysis.Analyzer{l.analyzer}, nil
}

// GetLoadMode asks for types.
func (linter) GetLoadMode() string { return register.LoadModeTypesInfo }
