// Command plot turns the output of Go benchmarks into charts:
//
//	cd internal/plot && go run . -o ../../docs < bench.txt
//
// It reads the files that are its arguments, or standard input. The same input
// gives the same bytes.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// A chart is one picture. Its benchmarks are those of one name that have the keys
// of the rows and the unit. Their other keys are the headings of groups.
type chart struct {
	file, title string
	measure     string // what the numbers are, in words
	bench, unit string
	bare        string   // the unit of the bare system calls, which are marked in each row
	rows        []string // the keys of a row; none: all, and there are no groups
	compare     bool     // the groups share an axis; rows that have no peers have a colour each
	line        float64  // what all is measured against: no bars from zero, but dots around a line
}

var (
	by     = []string{"by"}
	charts = []chart{
		{file: "fault.svg", title: "What a fault costs, by source and by way", measure: "Time per 4 KiB page", bench: "Fault", unit: "ns/page", bare: "bare-ns/page", rows: []string{"way"}, compare: true},
		{file: "overhead.svg", title: "What the library adds to the bare system call", measure: "Time, as a multiple of the bare call's", bench: "Operation", unit: "ratio", line: 1},
		{file: "processors.svg", title: "Access from one processor and from two", measure: "Time per access", bench: "Processors", unit: "ns/op", rows: []string{"by", "procs"}, compare: true},
		{file: "live.svg", title: "Operations beside many live mappings", measure: "Time per operation", bench: "Live", unit: "ns/op", bare: "bare-ns/op", rows: []string{"live"}},
		{file: "peers-scan.svg", title: "Reading a file from start to end", measure: "Bytes per second", bench: "Scan", unit: "MB/s", rows: by},
		{file: "peers-random.svg", title: "Reading at random places of a file", measure: "Time per read", bench: "Random", unit: "ns/op", rows: by},
		{file: "peers-lookup.svg", title: "Binary search in a sorted file", measure: "Time per lookup", bench: "Lookup", unit: "ns/op", rows: by, compare: true},
		{file: "peers-append.svg", title: "Appending to a log while others read it", measure: "Appends per second", bench: "Append", unit: "appends/s", rows: by, compare: true},
		{file: "peers-mapping.svg", title: "Mapping a page, reading a word, unmapping it", measure: "Time per mapping", bench: "Mapping", unit: "ns/mapping", rows: by},
		{file: "peers-counter.svg", title: "Two processes that count in shared memory", measure: "Time per count", bench: "Counter", unit: "ns/op", rows: by},
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

// run writes pictures only after all are drawn.
func run(out string, paths []string, log io.Writer) error {
	benchmarks, err := read(paths)
	if err != nil {
		return err
	}
	if len(benchmarks) == 0 {
		return errors.New("no benchmark in the input")
	}
	pictures := make([][]byte, len(charts))
	for i, c := range charts {
		d, err := c.pick(benchmarks)
		if err == nil && len(d.groups) > 0 {
			pictures[i], err = render(c, d)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.file, err)
		}
	}
	for i, c := range charts {
		if pictures[i] == nil {
			fmt.Fprintf(log, "plot: %s is not drawn: no Benchmark%s with %s, by %q, in the input\n", c.file, c.bench, c.unit, c.rows)
		} else if err := os.WriteFile(filepath.Join(out, c.file), pictures[i], 0o644); err != nil {
			return err
		}
	}
	return nil
}
