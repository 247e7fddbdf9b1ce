//go:build linux

// Package leaks has the tests of a package say which of their mappings nobody closes.
package leaks

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/mmarinus/mmap/live"
)

// A run is what package live takes for a test: all those of a program.
type run struct {
	purpose []string // functions that leave mappings behind on purpose
	end     func()
	failed  bool
}

func (*run) Helper()            {}
func (r *run) Cleanup(f func()) { r.end = f }

func (r *run) Errorf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	for _, name := range r.purpose {
		if strings.Contains(text, "."+name+"\n") || strings.Contains(text, "."+name+".") {
			return
		}
	}
	r.failed = true
	fmt.Fprintln(os.Stderr, "FAIL: "+text)
}

// Watch begins to look, and returns a function that prints what is not closed by then, or
// was left to the collector, and reports whether there was none. It overlooks what is made
// in functions that purpose names, and in literals within them, everything in a child
// process, which takes its mappings with it, and what benchmarks and fuzzing do.
func Watch(purpose ...string) (end func() bool) {
	flag.Parse()
	set := func(name string) bool { return flag.Lookup(name).Value.String() != "" }
	if set("test.bench") || set("test.fuzz") || os.Getenv("MMAP_TEST_CHILD") != "" {
		return func() bool { return true }
	}
	r := &run{purpose: purpose}
	live.Check(r)
	return func() bool {
		r.end()
		return !r.failed
	}
}
