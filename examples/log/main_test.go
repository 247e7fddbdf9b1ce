//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

// call runs the program and returns what it printed, and what went wrong.
func call(stdin io.Reader, path string) (string, error) {
	var out bytes.Buffer
	err := add(path, stdin, &out)
	return out.String(), err
}

// fails reports whether err says so.
func fails(err error, says string) bool { return err != nil && strings.Contains(err.Error(), says) }

// mustAdd appends text to a log, and fails the test unless it is printed behind
// the old lines.
func mustAdd(t *testing.T, path, text string) {
	t.Helper()
	old, _ := content(t, path)
	if stdout, err := call(strings.NewReader(text), path); err != nil || stdout != old+whole(text) {
		t.Fatalf("appending %.40q printed %.80q, want %.80q; %v", text, stdout, old+whole(text), err)
	}
}

// mustHold fails the test unless the file has just these lines, and no torn one.
func mustHold(t *testing.T, path, want string) {
	t.Helper()
	if got, rest := content(t, path); got != want || len(bytes.Trim(rest, "\x00")) > 0 {
		t.Fatalf("the log has %.80q, want %.80q; and behind that %.40q", got, want, rest)
	}
}

// content reads a log without any of the program: its whole lines, and the rest.
func content(t *testing.T, path string) (lines string, rest []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var text strings.Builder
	for len(data) >= 8 {
		n := uint64(data[0]) | uint64(data[1])<<8 | uint64(data[2])<<16 | uint64(data[3])<<24
		if n == 0 || n > uint64(len(data)-8) {
			break
		}
		line := data[8 : 8+n]
		if sum := crc32.ChecksumIEEE(line); !bytes.Equal(data[4:8], []byte{byte(sum), byte(sum >> 8), byte(sum >> 16), byte(sum >> 24)}) {
			break
		}
		text.Write(line)
		data = data[8+n:]
	}
	return text.String(), data
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
		"", "one\n", "two\nthree\n", "no newline", "\n", "\n\n\n", "\x00\x00\x00\x00\x00\x00\x00\x00\n",
		"gr\xfcn\n", strings.Repeat("x", bufio.MaxScanTokenSize-1) + "\n", "",
	} {
		mustAdd(t, path, text)
		want += whole(text)
		mustHold(t, path, want)
	}
}

// TestGrowth has a reader follow a log that outgrows its file many times.
func TestGrowth(t *testing.T) {
	limits(t, 1<<20, 8192)
	path := filepath.Join(t.TempDir(), "log")
	var text strings.Builder
	for i := 0; text.Len() < 700_000; i++ {
		fmt.Fprintf(&text, "%d %s\n", i, strings.Repeat("y", i%300))
	}
	mustAdd(t, path, text.String())
	mustHold(t, path, text.String())
	mustAdd(t, path, "after a restart\n")
	mustHold(t, path, text.String()+"after a restart\n")
}

// writing starts a writer. Its input and its output are pipes, and result waits
// for it, once its input is closed.
func writing(path string) (stdin *io.PipeWriter, stdout *io.PipeReader, result func() error) {
	in, stdin := io.Pipe()
	stdout, out := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- add(path, in, out) }()
	return stdin, stdout, func() error { stdin.Close(); return <-done }
}

// mustPrint fails the test unless the line that goes in comes out, before another does.
func mustPrint(t *testing.T, in io.Writer, out io.Reader, line string) {
	t.Helper()
	if _, err := io.WriteString(in, line); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(out, got); err != nil || string(got) != line {
		t.Fatalf("printed %q, %v; want %q", got, err, line)
	}
}

