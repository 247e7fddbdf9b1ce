//go:build linux && !portable

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
	page := int64(os.Getpagesize())
	check(t, s.Put("a", make([]byte, 4*page)))
	check(t, s.Put("b", []byte("2")))
	check(t, os.Truncate(path, page))
	if _, err := s.Get("b"); !errors.Is(err, mmap.ErrTruncated) {
		t.Error("get: ", err)
	}
	if err := s.Compact(); !errors.Is(err, mmap.ErrTruncated) {
		t.Error("compact: ", err)
	}
	if err := s.Put("c", []byte("3")); !errors.Is(err, mmap.ErrTruncated) {
		t.Error("put: ", err)
	}
	check(t, s.Close())
	check(t, other.Put("still", []byte("here")))
	mustHold(t, other, "still=here")
	check(t, other.Close())
}

// TestOldReaders: a view goes on with what it sees, whatever happens; nobody waits for it.
func TestOldReaders(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"))
	check(t, s.Put("a", []byte("1")))
	f := s.now.Load()
	check(t, f.ViewRange(f.end-1, 1, func(b []byte) error {
		check(t, s.Put("a", bytes.Repeat([]byte("2"), 3<<20)))
		check(t, s.Compact())
		check(t, s.Close())
		if string(b) != "1" {
			t.Errorf("%q", b)
		}
		return nil
	}))
}

func TestLimits(t *testing.T) {
	oldCapacity, oldChunk := capacity, chunk
	capacity, chunk = 10_000, 1000
	defer func() { capacity, chunk = oldCapacity, oldChunk }()
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	for i := range 5 {
		check(t, s.Put("key", bytes.Repeat([]byte{'0' + byte(i)}, 1900)))
	}
	if err := s.Put("key", make([]byte, 1900)); !errors.Is(err, mmap.ErrCapacity) {
		t.Error(err)
	}
	if _, err := Open(path); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Error("opened twice: ", err)
	}
	check(t, s.Compact())
	check(t, s.Put("other", make([]byte, 1900)))
	check(t, s.Close())
	s = open(t, path)
	if value, err := s.Get("key"); string(value) != strings.Repeat("4", 1900) {
		t.Errorf("%q, %v", value, err)
	}
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
	chunk = 64 << 10
	s := open(t, filepath.Join(dir, "store"))
	value, err := bytes.Repeat([]byte("v"), 20_000), error(nil)
	puts := 0
	for ; err == nil; puts++ {
		err = s.Put(fmt.Sprint(puts%5), value)
	}
	if !errors.Is(err, unix.ENOSPC) || errors.Is(err, mmap.ErrFault) || puts < 20 {
		t.Errorf("put %d: %v", puts, err)
	}
	if err := s.Compact(); !errors.Is(err, unix.ENOSPC) { // as long as both are there
		t.Error("compact: ", err)
	}
	if got, err := s.Get("1"); !bytes.Equal(got, value) {
		t.Error(err)
	}
	check(t, unix.Mount("", dir, "", unix.MS_REMOUNT, "size=2m"))
	check(t, s.Put("more", value))
	check(t, s.Compact())
	check(t, s.Close())
}
