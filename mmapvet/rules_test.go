package mmapvet_test

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var rules = flag.Bool("rules", false, "take each rule out, and see whether a test fails")

// Each rule that makes a report, or keeps one away, as the edit that takes it out.
var ruleEdits = []struct{ rule, file, old, new string }{
	{"moved", "misuse.go", "case isMoved:\n\t\tw.findMoved(", "case isMoved:\n\t\tw.skip("},
	{"moved: Len", "misuse.go", "tracked(c.args[0]) && h.status == isMoved {", "false {"},
	{"moved: by a helper", "apply.go", "h.status, h.by, h.owned = isMoved, c.pos, false", "h.owned = false"},
	{"moved: the failure keeps it", "handles.go", "failed := st.clone()\n\tends := w.fails(failed, c, others)", "ends := []outcome{}"},
	{"moved: a bool says whether", "apply.go", `if p.Was == "" && !failed && s.takes(i) {`, `if false && (p.Was == "" && !failed && s.takes(i)) {`},
	{"moved: elements are told apart", "instruction.go", "op: opPart, site: site, args: args}", "op: opPart, args: args}"},
	{"moved: results are told apart", "apply.go", "op: opPart, site: c.key, n: n, args:", "op: opPart, args:"},
	{"intended", "finding.go", "if f.fails != nil && w.expected[f.fails] {", "if false {"},
	{"intended: by a helper", "finding.go", "for _, e := range errs {\n\t\tw.expect(e)", "for range errs {"},
	{"intended: the error is wrapped", "finding.go", "for _, e := range w.causes[err] {", "for _, e := range w.causes[nil] {"},
	{"expected to fail", "handles.go", "if handles && !all {\n\t\treturn ends", "if false && (handles && !all) {\n\t\treturn ends"},
	{"expected to fail: second(…)", "handles.go", "if !handles && c.onlyForItsError() {", "if false {"},
	{"escape: stored", "lend.go", `w.escapes(st, cl.pos, "is stored`, `_ = cl; w.skip(st, "is stored`},
	{"escape: result", "lend.go", "if w.leadsTo(st, result, m) {", "if false {"},
	{"escape: goroutine", "lend.go", "for _, p := range st.pending {\n\t\tif w.leadsTo(st, p.v, m) {", "for _, p := range st.pending {\n\t\tif p.how == \"never\" {"},
	{"escape: kept in a variable", "pins.go", "case byView:\n", "case byView:\n\t\t\tcontinue\n"},
	{"escape: lenders", "apply.go", "for _, l := range s.Lends {\n\t\tif l.Param < len(c.args) {", "for _, l := range s.Lends {\n\t\tif l.Param < 0 {"},
	{"escape: copies by append", "builtin.go", "if !hasPointers(elem) {", "if false && (!hasPointers(elem)) {"},
	{"escape: waits", "places.go", "st.pending = nil\n}", "}"},
	{"escape: standard library leads", "standard.go", "if !leading[name] {\n\t\treturn v", "if true {\n\t\treturn v"},
	{"escape: what leads to no memory", "instruction.go", "if len(v.loans) > 0 && (!hasPointers(t) || isHandle(t)) {", "if false {"},
	{"escape: variables of the callback", "lend.go", "b == m || b.op == opAlloc && within(b, f):", "b == m:"},
	{"unclosed", "root.go", "if h.owned && h.status == isLive {", "if false {"},
	{"unclosed: given away", "places.go", "h.owned, h.kept = false, true\n\t\tst.handles.set(v, h)\n\t\treturn", "h.kept = true\n\t\tst.handles.set(v, h)\n\t\treturn"},
	{"unclosed: a deferred old handle", "handles.go", "if h.was == old && h.owned {", "if false {"},
	{"unclosed: not in main and tests", "finding.go", "f.category == unclosed && k.isTest(f.pos) && !k.options.unclosedTests", "false"},
	{"unclosed: faults", "lend.go", "if c.used(0) && (!known || !isError) {", "if false && (c.used(0) && (!known || !isError)) {"},
	{"unclosed: constants", "condition.go", "case a != nil && b != nil && a.Kind() == b.Kind():", "case false:"},
	{"unclosed: conditions that are asked twice", "clean.go", "return ok && w.twice[reads(i.Cond, 0)] > 1", "return ok && w.twice[reads(i.Cond, 0)] > 1000"},
	{"unclosed: select", "instruction.go", "if i >= 0 && in.States[i].Dir == types.SendOnly {", "if false {"},
	{"unclosed: no return with an error", "root.go", "if f.truth {\n\t\t\t\tp.Nil = 1", "if false && (f.truth) {\n\t\t\t\tp.Nil = 1"},
	{"busy: view", "misuse.go", "if viewed == v {\n\t\t\t\tbusyOne", "if false && (viewed == v) {\n\t\t\t\tbusyOne"},
	{"busy: pin", "misuse.go", "if p.of == v && p.owned && !p.ended {", "if false {"},
	{"busy: drain", "misuse.go", "|| st.drains > 0", ""},
	{"busy: by a helper", "apply.go", "if some && always && tracked(a) {", "if false {"},
	{"pins: lost", "root.go", "if p.owned && !p.ended && p.at.IsValid() {", "if false {"},
	{"pins: bytes", "pins.go", "case byPin:\n", "case byPin:\n\t\t\tcontinue\n"},
	{"unsafebytes", "pins.go", "case byUnsafe:\n", "case byUnsafe:\n\t\t\tcontinue\n"},
	{"unsafebytes: a pin keeps it", "handles.go", "held = held || p.of == v && !p.ended", "_ = p"},
	{"unsafebytes: it follows", "handles.go", "} else {\n\t\t\tl.of = next\n\t\t}", "}"},
	{"ignored", "handles.go", "if all && onSuccess == nil {", "if false {"},
	{"ignored: by a helper", "apply.go", "lost := w.drops(st, c, s, obj.Name())", "lost := false"},
	{"ignored: pin", "pins.go", "if all {\n\t\tw.find(", "if false && (all) {\n\t\tw.find("},
	{"closed", "misuse.go", "case isClosed:\n\t\tw.find(st, &finding{\n\t\t\tcategory: closed", "case isClosed:\n\t\tw.skip(st, &finding{\n\t\t\tcategory: closed"},
	{"unguarded", "pins.go", "if l := st.loans.get(m); l.by == byPin && !l.ended && l.at.IsValid() {", "if l := st.loans.get(m); l.at == 1 {"},
	{"unguarded: guards", "pins.go", "if st.guards > 0 || w.inGuard > 0 || len(st.views) > 0 {", "if false {"},
	{"sealed", "handles.go", "|| h.sealed {", "{"},
	{"never returns: with an error that it hands on", "call.go", "param := w.params[err]; param && !ok {", "param := w.params[err]; false && param && !ok {"},
	{"never returns: by its body", "returns.go", "never = k.canEnd(body) && cfg", "never = false && k.canEnd(body) && cfg"},
	{"never returns: of another package", "returns.go", "never = k.pass.Import", "never = false && k.pass.Import"},
	{"never returns: standard library", "returns.go", "never := ending[standardName(fn)]", "never := false"},
	{"budget", "walk.go", "if w.budget -= n; w.budget < 0 {", "if w.budget -= n; w.budget < -1<<40 {"},
	{"comments", "finding.go", "if k.ignoredBy(comments, f) {", "if false {"},
}

