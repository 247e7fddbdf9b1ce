//go:build linux

package procmaps

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// cat starts cat(1), which sleeps when this returns, and never changes its table.
func cat(t *testing.T, command ...string) (cmd *exec.Cmd, send func()) {
	t.Helper()
	if len(command) == 0 {
		command = []string{"cat"}
	}
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Skip("another program is needed: ", err)
	}
	cmd = exec.Command(command[0], command[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	lines := bufio.NewReader(out)
	send = func() {
		t.Helper()
		if _, err := io.WriteString(in, "x\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	send()
	return cmd, send
}

// TestOtherTable does the same in a C program, which has what Go has not.
func TestOtherTable(t *testing.T) {
	cmd, _ := cat(t)
	table := compareTable(t, cmd.Process.Pid)
	for _, name := range []string{"[heap]", "[stack]", "[vdso]"} {
		if !slices.ContainsFunc(table, func(r Region) bool { return r.Name == name }) {
			t.Errorf("no %s in %v", name, table)
		}
	}
}

func TestExited(t *testing.T) {
	cmd, _ := cat(t)
	tables := []*Table{asking(t, cmd.Process.Pid), reading(t, cmd.Process.Pid)}
	expect := func(when string, want error) {
		t.Helper()
		for _, tab := range tables {
			for name, f := range map[string]func(uint64) (Region, bool, error){"At": tab.At, "Next": tab.Next} {
				if r, ok, err := f(1 << 20); ok || !errors.Is(err, want) {
					t.Errorf("%s: %s = %v, %v, %v; want %v", when, name, r, ok, err, want)
				}
			}
			for r, err := range tab.Regions() {
				if want == nil || !errors.Is(err, want) {
					t.Errorf("%s: Regions %v, %v; want %v", when, r, err, want)
				}
			}
		}
	}
	cmd.Process.Kill()
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	expect("exited", nil)
	cmd.Wait()
	expect("waited for", unix.ESRCH)
	if tables[0].noQuery.Load() {
		t.Error("ESRCH was taken for a kernel that cannot be asked")
	}
	if _, err := Open(cmd.Process.Pid); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open: %v", err)
	}
}

func TestExecuted(t *testing.T) {
	cmd, send := cat(t, "sh", "-c", "read a; echo $a; read a; echo $a; exec cat")
	tables := []*Table{asking(t, cmd.Process.Pid), reading(t, cmd.Process.Pid)}
	send()
	send() // this one cat answers
	for _, tab := range tables {
		if r, ok, err := tab.Next(0); ok || err != nil {
			t.Errorf("the table opened before has %v, %v", r, err)
		}
		for r, err := range tab.Regions() {
			t.Errorf("the table opened before has %v, %v", r, err)
		}
	}
	if r, ok, err := open(t, cmd.Process.Pid).Next(0); !ok || err != nil {
		t.Errorf("a new table has %v, %v", r, err)
	}
}

func TestOpenErrors(t *testing.T) {
	for _, pid := range []int{-1, 1 << 30} {
		if _, err := Open(pid); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Open(%d): %v", pid, err)
		}
	}
}

func TestOpenForbidden(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may trace every process")
	}
	st, err := os.Stat("/proc/1")
	if err != nil || st.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Skipf("process 1 is hidden or not root's: %v", err)
	}
	if _, err := Open(1); !errors.Is(err, os.ErrPermission) {
		t.Errorf("Open of a process of root: %v", err)
	}
}

func TestKernelThread(t *testing.T) {
	if name, err := os.ReadFile("/proc/2/comm"); err != nil || string(name) != "kthreadd\n" {
		t.Skipf("process 2 is not the kernel's: %q, %v", name, err)
	}
	tab, err := Open(2)
	if errors.Is(err, unix.ESRCH) || os.Geteuid() != 0 && errors.Is(err, os.ErrPermission) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer tab.Close()
	if r, ok, err := tab.Next(0); ok || err != nil {
		t.Errorf("a kernel thread has %v, %v", r, err)
	}
}
