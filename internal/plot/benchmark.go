package main

import (
	"fmt"
	"image/color"
	"math"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
	"golang.org/x/perf/benchunit"
)

// A benchmark is all runs of one benchmark of one package.
type benchmark struct {
	name, base string
	keys       []pair               // of the name
	config     []pair               // what the output says of the machine and the like
	values     map[string][]float64 // by unit, in base units: ns are seconds, MB are bytes
}

type pair struct{ key, value string }

// read returns the benchmarks in the order in which they come first.
func read(paths []string) (all []*benchmark, err error) {
	seen := map[pair]*benchmark{}
	files := benchfmt.Files{Paths: paths, AllowStdin: true}
	for files.Scan() {
		switch r := files.Result().(type) {
		case *benchfmt.SyntaxError:
			return nil, r
		case *benchfmt.Result:
			id := pair{r.GetConfig("pkg"), r.Name.String()}
			b := seen[id]
			if b == nil {
				b = parse(r.Name)
				seen[id], all = b, append(all, b)
			}
			for _, c := range r.Config {
				if c.File {
					b.config = add(b.config, pair{c.Key, string(c.Value)})
				}
			}
			for _, v := range r.Values {
				value, unit := benchunit.Tidy(v.Value, v.Unit) // the reader leaves the unit of 0 as it was
				b.values[unit] = append(b.values[unit], value)
			}
		}
	}
	return all, files.Err()
}

// parse takes a name apart. A part without a key belongs to the value before it,
// which has a slash.
func parse(name benchfmt.Name) *benchmark {
	base, parts := name.Parts()
	b := &benchmark{name: "Benchmark" + name.String(), base: string(base), values: map[string][]float64{}}
	procs := "1" // which go test leaves off
	for _, p := range parts {
		part := string(p)
		key, value, found := strings.Cut(part[1:], "=")
		switch {
		case part[0] == '-':
			procs = part[1:]
		case found || len(b.keys) == 0:
			b.keys = append(b.keys, pair{key, value})
		default:
			b.keys[len(b.keys)-1].value += part
		}
	}
	b.config = []pair{{"GOMAXPROCS", procs}}
	return b
}

// Data is what a picture shows.
type data struct {
	groups []*group
	config []pair
	runs   int // of a benchmark, at most
}

type group struct {
	heading string
	rows    []row
}

type row struct {
	label string
	color color.Color
	runs  []float64 // sorted
	bare  []float64 // the median, if there is one
}

// pick finds the benchmarks of a chart.
func (c chart) pick(all []*benchmark) (data, error) {
	var d data
	var labels []string
	_, unit := benchunit.Tidy(1, c.unit)
	_, bare := benchunit.Tidy(1, c.bare)
	for _, b := range all {
		var heading, label []string
		for _, k := range b.keys {
			if len(c.rows) > 0 && !slices.Contains(c.rows, k.key) {
				heading = append(heading, k.String())
			} else {
				label = append(label, k.String())
			}
		}
		if b.base != c.bench || len(b.values[unit]) == 0 || len(label) < max(1, len(c.rows)) {
			continue
		}
		r := row{label: strings.Join(label, ", "), runs: slices.Sorted(slices.Values(b.values[unit])), color: palette[0]}
		if marks := b.values[bare]; len(marks) > 0 {
			r.bare = []float64{median(slices.Sorted(slices.Values(marks)))}
		}
		for _, v := range slices.Concat(r.runs, r.bare) {
			if !(v >= 0 && v <= math.MaxFloat64) {
				return d, fmt.Errorf("%s: %v %s cannot be drawn", b.name, v, unit)
			}
		}
		labels = add(labels, r.label)
		if by := values(b.keys, "by"); len(by) > 0 && !ours(by[0]) {
			r.color = other
		} else if len(by) == 0 && c.compare {
			r.color = palette[slices.Index(labels, r.label)%len(palette)]
		}
		g := &group{heading: strings.Join(heading, ", ")}
		if i := slices.IndexFunc(d.groups, func(h *group) bool { return h.heading == g.heading }); i >= 0 {
			g = d.groups[i]
		} else {
			d.groups = append(d.groups, g)
		}
		g.rows = append(g.rows, r)
		d.config, d.runs = add(d.config, b.config...), max(d.runs, len(r.runs))
	}
	for _, key := range []string{"goos", "goarch", "cpu", "pkg", "GOMAXPROCS"} {
		if v := values(d.config, key); len(v) > 1 {
			return d, fmt.Errorf("these are not to be compared, for %s is %s", key, strings.Join(v, " and "))
		}
	}
	return d, nil
}

func values(pairs []pair, key string) (found []string) {
	for _, p := range pairs {
		if p.key == key {
			found = append(found, p.value)
		}
	}
	return found
}

// add appends what the list does not have.
func add[T comparable](list []T, more ...T) []T {
	for _, v := range more {
		if !slices.Contains(list, v) {
			list = append(list, v)
		}
	}
	return list
}

// String leaves out a key that its values explain.
func (p pair) String() string {
	if slices.Contains([]string{"by", "op", "source", "way", "size"}, p.key) {
		return p.value
	}
	return strings.TrimSpace(p.key + " " + p.value)
}

func median(sorted []float64) float64 {
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}
