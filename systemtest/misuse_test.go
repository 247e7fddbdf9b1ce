//go:build linux

package systemtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mmarinus/mmap"
)

// A misuse is a line that the compiler must reject, and what should have been
// written instead.
type misuse struct {
	name  string
	setup string // lines before both, in the function; or in the file, if they begin with "func"
	wrong string // one line: the compiler's only complaint must be about this one
	says  string // a part of the complaint
	right string
}

// handleKinds are the nine types, the name that each has in a case, and what it
// allows. The table is the test's own, so that it can contradict the library.
var handleKinds = []struct{ name, typ, allows string }{
	{"none", "None", ""},
	{"r", "Read", "r"},
	{"w", "Write", "w"},
	{"x", "Exec", "x"},
	{"rw", "ReadWrite", "rw"},
	{"rx", "ReadExec", "rx"},
	{"wx", "WriteExec", "wx"},
	{"rwx", "ReadWriteExec", "rwx"},
	{"u", "Unknown", "?"},
}

// misuseHead begins each of the two files, and misuseParams are in scope in
// every case.
const (
	misuseHead = `package %s

import (
	"context"
	"io"
	"os"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/procmaps"
)

var _ context.Context
var _ io.Reader = (*os.File)(nil)
var _ procmaps.Region
`
	misuseParams = `none mmap.None, r, r2 mmap.Read, w mmap.Write, x mmap.Exec, rw mmap.ReadWrite, rx mmap.ReadExec, ` +
		`wx mmap.WriteExec, rwx mmap.ReadWriteExec, u mmap.Unknown, any mmap.Mapping, s mmap.Spec, pin *mmap.Pin, ` +
		`b []byte, f func([]byte) error, g func() error, err error`
)

