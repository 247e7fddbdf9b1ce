//go:build linux

// Package birth has the hooks by which package live learns of mappings, so that the root
// package imports nothing for its sake.
package birth

import "sync/atomic"

// A Watcher is told of mappings. It must not use mappings itself.
type Watcher struct {
	Born func() uint32                   // one has been made; returns its number, which is at most Last
	Gone func(id uint32, collected bool) // it owns nothing any more: nobody has closed it, if collected
}

// Last is the largest number.
const Last = 1<<28 - 1

// Watching is who is told, if anybody is.
var Watching atomic.Pointer[Watcher]

// A Mapping is one that is there.
type Mapping struct {
	ID     uint32 // what Born has returned; 0: nobody watched
	Addr   uintptr
	Len    int
	Prot   uint8
	Closed bool // but pinned
}

// Each calls f with every mapping until it returns false. The root package sets it.
var Each func(f func(m Mapping) bool)
