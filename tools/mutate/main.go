// Command mutate asks how good the tests of the mapping library are: it breaks the
// library in small ways, one at a time, and looks whether the default tests notice.
//
//	go run . -n 150 -seed 1 -shard 1/2   # and 2/2 beside it
//	go run . -only 'remap.go:97'         # what the tests say of these
//
// It works on a copy of the module, so the tree is never changed, and may be
// changed meanwhile. First a fast part of the tests has its say, those that take
// little time each and the state machine in short; then go test ./... . Each mutant
// has its own directory for temporary files and its own process group, a time limit
// and a memory limit. Now and then the library as it is takes a mutant's place: if
// that fails, the tests fail by themselves, and nothing here can be believed.
package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

var (
	source  = flag.String("module", "../..", "the module's `directory`")
	sample  = flag.Int("n", 150, "how many mutants, of all shards together; 0: all that there are")
	seed    = flag.Uint64("seed", 1, "of the random sample")
	shard   = flag.String("shard", "1/1", "`i/k`: do the i-th of k parts")
	only    = flag.String("only", "", "instead of a sample, every mutant whose name matches this `pattern`")
	list    = flag.Bool("list", false, "list the mutants, do not try them")
	control = flag.Int("control", 20, "after how many mutants the library as it is takes a turn")
	brief   = flag.Bool("fast", false, "the fast part only: for a first look, which knows more survivors than there are")
	explore = flag.Bool("explore", false, "mutants of the latch only, judged by its explorer alone")
	memory  = flag.Int("memory", 6<<10, "how many `MiB` a mutant's processes may use")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// library are the packages that are mutated.
var library = []string{".", "procmaps", "internal/sys", "internal/perms", "internal/latch", "internal/kernel", "internal/place", "internal/leftover", "internal/fail", "live"}

// judges are the packages whose tests have a fast part. What is in others is left to
// the full tests.
var judges = []string{"procmaps", ".", "systemtest"}

func run(ctx context.Context) error {
	var part, parts int
	if n, _ := fmt.Sscanf(*shard, "%d/%d", &part, &parts); n != 2 || part < 1 || part > parts {
		return fmt.Errorf("no such shard: %s", *shard)
	}
	if *explore {
		library, judges = []string{latchDir}, nil
	}
	all, err := mutants(*source, library...)
	if err != nil {
		return err
	}
	total, most := len(all), len(all)
	if *explore { // which replaces atomics.go
		all = slices.DeleteFunc(all, func(m mutant) bool { return strings.HasSuffix(m.file, "atomics.go") })
		most = len(all)
	}
	if *only != "" {
		wanted, err := regexp.Compile(*only)
		if err != nil {
			return err
		}
		chosen := all[:0]
		for _, m := range all {
			if wanted.MatchString(m.String()) {
				chosen = append(chosen, m)
			}
		}
		all = chosen
	} else {
		rand.New(rand.NewPCG(*seed, 0)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		if *sample > 0 {
			most = (*sample + parts - part) / parts
		}
	}
	var mine []mutant
	for i := part - 1; i < len(all); i += parts {
		mine = append(mine, all[i])
	}
	if *list {
		for _, m := range mine {
			fmt.Println(m)
		}
		return nil
	}
	commit, _ := exec.Command("git", "-C", *source, "describe", "--always", "--dirty").Output()
	fmt.Printf("%d mutants of %s, %s %s/%s, shard %s, seed %d\n", total, bytes.TrimSpace(commit), runtime.Version(), runtime.GOOS, runtime.GOARCH, *shard, *seed)

	b, err := newBench(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	began, tried := time.Now(), 0
	counts := map[verdict]int{}
	for _, m := range mine {
		if tried == most || ctx.Err() != nil {
			break
		}
		start := time.Now()
		v, by, err := b.try(ctx, &m)
		if err != nil {
			return err
		}
		if counts[v]++; v == uncompiled || v == same {
			continue
		}
		tried++
		fmt.Printf("%3d %5.1fs %-18s %v%s\n", tried, time.Since(start).Seconds(), v, m, by)
		if v == survived {
			fmt.Print(m.diff(b.original[m.file]))
		}
		if tried%*control == 0 {
			if v, by, err := b.try(ctx, nil); err != nil || v != survived {
				return errors.Join(err, fmt.Errorf("the library as it is: %v%s", v, by))
			}
			counts[controls]++
		}
	}
	killed := tried - counts[survived]
	fmt.Printf("shard %s, seed %d: %d mutants in %v: %d killed (%.1f %%)", *shard, *seed, tried, time.Since(began).Round(time.Second), killed, 100*float64(killed)/float64(max(tried, 1)))
	for v := same; v <= controls; v++ {
		fmt.Printf(", %d %v", counts[v], v)
	}
	fmt.Println()
	return ctx.Err()
}

// A verdict is what became of a mutant.
type verdict int

const (
	uncompiled verdict = iota
	same
	fast
	full
	hung
	grew
	survived
	controls
)

func (v verdict) String() string {
	return [...]string{"do not compile", "to the same code", "by the fast part", "by all tests", "by a time limit", "by a memory limit", "survived", "controls passed"}[v]
}

// A bench is a copy of the module, on which mutants are tried.
type bench struct {
	dir, module string
	original    map[string][]byte // files as they are
	quick       map[string]string // packages, and the pattern of their tests that take little time
	limit       map[string]time.Duration
	code        map[string][sha256.Size]byte // of the binaries
	pool        []byte                       // huge pages at the start
}

// machine is the test that sees most, and belongs to the fast part in its short form.
const machine = "TestOperations"

const pool = "/proc/sys/vm/nr_hugepages"

// newBench makes the copy and runs its tests: for how long they take, and because
// they have to pass.
func newBench(ctx context.Context) (*bench, error) {
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return nil, err
	}
	b := &bench{dir: dir, module: filepath.Join(dir, "module"), original: map[string][]byte{}, quick: map[string]string{}, limit: map[string]time.Duration{}, code: map[string][sha256.Size]byte{}}
	b.pool, _ = os.ReadFile(pool)
	if err := b.prepare(ctx); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return b, nil
}

func (b *bench) prepare(ctx context.Context) error {
	if err := cmp.Or(os.Chmod(b.dir, 0o711), copyTree(b.module, *source)); err != nil {
		return err
	}
	for _, pkg := range library {
		files, err := sources(filepath.Join(b.module, pkg))
		if err != nil {
			return err
		}
		for _, name := range files {
			file := filepath.Join(pkg, name)
			if b.original[file], err = os.ReadFile(filepath.Join(b.module, file)); err != nil {
				return err
			}
		}
	}
	const ever = 10 * time.Minute
	for _, pkg := range judges {
		slow, err := poolTests(filepath.Join(b.module, pkg))
		if err != nil {
			return err
		}
		if out, v := b.compile(ctx, pkg); v != survived {
			return fmt.Errorf("%s", out)
		}
		if b.code[pkg], err = b.sum(pkg); err != nil {
			return err
		}
		out, v := b.locked(ctx, filepath.Join(b.module, pkg), ever, b.binary(pkg), "-test.v", "-test.short")
		if v != survived {
			return fmt.Errorf("the tests of %s, %v:\n%s", pkg, v, out)
		}
		var names []string
		for _, t := range regexp.MustCompile(`(?m)^--- PASS: (\S+) \(([0-9.]+)s\)`).FindAllStringSubmatch(out, -1) {
			if took, _ := strconv.ParseFloat(t[2], 64); (took <= 0.3 || t[1] == machine) && !slow[t[1]] {
				names = append(names, t[1])
			}
		}
		b.quick[pkg] = "^(" + strings.Join(names, "|") + ")$"
		start := time.Now()
		if out, v := b.command(ctx, filepath.Join(b.module, pkg), ever, b.binary(pkg), "-test.short", "-test.run="+b.quick[pkg]); v != survived {
			return fmt.Errorf("the fast tests of %s, %v:\n%s", pkg, v, out)
		}
		b.limit[pkg] = 3*time.Since(start) + 20*time.Second
		fmt.Printf("fast part of %s: %d tests in %.1f s\n", pkg, len(names), time.Since(start).Seconds())
	}
	if *explore {
		if out, v := b.explored(ctx, ever, ""); v != survived {
			return fmt.Errorf("the explorer, %v:\n%s", v, out)
		}
		return nil
	}
	if *brief {
		return nil
	}
	start := time.Now()
	if out, v := b.locked(ctx, b.module, ever, "go", "test", "-count=1", "./..."); v != survived {
		return fmt.Errorf("all tests, %v:\n%s", v, out)
	}
	b.limit["./..."] = 3*time.Since(start) + 30*time.Second
	fmt.Printf("all tests in %.1f s\n", time.Since(start).Seconds())
	return nil
}

// try returns what the tests say of a mutant, or of the library as it is, and who
// said so.
func (b *bench) try(ctx context.Context, m *mutant) (v verdict, by string, err error) {
	touched := "."
	if m != nil {
		name := filepath.Join(b.module, m.file)
		if err := os.WriteFile(name, m.apply(b.original[m.file]), 0o644); err != nil {
			return 0, "", err
		}
		defer func() { err = errors.Join(err, os.WriteFile(name, b.original[m.file], 0o644)) }()
		touched = filepath.Dir(m.file)
	}
	for _, pkg := range judges {
		defer os.RemoveAll(filepath.Join(b.module, pkg, "testdata/rapid")) // or it is tried first on the next
	}
	for _, pkg := range judges {
		if pkg == "procmaps" && pkg != touched {
			continue
		}
		if out, v := b.compile(ctx, pkg); v != survived {
			if err = ctx.Err(); err == nil && !strings.HasPrefix(out, "# ") {
				err = fmt.Errorf("%v: %s", m, out)
			}
			return uncompiled, "", err
		}
		if code, err := b.sum(pkg); err != nil {
			return same, "", err
		} else if m != nil && code == b.code[pkg] {
			if pkg == "systemtest" { // which does not use all of the library
				continue
			}
			return same, "", nil
		}
		args := []string{"-test.failfast", "-test.short", "-test.run=" + b.quick[pkg]}
		if pkg != "procmaps" {
			args = append(args, "-rapid.nofailfile", "-rapid.shrinktime=0s")
		}
		if out, v := b.command(ctx, filepath.Join(b.module, pkg), b.limit[pkg], b.binary(pkg), args...); v == uncompiled || v == grew {
			return max(v, fast), reason(out), ctx.Err()
		} // one that takes too long is left to the full tests: the machine may be busy
	}
	if *explore && m == nil {
		return survived, "", nil // it needs no control: nothing in it depends on the machine
	}
	if *explore {
		out, v := b.explored(ctx, 5*time.Minute, m.file)
		if v == uncompiled && !strings.HasPrefix(out, "# ") {
			v = fast
		}
		if v == survived {
			return v, "", ctx.Err()
		}
		return v, reason(out), ctx.Err()
	}
	if *brief {
		return survived, "", ctx.Err()
	}
	out, v := b.locked(ctx, b.module, b.limit["./..."], "go", "test", "-count=1", "-failfast", "./...")
	if v == uncompiled {
		v = full
	}
	if v == survived {
		return v, "", ctx.Err()
	}
	return v, reason(out), ctx.Err()
}

const latchDir = "internal/latch"

// explored runs the explorer of the latch: two threads in full, and Drain, of which first
// what is about the file.
func (b *bench) explored(ctx context.Context, limit time.Duration, file string) (out string, v verdict) {
	tests := []string{"TestTwo", "TestDrain"}
	if strings.HasSuffix(file, "drain.go") {
		slices.Reverse(tests)
	}
	if out, v = b.compile(ctx, latchDir, "-tags=explore"); v != survived {
		return out, v
	}
	for _, test := range tests {
		if out, v = b.command(ctx, filepath.Join(b.module, latchDir), limit, b.binary(latchDir), "-test.failfast", "-test.run=^"+test+"$", "-preemptions=2"); v != survived {
			break
		}
	}
	return out, v
}

func (b *bench) binary(pkg string) string {
	return filepath.Join(b.dir, strings.NewReplacer(".", "top", "/", "-").Replace(pkg)+".test")
}

func (b *bench) sum(pkg string) ([sha256.Size]byte, error) {
	data, err := os.ReadFile(b.binary(pkg))
	return sha256.Sum256(data), err
}

func (b *bench) compile(ctx context.Context, pkg string, flags ...string) (string, verdict) {
	// Without debugging information, which takes as long as all else.
	args := append([]string{"test", "-c", "-gcflags=-dwarf=false", "-ldflags=-w -buildid=", "-o", b.binary(pkg)}, flags...)
	return b.command(ctx, b.module, 5*time.Minute, "go", append(args, "./"+pkg)...)
}

// locked is command that no other shard runs at the same time: tests of huge pages
// set the size of the pool, which is the machine's.
func (b *bench) locked(ctx context.Context, dir string, limit time.Duration, name string, args ...string) (string, verdict) {
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "mutate.lock"), os.O_CREATE|os.O_RDWR, 0o666)
	if err == nil {
		defer f.Close()
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		return err.Error(), uncompiled
	}
	defer func() {
		if now, _ := os.ReadFile(pool); !bytes.Equal(now, b.pool) {
			os.WriteFile(pool, b.pool, 0) // a test was killed
		}
	}()
	return b.command(ctx, dir, limit, name, args...)
}