var misuses = []misuse{
	// Types that are no handles.
	{"Map of a foreign type", "", "_, err = mmap.Map[int](s)", "int does not satisfy mmap.Known", "_, err = mmap.Map[mmap.Read](s)"},
	{"Map of Unknown", "", "_, err = mmap.Map[mmap.Unknown](s)", "mmap.Unknown does not satisfy mmap.Known", "_, err = mmap.MapUnknown(s, mmap.ProtRead)"},
	{"Map of Mapping", "", "_, err = mmap.Map[mmap.Mapping](s)", "mmap.Mapping does not satisfy mmap.Known", "r, err = mmap.Map[mmap.Read](s); any = r.Untyped()"},
	{"Map of a pointer", "", "_, err = mmap.Map[*mmap.Read](s)", "*mmap.Read does not satisfy mmap.Known", "_, err = mmap.Map[mmap.Read](s)"},
	{"Map without a type", "", "_, err = mmap.Map(s)", "cannot infer M", "_, err = mmap.Map[mmap.Read](s)"},
	{"UnsafeAdopt as Mapping", "", "_, err = mmap.UnsafeAdopt[mmap.Mapping](0, 0)", "mmap.Mapping does not satisfy mmap.Handle", "_, err = mmap.UnsafeAdopt[mmap.Unknown](0, 0)"},
	{"Resize of an embedding struct", "type file struct{ mmap.Read }; m := file{r}", "_, err = mmap.Resize(m, 1)", "file does not satisfy mmap.Handle", "m.Read, err = mmap.Resize(m.Read, 1)"},
	{"Move of an embedding struct", "type file struct{ mmap.Read }; m := file{r}", "_, err = mmap.Move(m, 1)", "file does not satisfy mmap.Handle", "m.Read, err = mmap.Move(m.Read, 1)"},
	{"Advise with a number", "a := 4", "err = r.Advise(0, 1, a)", "cannot use a (variable of type int) as mmap.Advice value", "err = r.Advise(0, 1, mmap.AdviceRandom); _ = a"},
	{"Split of an embedding struct", "type file struct{ mmap.Read }; m := file{r}", "_, _, err = mmap.Split(m, 0)", "file does not satisfy mmap.Handle", "_, _, err = mmap.Split(m.Read, 0)"},
	{"Protect of an embedding struct", "type file struct{ mmap.Read }; m := file{r}", "_, err = mmap.Protect[mmap.ReadWrite](m)", "file does not satisfy mmap.Handle", "_, err = mmap.Protect[mmap.ReadWrite](m.Read)"},
	{"Protect to an embedding struct", "type file struct{ mmap.Read }", "_, err = mmap.Protect[file](rw)", "file does not satisfy mmap.Known", "_, err = mmap.Protect[mmap.Read](rw)"},
	{"Grow of an embedding struct", "type file struct{ mmap.Read }; m := file{r}", "err = mmap.Grow(m, 1)", "file does not satisfy mmap.Handle", "err = mmap.Grow(m.Read, 1)"},
	{"a struct that embeds a Mapping", "type file struct{ mmap.Mapping }; m := file{any}", "_, err = mmap.Resize(m, 1)", "file does not satisfy mmap.Handle", "err = m.Close()"},
	{"a defined type of one's own", "type file = mmap.Read; type mine mmap.Read", "_, err = mmap.Resize(mine(r), 1)", "mine does not satisfy mmap.Handle", "_, err = mmap.Resize(file(r), 1)"},
	{"Resize of a pointer", "", "_, err = mmap.Resize(&r, 1)", "*mmap.Read does not satisfy mmap.Handle", "_, err = mmap.Resize(r, 1)"},
	{"Resize of a Mapping", "", "_, err = mmap.Resize(any, 1)", "mmap.Mapping does not satisfy mmap.Handle", "_, err = mmap.Resize(r, 1)"},
	{"Move of a Mapping", "", "_, err = mmap.Move(any, 1)", "mmap.Mapping does not satisfy mmap.Handle", "_, err = mmap.Move(r, 1)"},
	{"Protect of a Mapping", "", "_, err = mmap.Protect[mmap.Read](any)", "mmap.Mapping does not satisfy mmap.Handle", "_, err = mmap.Protect[mmap.Read](rw)"},
	{"Over of a Mapping", "", "_, err = mmap.Over[mmap.Read](any, s)", "mmap.Mapping does not satisfy mmap.Handle", "_, err = mmap.Over[mmap.Read](rw, s)"},
	{"Split of a Mapping", "", "_, _, err = mmap.Split(any, 0)", "mmap.Mapping does not satisfy mmap.Handle", "_, _, err = mmap.Split(r, 0)"},
	{"Join of Mappings", "", "_, err = mmap.Join(any, any)", "mmap.Mapping does not satisfy mmap.Handle", "_, err = mmap.Join(r, r2)"},
	{"Grow of a Mapping", "", "err = mmap.Grow(any, 1)", "mmap.Mapping does not satisfy mmap.Handle", "err = mmap.Grow(r, 1)"},
	{"Forget of a Mapping", "", "_, err = mmap.Forget(any)", "mmap.Mapping does not satisfy mmap.Known", "_, err = mmap.Forget(r)"},
	{"Assert of a Mapping", "", "_, err = mmap.Assert[mmap.Read](any)", "as mmap.Unknown value in argument", "_, err = mmap.Assert[mmap.Read](u)"},

	// A handle is neither taken apart nor put together.
	{"a Mapping from a handle", "", "_ = mmap.Mapping(r)", "cannot convert r (variable of struct type mmap.Read) to type mmap.Mapping", "_ = r.Untyped()"},
	{"a handle from a Mapping", "", "_ = mmap.Read(any)", "cannot convert any (variable of struct type mmap.Mapping) to type mmap.Read", "_ = mmap.Read{}"},
	{"None from a Mapping", "", "_ = mmap.None(any)", "cannot convert any (variable of struct type mmap.Mapping) to type mmap.None", "_ = mmap.None{}"},
	{"a Mapping for a handle", "", "r = any", "as mmap.Read value in assignment", "any = r.Untyped()"},
	{"a handle for a Mapping", "", "any = r", "as mmap.Mapping value in assignment", "any = r.Untyped()"},
	{"the Mapping of a handle", "", "_ = r.Mapping", "r.Mapping undefined (type mmap.Read has no field or method Mapping", "_ = r.Untyped()"},
	{"the Mapping of None", "", "_ = none.Mapping", "none.Mapping undefined (type mmap.None has no field or method Mapping", "_ = none.Untyped()"},
	{"the base of None", "", "_ = none.base", "none.base undefined (cannot refer to unexported field base", "_ = none.Untyped()"},
	{"None with a Mapping", "", "_ = mmap.None{Mapping: any}", "unknown field Mapping in struct literal of type mmap.None", "_ = mmap.None{}"},
	{"None with a base", "", "_ = mmap.None{base: any}", "cannot refer to unexported field base", "_ = mmap.None{}"},
	{"a Mapping by literal", "", "_ = mmap.Mapping{" + hidden[mmap.Mapping]() + ": nil}", "cannot refer to unexported field", "_ = mmap.Mapping{}"},
	{"type assertion of a Mapping", "", "_ = any.(mmap.Read)", "is not an interface", "_ = any.Prot()"},
	{"reading a Mapping", "", "any.ReadAt(b, 0)", "any.ReadAt undefined", "r.ReadAt(b, 0)"},
	{"a method expression of base", "", "_ = (mmap.base).Len", "base not exported by package mmap", "_ = mmap.Mapping.Len"},

	// Unknown is not known.
	{"Forget of an Unknown", "", "_, err = mmap.Forget(u)", "mmap.Unknown does not satisfy mmap.Known", "_, err = mmap.Forget(r)"},
	{"Assert to Unknown", "", "_, err = mmap.Assert[mmap.Unknown](u)", "mmap.Unknown does not satisfy mmap.Known", "_, err = mmap.Assert[mmap.Read](u)"},
	{"Assert of what is known", "", "_, err = mmap.Assert[mmap.Read](rw)", "as mmap.Unknown value in argument", "_, err = mmap.Protect[mmap.Read](rw)"},
	{"Protect to Unknown", "", "_, err = mmap.Protect[mmap.Unknown](r)", "mmap.Unknown does not satisfy mmap.Known", "_, err = mmap.Forget(r)"},
	{"Over as Unknown", "", "_, err = mmap.Over[mmap.Unknown](r, s)", "mmap.Unknown does not satisfy mmap.Known", "err = u.Place(0, s, mmap.ProtRead)"},

	// One permission is not another.
	{"Join of two permissions", "", "_, err = mmap.Join(r, rw)", "mmap.ReadWrite of rw does not match inferred type mmap.Read for M", "_, err = mmap.Join(r, r2)"},
	{"halves of another permission", "", "rw, r, err = mmap.Split(r, 0)", "(value of struct type mmap.Read) as mmap.ReadWrite value", "r, r2, err = mmap.Split(r, 0)"},
	{"less permission in a variable for more", "", "rw, err = mmap.Protect[mmap.Read](rw)", "(value of struct type mmap.Read) as mmap.ReadWrite value", "r, err = mmap.Protect[mmap.Read](rw)"},
	{"more permission in a variable for less", "", "r, err = mmap.Map[mmap.ReadWrite](s)", "(value of struct type mmap.ReadWrite) as mmap.Read value", "rw, err = mmap.Map[mmap.ReadWrite](s)"},
	{"assignment of another permission", "", "rx = r", "as mmap.ReadExec value in assignment", "r2 = r"},
	{"comparison with another permission", "", "_ = r == rx", "mismatched types mmap.Read and mmap.ReadExec", "_ = r == r2"},
	{"Read as an io.WriterAt", "", "var _ io.WriterAt = r", "mmap.Read does not implement io.WriterAt (missing method WriteAt)", "var _ io.WriterAt = rw"},
	{"Write as an io.ReaderAt", "", "var _ io.ReaderAt = w", "mmap.Write does not implement io.ReaderAt (missing method ReadAt)", "var _ io.ReaderAt = r"},
	{"conversion through a pointer", "", "_ = (*mmap.ReadWrite)(&r)", "to type *mmap.ReadWrite", "_ = (*mmap.Read)(&r)"},
	{"conversion of a slice", "", "_ = []mmap.ReadWrite([]mmap.Read{r})", "to type []mmap.ReadWrite", "_ = []mmap.ReadWrite{rw}"},
	{"conversion of a function", "m := func() (_ mmap.Read) { return r }", "_ = (func() mmap.ReadWrite)(m)", "to type func() mmap.ReadWrite", "_ = (func() mmap.Read)(m)"},
	{"conversion through a type of one's own", "type mine mmap.Read", "_ = mmap.ReadWrite(mine(r))", "to type mmap.ReadWrite", "_ = mmap.Read(mine(r))"},
	{"conversion to a type parameter", "", "func _[M mmap.Known](m mmap.Read) M { return M(m) }", "cannot convert m", "func _[M mmap.Known](m mmap.Read) (M, error) { return mmap.Protect[M](m) }"},
	{"type assertion of what is no interface value", "", "_ = r.(mmap.ReadExec)", "is not an interface", "_ = interface{}(r).(mmap.Read)"},

	// The constraints.
	{"Known as a variable's type", "", "var _ mmap.Known = r", "cannot use type mmap.Known outside a type constraint", "var _ mmap.Mapping = r.Untyped()"},
	{"Handle as a parameter's type", "", "func _(m mmap.Handle) int { return m.Len() }", "cannot use type mmap.Handle outside a type constraint", "func _(m mmap.Mapping) int { return m.Len() }"},
	{"Known as an element's type", "", "_ = []mmap.Known{r, rw}", "cannot use type mmap.Known outside a type constraint", "_ = []mmap.Mapping{r.Untyped(), rw.Untyped()}"},
	{"a union with Known", "", "type _ interface{ mmap.Known | mmap.Unknown }", "mmap.Known contains methods", "type _ interface{ mmap.Handle }"},
	{"any as a constraint", "", "func _[M interface{}](m M) (M, error) { return mmap.Resize(m, 1) }", "(type M) does not satisfy mmap.Handle", "func _[M mmap.Handle](m M) (M, error) { return mmap.Resize(m, 1) }"},
	{"Mapping as a constraint", "", "func _[M interface{ mmap.Mapping }](m M) (M, error) { return mmap.Resize(m, 1) }", "(type M) does not satisfy mmap.Handle", "func _[M mmap.Handle](m M) (M, error) { return mmap.Resize(m, 1) }"},
	{"Handle where Known is needed", "", "func _[M mmap.Handle](m M) error { _, err := mmap.Forget(m); return err }", "M does not satisfy mmap.Known", "func _[M mmap.Known](m M) error { _, err := mmap.Forget(m); return err }"},
	{"reading any known permission", "", "func _[M mmap.Known](m M) { m.ReadAt(nil, 0) }", "m.ReadAt undefined", "func _[M interface{ mmap.Known; io.ReaderAt }](m M) { m.ReadAt(nil, 0) }"},
	{"a type with the methods of a Mapping", foreign, "_, err = mmap.Resize(foreign{}, 1)", "(type foreign) does not satisfy mmap.Handle", "_, err = mmap.Resize(r, 1)"},
	{"a type that embeds to be a Known", "type embeds struct{ mmap.Read }", "_, err = mmap.Map[embeds](s)", "embeds does not satisfy mmap.Known", "m := embeds{}; m.Read, err = mmap.Map[mmap.Read](s)"},

	// What is not exported stays so.
	{"field of a handle", "", "_ = r." + hidden[mmap.Read](), "(cannot refer to unexported field", "_ = r.Addr()"},
	{"field of a Spec", "", "_ = s." + hidden[mmap.Spec](), "(cannot refer to unexported field", "_ = s.String()"},
	{"field of a Pin", "", "_ = pin." + hidden[mmap.Pin](), "(cannot refer to unexported field", "_ = pin.Bytes()"},
	{"field of a Mapping", "", "_ = any." + hidden[mmap.Mapping](), "(cannot refer to unexported field", "_ = any.Addr()"},
	{"method of a handle", "", "_ = r." + hiddenMethod, "(cannot refer to unexported method", "_ = r.String"},
	{"method of a Mapping", "", "_ = any." + hiddenMethod, "(cannot refer to unexported method", "_ = any.Prot"},
	{"handle by literal", "", "_ = mmap.Read{" + hidden[mmap.Read]() + ": nil}", "cannot refer to unexported field", "_ = mmap.Read{}"},
	{"Spec by literal", "", "_ = mmap.Spec{" + hidden[mmap.Spec]() + ": 1}", "cannot refer to unexported field", "_ = mmap.Anonymous(1)"},
	{"Pin by literal", "", "_ = &mmap.Pin{" + hidden[mmap.Pin]() + ": nil}", "cannot refer to unexported field", "_, err = r.Pin()"},

	// Arguments.
	{"Slice without a type", "", "_, err = mmap.Slice(b)", "cannot infer T", "_, err = mmap.Slice[uint32](b)"},
	{"Slice of a handle", "", "_, err = mmap.Slice[uint32](r)", "as []byte value in argument", "err = r.View(func(b []byte) error { _, err := mmap.Slice[uint32](b); return err })"},
	{"Protect without a type", "", "_, err = mmap.Protect(r)", "cannot infer M", "_, err = mmap.Protect[mmap.ReadWrite](r)"},
	{"a seal for permissions", "", "_, err = mmap.MapUnknown(s, mmap.SealGrow)", "as mmap.Prot value in argument", "_, err = mmap.MapUnknown(s, mmap.ProtRead)"},
	{"permissions for seals", "", "_, err = mmap.Memfd(\"\", 0, mmap.ProtRead)", "as mmap.Seal value in argument", "_, err = mmap.Memfd(\"\", 0, mmap.SealGrow)"},
	{"a number for permissions", "p := 3", "err = u.Protect(p)", "as mmap.Prot value in argument", "err = u.Protect(mmap.Prot(p))"},
	{"a descriptor for a file", "", "_ = mmap.File(3, 0, 1)", "as *os.File value in argument", "_ = mmap.FD(3, 0, 1)"},
	{"a handle for a Spec", "", "_, err = mmap.Over[mmap.Read](r, r2)", "as mmap.Spec value in argument", "_, err = mmap.Over[mmap.Read](r, s)"},
	{"a handle for a Pin", "", "err = mmap.Guard(g, r)", "as *mmap.Pin value in argument", "err = mmap.Guard(g, pin)"},
	{"a view that returns nothing", "", "err = r.View(func(b []byte) {})", "as func(b []byte) error value in argument", "err = r.View(func(b []byte) error { return nil })"},
	{"an address as a pointer", "", "_ = *r.Addr()", "cannot indirect", "_ = r.UnsafeBytes()[0]"},
	{"a size of another type", "n := int64(1)", "_, err = mmap.Resize(r, n)", "as int value in argument", "_, err = mmap.Resize(r, int(n))"},
}

