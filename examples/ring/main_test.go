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
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
)

// writes remembers what it was given, and in how many pieces.
type writes struct {
	bytes.Buffer
	count int
}

func (w *writes) Write(p []byte) (int, error) {
	w.count++
	return w.Buffer.Write(p)
}

// call runs the program and returns what it printed, and its status.
func call(t *testing.T, stdin io.Reader, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out writes
	var errs bytes.Buffer
	status = run(args, stdin, &out, &errs)
	if out.count > 1 {
		t.Errorf("%q: the output came in %d writes", args, out.count)
	}
	return out.String(), errs.String(), status
}

// want is what the program should print, found the simple way.
func want(text string, size, lines int) string {
	all := strings.SplitAfter(text, "\n")
	if all[len(all)-1] == "" {
		all = all[:len(all)-1]
	}
	kept := ""
	for i := len(all) - 1; i >= 0 && lines > 0; i-- {
		if len(all[i])+len(kept) > size {
			if kept == "" {
				kept = all[i][len(all[i])-size:]
			}
			break
		}
		kept = all[i] + kept
		lines--
	}
	return kept
}

func check(t *testing.T, text string, size, lines int, read func(io.Reader) io.Reader) {
	t.Helper()
	args := []string{"-c", strconv.Itoa(size)}
	if lines < math.MaxInt {
		args = append(args, "-n", strconv.Itoa(lines))
	}
	stdout, stderr, status := call(t, read(strings.NewReader(text)), args...)
	if w := want(text, size, lines); stdout != w || stderr != "" || status != 0 {
		t.Errorf("%q of %d bytes: %d bytes %.40q, want %d bytes %.40q; status %d, %s",
			args, len(text), len(stdout), stdout, len(w), w, status, stderr)
	}
}

func same(r io.Reader) io.Reader { return r }

func TestSmall(t *testing.T) {
	for _, text := range []string{"", "\n", "\n\n\n", "a", "a\n", "a\nbb\nccc\n", "a\nbb\nccc", "\na\n\nb\n", strings.Repeat("x", 20), "x\n" + strings.Repeat("y", 20) + "\n"} {
		for size := 1; size <= len(text)+2; size++ {
			for _, lines := range []int{0, 1, 2, 3, math.MaxInt} {
				check(t, text, size, lines, same)
			}
		}
	}
}

// TestSeam has the input end everywhere around the seam of a ring.
func TestSeam(t *testing.T) {
	size := 1000
	page := os.Getpagesize()
	ring := (size + 1 + chunk + page - 1) / page * page
	var b strings.Builder
	for i := 0; b.Len() < 2*ring+size+50; i++ {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	text := b.String()
	for _, around := range []int{ring, ring + size/2, ring + size, 2 * ring} {
		for n := around - 12; n <= around+12; n++ {
			check(t, text[:n], size, math.MaxInt, same)
			check(t, text[:n], size, 7, iotest.HalfReader)
		}
	}
}

// TestRandom compares with the simple way, whatever the pieces that are read.
func TestRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		var b strings.Builder
		for b.Len() < random.IntN(400_000) {
			b.WriteString(strings.Repeat("r", random.IntN(1+random.IntN(3000))) + "\n")
		}
		size := 1 + random.IntN(200_000)
		lines := []int{math.MaxInt, random.IntN(100)}[random.IntN(2)]
		check(t, b.String(), size, lines, func(r io.Reader) io.Reader { return pieces{r, random} })
	}
}

// pieces reads pieces of any length, and uses the rest as scratch space, which
// an io.Reader may.
type pieces struct {
	io.Reader
	random *rand.Rand
}

func (p pieces) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b[:p.random.IntN(len(b)+1)])
	for i := range b[n:] {
		b[n+i] = '!'
	}
	return n, err
}

func TestBroken(t *testing.T) {
	in := io.MultiReader(strings.NewReader("last\nwords"), iotest.ErrReader(errors.New("broken input")))
	if stdout, stderr, status := call(t, in); stdout != "last\nwords" || status != 1 || stderr != "ring: broken input\n" {
		t.Errorf("broken input: status %d, %q, %q", status, stdout, stderr)
	}
	var errs bytes.Buffer
	if status := run(nil, strings.NewReader("x"), broken{}, &errs); status != 1 || errs.String() != "ring: broken output\n" {
		t.Errorf("broken output: status %d, %q", status, &errs)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken output") }

func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		args   string
		status int
		says   string
	}{
		{"file", 2, "usage: ring"},
		{"-c 0", 2, "usage: ring"},
		{"-c -1", 2, "usage: ring"},
		{"-c x", 2, "invalid value"},
		{"-c 99999999999999999999", 2, "out of range"},
		{"-c " + strconv.Itoa(math.MaxInt), 2, "usage: ring"},
		{"-n -1", 2, "usage: ring"},
		{"-x", 2, "not defined"},
		{"-c " + strconv.FormatInt(1<<60, 10), 3 - strconv.IntSize/32, ""}, // no memory; with 32 bits no number
	} {
		stdout, stderr, status := call(t, strings.NewReader("text\n"), strings.Fields(test.args)...)
		if status != test.status || stdout != "" || !strings.Contains(stderr, test.says) {
			t.Errorf("%s: status %d, want %d; %q, %q", test.args, status, test.status, stdout, stderr)
		}
	}
}

// TestMirror: what is written in one half is in the other.
func TestMirror(t *testing.T) {
	size := 3 * os.Getpagesize()
	m, err := newRing(size)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if m.Len() != 2*size {
		t.Errorf("%d bytes, want %d", m.Len(), 2*size)
	}
	m.Update(func(b []byte) error {
		copy(b[size-2:], "seam")
		if string(b[:2]) != "am" || string(b[2*size-2:]) != "se" {
			t.Errorf("%q and %q", b[:2], b[2*size-2:])
		}
		return nil
	})
	if _, err := newRing(size + 1); err == nil {
		t.Error("a ring of half a page was made")
	}
}

// TestMain lets the test binary be the program.
func TestMain(m *testing.M) {
	if os.Getenv("RING_IS_THE_PROGRAM") != "" {
		main()
	}
	os.Exit(m.Run())
}

// TestInterrupt: the recorder outlives the interrupt that ends the recorded.
func TestInterrupt(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-n", "1")
	cmd.Env = append(os.Environ(), "RING_IS_THE_PROGRAM=1", "GORACE=atexit_sleep_ms=0")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// A pipe takes no more than it holds until the program reads, and by then
	// it ignores the signal.
	io.WriteString(stdin, strings.Repeat("filler\n", 300_000))
	cmd.Process.Signal(os.Interrupt)
	io.WriteString(stdin, "last words\n")
	stdin.Close()
	if err := cmd.Wait(); err != nil || out.String() != "last words\n" {
		t.Errorf("%q, %v", &out, err)
	}
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "RING_IS_THE_PROGRAM=1", "GORACE=atexit_sleep_ms=0")
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd.Stdin = dir
	if text, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(text), "is a directory") {
		t.Errorf("a directory: %q, %v", text, cmd.ProcessState)
	}
}