// command runs a command and everything that it starts to the end, and returns its
// output and survived, uncompiled if it fails, or the limit that it met.
func (b *bench) command(ctx context.Context, dir string, limit time.Duration, name string, args ...string) (string, verdict) {
	tmp, err := os.MkdirTemp(b.dir, "tmp")
	if err != nil {
		return err.Error(), uncompiled
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o711); err != nil { // some tests give up their privileges
		return err.Error(), uncompiled
	}
	out, err := os.Create(filepath.Join(b.dir, "output"))
	if err != nil {
		return err.Error(), uncompiled
	}
	defer out.Close()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "GOFLAGS=-buildvcs=false", "MMAP_TEST_MACHINE=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err.Error(), uncompiled
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	group, verdict, end := cmd.Process.Pid, survived, time.After(limit)
	look := time.NewTicker(200 * time.Millisecond)
	defer look.Stop()
	for running := true; running; {
		select {
		case err = <-done:
			running = false
		case <-end:
			verdict = hung
		case <-ctx.Done():
			verdict = uncompiled
		case <-look.C:
			if resident(group) > *memory<<20 {
				verdict = grew
			}
		}
		if verdict != survived || !running {
			syscall.Kill(-group, syscall.SIGKILL) // and what it has left running
		}
	}
	if err != nil && verdict == survived {
		verdict = uncompiled
	}
	text, _ := os.ReadFile(out.Name())
	return string(text), verdict
}

