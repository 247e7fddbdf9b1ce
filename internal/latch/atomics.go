//go:build linux && !explore

package latch

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/cpu"
)

// What the latch is made of. Tests that run all orders of these operations put others in
// their place, with the tag explore; without those, nothing can be built with it.
type (
	word      = atomic.Uint64
	pointer   = atomic.Pointer[stripes]
	counter   = atomic.Int64
	condition = sync.Cond
)

// outcome wakes those who wait for the end of a transition. Its lock is that of all
// conditions.
var outcome = sync.NewCond(new(sync.Mutex))

func newCondition() *condition { return sync.NewCond(outcome.L) }

// after calls f in a while, unless it is stopped.
func after(d time.Duration, f func()) (stop func() bool) { return time.AfterFunc(d, f).Stop }

// pause waits for a moment, which is longer from try to try.
func pause(tries int) { time.Sleep(min(10*time.Microsecond<<min(tries, 10), time.Millisecond)) }

// A Stripe is where pins are counted.
type Stripe struct {
	pins counter
	_    cpu.CacheLinePad
}

const pinBits = 12

// lineCount makes two goroutines at work unlikely to share a line.
func lineCount() int { return min(16*max(runtime.GOMAXPROCS(0), 2), 1024) }

// yield lets other goroutines go on.
func yield() { runtime.Gosched() }
