package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

// call runs the program and returns what it printed, and its status.
func call(stdin io.Reader, args ...string) (stdout, stderr string, status int) {
	var out, errs bytes.Buffer
	status = run(args, stdin, &out, &errs)
	return out.String(), errs.String(), status
}

// mustAdd appends text to a log, and fails the test unless it is printed again.
func mustAdd(t *testing.T, path, text string) {
	t.Helper()
	stdout, stderr, status := call(strings.NewReader(text), path)
	if want := whole(text); stdout != want || stderr != "" || status != 0 {
		t.Fatalf("appending %.40q printed %.40q, %q; status %d", text, stdout, stderr, status)
	}
}

// mustRead fails the test unless the log has just these lines.
func mustRead(t *testing.T, path, want string) {
	t.Helper()
	stdout, stderr, status := call(nil, "-read", path)
	if stdout != want || stderr != "" || status != 0 {
		t.Fatalf("the log has %.80q, want %.80q; %q; status %d", stdout, want, stderr, status)
	}
}

// whole returns text with a newline at its end.
func whole(text string) string {
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text
}

// limits sets capacity and chunk for one test.
func limits(t *testing.T, c, k int) {
	t.Helper()
	oldCapacity, oldChunk := capacity, chunk
	capacity, chunk = c, k
	t.Cleanup(func() { capacity, chunk = oldCapacity, oldChunk })
}

func TestAppend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var want string
	for _, text := range []string{
		"", "one\n", "two\nthree\n", "no newline", "\n", "\n\n\n", "dos\r\n", "\x00\x00\x00\x00\x00\x00\x00\x00\n",
		"gr\xfcn\n", strings.Repeat("x", 100_000) + "\n", "",
	} {
		mustAdd(t, path, text)
		want += whole(text)
		mustRead(t, path, want)
	}
}

// TestGrowth has readers follow a log that outgrows its file many times.
func TestGrowth(t *testing.T) {
	limits(t, 1<<20, 8192)
	path := filepath.Join(t.TempDir(), "log")
	var text strings.Builder
	for i := 0; text.Len() < 700_000; i++ {
		fmt.Fprintf(&text, "%d %s\n", i, strings.Repeat("y", i%300))
	}
	mustAdd(t, path, text.String())
	mustRead(t, path, text.String())
	mustAdd(t, path, "after a restart\n")
	mustRead(t, path, text.String()+"after a restart\n")
}

// TestFollow: a line is printed, and in the file, before the next one comes.
func TestFollow(t *testing.T) {
	limits(t, 1<<20, 4096)
	path := filepath.Join(t.TempDir(), "log")
	stdin, lines := io.Pipe()
	printed, stdout := io.Pipe()
	status := make(chan int)
	var stderr bytes.Buffer
	go func() { status <- run([]string{path}, stdin, stdout, &stderr) }()
	want := ""
	for i := range 50 {
		line := fmt.Sprintf("%d %s\n", i, strings.Repeat("z", 40*i))
		want += line
		if _, err := io.WriteString(lines, line); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(line))
		if _, err := io.ReadFull(printed, got); err != nil || string(got) != line {
			t.Fatalf("printed %q, %v; want %q", got, err, line)
		}
		mustRead(t, path, want)
	}
	lines.Close()
	if got := <-status; got != 0 || stderr.Len() > 0 {
		t.Errorf("status %d: %s", got, &stderr)
	}
}

func TestFull(t *testing.T) {
	limits(t, 40_000, 16_384)
	path := filepath.Join(t.TempDir(), "log")
	line := strings.Repeat("l", 991) + "\n" // a record of 1000 bytes
	mustAdd(t, path, strings.Repeat(line, 39))
	stdout, stderr, status := call(strings.NewReader(strings.Repeat(line, 3)), path)
	if stdout != line || status != 1 || !strings.Contains(stderr, "full, with 40000 bytes of 40000") {
		t.Errorf("a full log: %d bytes, status %d, %q", len(stdout), status, stderr)
	}
	mustRead(t, path, strings.Repeat(line, 40)) // to the last byte
	capacity = 30_000
	if _, stderr, status = call(strings.NewReader(line), path); status != 1 || !strings.Contains(stderr, "capacity is below") {
		t.Errorf("a log above the capacity: status %d, %q", status, stderr)
	}
	capacity = 50_000
	mustAdd(t, path, line)
	mustRead(t, path, strings.Repeat(line, 41))
}

