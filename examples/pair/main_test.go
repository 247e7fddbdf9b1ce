package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the program, in both of its roles.
func TestMain(m *testing.M) {
	os.Setenv("GORACE", "atexit_sleep_ms=0") // or each consumer stays for a second
	if os.Args[0] == consumer || os.Getenv("PAIR_IS_THE_PROGRAM") != "" {
		main()
	}
	os.Exit(m.Run())
}

// call runs the program and returns what it printed, and its status.
func call(stdin io.Reader, args ...string) (stdout []byte, stderr string, status int) {
	var out, errs bytes.Buffer
	status = run(args, stdin, &out, &errs)
	return out.Bytes(), errs.String(), status
}

// process is the program as a process of its own.
func process(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "PAIR_IS_THE_PROGRAM=1")
	return cmd
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

func TestCopy(t *testing.T) {
	for _, n := range []int{0, 1, 4096, 100_000, size - header - 1, size - header, size - header + 1, 1_500_000} {
		data := random(n)
		for _, in := range []io.Reader{bytes.NewReader(data), iotest.DataErrReader(bytes.NewReader(data))} {
			if stdout, stderr, status := call(in); status != 0 || stderr != "" || !bytes.Equal(stdout, data) {
				t.Errorf("%d bytes: %d came out, status %d, %q", n, len(stdout), status, stderr)
			}
		}
		if n > 100_000 {
			continue // compressing is slow under the race detector
		}
		stdout, stderr, status := call(bytes.NewReader(data), "-z")
		z, err := gzip.NewReader(bytes.NewReader(stdout))
		if err != nil || status != 0 || stderr != "" {
			t.Errorf("%d bytes with -z: %v, status %d, %q", n, err, status, stderr)
			continue
		}
		if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes with -z: %d came out, %v", n, len(got), err)
		}
	}
}

// TestAtOnce: what goes in comes out before more goes in.
func TestAtOnce(t *testing.T) {
	stdin, in := io.Pipe()
	out, stdout := io.Pipe()
	status := make(chan int)
	go func() { status <- run(nil, stdin, stdout, io.Discard) }()
	for i := range 200 {
		line := fmt.Sprintf("line %d\n", i)
		io.WriteString(in, line)
		got := make([]byte, len(line))
		if _, err := io.ReadFull(out, got); err != nil || string(got) != line {
			t.Fatalf("%q, %v", got, err)
		}
	}
	in.Close()
	if got := <-status; got != 0 {
		t.Errorf("status %d", got)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"file"}, {"-z", "-z"}, {"-x"}} {
		if stdout, stderr, status := call(strings.NewReader("text"), args...); status != 2 || len(stdout) > 0 || stderr != "usage: pair [-z]\n" {
			t.Errorf("%q: status %d, %q, %q", args, status, stdout, stderr)
		}
	}
}

func TestStreams(t *testing.T) {
	// What came before a broken input comes out.
	in := io.MultiReader(strings.NewReader("some"), iotest.ErrReader(errors.New("broken input")))
	if stdout, stderr, status := call(in); status != 1 || string(stdout) != "some" || stderr != "pair: broken input\n" {
		t.Errorf("broken input: status %d, %q, %q", status, stdout, stderr)
	}
	// A consumer that cannot write ends all, though the input is idle.
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	cmd := process()
	cmd.Stdout = full
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(stdin, "text")
	cmd.Wait()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "no space left") || !strings.Contains(stderr.String(), "the consumer: exit status 1") {
		t.Errorf("full output: %v, %s", cmd.ProcessState, &stderr)
	}
}

