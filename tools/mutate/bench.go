package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

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
		if out, v := b.explored(ctx, false, ""); v != survived {
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
	if *explore {
		return b.exploreMutant(ctx, m)
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