// TestNoSpace: a file that cannot have more blocks is an error, and no fault.
func TestNoSpace(t *testing.T) {
	f, err := mmap.Memfd("log", 0, mmap.SealGrow)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stdout, stderr, status := call(strings.NewReader("line\n"), fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if stdout != "" || status != 1 || !strings.Contains(stderr, "allocate") {
		t.Errorf("status %d, %q, %q", status, stdout, stderr)
	}
}

// TestTorn damages the last of three records in every way, and goes on.
func TestTorn(t *testing.T) {
	dir := t.TempDir()
	intact := filepath.Join(dir, "intact")
	mustAdd(t, intact, "first\nsecond\nthird\n")
	data, err := os.ReadFile(intact)
	if err != nil {
		t.Fatal(err)
	}
	start, end := 8+6+8+7, 8+6+8+7+8+6
	check := func(name string, damaged []byte, kept string, torn bool) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		stdout, stderr, status := call(nil, "-read", path)
		if says := strings.Contains(stderr, "no whole record at offset"); stdout != kept || says != torn || (status == 1) != torn {
			t.Errorf("%s: %q, %q, status %d", name, stdout, stderr, status)
		}
		mustAdd(t, path, "next\n")
		mustRead(t, path, kept+"next\n")
		os.Remove(path)
	}
	for cut := start; cut <= end; cut++ {
		kept, torn := "first\nsecond\n", cut > start
		if cut == end {
			kept, torn = kept+"third\n", false
		}
		check(fmt.Sprintf("cut at %d", cut), data[:cut], kept, torn)
	}
	for at := start; at < end; at++ {
		for _, bit := range []byte{1, 0x80} {
			damaged := bytes.Clone(data)
			damaged[at] ^= bit
			check(fmt.Sprintf("bit %#x of byte %d", bit, at), damaged, "first\nsecond\n", true)
		}
	}
	for _, length := range []string{"\xff\xff\xff\xff", "\xff\xff\xff\x7f", "\xf8\xff\xff\xff", "\x00\x00\x00\x00"} {
		damaged := bytes.Clone(data)
		copy(damaged[start:], length)
		check(fmt.Sprintf("length %x", length), damaged, "first\nsecond\n", true)
	}
	damaged := bytes.Clone(data)
	clear(damaged[start:end])
	check("zeros", damaged, "first\nsecond\n", false)
	// The record behind a torn one must not come back when one of the same
	// length takes the place of the torn one.
	damaged = bytes.Clone(data)
	damaged[8+6+8] ^= 1
	path := filepath.Join(dir, "resurrection")
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, path, "SECOND\n")
	mustRead(t, path, "first\nSECOND\n")
}

// TestOtherFiles: what is no log stays as it is.
func TestOtherFiles(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string]string{
		"short": "hi\n", "text": "some text, which is no log\n", "zeros": strings.Repeat("\x00", 100),
		"one zero": "\x00", "image": strings.Repeat("\x00", 40_000) + "CD001",
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{path}, {"-read", path}} {
			stdout, stderr, status := call(strings.NewReader("line\n"), args...)
			if stdout != "" || status != 1 || !strings.Contains(stderr, "no whole record at offset 0") {
				t.Errorf("%s: status %d, %q, %q", name, status, stdout, stderr)
			}
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != data {
			t.Errorf("%s has changed: %v", name, err)
		}
	}
}

func TestSecondWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	stdin, lines := io.Pipe()
	printed, stdout := io.Pipe()
	status := make(chan int)
	go func() { status <- run([]string{path}, stdin, stdout, io.Discard) }()
	io.WriteString(lines, "mine\n")
	io.ReadFull(printed, make([]byte, 5))
	out, stderr, second := call(strings.NewReader("yours\n"), path)
	if second != 1 || out != "" || !strings.Contains(stderr, "another writer") {
		t.Errorf("status %d, %q, %q", second, out, stderr)
	}
	lines.Close()
	if first := <-status; first != 0 {
		t.Errorf("the first writer: status %d", first)
	}
	mustRead(t, path, "mine\n")
}

// TestTruncated takes the file away from under a writer and its readers.
func TestTruncated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	stdin, lines := io.Pipe()
	printed, stdout := io.Pipe()
	status := make(chan int)
	var stderr bytes.Buffer
	go func() { status <- run([]string{path}, stdin, stdout, &stderr) }()
	io.WriteString(lines, "first\n")
	io.ReadFull(printed, make([]byte, 6))
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	io.WriteString(lines, "second\n")
	lines.Close()
	if got := <-status; got != 1 || !strings.Contains(stderr.String(), "past the end of the file") {
		t.Errorf("status %d, %s", got, &stderr)
	}
}

