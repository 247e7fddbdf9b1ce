package plugin

import (
	"testing"

	"github.com/golangci/plugin-module-register/register"
)

// TestRegistered: golangci-lint finds the linter by its name, its settings are the flags, and
// others are an error.
func TestRegistered(t *testing.T) {
	build, err := register.GetPlugin("mmapvet")
	if err != nil {
		t.Fatal(err)
	}
	p, err := build(map[string]any{"closed": true})
	if err != nil {
		t.Fatal(err)
	}
	all, err := p.BuildAnalyzers()
	if err != nil || len(all) != 1 || p.GetLoadMode() != register.LoadModeTypesInfo {
		t.Fatal(all, err, p.GetLoadMode())
	}
	for name, want := range map[string]string{"closed": "true", "unguarded": "false", "unclosed.tests": "false"} {
		if got := all[0].Flags.Lookup(name).Value.String(); got != want {
			t.Errorf("%s is %s", name, got)
		}
	}
	if _, err := build(map[string]any{"shut": true}); err == nil {
		t.Error("there is no such setting")
	}
}
