//go:build linux

package systemtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What the snippets of the documents may use without declaring it, as a reader takes it
// from the sentences around them.
const given = `
	ctx context.Context; w http.ResponseWriter; req *http.Request; f *os.File; err error
	name string; i, n, lines, size, step int; v uint64; off, offset int64; addr uintptr; c byte; p, b []byte; sum uint32; prot mmap.Prot
	m, rw mmap.ReadWrite; ro, r mmap.Read; u mmap.Unknown; pin *mmap.Pin
	corrupt func(error) error; replica []byte; src io.ReaderAt
`

// and in which packages their names are.
var packages = map[string]string{
	"mmap": "github.com/mmarinus/mmap", "paging": "github.com/mmarinus/mmap/paging", "live": "github.com/mmarinus/mmap/live", "procmaps": "github.com/mmarinus/mmap/procmaps",
	"unix": "golang.org/x/sys/unix", "expmmap": "golang.org/x/exp/mmap", "mmapgo": "github.com/edsrzf/mmap-go",
	"http": "net/http", "zip": "archive/zip", "elf": "debug/elf", "crc32": "hash/crc32", "exec": "os/exec", "atomic": "sync/atomic", "filepath": "path/filepath",
	"bytes": "bytes", "binary": "encoding/binary", "context": "context", "errors": "errors", "fmt": "fmt", "io": "io", "log": "log", "os": "os",
	"runtime": "runtime", "slices": "slices", "sort": "sort", "sync": "sync", "strings": "strings", "time": "time", "testing": "testing", "iter": "iter", "unsafe": "unsafe",
}

// compiler returns a function that checks the types of a file. The packages are those of the
// benchmarks against other libraries, so that what one wrote before compiles as well.
func compiler(t *testing.T) func(source string) error {
	t.Helper()
	args := []string{"list", "-C", "../bench", "-export", "-deps", "-json=ImportPath,Export"}
	cmd := exec.Command("go", append(args, slices.Sorted(maps.Values(packages))...)...)
	var problem strings.Builder
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("the modules of bench are needed: %v: %s", err, problem.String())
	}
	exports := map[string]string{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct{ ImportPath, Export string }
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
	}
	fset := token.NewFileSet()
	imports := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	return func(source string) error {
		file, err := parser.ParseFile(fset, "", source, 0)
		if err != nil {
			return err
		}
		var all []error
		conf := types.Config{Importer: imports, Error: func(err error) {
			if e := err.(types.Error); !e.Soft { // a variable that is not used is for the reader
				all = append(all, err)
			}
		}}
		conf.Check("main", fset, []*ast.File{file}, nil)
		return errors.Join(all...)
	}
}

var used = regexp.MustCompile(`\b([a-z]+[0-9]*)\.[A-Z]`)

// fileOf makes a whole file of a snippet, of statements or of declarations.
func fileOf(code string) string {
	if strings.HasPrefix(code, "package ") {
		return code
	}
	imports := map[string]bool{"mmap": true, "context": true, "http": true, "os": true, "io": true}
	for _, m := range used.FindAllStringSubmatch(code, -1) {
		imports[m[1]] = packages[m[1]] != ""
	}
	var head strings.Builder
	head.WriteString("package main\n")
	for name, yes := range imports {
		if yes {
			fmt.Fprintf(&head, "import %s %q\n", name, packages[name])
		}
	}
	fmt.Fprintf(&head, "var (%s)\n", given)
	if regexp.MustCompile(`(?m)^(func|type) `).MatchString(code) {
		return head.String() + code
	}
	return head.String() + "func _() error {\n" + code + "\nreturn nil\n}\n"
}

// Every piece of Go in the documents compiles.
func TestSnippets(t *testing.T) {
	compile, found := compiler(t), 0
	block := regexp.MustCompile("(?ms)^( *)```go\n(.*?)^ *```")
	for name, text := range documents(t) {
		for _, m := range block.FindAllStringSubmatch(text, -1) {
			found++
			code := regexp.MustCompile("(?m)^"+m[1]).ReplaceAllString(m[2], "")
			if err := compile(fileOf(code)); err != nil {
				t.Errorf("%s: %v in\n%s", name, err, code)
			}
		}
	}
	if found < 12 {
		t.Errorf("only %d snippets", found)
	}
}

// What one wrote before and what one writes now, both compile; of Rust only the latter.
func TestMoving(t *testing.T) {
	compile, rows := compiler(t), 0
	before := map[string]string{
		"golang.org/x/exp/mmap":     "var r *expmmap.ReaderAt\n",
		"github.com/edsrzf/mmap-go": "var m mmapgo.MMap\n",
		"golang.org/x/sys/unix":     "",
	}
	for _, section := range strings.Split(document(t, "moving.md"), "\n## From ")[1:] {
		title, text, _ := strings.Cut(section, "\n")
		for line := range strings.Lines(text) {
			cells := strings.Split(strings.ReplaceAll(strings.TrimSpace(line), `\|`, "\x00"), "|")
			if len(cells) != 4 || !strings.Contains(cells[1], "`") {
				continue
			}
			for i, cell := range cells[1:3] {
				code := strings.ReplaceAll(strings.Trim(cell, " `"), "\x00", "|")
				prelude, compiled := before[title]
				if i == 0 && !compiled {
					continue
				}
				if rows++; i == 1 {
					prelude = "off, n, i := int64(0), 0, 0\n"
				}
				if err := compile(fileOf(prelude + code)); err != nil {
					t.Errorf("%s: %v in %s", title, err, code)
				}
			}
		}
	}
	if rows < 60 {
		t.Errorf("only %d pieces of code", rows)
	}
}