// resident returns how many bytes the processes of a group have in memory.
func resident(group int) (bytes int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		text, _ := os.ReadFile(name)
		_, rest, _ := strings.Cut(string(text), ") ") // the name may hold anything
		if f := strings.Fields(rest); len(f) > 21 && f[2] == strconv.Itoa(group) {
			pages, _ := strconv.Atoi(f[21])
			bytes += pages * os.Getpagesize()
		}
	}
	return bytes
}

// reason finds in the output of tests which of them failed.
func reason(out string) string {
	if m := regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)|^(panic: .*|fatal error: .*|SIG.*|unexpected fault.*|FAIL\s+\S+.*|.*\[build failed\])`).FindStringSubmatch(out); m != nil {
		return "  [" + m[1] + m[2] + "]"
	}
	line, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
	return "  [" + line + "]"
}

// poolTests returns the tests of a package that set or read the size of the huge pages'
// pool: themselves, or by a helper.
func poolTests(dir string) (map[string]bool, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	uses := map[string]bool{"withHugePages": true, "pools": true}
	for again := true; again && err == nil; {
		again = false
		for _, name := range names {
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				return nil, err
			}
			for _, d := range file.Decls {
				f, ok := d.(*ast.FuncDecl)
				if !ok || uses[f.Name.Name] {
					continue
				}
				ast.Inspect(f, func(n ast.Node) bool {
					if id, ok := n.(*ast.Ident); ok && id != f.Name && uses[id.Name] && !uses[f.Name.Name] {
						uses[f.Name.Name], again = true, true
					}
					return true
				})
			}
		}
	}
	return uses, err
}

// copyTree copies a tree without what begins with a dot.
func copyTree(to, from string) error {
	return filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		switch {
		case err != nil:
			return err
		case rel != "." && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o644)
	})
}