// hiddenMethod stands in a case for a method of the handles that is not exported.
const hiddenMethod = "HIDDEN"

// foreign stands in a case for foreignMapping, and begins as what is in the file does.
const foreign = "func FOREIGN"

// hiddenMethods returns the methods of every handle that are not exported, which only
// the source tells.
func hiddenMethods(t *testing.T) (names []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../typed.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		typ, ok := n.(*ast.TypeSpec)
		if !ok || typ.Name.Name != "mapping" {
			return true
		}
		for _, method := range typ.Type.(*ast.InterfaceType).Methods.List {
			for _, name := range method.Names {
				if !name.IsExported() {
					names = append(names, name.Name)
				}
			}
		}
		return false
	})
	if len(names) == 0 {
		t.Fatal("typed.go has no interface mapping with methods of its own")
	}
	return names
}

// foreignMapping returns a type with the methods of Mapping: the exported ones
// as they are, and its own with the names of the others.
func foreignMapping(hidden []string) string {
	src := "func (foreign) own() {}\ntype foreign struct{}\n"
	t := reflect.TypeFor[mmap.Mapping]()
	for i := range t.NumMethod() {
		m := t.Method(i)
		// Of a type that is no interface the first parameter is the receiver.
		signature := strings.TrimPrefix(strings.TrimPrefix(m.Type.String(), "func(mmap.Mapping"), ", ")
		src += fmt.Sprintf("func (foreign) %s(%s { panic(0) }\n", m.Name, signature)
	}
	for _, name := range hidden {
		src += fmt.Sprintf("func (foreign) %s() { panic(0) }\n", name)
	}
	return src
}

