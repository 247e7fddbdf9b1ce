// Command plot turns the output of Go benchmarks into charts:
//
//	cd tools/plot && go run . -o ../../docs < bench.txt
//
// It reads the files that are its arguments, or standard input. The same input
// gives the same bytes.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// A chart is one picture. Its benchmarks are those of one name that have the keys
// of the rows and the unit. Their other keys are the headings of groups.
type chart struct {
	file, title, explain string
	bench, unit          string
	only                 *regexp.Regexp // of the benchmarks' labels; nil: all
	bare                 string         // the unit of the bare system calls, which are marked in each row
	rows                 []string       // the keys of a row; none: all, and there are no groups
	compare              bool           // the groups share an axis; rows that have no peers have a colour each
	line                 float64        // what all is measured against: no bars from zero, but dots around a line
}

const (
	less, more = "; less is better.", "; more is better."
	bare, blue = " The black line is the same with bare system calls.", " Blue is this library."
)

var (
	by     = []string{"by"}
	charts = []chart{
		{file: "fault.svg", title: "What a fault costs, by source and by way", explain: "Time per 4 KiB page" + less + bare, bench: "Fault", unit: "ns/page", bare: "bare-ns/page", rows: []string{"way"}, compare: true},
		{file: "populate.svg", title: "Bringing pages in, by several threads and piece by piece", explain: "Time, as a multiple of one madvise(2)'s" + less, bench: "Populate", unit: "ratio", line: 1},
		{file: "overhead.svg", title: "What the library adds to the bare system call", explain: "Time, as a multiple of the bare call's" + less, bench: "Operation", unit: "ratio", line: 1,
			only: regexp.MustCompile(`^(map\+close, (anonymous, (4K|1G)iB|shared-file, 1MiB)|map\+touch\+close, anonymous, 1MiB|protect, 1MiB|resize.*|grow.*|prefault.*|sync, dirty-file.*)$`)},
		{file: "operations.svg", title: "Every operation over the bare system call", explain: "Time, as a multiple of the bare call's" + less, bench: "Operation", unit: "ratio", line: 1},
		{file: "processors.svg", title: "Access from one processor and from two", explain: "Time per access" + less + blue, bench: "Processors", unit: "ns/op", rows: []string{"by", "procs"}, compare: true},
		{file: "live.svg", title: "Operations beside many live mappings", explain: "Time per operation" + less + bare, bench: "Live", unit: "ns/op", bare: "bare-ns/op", rows: []string{"live"}},
		{file: "peers-scan.svg", title: "Reading a file from start to end", explain: "Bytes per second" + more + blue, bench: "Scan", unit: "MB/s", rows: by},
		{file: "peers-random.svg", title: "Reading at random places of a file", explain: "Time per read" + less + blue, bench: "Random", unit: "ns/read", rows: by},
		{file: "peers-lookup.svg", title: "Binary search in a sorted file", explain: "Time per lookup" + less + blue, bench: "Lookup", unit: "ns/op", rows: by, compare: true},
		{file: "peers-append.svg", title: "Appending to a log while others read it", explain: "Appends per second" + more + blue, bench: "Append", unit: "appends/s", rows: by, compare: true},
		{file: "peers-mapping.svg", title: "Mapping a page, reading a word, unmapping it", explain: "Time per mapping" + less + blue, bench: "Mapping", unit: "ns/mapping", rows: by},
		{file: "peers-counter.svg", title: "Two processes that count in shared memory", explain: "Time per count" + less + blue, bench: "Counter", unit: "ns/op", rows: by},
	}
)

// ours tells this library from its peers, of which mmap-go is one.
func ours(by string) bool {
	return strings.HasPrefix(by, "mmap") && !strings.HasPrefix(by, "mmap-go")
}

func main() {
	out := flag.String("o", ".", "the `directory` of the pictures")
	flag.Parse()
	if err := run(*out, flag.Args(), os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

// run writes pictures only if all of the input is good.
func run(out string, paths []string, log io.Writer) error {
	all, err := read(paths)
	for _, p := range all {
		if len(p.groups) == 0 {
			fmt.Fprintf(log, "plot: %s is not drawn: no Benchmark%s with %s, by %q, in the input\n", p.file, p.bench, p.unit, p.rows)
			continue
		}
		svg, err := p.render(0)
		if err == nil {
			err = os.WriteFile(filepath.Join(out, p.file), svg, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return err
}
