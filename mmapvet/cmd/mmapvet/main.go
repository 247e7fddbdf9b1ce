// Command mmapvet checks the use of memory mappings of github.com/mmarinus/mmap. It is a tool
// for go vet -vettool, and runs by itself on packages, too; see docs/mmapvet.md.
package main

import (
	"runtime/debug"

	"golang.org/x/tools/go/analysis/singlechecker"

	"github.com/mmarinus/mmap/mmapvet"
)

func main() {
	debug.SetGCPercent(400) // it lives for a moment, once per package
	singlechecker.Main(mmapvet.Analyzer)
}