// hidden returns the name of a field of T that is not exported.
func hidden[T any]() string {
	t := reflect.TypeFor[T]()
	for i := range t.NumField() {
		if f := t.Field(i); !f.IsExported() && f.Name != "_" {
			return f.Name
		}
	}
	panic(fmt.Sprintf("all of %v is exported", t))
}

// everyMisuse adds to the table what follows from the nine types: each
// conversion of one into another, and each method that a type must not have.
func everyMisuse(t *testing.T) []misuse {
	all, own := slices.Clone(misuses), hiddenMethods(t)
	for i := range all {
		all[i].wrong = strings.ReplaceAll(all[i].wrong, hiddenMethod, own[0])
		all[i].setup = strings.ReplaceAll(all[i].setup, foreign, foreignMapping(own))
	}
	for _, from := range handleKinds {
		for _, to := range handleKinds {
			if from == to {
				continue
			}
			right := fmt.Sprintf("_, err = mmap.Protect[mmap.%s](%s)", to.typ, from.name)
			switch "?" {
			case from.allows:
				right = fmt.Sprintf("_, err = mmap.Assert[mmap.%s](u)", to.typ)
			case to.allows:
				right = fmt.Sprintf("_, err = mmap.Forget(%s)", from.name)
			}
			all = append(all, misuse{
				name:  fmt.Sprintf("%s converted to %s", from.typ, to.typ),
				wrong: fmt.Sprintf("_ = mmap.%s(%s)", to.typ, from.name),
				says:  fmt.Sprintf("cannot convert %s (variable of struct type mmap.%s) to type mmap.%s", from.name, from.typ, to.typ),
				right: right,
			})
		}
	}
	for _, method := range []struct{ needs, name, args string }{
		{"r", "ReadAt", "b, 0"},
		{"r", "View", "f"},
		{"r", "UnsafeBytes", ""},
		{"w", "WriteAt", "b, 0"},
		{"w", "PrefaultWrite", "0, 1"},
		{"w", "Discard", "0, 1"},
		{"w", "DiscardLocked", "0, 1"},
		{"w", "Free", "0, 1"},
		{"w", "Punch", "0, 1"},
		{"w", "WipeOnFork", "0, 1"},
		{"w", "InstallGuardPages", "0, 1"},
		{"w", "RemoveGuardPages", "0, 1"},
		{"w", "Track", ""},
		{"rw", "Update", "f"},
		{"r", "ViewRange", "0, 1, f"},
		{"rw", "UpdateRange", "0, 1, f"},
		{"?", "Protect", "mmap.ProtRead"},
		{"?", "ProtOf", "0, 1"},
		{"?", "ProtectRange", "0, 1, mmap.ProtRead"},
		{"?", "Place", "0, s, mmap.ProtRead"},
	} {
		for _, kind := range handleKinds {
			if kind.allows == "?" || containsAll(kind.allows, method.needs) {
				continue
			}
			has := "u"
			if method.needs != "?" {
				has = method.needs // the name of the kind that allows no more
			}
			all = append(all, misuse{
				name:  fmt.Sprintf("%s of %s", method.name, kind.typ),
				wrong: fmt.Sprintf("%s.%s(%s)", kind.name, method.name, method.args),
				says:  fmt.Sprintf("type mmap.%s has no field or method %s", kind.typ, method.name),
				right: fmt.Sprintf("%s.%s(%s)", has, method.name, method.args),
			})
		}
	}
	return all
}

