//go:build linux

package systemtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/kernel"
)

// document returns a document of the folder docs.
func document(t *testing.T, name string) string {
	t.Helper()
	text, ok := documents(t)["docs/"+name]
	if !ok {
		t.Fatalf("there is no docs/%s", name)
	}
	return text
}

// Every constant of mapping that golang.org/x/sys/unix knows, on any processor, is
// offered or left out on purpose. The version is that of the benchmarks, the newest.
func TestEveryConstant(t *testing.T) {
	out, err := exec.Command("go", "list", "-C", "../bench", "-f", "{{.Dir}}", "golang.org/x/sys/unix").Output()
	if err != nil {
		t.Skip("the source of golang.org/x/sys/unix is needed: ", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "zerrors_linux*.go"))
	check(t, err)
	constant := regexp.MustCompile(`(?m)^\s+((?:MAP|MADV|MREMAP|MLOCK|MFD|F_SEAL|PROT)_\w+|MS_SYNC|MS_ASYNC|MS_INVALIDATE)\s+=`)
	table, seen := document(t, "features.md"), map[string]bool{}
	for _, file := range files {
		source, err := os.ReadFile(file)
		check(t, err)
		for _, m := range constant.FindAllStringSubmatch(string(source), -1) {
			if name := m[1]; !seen[name] && !strings.Contains(table, "`"+name+"`") {
				t.Errorf("%s is not in the table", name)
			}
			seen[m[1]] = true
		}
	}
	if len(seen) < 90 {
		t.Errorf("only %d constants found in %d files", len(seen), len(files))
	}
}

// What the table says is there, is there.
func TestFeatureTable(t *testing.T) {
	files, err := filepath.Glob("../*.go")
	check(t, err)
	exported := map[string]bool{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		check(t, err)
		for name := range file.Scope.Objects {
			exported[name] = ast.IsExported(name)
		}
	}
	types := map[string]reflect.Type{
		"Spec": reflect.TypeFor[mmap.Spec](), "Unknown": reflect.TypeFor[mmap.Unknown](),
		"Mapping": reflect.TypeFor[mmap.Mapping](), "Read": reflect.TypeFor[mmap.Read](), "ReadWrite": reflect.TypeFor[mmap.ReadWrite](),
	}
	all, _, _ := strings.Cut(document(t, "features.md"), "## Left out on purpose")
	quoted, rows := regexp.MustCompile("`([^`]+)`"), 0
	for _, line := range strings.Split(all, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 4 {
			continue
		}
		rows++
		for _, m := range quoted.FindAllStringSubmatch(cells[2], -1) {
			typ, method, isMethod := strings.Cut(m[1], ".")
			switch {
			case m[1] == "procmaps" || m[1] == "paging":
			case isMethod && types[typ] != nil:
				if !hasMethod(types[typ], method) {
					t.Errorf("%s has no method %s", typ, method)
				}
			case isMethod || !exported[m[1]] && !hasMethod(types["Read"], m[1]):
				t.Errorf("nothing is called %s", m[1])
			}
		}
	}
	if rows < 50 {
		t.Errorf("only %d rows", rows)
	}
}

func hasMethod(typ reflect.Type, name string) bool {
	_, ok := typ.MethodByName(name)
	return ok
}

// The documentation lists the features that Probe knows, with their versions.
func TestProbeTable(t *testing.T) {
	text := document(t, "kernels.md")
	for i := range kernel.Features {
		f := &kernel.Features[i]
		for _, name := range strings.Fields(f.Names) {
			version, _, _ := strings.Cut(strings.ReplaceAll(f.Since, ";", " "), " ")
			row := slices.IndexFunc(strings.Split(text, "\n"), func(row string) bool {
				return strings.HasPrefix(row, "| "+version) && strings.Contains(row, "`"+name+"`")
			})
			if row < 0 {
				t.Errorf("no row for %s of Linux %s", name, f.Since)
			}
		}
	}
}
