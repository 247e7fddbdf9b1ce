package mmap

// Bare gives tests the memory at an address, with neither guard nor pin.
var Bare = memory