// TestFollow: a line is printed, and in the file, before the next one comes; and
// what is printed is on the disk.
func TestFollow(t *testing.T) {
	limits(t, 1<<20, 4096)
	path := filepath.Join(t.TempDir(), "log")
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &fs); err != nil {
		t.Fatal(err)
	}
	disk := fs.Type != unix.TMPFS_MAGIC // whose pages are never clean
	if !disk {
		t.Log("not tested that what is printed is on the disk: a tmpfs has none")
	}
	stdin, stdout, result := writing(path)
	want := ""
	for i := range 50 {
		line := fmt.Sprintf("%d %s\n", i, strings.Repeat("z", 40*i))
		want += line
		mustPrint(t, stdin, stdout, line)
		if n := dirty(t, path); disk && n != 0 {
			t.Fatalf("line %d is printed, but %d kB are not on the disk", i, n)
		}
		mustHold(t, path, want)
	}
	if err := result(); err != nil {
		t.Error(err)
	}
}

// dirty returns how many kB of the mapping of a file are still to be written.
func dirty(t *testing.T, path string) (n int) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	_, entry, ok := strings.Cut(string(table), path+"\n")
	if !ok {
		t.Fatal("the log is not mapped")
	}
	for line := range strings.Lines(entry) {
		if f := strings.Fields(line); f[0] == "Shared_Dirty:" || f[0] == "Private_Dirty:" {
			kB, _ := strconv.Atoi(f[1])
			n += kB
		} else if f[0] == "VmFlags:" {
			return n
		}
	}
	t.Fatal("half an entry")
	return 0
}

func TestFull(t *testing.T) {
	limits(t, 40_000, 16_384)
	path := filepath.Join(t.TempDir(), "log")
	line := strings.Repeat("l", 991) + "\n" // a record of 1000 bytes
	mustAdd(t, path, strings.Repeat(line, 39))
	stdout, err := call(strings.NewReader(strings.Repeat(line, 3)), path)
	if stdout != strings.Repeat(line, 40) || !errors.Is(err, mmap.ErrCapacity) || !fails(err, "the log cannot grow: ") || !fails(err, "40000") {
		t.Errorf("a full log: %d bytes, %v", len(stdout), err)
	}
	mustHold(t, path, strings.Repeat(line, 40)) // to the last byte
	mustAdd(t, path, "")
	capacity = 30_000
	if stdout, err := call(strings.NewReader(line), path); stdout != "" || !fails(err, "capacity is below") {
		t.Errorf("a log above the capacity: %d bytes, %v", len(stdout), err)
	}
	mustHold(t, path, strings.Repeat(line, 40))
	capacity = 50_000
	mustAdd(t, path, line)
	mustHold(t, path, strings.Repeat(line, 41))
}

