package main

import (
	"context"
	"path/filepath"
	"strings"
	"time"
)

const latchDir = "internal/latch"

// beside are the tests at the top that look at the latch through mappings.
const beside = "^Test.*(Drain|Pin|Guard|Close|Stripe|Busy|Concurrent|Stress|Join|Lost|Stats|Find)"

// explored runs the explorer of the latch, of which first what is about the file: as long as
// it takes, or with fewer preemptions and for a limited time.
func (b *bench) explored(ctx context.Context, quick bool, file string) (out string, v verdict) {
	tests, limit, args := []string{"TestTwo", "TestDrain", "TestThree"}, 5*time.Minute, []string{}
	if quick {
		tests, limit, args = tests[:2], 5*time.Second, []string{"-preemptions=2"}
	}
	if strings.HasSuffix(file, "drain.go") {
		tests[0], tests[1] = tests[1], tests[0]
	}
	if out, v = b.compile(ctx, latchDir, "-tags=explore"); v != survived {
		return out, v
	}
	code, err := b.sum(latchDir)
	switch {
	case err != nil:
		return err.Error(), uncompiled
	case file == "":
		b.code[latchDir] = code
	case code == b.code[latchDir]:
		return "", same
	}
	for _, test := range tests {
		args := append(args, "-test.failfast", "-test.run=^"+test+"$")
		if out, v = b.command(ctx, filepath.Join(b.module, latchDir), limit, b.binary(latchDir), args...); v != survived {
			break
		}
	}
	return out, v
}

// exploreMutant is try by the explorer and the ordinary tests of the latch. What the explorer
// finds it finds soon, most of the time: so it has a short turn first, and all its time later.
// It needs no control: nothing in the explorer depends on the machine.
func (b *bench) exploreMutant(ctx context.Context, m *mutant) (v verdict, by string, err error) {
	if m == nil {
		return survived, "", nil
	}
	out, v := b.explored(ctx, true, m.file)
	if v == hung {
		v = survived // its turn was too short
	}
	for _, next := range []func() (string, verdict){
		func() (string, verdict) { return b.ordinary(ctx, latchDir, ".") },
		func() (string, verdict) { return b.explored(ctx, false, m.file) },
		func() (string, verdict) { return b.ordinary(ctx, ".", beside) },
	} {
		if v == survived {
			out, v = next()
		}
	}
	switch {
	case v == same || v == survived || v == uncompiled && strings.HasPrefix(out, "# "):
		return v, "", ctx.Err()
	case v == uncompiled:
		v = fast
	}
	return v, reason(out), ctx.Err()
}

// ordinary runs tests of a package, without the explorer.
func (b *bench) ordinary(ctx context.Context, pkg, tests string) (out string, v verdict) {
	if out, v = b.compile(ctx, pkg); v == survived {
		args := []string{"-test.failfast", "-test.short", "-test.run=" + tests}
		out, v = b.command(ctx, filepath.Join(b.module, pkg), 3*time.Minute, b.binary(pkg), args...)
	}
	if v == uncompiled {
		v = full
	}
	return out, v
}
