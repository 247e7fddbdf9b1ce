//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"unsafe"
)

// assemble returns machine code by Horner's rule. In the calling convention that Go's
// compiler uses on amd64 (ABIInternal), x is in RAX and so is the result; RBX is free to
// use. The convention is Go's own and may change with a release: a test calls the code.
func assemble(coefficients []int32) ([]byte, error) {
	if n := len(coefficients); n == 0 || n > 16 { // the code stays a few instructions
		return nil, fmt.Errorf("%d coefficients: give 1 to 16", n)
	}
	text := []byte{0x48, 0x89, 0xc3, 0x31, 0xc0} // mov rbx, rax; xor eax, eax
	for _, c := range coefficients {
		text = append(text, 0x48, 0x0f, 0xaf, 0xc3)                                  // imul rax, rbx
		text = binary.LittleEndian.AppendUint32(append(text, 0x48, 0x05), uint32(c)) // add rax, c
	}
	return append(text, 0xc3), nil // ret
}

// enter calls the code at the start of text.
//
// SAFETY: a func value is a pointer to a word with the code's address, so this makes one
// that calls the code. It is sound if text is what assemble returned, is executable, and
// stays mapped until the call returns: Call's pin sees to that.
func enter(text []byte, x int64) int64 {
	code := unsafe.Pointer(unsafe.SliceData(text))
	word := &code
	return (*(*func(int64) int64)(unsafe.Pointer(&word)))(x)
}