// TestNoSpace: a file that cannot have more blocks is an error, and no fault.
func TestNoSpace(t *testing.T) {
	f, err := mmap.Memfd("log", 0, mmap.SealGrow)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stdout, err := call(strings.NewReader("line\n"), fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if stdout != "" || !fails(err, "allocate") || errors.Is(err, mmap.ErrFault) {
		t.Errorf("%q, %v", stdout, err)
	}
}

// TestBlocks: the file has the blocks of all that is mapped, so that writing
// cannot fault; also where it lost them, in a copy that leaves zeros out.
func TestBlocks(t *testing.T) {
	limits(t, 1<<20, 1<<18)
	path := filepath.Join(t.TempDir(), "log")
	mustAdd(t, path, "line\n")
	for _, restart := range []bool{false, true} {
		if restart {
			if err := os.Truncate(path, 4096); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(path, 1<<18); err != nil {
				t.Fatal(err)
			}
			mustAdd(t, path, "")
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		if st.Size != 1<<18 || st.Blocks*512 < st.Size {
			t.Errorf("restart %v: %d bytes in blocks of %d bytes", restart, st.Size, st.Blocks*512)
		}
	}
}

// TestTorn damages the last of three records in every way, and goes on.
func TestTorn(t *testing.T) {
	dir := t.TempDir()
	intact := filepath.Join(dir, "intact")
	limits(t, 1<<20, 100)
	mustAdd(t, intact, "first\nsecond\nthird\n")
	data, err := os.ReadFile(intact)
	if err != nil {
		t.Fatal(err)
	}
	start, end := 8+6+8+7, 8+6+8+7+8+6
	check := func(name string, damaged []byte, kept, next string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if stdout, err := call(strings.NewReader(next), path); err != nil || stdout != kept+next {
			t.Errorf("%s: printed %q, want %q; %v", name, stdout, kept+next, err)
		}
		mustHold(t, path, kept+next)
		os.Remove(path)
	}
	for cut := start; cut <= end; cut++ {
		kept := "first\nsecond\n"
		if cut == end {
			kept += "third\n"
		}
		check(fmt.Sprintf("cut at %d", cut), data[:cut], kept, "next\n")
		if cut < end {
			check(fmt.Sprintf("cut at %d, and left", cut), data[:cut], kept, "")
		}
	}
	for at := start; at < end; at++ {
		for _, bit := range []byte{1, 0x80} {
			damaged := bytes.Clone(data)
			damaged[at] ^= bit
			check(fmt.Sprintf("bit %#x of byte %d", bit, at), damaged, "first\nsecond\n", "next\n")
		}
	}
	for _, length := range []string{"\xff\xff\xff\xff", "\xff\xff\xff\x7f", "\xf8\xff\xff\xff", "\x00\x00\x00\x00"} {
		damaged := bytes.Clone(data)
		copy(damaged[start:], length)
		check(fmt.Sprintf("length %x", length), damaged, "first\nsecond\n", "next\n")
	}
	damaged := bytes.Clone(data)
	clear(damaged[start:end])
	check("zeros", damaged, "first\nsecond\n", "next\n")
	// The record behind a torn one must not come back when one of the same
	// length takes the place of the torn one.
	damaged = bytes.Clone(data)
	damaged[8+6+8] ^= 1
	check("resurrection", damaged, "first\n", "SECOND\n")
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
		if stdout, err := call(strings.NewReader("line\n"), path); stdout != "" || !fails(err, "not a log") {
			t.Errorf("%s: %q, %v", name, stdout, err)
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != data {
			t.Errorf("%s has changed: %v", name, err)
		}
	}
}

func TestSecondWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	stdin, stdout, result := writing(path)
	mustPrint(t, stdin, stdout, "mine\n")
	if out, err := call(strings.NewReader("yours\n"), path); out != "" || !fails(err, "another writer") {
		t.Errorf("%q, %v", out, err)
	}
	if err := result(); err != nil {
		t.Errorf("the first writer: %v", err)
	}
	mustHold(t, path, "mine\n")
}

// TestTruncated takes the file away from under a writer and its reader.
func TestTruncated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	stdin, stdout, result := writing(path)
	mustPrint(t, stdin, stdout, "first\n")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	io.WriteString(stdin, "second\n")
	if err := result(); !errors.Is(err, mmap.ErrTruncated) {
		t.Error(err)
	}
}

// TestZeroed: a record that is zeros when it is to be printed is missed.
func TestZeroed(t *testing.T) {
	m, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(64))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var end atomic.Int64
	if err := put(nil, m, &end, "line\n"); err != nil || end.Load() != 8+5 {
		t.Fatalf("end %d, %v", end.Load(), err)
	}
	end.Add(20)
	wake := make(chan bool)
	close(wake)
	var out bytes.Buffer
	if err := follow(m, &end, wake, &out); !fails(err, "no whole record at offset 13") || out.String() != "line\n" {
		t.Errorf("%q, %v", &out, err)
	}
}

