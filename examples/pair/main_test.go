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
	"syscall"
	"testing"
	"time"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the program, in both of its roles, and a
// consumer that lies.
func TestMain(m *testing.M) {
	os.Setenv("GORACE", "atexit_sleep_ms=0") // or each process stays for a second
	if lie := os.Getenv("PAIR_CONSUMER_LIES"); os.Args[0] == consumer && lie != "" {
		used, _ := strconv.ParseInt(lie, 10, 32)
		os.Exit(liar(int32(used)))
	}
	if os.Args[0] == consumer || os.Getenv("PAIR_IS_THE_PROGRAM") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// process is the program as a process of its own.
func process(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "PAIR_IS_THE_PROGRAM=1")
	return cmd
}

// call runs the program and returns what it printed, and its status.
func call(stdin io.Reader, args ...string) (stdout []byte, stderr string, status int) {
	var out, errs bytes.Buffer
	cmd := process(args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	cmd.Run()
	return out.Bytes(), errs.String(), cmd.ProcessState.ExitCode()
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

func TestCopy(t *testing.T) {
	room := len(slot{}.data)
	for _, n := range []int{0, 1, room - 1, room, room + 1, slots * room, slots*slotSize + 1, 2_500_000} {
		data := random(n)
		if stdout, stderr, status := call(bytes.NewReader(data)); status != 0 || stderr != "" || !bytes.Equal(stdout, data) {
			t.Errorf("%d bytes: %d came out, status %d, %q", n, len(stdout), status, stderr)
		}
		file, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.WriteAt(data, 0); err != nil { // and its offset is still 0
			t.Fatal(err)
		}
		if stdout, stderr, status := call(file); status != 0 || stderr != "" || !bytes.Equal(stdout, data) {
			t.Errorf("a file of %d bytes: %d came out, status %d, %q", n, len(stdout), status, stderr)
		}
	}
}

// TestAtOnce: what goes in comes out before more goes in.
func TestAtOnce(t *testing.T) {
	cmd, _, in, out, _ := started(t)
	for i := range 20 * slots {
		line := fmt.Sprintf("line %d\n", i)
		io.WriteString(in, line)
		got := make([]byte, len(line))
		if _, err := io.ReadFull(out, got); err != nil || string(got) != line {
			t.Fatalf("%q, %v", got, err)
		}
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"file"}, {"-z"}, {"a", "b"}} {
		if stdout, stderr, status := call(strings.NewReader("text"), args...); status != 2 || len(stdout) > 0 || stderr != "usage: pair <FILE >COPY\n" {
			t.Errorf("%q: status %d, %q, %q", args, status, stdout, stderr)
		}
	}
}

func TestStreams(t *testing.T) {
	// An input that cannot be read.
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if stdout, stderr, status := call(dir); status != 1 || len(stdout) > 0 || stderr != "pair: read /dev/stdin: is a directory\n" {
		t.Errorf("a directory: status %d, %q, %q", status, stdout, stderr)
	}
	// What came before a broken input comes out: here the reset of a connection.
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	in, peer := os.NewFile(uintptr(ends[0]), "in"), os.NewFile(uintptr(ends[1]), "peer")
	defer in.Close()
	in.WriteString("never read") // so that the end is an error
	peer.WriteString("some")
	peer.Close()
	if stdout, stderr, status := call(in); status != 1 || string(stdout) != "some" || !strings.Contains(stderr, "connection reset") {
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
func started(t *testing.T) (cmd *exec.Cmd, child int, stdin io.WriteCloser, stdout io.Reader, stderr *bytes.Buffer) {
	t.Helper()
	cmd = process()
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
	if _, err := io.ReadFull(stdout, make([]byte, 5)); err != nil {
		t.Fatal(err)
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

// TestConsumerKilled: the producer ends although its input does not, whether it
// waits for that or for the consumer.
func TestConsumerKilled(t *testing.T) {
	for _, input := range []int{0, 2 * slots * slotSize} {
		cmd, consumer, stdin, stdout, stderr := started(t)
		go stdin.Write(make([]byte, input)) // nobody reads the output of it
		if input > 0 {
			time.Sleep(50 * time.Millisecond)
		}
		syscall.Kill(consumer, syscall.SIGKILL)
		io.Copy(io.Discard, stdout)
		cmd.Wait()
		stdin.Close()
		if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "the consumer: signal: killed\n") {
			t.Errorf("%v, %s", cmd.ProcessState, stderr)
		}
	}
}

// TestProducerKilled: the consumer ends, and says why, when it has written all.
func TestProducerKilled(t *testing.T) {
	for _, input := range []int{0, 1, slots * slotSize / 2} {
		cmd, _, stdin, stdout, stderr := started(t)
		stdin.Write(make([]byte, input))
		time.Sleep(20 * time.Millisecond)
		cmd.Process.Kill()
		rest, err := io.ReadAll(stdout) // ends when the consumer has
		if err != nil {
			t.Error(err)
		}
		cmd.Wait()
		stdin.Close()
		// What the pipe still had is lost with the producer.
		if !strings.HasPrefix(stderr.String(), "pair: the other process is gone: ") || len(rest) > input || input == 1 && len(rest) != 1 {
			t.Errorf("%d of %d bytes, %s", len(rest), input, stderr)
		}
	}
}

// TestIdle: waiting takes no time of a processor.
func TestIdle(t *testing.T) {
	cmd, consumer, stdin, stdout, _ := started(t)
	for _, input := range []int{0, 2 * slots * slotSize} { // then both wait, but for the output
		go stdin.Write(make([]byte, input))
		time.Sleep(50 * time.Millisecond)
		var before []int
		for _, pid := range []int{cmd.Process.Pid, consumer} {
			before = append(before, ticks(t, pid))
		}
		time.Sleep(150 * time.Millisecond)
		for i, pid := range []int{cmd.Process.Pid, consumer} {
			if used := ticks(t, pid) - before[i]; used > 5 {
				t.Errorf("process %d used %d ticks of 15", pid, used)
			}
		}
	}
	if n, err := io.ReadFull(stdout, make([]byte, 2*slots*slotSize)); err != nil {
		t.Errorf("%d bytes, %v", n, err)
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

// numbers are what no slot can have used.
var numbers = []int32{slotSize - 4 + 1, slotSize, 1 << 30, math.MaxInt32, -1, math.MinInt32}

// rigged returns a queue, its slots as the other side sees them, and that side's bell.
func rigged(t *testing.T) (f, bell, other *os.File, queue []slot) {
	t.Helper()
	f, err := mmap.Memfd("rigged", slots*slotSize, mmap.SealShrink)
	if err != nil {
		t.Fatal(err)
	}
	m, err := mmap.Map[mmap.ReadWrite](mmap.File(f, 0, slots*slotSize).Shared())
	if err != nil {
		t.Fatal(err)
	}
	if queue, err = mmap.Slice[slot](m.UnsafeBytes()); err != nil {
		t.Fatal(err)
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	bell, other = os.NewFile(uintptr(ends[0]), "bell"), os.NewFile(uintptr(ends[1]), "bell")
	t.Cleanup(func() { m.Close(); f.Close(); bell.Close(); other.Close() })
	return f, bell, other, queue
}

// TestLies: a number that cannot be is an error and never an index, to either side.
func TestLies(t *testing.T) {
	for _, number := range numbers {
		f, bell, other, queue := rigged(t)
		queue[0].used.Store(0)
		queue[1].used.Store(number)
		other.Write(make([]byte, 2))
		calls := 0
		err := turns(f, bell, func(data []byte, used int) (int, error) {
			calls++
			if used != 0 || len(data) != slotSize-4 {
				t.Errorf("it got %d bytes, of which %d are used", len(data), used)
			}
			return 7, nil
		})
		if err == nil || !strings.Contains(err.Error(), "broken the queue") || calls != 1 || queue[0].used.Load() != 7 {
			t.Errorf("%d: %v, %d calls", number, err, calls)
		}
	}
}

// TestConsumerLies: the producer says so, and ends although its input does not.
func TestConsumerLies(t *testing.T) {
	zero, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer zero.Close()
	for _, number := range numbers[:2] {
		cmd := process()
		cmd.Env = append(cmd.Env, fmt.Sprintf("PAIR_CONSUMER_LIES=%d", number))
		cmd.Stdin = zero
		out, _ := cmd.CombinedOutput()
		if want := "pair: the other process has broken the queue\nthe consumer: exit status 1\n"; cmd.ProcessState.ExitCode() != 1 || string(out) != want {
			t.Errorf("%v: %s", cmd.ProcessState, out)
		}
	}
}

// liar is a consumer that lies about each slot, and goes when the producer does.
func liar(used int32) int {
	f, bell := os.NewFile(3, "queue"), os.NewFile(4, "bell")
	m, err := mmap.Map[mmap.ReadWrite](mmap.File(f, 0, slots*slotSize).Shared())
	if err != nil {
		return 3
	}
	queue, err := mmap.Slice[slot](m.UnsafeBytes())
	if err != nil {
		return 3
	}
	for i := range queue {
		queue[i].used.Store(used)
	}
	bell.Write(make([]byte, 1))
	io.Copy(io.Discard, bell)
	return 1
}

// TestGone: who has no more work, and whose other side has died, does not wait.
func TestGone(t *testing.T) {
	f, bell, other, queue := rigged(t)
	queue[0].used.Store(3)
	queue[1].used.Store(4)
	other.Write(make([]byte, 2))
	other.Close()
	var got []int // what was there before it died
	err := turns(f, bell, func(_ []byte, used int) (int, error) { got = append(got, used); return 0, nil })
	if err == nil || !strings.Contains(err.Error(), "is gone") || fmt.Sprint(got) != "[3 4]" {
		t.Errorf("%v, %v", got, err)
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
	for _, length := range []int64{0, 4096, slots*slotSize + 1} {
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
