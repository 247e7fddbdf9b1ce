//go:build linux && !amd64

package main

import (
	"errors"
	"fmt"
	"runtime"
)

// There is code for amd64 only. Most other processors fetch instructions through a cache
// that does not see stores by itself. On arm64 it has to be told with instructions that Go
// has no call for. Current kernels do so themselves when they first make a page executable,
// but not when it is written and made executable again, and mprotect(2) promises neither.
// So a compiler for arm64 needs a few lines of assembly.

func assemble([]int32) ([]byte, error) {
	return nil, fmt.Errorf("no code for %s: %w", runtime.GOARCH, errors.ErrUnsupported)
}

func enter([]byte, int64) int64 { panic("unreachable: there is no code") }
