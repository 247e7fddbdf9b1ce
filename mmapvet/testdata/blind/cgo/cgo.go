// Package cgo has mistakes behind C, and behind a cgo.Handle.
package cgo

// static const char *kept;
//
// static void keep(const char *b) { kept = b; }
// static char first(void) { return *kept; }
import "C"

import (
	"runtime/cgo"
	"unsafe"

	"github.com/mmarinus/mmap"
)

// C keeps the memory of a view.
func keptByC(m mmap.Read) (byte, error) {
	err := m.View(func(b []byte) error {
		C.keep((*C.char)(unsafe.Pointer(&b[0])))
		return nil
	})
	if err != nil {
		return 0, err
	}
	m.Close()
	return byte(C.first()), nil
}

// C keeps the memory of UnsafeBytes, and is called after Close.
func calledAfterClose(m mmap.Read) byte {
	C.keep((*C.char)(unsafe.Pointer(unsafe.SliceData(m.UnsafeBytes()))))
	m.Close()
	return byte(C.first())
}

// A handle that C code carries around is the old one.
func carried(m mmap.ReadWrite) error {
	h := cgo.NewHandle(m)
	defer h.Delete()
	ro, err := mmap.Protect[mmap.Read](m)
	if err != nil {
		return err
	}
	defer ro.Close()
	_, err = h.Value().(mmap.ReadWrite).WriteAt([]byte("x"), 0)
	return err
}