func containsAll(s, chars string) bool {
	for _, c := range chars {
		if !strings.ContainsRune(s, c) {
			return false
		}
	}
	return true
}

// program returns a file of one function for each case, and the case of each
// line that pick returned. The lines of a case's setup belong to nobody.
func program(name string, cases []misuse, pick func(misuse) string) (src []byte, lines map[int]int) {
	var b bytes.Buffer
	fmt.Fprintf(&b, misuseHead, name)
	lines = map[int]int{}
	for i, c := range cases {
		line, inFile := pick(c), strings.HasPrefix(c.setup, "func ")
		if inFile {
			fmt.Fprintln(&b, c.setup)
		}
		alone := strings.HasPrefix(line, "func ") || strings.HasPrefix(line, "type ")
		if !alone {
			fmt.Fprintf(&b, "func Case%d(%s) {\n", i, misuseParams)
			if !inFile && c.setup != "" {
				fmt.Fprintln(&b, c.setup)
			}
		}
		lines[bytes.Count(b.Bytes(), []byte("\n"))+1] = i
		fmt.Fprintln(&b, line)
		if !alone {
			fmt.Fprintln(&b, "}")
		}
	}
	return b.Bytes(), lines
}

// TestTypesCannotBeConfused gives the compiler two packages that exist in an
// overlay only: in one, each case does what the types must prevent, in the
// other what should be done instead. A misuse must be rejected with one
// complaint, the expected one, on the line of the misuse.
func TestTypesCannotBeConfused(t *testing.T) {
	cases := everyMisuse(t)
	dir := t.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	module, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	add := func(name string, pick func(misuse) string) map[int]int {
		src, lines := program(name, cases, pick)
		overlay.Replace[filepath.Join(module, "misuse", name, name+".go")] = write(name+".go", src)
		return lines
	}
	wrong := add("wrong", func(c misuse) string { return c.wrong })
	right := add("right", func(c misuse) string { return c.right })
	list, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	// With -e the compiler goes on after ten errors.
	out := goBuild(t, "-gcflags=-e", "-overlay", write("overlay.json", list), "./misuse/wrong", "./misuse/right")

	complaints := make([][]string, len(cases))
	for _, complaint := range compilerComplaints(out) {
		i, known := wrong[complaint.line]
		switch {
		case complaint.file == "right.go":
			name := "some setup"
			if i, ok := right[complaint.line]; ok {
				name = cases[i].name
			}
			t.Errorf("%s: the corrected twin does not compile: %s", name, complaint.text)
		case complaint.file != "wrong.go" || !known:
			t.Errorf("a complaint about no misuse: %s", complaint.text)
		default:
			complaints[i] = append(complaints[i], complaint.text)
		}
	}
	for i, c := range cases {
		switch got := complaints[i]; {
		case len(got) == 0:
			t.Errorf("%s: this compiles: %s", c.name, c.wrong)
		case len(got) > 1 || !strings.Contains(got[0], c.says):
			t.Errorf("%s: %s: rejected with\n%s\nwant one complaint with %q", c.name, c.wrong, strings.Join(got, "\n"), c.says)
		}
	}
	t.Logf("%d misuses", len(cases))
}

