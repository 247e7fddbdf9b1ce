//go:build linux && !explore

package latch

import (
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/cpu"
)

// What the latch is made of. Tests that run all orders of these operations put others in
// their place, with the tag explore; without those, nothing can be built with it.
type (
	word    = atomic.Uint64
	pointer = atomic.Pointer[stripes]
	counter = atomic.Int64
)

// outcome wakes those who wait for the end of a transition.
var outcome = sync.NewCond(new(sync.Mutex))

// A Stripe is where pins are counted.
type Stripe struct {
	pins counter
	_    cpu.CacheLinePad
}

const pinBits = 12

// lineCount makes two goroutines at work unlikely to share a line.
func lineCount() int { return min(16*max(runtime.GOMAXPROCS(0), 2), 1024) }