func TestStreams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	// A reader that cannot print does not stop the log.
	if err := add(path, strings.NewReader("a\nb\nc\nd\n"), broken{}); !fails(err, "broken output") {
		t.Errorf("broken output: %v", err)
	}
	mustHold(t, path, "a\nb\nc\nd\n")
	// Nor does one that waits, and it has all in the end.
	in, lines := io.Pipe()
	out, stdout := io.Pipe()
	done := make(chan error, 1)
	path += "2"
	go func() { done <- add(path, in, stdout); stdout.Close() }()
	for i := range 1000 {
		fmt.Fprintln(lines, i)
	}
	lines.Close()
	printed, _ := io.ReadAll(out)
	if err := <-done; err != nil || len(printed) != 10*2+90*3+900*4 {
		t.Errorf("a slow reader: %d bytes, %v", len(printed), err)
	}
	// What came before a broken input is kept.
	path += "3"
	broken := io.MultiReader(strings.NewReader("c\n"), iotest.ErrReader(errors.New("broken input")))
	if stdout, err := call(broken, path); stdout != "c\n" || !fails(err, "broken input") {
		t.Errorf("broken input: %q, %v", stdout, err)
	}
	// An endless line takes no endless memory.
	if stdout, err := call(io.MultiReader(strings.NewReader("d\n"), endless{}), path); stdout != "c\nd\n" || !errors.Is(err, bufio.ErrTooLong) {
		t.Errorf("endless line: %.20q, %v", stdout, err)
	}
	mustHold(t, path, "c\nd\n")
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
	for path, says := range map[string]string{
		filepath.Join(dir, "missing", "log"): "no such file",
		"":                                   "no such file",
		dir:                                  "is a directory",
		fifo:                                 "pipe",
		"/dev/null":                          "device",
	} {
		if stdout, err := call(strings.NewReader("line\n"), path); stdout != "" || !fails(err, says) {
			t.Errorf("%q: %q, %v", path, stdout, err)
		}
	}
}

// TestMain lets the test binary be the program.
func TestMain(m *testing.M) {
	if os.Getenv("LOG_IS_THE_PROGRAM") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// process is the program as a process of its own.
func process(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "LOG_IS_THE_PROGRAM=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

func TestStatus(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for _, test := range []struct {
		args           []string
		status         int
		stdout, stderr string
	}{
		{nil, 2, "", "usage: log FILE\n"},
		{[]string{"a", "b"}, 2, "", "usage: log FILE\n"},
		{[]string{path}, 0, "line\n", ""},
		{[]string{"/"}, 1, "", "log: /: open /: is a directory\n"},
	} {
		var stdout, stderr bytes.Buffer
		cmd := process(test.args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("line"), &stdout, &stderr
		cmd.Run()
		if status := cmd.ProcessState.ExitCode(); status != test.status || stdout.String() != test.stdout || stderr.String() != test.stderr {
			t.Errorf("%q: status %d, %q, %q", test.args, status, &stdout, &stderr)
		}
	}
}

// TestKilled kills writers at work. What they printed is in the log, which is what
// they got from its start on, and the next one goes on behind it.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var got strings.Builder // all lines that were kept
	for round := range 5 {
		old := got.String()
		var input strings.Builder
		for i := range 20_000 {
			fmt.Fprintf(&input, "%d %d %s\n", round, i, strings.Repeat("k", i%50))
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
		go io.WriteString(stdin, input.String())
		printed := make([]byte, len(old)+1+round*5000)
		n, _ := io.ReadFull(stdout, printed)
		cmd.Process.Kill()
		rest, _ := io.ReadAll(stdout)
		if cmd.Wait() == nil {
			t.Error("it was not killed")
		}
		printed = append(printed[:n], rest...)
		kept, _ := content(t, path)
		if !strings.HasPrefix(kept, string(printed)) {
			t.Fatalf("round %d: %d bytes were printed, and are not in the log", round, len(printed))
		}
		if !strings.HasPrefix(old+input.String(), kept) || !strings.HasSuffix(kept, "\n") {
			t.Fatalf("round %d: the log has what it did not get", round)
		}
		got.Reset()
		got.WriteString(kept)
	}
	mustAdd(t, path, "after")
	mustHold(t, path, got.String()+"after\n")
}
