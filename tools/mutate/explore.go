package main

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const latchDir = "internal/latch"

// explored runs the explorer of the latch: two threads in full, and Drain, of which first
// what is about the file.
func (b *bench) explored(ctx context.Context, limit time.Duration, file string) (out string, v verdict) {
	tests := []string{"TestTwo", "TestDrain"}
	if strings.HasSuffix(file, "drain.go") {
		slices.Reverse(tests)
	}
	if out, v = b.compile(ctx, latchDir, "-tags=explore"); v != survived {
		return out, v
	}
	for _, test := range tests {
		if out, v = b.command(ctx, filepath.Join(b.module, latchDir), limit, b.binary(latchDir), "-test.failfast", "-test.run=^"+test+"$", "-preemptions=2"); v != survived {
			break
		}
	}
	return out, v
}

// exploreMutant is try by the explorer. It needs no control: nothing in it depends on the
// machine.
func (b *bench) exploreMutant(ctx context.Context, m *mutant) (v verdict, by string, err error) {
	if m == nil {
		return survived, "", nil
	}
	out, v := b.explored(ctx, 5*time.Minute, m.file)
	switch {
	case v == survived:
		return v, "", ctx.Err()
	case v == uncompiled && !strings.HasPrefix(out, "# "):
		v = fast
	}
	return v, reason(out), ctx.Err()
}
