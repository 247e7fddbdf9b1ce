// Command mmapvet checks the use of memory mappings of github.com/mmarinus/mmap. It is a tool
// for go vet -vettool, and runs by itself on packages, too; see docs/mmapvet.md.
package main

import (
	"runtime/debug"

	"golang.org/x/tools/go/analysis/singlechecker"

	"github.com/mmarinus/mmap/mmapvet"
)

func main() {
	// It lives for a moment, once per package: collections would be a good part of that.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(1 << 30)
	singlechecker.Main(mmapvet.Analyzer)
}
