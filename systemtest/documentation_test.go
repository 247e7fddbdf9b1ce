//go:build linux

package systemtest

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// documented returns the package as go/doc has it in its default mode, which is that of
// pkg.go.dev.
func documented(t *testing.T) *doc.Package {
	t.Helper()
	names, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		if !strings.HasSuffix(name.Name(), ".go") {
			continue
		}
		f, err := parser.ParseFile(fset, filepath.Join("..", name.Name()), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	p, err := doc.NewFromFiles(fset, files, "github.com/mmarinus/mmap")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The documentation of a handle lists what its permissions add, and says where the rest
// is; that of Mapping has the rest.
func TestDocumentation(t *testing.T) {
	reads := []string{"ReadAt", "UnsafeBytes", "View", "ViewRange"}
	writes := []string{"Discard", "DiscardLocked", "Free", "InstallGuardPages", "PrefaultWrite", "Punch", "RemoveGuardPages", "Track", "WipeOnFork", "WriteAt"}
	updates := slices.Concat(reads, writes, []string{"Update", "UpdateRange"})
	want := map[string][]string{
		"None": nil, "Exec": nil, "Read": reads, "ReadExec": reads, "Write": writes, "WriteExec": writes,
		"ReadWrite": updates, "ReadWriteExec": updates,
		"Unknown": slices.Concat(updates, []string{"Place", "ProtOf", "Protect", "ProtectRange"}),
		"Mapping": {"Addr", "Advise", "Cap", "Close", "Collapse", "Drain", "Invalidate", "Len", "Lock", "LockOnFault", "Nodes", "Pin", "Prefault", "Prot",
			"Regions", "Release", "Resident", "ResidentPages", "Seal", "SetName", "SetPolicy", "StartSync", "String", "Sync", "Unlock", "Untyped"},
	}
	examples := 0
	for _, typ := range documented(t).Types {
		methods, ok := want[typ.Name]
		if !ok {
			continue
		}
		delete(want, typ.Name)
		var has []string
		for _, m := range typ.Methods {
			if has = append(has, m.Name); !strings.HasPrefix(m.Doc, m.Name+" ") || len(strings.Fields(m.Doc)) < 5 {
				t.Errorf("%s.%s has no documentation of its own: %q", typ.Name, m.Name, m.Doc)
			}
			if strings.Contains(m.Doc, "is as that of") || strings.Contains(m.Doc, "All else is as") {
				t.Errorf("%s.%s does not stand alone: %q", typ.Name, m.Name, m.Doc)
			}
			examples += len(m.Examples)
		}
		slices.Sort(has)
		if slices.Sort(methods); !slices.Equal(has, methods) {
			t.Errorf("%s has\n\t%v, want\n\t%v", typ.Name, has, methods)
		}
		if typ.Name != "Mapping" && !strings.HasPrefix(typ.Doc, typ.Name+" has all methods of [Mapping]") {
			t.Errorf("%s does not say where its other methods are: %q", typ.Name, typ.Doc)
		}
	}
	for name := range want {
		t.Errorf("%s is not documented", name)
	}
	// Of every example that a method's name promises, go/doc must have found the method.
	wanted := 0
	text, err := os.ReadFile("../example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, _, _ := strings.Cut(strings.TrimPrefix(line, "func Example"), "(")
		if typ, method, ok := strings.Cut(name, "_"); ok && method != "" && strings.HasPrefix(line, "func Example") && typ != "Spec" {
			wanted++
		}
	}
	if examples != wanted {
		t.Errorf("go/doc shows %d examples of methods of handles, and there are %d", examples, wanted)
	}
}

// Each test file at the top is named after a source file beside it, or after what runs
// all of them: fuzz_test.go, or rapid_model_test.go. What looks from outside is here.
func TestFileNames(t *testing.T) {
	files, err := filepath.Glob("../*.go")
	if err != nil {
		t.Fatal(err)
	}
	rooms := map[string]bool{"fuzz": true, "rapid": true, "bench": true, "example": true}
	var tests []string
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".go")
		if test, ok := strings.CutSuffix(name, "_test"); ok {
			tests = append(tests, test)
		} else {
			rooms[name] = true
		}
	}
	for _, name := range tests {
		if room, _, _ := strings.Cut(name, "_"); !rooms[room] && name != "export" {
			t.Errorf("%s_test.go is beside no %s.go: is it a test for systemtest, or of a package below?", name, room)
		}
	}
	if len(tests) < 20 || len(rooms) < 20 {
		t.Errorf("only %d test files and %d sources", len(tests), len(rooms))
	}
}

// What the tests share is no part of the library.
func TestSharedByTestsOnly(t *testing.T) {
	const prefix = "github.com/mmarinus/mmap/internal/"
	shared, files := []string{prefix + "testkit", prefix + "kinds"}, 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testkit" || d.Name() == "kinds" || d.Name() != ".." && d.Name()[0] == '.'):
			return fs.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		files++
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, i := range f.Imports {
			if slices.Contains(shared, strings.Trim(i.Path.Value, `"`)) {
				t.Errorf("%s imports %s, which is for tests", path, i.Path.Value)
			}
		}
		return nil
	})
	if err != nil || files < 40 {
		t.Errorf("%d files: %v", files, err)
	}
}
