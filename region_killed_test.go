//go:build linux

package mmap

import (
	"bufio"
	"os"
	"os/exec"
	"testing"
	"time"
)

// A run that is killed puts the size of the pool back.
func TestKilledRunPutsPoolBack(t *testing.T) {
	const file = "/proc/sys/vm/nr_hugepages"
	if os.Getenv("MMAP_TEST_CHILD") == t.Name() {
		setPool(t, 3)
		println("set")
		time.Sleep(time.Minute)
	}
	withHugePages(t, 2) // or the run may not
	if os.Getenv("MMAP_TEST_MACHINE") != "1" {
		t.Skip("MMAP_TEST_MACHINE=1 is not set")
	}
	for _, how := range []os.Signal{os.Interrupt, os.Kill} {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), "MMAP_TEST_CHILD="+t.Name())
		out, err := cmd.StderrPipe()
		check(t, err)
		check(t, cmd.Start())
		if s := bufio.NewScanner(out); !s.Scan() || s.Text() != "set" || content(file) != "3" {
			t.Errorf("%q, %s pages", s.Text(), content(file))
		}
		check(t, cmd.Process.Signal(how))
		cmd.Wait()
		for range 100 {
			if content(file) == "2" {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if is := content(file); is != "2" {
			t.Errorf("after %v the pool has %s pages", how, is)
		}
	}
}