// TestZeroed: a record that is zeros when it is to be printed is missed.
func TestZeroed(t *testing.T) {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(64))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	end, err := put(nil, m, 0, []byte("line"))
	if err != nil {
		t.Fatal(err)
	}
	wake := make(chan bool, 1)
	wake <- true
	close(wake)
	var written atomic.Int64
	written.Store(int64(end + 20))
	var out bytes.Buffer
	if err := follow(m, 0, &written, wake, &out); !errors.Is(err, errTorn) || out.String() != "line\n" {
		t.Errorf("%q, %v", &out, err)
	}
}

func TestStreams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	// A reader that cannot print does not stop the log.
	var errs bytes.Buffer
	status := run([]string{path}, strings.NewReader("a\nb\n"), broken{}, &errs)
	if status != 1 || !strings.Contains(errs.String(), "broken output") {
		t.Errorf("broken output: status %d, %s", status, &errs)
	}
	mustRead(t, path, "a\nb\n")
	if status := run([]string{"-read", path}, nil, broken{}, io.Discard); status != 1 {
		t.Errorf("broken output of -read: status %d", status)
	}
	// What came before a broken input is kept, but not half a line.
	in := io.MultiReader(strings.NewReader("c\nhalf"), iotest.ErrReader(errors.New("broken input")))
	if stdout, stderr, status := call(in, path); status != 1 || stdout != "c\n" || !strings.Contains(stderr, "broken input") {
		t.Errorf("broken input: status %d, %q, %q", status, stdout, stderr)
	}
	mustRead(t, path, "a\nb\nc\n")
	// An endless line takes no endless memory.
	in = io.MultiReader(strings.NewReader("d\n"), endless{})
	if stdout, stderr, status := call(in, path); status != 1 || stdout != "d\n" || !strings.Contains(stderr, "longer than 1048576 bytes") {
		t.Errorf("endless line: status %d, %.20q, %q", status, stdout, stderr)
	}
	mustRead(t, path, "a\nb\nc\nd\n")
	mustAdd(t, path, strings.Repeat("e", 1<<20-1)+"\n")
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken output") }

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'e'
	}
	return len(p), nil
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing", "log")
	for _, test := range []struct {
		args   []string
		status int
		says   string
	}{
		{nil, 2, "usage: log"},
		{[]string{"-read"}, 2, "usage: log"},
		{[]string{"a", "b"}, 2, "usage: log"},
		{[]string{"-read", "a", "b"}, 2, "usage: log"},
		{[]string{missing}, 1, "no such file"},
		{[]string{"-read", missing}, 1, "no such file"},
		{[]string{""}, 1, "no such file"},
		{[]string{dir}, 1, "is a directory"},
		{[]string{"-read", dir}, 1, "is a directory"},
		{[]string{fifo}, 1, "no such device"},
		{[]string{"-read", fifo}, 1, "pipe"},
		{[]string{"/dev/null"}, 1, ""},
		{[]string{"-read", "/dev/zero"}, 1, "device"},
	} {
		stdout, stderr, status := call(strings.NewReader("line\n"), test.args...)
		if status != test.status || stdout != "" || !strings.Contains(stderr, test.says) || stderr == "" {
			t.Errorf("%q: status %d, want %d; %q, %q", test.args, status, test.status, stdout, stderr)
		}
	}
}

// TestMain lets the test binary be the program.
func TestMain(m *testing.M) {
	if os.Getenv("LOG_IS_THE_PROGRAM") != "" {
		main()
	}
	os.Exit(m.Run())
}

// TestKilled kills a writer, and the next one goes on behind it.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	process := func(args ...string) *exec.Cmd {
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env = append(os.Environ(), "LOG_IS_THE_PROGRAM=1", "GORACE=atexit_sleep_ms=0")
		return cmd
	}
	cmd := process(path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(stdin, "before\n")
	io.ReadFull(stdout, make([]byte, 7))
	cmd.Process.Kill()
	if err := cmd.Wait(); err == nil {
		t.Error("it was not killed")
	}
	mustRead(t, path, "before\n")
	cmd = process(path)
	cmd.Stdin = strings.NewReader("after")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "after\n" {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := process("-read", path).CombinedOutput(); err != nil || string(out) != "before\nafter\n" {
		t.Errorf("%q, %v", out, err)
	}
	var exit *exec.ExitError
	if _, err := process().Output(); !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("no arguments: %v", err)
	}
}
