// Command mmapvet checks the use of memory mappings of github.com/mmarinus/mmap. It is a tool
// for go vet -vettool, and runs by itself on packages, too; see docs/mmapvet.md.
package main

import (
	"golang.org/x/tools/go/analysis/singlechecker"

	"github.com/mmarinus/mmap/mmapvet"
)

func main() { singlechecker.Main(mmapvet.Analyzer) }
