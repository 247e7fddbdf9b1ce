//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// call runs the program and returns what it printed, and its status.
func call(args ...string) (stdout, stderr string, status int) {
	var out, errs bytes.Buffer
	status = run(args, &out, &errs)
	return out.String(), errs.String(), status
}

func TestTour(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	page := os.Getpagesize()
	for _, test := range []struct {
		name   string
		data   []byte
		mode   os.FileMode
		begins string
		copied string // the first bytes of the writable copy
	}{
		{"text", []byte("first\nsecond\n"), 0o600, `"first"`, "THIS IS A COP"},
		{"no newline", []byte("only"), 0o600, `"only"`, "THIS"},
		{"read-only", []byte("fixed\r\n"), 0o400, `"fixed"`, "THIS IS"},
		{"empty", nil, 0o600, "nothing, it is empty", ""},
		{"empty line", []byte("\nx"), 0o600, `""`, "TH"},
		{"binary", []byte("\x7fELF\x02"), 0o600, "no text, but 7f 45 4c 46 02", "THIS "},
		{"not UTF-8", []byte("gr\xfcn und blau, nicht\n"), 0o600, "no text, but 67 72 fc 6e 20 75 6e 64 20 62 6c 61 75 2c 20 6e", "THIS IS A COPY. "},
		{"replacement character", []byte("\uFFFD\n"), 0o600, `"` + "\uFFFD" + `"`, "THIS"},
		{"sixty", []byte(strings.Repeat("é", 60)), 0o600, `"` + strings.Repeat("é", 60) + `"`, "THIS IS A COPY. "},
		{"long line", bytes.Repeat([]byte("😀"), page), 0o600, `"` + strings.Repeat("😀", 60) + `"`, "THIS IS A COPY. "},
		{"one page", bytes.Repeat([]byte("p\n"), page/2), 0o600, `"p"`, "THIS IS A COPY. "},
		{"many pages", bytes.Repeat([]byte("q\n"), 3*page+5), 0o600, `"q"`, "THIS IS A COPY. "},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), test.name)
			if err := os.WriteFile(path, test.data, test.mode); err != nil {
				t.Fatal(err)
			}
			stdout, stderr, status := call(path)
			if status != 0 || stderr != "" {
				t.Errorf("status %d, stderr %q", status, stderr)
			}
			// The expected lines come in this order.
			rest := stdout
			head := min(len(test.data), page)
			for _, line := range []string{
				fmt.Sprintf("   %q has %d bytes.\n", path, len(test.data)),
				"   It begins: " + test.begins,
				fmt.Sprintf("   SHA-256: %x\n", sha256.Sum256(test.data)),
				fmt.Sprintf("   %d bytes and %d bytes.\n", head, len(test.data)-head),
				"handle was consumed by a transition\n",
				fmt.Sprintf("   In memory it begins: %q\n", test.copied),
				fmt.Sprintf("   The file did not change: it begins with the same %d bytes as before.\n", head),
				"   Inside a view: mmap: protect as r--: mapping is in use\n",
				fmt.Sprintf("   Read %d of %d bytes: mmap: memory fault at 0x", page, 2*page),
				fmt.Sprintf("offset %d of ", page), ": page is past the end of the file\n",
				"This one goes on, and ends here.\n",
			} {
				_, after, found := strings.Cut(rest, line)
				if !found {
					t.Fatalf("no %q in its place in\n%s", line, stdout)
				}
				rest = after
			}
			if rest != "" {
				t.Errorf("more than the end: %q", rest)
			}
			// What the kernel says: writable after Protect only, always
			// private, and the scratch file as it came. An empty mapping has
			// no pages.
			var perms []string
			for line := range strings.Lines(stdout) {
				if kernel, ok := strings.CutPrefix(line, "   kernel: "); ok && !strings.HasPrefix(kernel, "nothing") {
					perms = append(perms, strings.Fields(kernel)[1])
				}
			}
			want := "r--p r--p rw-p rw-p r--p r--p" // file, head, page, page, scratch, scratch
			switch {
			case len(test.data) == 0:
				want = "r--p r--p"
			case len(test.data) > page:
				want = "r--p r--p r--p rw-p rw-p r--p r--p"
			}
			if got := strings.Join(perms, " "); got != want {
				t.Errorf("the kernel said %s, want %s", got, want)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, test.data) {
				t.Errorf("the file changed: %v", err)
			}
		})
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) != 0 {
		t.Errorf("the scratch directory holds %v, %v", left, err)
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		args   []string
		status int
		says   string
	}{
		{"no argument", nil, 2, "usage: tour FILE"},
		{"two arguments", []string{"a", "b"}, 2, "usage: tour FILE"},
		{"missing", []string{filepath.Join(dir, "missing")}, 1, "no such file or directory"},
		{"empty name", []string{""}, 1, "no such file or directory"},
		{"directory", []string{dir}, 1, "is a directory"},
		{"device", []string{"/dev/zero"}, 1, "a device has no length of its own"},
		{"FIFO", []string{fifo}, 1, "a pipe or socket cannot be mapped"},
		{"/sys", []string{"/sys/devices/system/cpu/online"}, 1, "read it instead"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := os.Stat("/sys/devices"); err != nil && test.name == "/sys" {
				t.Skip(err)
			}
			stdout, stderr, status := call(test.args...)
			if status != test.status || stdout != "" {
				t.Errorf("status %d, want %d; stdout %q", status, test.status, stdout)
			}
			if !strings.Contains(stderr, test.says) || strings.Count(stderr, "\n") != 1 || !strings.HasSuffix(stderr, "\n") {
				t.Errorf("stderr %q, want one line with %q", stderr, test.says)
			}
		})
	}
}

// TestMain lets the test binary be the program, so that the exit status and the
// two streams are those of a process.
func TestMain(m *testing.M) {
	if os.Getenv("TOUR_IS_THE_PROGRAM") != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args   []string
		status int
		stdout string
		stderr string
	}{
		{[]string{path}, 0, `It begins: "hello"`, ""},
		{nil, 2, "", "usage: "},
		{[]string{path + "-missing"}, 1, "", "tour: "},
	} {
		cmd := exec.Command(os.Args[0], test.args...)
		cmd.Env = append(os.Environ(), "TOUR_IS_THE_PROGRAM=1")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		if got := cmd.ProcessState.ExitCode(); got != test.status {
			t.Errorf("%q: exit status %d, want %d: %s", test.args, got, test.status, &stderr)
		}
		if !strings.Contains(stdout.String(), test.stdout) || !strings.HasPrefix(stderr.String(), test.stderr) ||
			(test.stdout == "") != (stdout.Len() == 0) || (test.stderr == "") != (stderr.Len() == 0) {
			t.Errorf("%q: stdout %q, stderr %q", test.args, &stdout, &stderr)
		}
	}
}