// started starts the program, has it copy a line, and returns both processes.
func started(t *testing.T, args ...string) (cmd *exec.Cmd, child int, stdin io.WriteCloser, stdout io.Reader, stderr *bytes.Buffer) {
	t.Helper()
	cmd = process(args...)
	stderr = new(bytes.Buffer)
	cmd.Stderr = stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if stdout, err = cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(stdin, "line\n")
	if len(args) == 0 {
		if _, err := io.ReadFull(stdout, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
	}
	for range 1000 {
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", cmd.Process.Pid))
		for _, task := range tasks {
			children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", cmd.Process.Pid, task.Name()))
			child, _ = strconv.Atoi(strings.TrimSpace(string(children)))
			// It has another name before exec, and os has a child to test clone(2) with.
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", child))
			if bytes.HasPrefix(name, []byte(consumer+"\x00")) {
				return cmd, child, stdin, stdout, stderr
			}
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("no consumer")
	return
}

// TestConsumerKilled: the producer ends although its input does not.
func TestConsumerKilled(t *testing.T) {
	cmd, consumer, stdin, _, stderr := started(t)
	defer stdin.Close()
	syscall.Kill(consumer, syscall.SIGKILL)
	cmd.Wait()
	if cmd.ProcessState.ExitCode() != 1 || stderr.String() != "pair: the consumer: signal: killed\n" {
		t.Errorf("%v, %s", cmd.ProcessState, stderr)
	}
}

// TestProducerKilled: the consumer ends, and with -z does not write an end.
func TestProducerKilled(t *testing.T) {
	for _, args := range [][]string{nil, {"-z"}} {
		cmd, _, stdin, stdout, stderr := started(t, args...)
		defer stdin.Close()
		cmd.Process.Kill()
		rest, err := io.ReadAll(stdout) // ends when the consumer has
		if err != nil {
			t.Error(err)
		}
		cmd.Wait()
		if !strings.Contains(stderr.String(), "pair: the other process is gone") {
			t.Errorf("%q: the consumer said %q and wrote %q", args, stderr, rest)
		}
		if args != nil {
			z, err := gzip.NewReader(bytes.NewReader(rest))
			if err == nil {
				_, err = io.ReadAll(z)
			}
			if err == nil {
				t.Error("the compressed output looks whole")
			}
		}
	}
}

// TestIdle: waiting takes no time of a processor.
func TestIdle(t *testing.T) {
	cmd, consumer, stdin, _, _ := started(t)
	time.Sleep(50 * time.Millisecond)
	for _, pid := range []int{cmd.Process.Pid, consumer} {
		before := ticks(t, pid)
		time.Sleep(150 * time.Millisecond)
		if used := ticks(t, pid) - before; used > 5 {
			t.Errorf("process %d used %d ticks of 15", pid, used)
		}
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// ticks returns the processor time of a process, in hundredths of a second.
func ticks(t *testing.T, pid int) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return user + system
}

// gone is the bell of a process that has died.
type gone struct{}

func (gone) Read([]byte) (int, error)  { return 0, io.EOF }
func (gone) Write([]byte) (int, error) { return 0, unix.EPIPE }

// TestLies: a count that cannot be is an error and never an index.
func TestLies(t *testing.T) {
	try := func(who int, count uint64, use func(q *queue) error) error {
		f, err := mmap.Memfd("lies", size, mmap.SealShrink)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return attach(f, gone{}, who, func(q *queue) error {
			q.other.count.Store(count)
			return use(q)
		})
	}
	drain := func(q *queue) error { return q.drain(io.Discard) }
	fill := func(q *queue) error { return q.fill(bytes.NewReader(make([]byte, 2*size))) }
	for _, lie := range []uint64{size - header + 1, size, 1 << 32, 1 << 63, math.MaxUint64 - size} {
		if err := try(1, lie, drain); err != errQueue {
			t.Errorf("a producer that counts %d: %v", lie, err)
		}
		if err := try(0, lie, fill); err != errQueue {
			t.Errorf("a consumer that counts %d: %v", lie, err)
		}
	}
	// Any other number is just another state: here, of one who died too early.
	if err := try(1, 10, drain); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("a producer that died: %v", err)
	}
	if err := try(0, 0, fill); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("a consumer that died: %v", err)
	}
}

// A scripted bell calls itself instead of being rung.
type scripted func() error

func (s scripted) Read(p []byte) (int, error) {
	if err := s(); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (scripted) Write(p []byte) (int, error) { return len(p), nil }

// TestWait plays what the other side can do at the worst moment.
func TestWait(t *testing.T) {
	var mine, other side
	calls := 0
	var ring func() error
	q := &queue{&mine, &other, make([]byte, 16), scripted(func() error { calls++; return ring() })}
	then := func(states ...func() bool) func() bool {
		return func() bool {
			ready := states[0]
			if len(states) > 1 {
				states = states[1:]
			}
			return ready()
		}
	}
	no, yes := func() bool { return false }, func() bool { return true }
	rung := func() bool { mine.asleep.Store(0); return true }
	fine := func() error { return nil }
	for _, test := range []struct {
		name  string
		ready func() bool
		ring  func() error
		calls int
		fails bool
	}{
		{"ready", yes, fine, 0, false},
		{"ready before the sleep", then(no, yes), fine, 0, false},
		{"rung before the sleep", then(no, rung), fine, 1, false},
		{"rung in the sleep", then(no, no, yes), fine, 1, false},
		{"rung for nothing", then(no, no, no, no, yes), fine, 2, false},
		{"gone", no, func() error { return io.EOF }, 1, true},
		{"gone when all was done", then(no, no, yes), func() error { return io.EOF }, 1, false},
	} {
		calls, ring = 0, test.ring
		if err := q.wait(test.ready); (err != nil) != test.fails || calls != test.calls {
			t.Errorf("%s: %v, the bell was read %d times, want %d", test.name, err, calls, test.calls)
		}
	}
}

// TestSealed: nobody can truncate the queue.
func TestSealed(t *testing.T) {
	cmd, consumer, stdin, _, _ := started(t)
	defer cmd.Wait()
	defer stdin.Close()
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/3", consumer), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, length := range []int64{0, 4096, size + 1} {
		if err := f.Truncate(length); !errors.Is(err, os.ErrPermission) {
			t.Errorf("truncating to %d: %v", length, err)
		}
	}
}

// TestStray: a consumer that no producer started has nothing to map.
func TestStray(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Args[0] = consumer
	if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 1 || !bytes.HasPrefix(out, []byte("pair: mmap: ")) {
		t.Errorf("%v: %s", err, out)
	}
}
