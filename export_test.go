package mmap

// Bare gives tests the memory at an address, with neither guard nor pin.
var Bare = memory

// InChild gives the other package's tests what those of this one have.
var InChild = inChild
