//go:build linux

package main

import (
	"errors"
	"testing"

	"github.com/mmarinus/mmap"
	"golang.org/x/sys/unix"
)

// A fault in code that has pushed nothing is an error under a guard.
func TestFault(t *testing.T) {
	compile(t, 1)
	rw, err := mmap.Map[mmap.ReadWrite](mmap.Anonymous(4))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rw.WriteAt([]byte{0x48, 0x8b, 0x00, 0xc3}, 0); err != nil { // mov rax, [rax]; ret
		t.Fatal(err)
	}
	load, err := mmap.Protect[mmap.ReadExec](rw)
	if err != nil {
		t.Fatal(err)
	}
	defer load.Close()
	none, err := mmap.Map[mmap.None](mmap.Anonymous(unix.Getpagesize()))
	if err != nil {
		t.Fatal(err)
	}
	defer none.Close()
	pin, err := none.Pin()
	if err != nil {
		t.Fatal(err)
	}
	defer pin.Unpin()
	err = mmap.Guard(func() error {
		_, err := Func{load}.Call(int64(none.Addr()) + 8)
		return err
	}, pin)
	var fault *mmap.FaultError
	if !errors.As(err, &fault) || fault.Offset != 8 || !errors.Is(err, mmap.ErrPermission) {
		t.Error(err)
	}
}
