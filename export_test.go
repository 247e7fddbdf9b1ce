//go:build linux

package mmap

// Bare gives tests the memory at an address, with neither guard nor pin.
var Bare = memory

// AnyHandle is a handle of any type, as the tests keep them.
type AnyHandle = mapping

// What the other package's tests share with those of this one.
var (
	InChild = inChild
	Humble  = humble
	Limit   = limit
)
