//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

// compile skips the test where there is no code for the processor.
func compile(t *testing.T, coefficients ...int32) Func {
	t.Helper()
	f, err := Compile(coefficients)
	if errors.Is(err, errors.ErrUnsupported) && runtime.GOARCH != "amd64" {
		t.Skip(err)
	}
	if errors.Is(err, unix.EACCES) {
		t.Skip("the system forbids new code: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func horner(coefficients []int32, x int64) (y int64) {
	for _, c := range coefficients {
		y = y*x + int64(c)
	}
	return y
}

func TestCall(t *testing.T) {
	compile(t, 1)
	for range 300 {
		coefficients := make([]int32, 1+rand.IntN(16))
		for i := range coefficients {
			coefficients[i] = int32(rand.Uint32())
		}
		f := compile(t, coefficients...)
		for _, x := range []int64{0, 1, -1, math.MaxInt64, math.MinInt64, rand.Int64(), -rand.Int64N(100)} {
			if y, err := f.Call(x); y != horner(coefficients, x) || err != nil {
				t.Fatalf("%d at %d is %d, want %d; %v", coefficients, x, y, horner(coefficients, x), err)
			}
		}
	}
}

// What is executable cannot be written, says the kernel.
func TestPermissions(t *testing.T) {
	f := compile(t, 1, 2)
	regions, err := f.Regions()
	if err != nil || len(regions) != 1 || regions[0].Perms.String() != "r-xp" {
		t.Errorf("%v, %v", regions, err)
	}
	err = f.View(func(b []byte) error { b[0] = 0xc3; return nil })
	if !errors.Is(err, mmap.ErrPermission) {
		t.Error("a store: ", err)
	}
}

// Close waits for no call and breaks none; the collector and growing stacks come in between.
func TestClose(t *testing.T) {
	compile(t, 1)
	for range 10 {
		f, err := Compile([]int32{2, 3, 5})
		if err != nil {
			t.Fatal(err)
		}
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				for x := int64(0); ; x++ {
					y, err := deep(20, func() (int64, error) { return f.Call(x) })
					if errors.Is(err, mmap.ErrClosed) {
						return
					}
					if err != nil || y != 2*x*x+3*x+5 {
						t.Errorf("at %d: %d, %v", x, y, err)
						return
					}
				}
			})
		}
		runtime.GC()
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		callers.Wait()
	}
}

// deep calls f with more stack than a goroutine starts with.
func deep(n int, f func() (int64, error)) (int64, error) {
	var frame [512]byte
	if n == 0 {
		return f()
	}
	frame[n] = byte(n)
	y, err := deep(n-1, f)
	return y + int64(frame[n]) - int64(n), err
}

func TestRun(t *testing.T) {
	compile(t, 1)
	var out bytes.Buffer
	if err := run([]string{"3", "0", "-2"}, strings.NewReader("1 2\n-3\n"), &out); err != nil || out.String() != "1\n10\n25\n" {
		t.Errorf("%q, %v", &out, err)
	}
	for args, says := range map[string]string{
		"": "0 coefficients", "x": "invalid syntax", "4294967296": "out of range", strings.Repeat("1 ", 17): "17 coefficients",
	} {
		if err := run(strings.Fields(args), strings.NewReader("1"), io.Discard); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", args, err)
		}
	}
	out.Reset()
	if err := run([]string{"1", "1"}, strings.NewReader("1 one"), &out); err == nil || out.String() != "2\n" {
		t.Errorf("a word: %q, %v", &out, err)
	}
}

func TestMain(m *testing.M) {
	if os.Getenv("JIT_WITHOUT_NEW_CODE") == "" {
		os.Exit(m.Run())
	}
	const setMDWE, refuseExecGain = 65, 1
	if err := unix.Prctl(setMDWE, refuseExecGain, 0, 0, 0); err != nil {
		fmt.Println("skip:", err)
		return
	}
	_, err := Compile([]int32{1})
	fmt.Println(errors.Is(err, unix.EACCES), err)
	fmt.Println("twice:", twice())
}

// twice writes code through one mapping of a memfd and calls it in another.
func twice() error {
	text, err := assemble([]int32{7, 1})
	if err != nil {
		return err
	}
	f, err := mmap.Memfd("code", int64(len(text)), mmap.SealShrink)
	if err != nil {
		return err
	}
	defer f.Close()
	w, err := mmap.Map[mmap.ReadWrite](mmap.Whole(f).Shared())
	if err != nil {
		return err
	}
	defer w.Close()
	x, err := mmap.Map[mmap.ReadExec](mmap.Whole(f).Shared())
	if err != nil {
		return err
	}
	defer x.Close()
	if _, err := w.WriteAt(text, 0); err != nil {
		return err
	}
	if y, err := (Func{x}).Call(6); err != nil || y != 43 {
		return fmt.Errorf("called, it returned %d, %v", y, err)
	}
	return nil
}

// Where new code is forbidden, the error is the one that the documentation shows, and the
// other way works that it names.
func TestForbidden(t *testing.T) {
	compile(t, 1)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "JIT_WITHOUT_NEW_CODE=1")
	text, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if strings.HasPrefix(string(text), "skip:") {
		t.Skip("PR_SET_MDWE needs Linux 6.3: ", string(text))
	}
	said, rest, _ := strings.Cut(string(text), "\n")
	if !strings.HasPrefix(said, "true mmap: protect as r-x: ") || !strings.HasSuffix(said, ": permission denied") {
		t.Error(said)
	}
	if rest != "twice: <nil>\n" && !strings.Contains(rest, "operation not permitted") && !strings.Contains(rest, "permission denied") {
		t.Error(rest)
	}
}
