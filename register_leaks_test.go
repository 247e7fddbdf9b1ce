//go:build linux

package mmap_test

import (
	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/internal/leaks"
)

// What the tests at the top leave behind, they do so on purpose.
func init() {
	mmap.Leaks = func() func() bool {
		return leaks.Watch("(*machine)", "TestCollection", "TestOntoHeap", "TestDrainStress", "TestUndividedCollected",
			"TestUndividedLostAndClosed", "ExampleMapping_Seal", "TestAliveInUse")
	}
}
