//go:build linux && !portable

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

// TestMain looks for mappings that are left.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := mmap.ReadStats().Mappings; left != 0 {
		fmt.Println("mappings are left:", left)
		code = 1
	}
	os.Exit(code)
}

// TestTruncated takes the file away from under a reader and a writer.
func TestTruncated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	s, other := open(t, path), open(t, path+".other")
	page := os.Getpagesize()
	last := 4*page/recordSize - 1
	check(t, s.Put(last, [recordSize]byte{1}))
	check(t, os.Truncate(path, int64(page)))
	if err := s.View(func(records int, record func(i int) ([]byte, error)) error {
		r, err := record(records - 1)
		return errors.Join(err, fmt.Errorf("the first byte is %d", r[0]))
	}); !errors.Is(err, mmap.ErrTruncated) {
		t.Error("view: ", err)
	}
	if err := s.Compact(all); !errors.Is(err, mmap.ErrTruncated) {
		t.Error("compact: ", err)
	}
	if err := s.Put(last, [recordSize]byte{1}); !errors.Is(err, mmap.ErrTruncated) {
		t.Error("put: ", err)
	}
	check(t, s.Close())
	check(t, other.Put(0, [recordSize]byte{7}))
	mustHold(t, other, 7)
	check(t, other.Close())
}

// TestOldReaders: a transaction goes on with what it sees, whatever happens; nobody waits for it.
func TestOldReaders(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	check(t, s.Put(0, [recordSize]byte{1}))
	check(t, s.View(func(_ int, record func(i int) ([]byte, error)) error {
		r, err := record(0)
		check(t, err)
		check(t, s.Put(1<<16, [recordSize]byte{2}))
		check(t, s.Compact(func(r []byte) bool { return r[0] == 2 }))
		mustHold(t, s, 2)
		check(t, s.Close())
		if r[0] != 1 {
			t.Errorf("%v", r)
		}
		return nil
	}))
}

func TestCapacity(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	if err := s.Put(capacity/recordSize, [recordSize]byte{}); !errors.Is(err, mmap.ErrCapacity) {
		t.Error("beyond the capacity: ", err)
	}
	check(t, s.Put(0, [recordSize]byte{1}))
	mustHold(t, s, 1)
	check(t, s.Close())
}

// TestFullDisk: a full disk is an error of Put, and the store goes on.
func TestFullDisk(t *testing.T) {
	if os.Getenv("STORE_OWN_MOUNTS") == "" {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), "STORE_OWN_MOUNTS=1", "GORACE=atexit_sleep_ms=0")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWNS | unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		switch {
		case cmd.ProcessState == nil:
			t.Skip("a namespace of one's own is not allowed: ", err)
		case err == nil && bytes.Contains(out, []byte("--- SKIP")):
			t.Skip(string(out))
		case err != nil:
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("mounting a small tmpfs is not allowed: ", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s := open(t, filepath.Join(dir, "store"))
	err, puts := error(nil), 0
	for ; err == nil; puts++ {
		err = s.Put(puts, [recordSize]byte{byte(puts)})
	}
	if !errors.Is(err, unix.ENOSPC) || errors.Is(err, mmap.ErrFault) || puts < 10_000 {
		t.Errorf("put %d: %v", puts, err)
	}
	if err := s.Compact(all); !errors.Is(err, unix.ENOSPC) { // as long as both are there
		t.Error("compact: ", err)
	}
	check(t, s.View(func(records int, record func(i int) ([]byte, error)) error {
		r, err := record(1)
		if records != puts-1 || r[0] != 1 {
			t.Errorf("%d records after %d", records, puts-1)
		}
		return err
	}))
	check(t, unix.Mount("", dir, "", unix.MS_REMOUNT, "size=3m"))
	check(t, s.Put(puts, [recordSize]byte{9}))
	check(t, s.Compact(all))
	check(t, s.Close())
}