// goBuild runs go build, which is expected to fail, and returns what it says.
// It skips the test where the go command cannot build the library itself.
func goBuild(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skipf("the compiler is needed: %v", err)
	}
	env := append(os.Environ(), "GOWORK=off")
	if !usableCache() {
		env = append(env, "GOCACHE="+t.TempDir())
	}
	build := func(args ...string) (string, error) {
		// The other user's checkout may not be one that git would look into.
		cmd := exec.Command("go", append([]string{"build", "-buildvcs=false"}, args...)...)
		cmd.Dir, cmd.Env = "..", env
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := build(args...)
	if err == nil {
		t.Fatal("go build accepted all misuses")
	}
	if len(compilerComplaints(out)) == 0 {
		// This binary holds the same library, so it is the go command or its
		// caches that fail here.
		if library, err := build("."); err != nil {
			t.Skipf("go build cannot build the library here: %v\n%s", err, library)
		}
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return out
}

// usableCache reports whether the go command can write its build cache, which
// it cannot for a user without a home.
func usableCache() bool {
	dir, err := exec.Command("go", "env", "GOCACHE").Output()
	path := strings.TrimSpace(string(dir))
	if err != nil || !filepath.IsAbs(path) || os.MkdirAll(path, 0o700) != nil {
		return false
	}
	f, err := os.CreateTemp(path, "mmap-test-")
	if err != nil {
		return false
	}
	f.Close()
	return os.Remove(f.Name()) == nil
}

type complaint struct {
	file string
	line int
	text string // with the lines that go on after the first
}

var complaintStart = regexp.MustCompile(`^(\S+\.go):(\d+):\d+: `)

// compilerComplaints reads what go build printed.
func compilerComplaints(out string) (all []complaint) {
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		if m := complaintStart.FindStringSubmatch(line); m != nil {
			n, _ := strconv.Atoi(m[2]) // the pattern lets only digits through
			all = append(all, complaint{filepath.Base(m[1]), n, line})
		} else if strings.HasPrefix(line, "\t") && len(all) > 0 {
			all[len(all)-1].text += "\n" + line
		}
	}
	return all
}