// TestRules takes each rule out. Some test has to fail without it. What it changes has to be
// there, in any case.
func TestRules(t *testing.T) {
	for _, e := range ruleEdits {
		source, err := os.ReadFile(e.file)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(source), e.old); n != 1 {
			t.Errorf("%s: %s has this %d times: %s", e.rule, e.file, n, e.old)
			continue
		}
		if !*rules {
			continue
		}
		t.Run(e.rule, func(t *testing.T) {
			dir := t.TempDir()
			edited := strings.Replace(string(source), e.old, e.new, 1)
			if strings.Contains(e.new, "w.skip(") {
				edited += "\nfunc (w *walk) skip(...any) {}\n"
			}
			write(t, filepath.Join(dir, e.file), []byte(edited))
			original, err := filepath.Abs(e.file)
			if err != nil {
				t.Fatal(err)
			}
			overlay, err := json.Marshal(map[string]any{
				"Replace": map[string]string{original: filepath.Join(dir, e.file)},
			})
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "overlay.json"), overlay)
			build := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), ".")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("it does not compile: %s", out)
			}
			tests := "TestReports|TestOffByDefault|TestComments|TestSecondSet|TestFixes"
			if e.rule == "budget" {
				tests = "TestBudget"
			}
			test := exec.Command("go", "test", "-count=1", "-failfast", "-run", tests, ".")
			// Not as an argument, for the command that some tests build needs it, too.
			test.Env = append(os.Environ(), "GOFLAGS=-overlay="+filepath.Join(dir, "overlay.json"))
			if out, err := test.CombinedOutput(); err == nil {
				t.Errorf("no test fails without it\n%s", out)
			}
		})
	}
}
