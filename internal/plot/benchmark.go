package main

import (
	"fmt"
	"image/color"
	"math"
	"slices"
	"strconv"
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
				if p := (pair{c.Key, string(c.Value)}); c.File && !slices.Contains(b.config, p) {
					b.config = append(b.config, p)
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
		case found:
			b.keys = append(b.keys, pair{key, value})
		case len(b.keys) > 0:
			b.keys[len(b.keys)-1].value += part
		default:
			b.keys = append(b.keys, pair{"", key})
		}
	}
	b.config = []pair{{"GOMAXPROCS", procs}}
	return b
}

// Data is what a picture shows.
type data struct {
	groups []*group
	config []pair
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
	var kinds []string
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
		if !slices.Contains(kinds, r.label) {
			kinds = append(kinds, r.label)
		}
		if c.compare {
			r.color = palette[slices.Index(kinds, r.label)%len(palette)]
		} else if by := values(b.keys, "by"); len(by) > 0 && !ours.MatchString(by[0]) {
			r.color = other
		}
		i := slices.IndexFunc(d.groups, func(g *group) bool { return g.heading == strings.Join(heading, ", ") })
		if i < 0 {
			i, d.groups = len(d.groups), append(d.groups, &group{heading: strings.Join(heading, ", ")})
		}
		d.groups[i].rows = append(d.groups[i].rows, r)
		d.config = append(d.config, b.config...)
	}
	for _, key := range []string{"goos", "goarch", "cpu", "pkg", "GOMAXPROCS"} {
		if v := values(d.config, key); len(v) > 1 {
			return d, fmt.Errorf("these are not to be compared, for %s is %s", key, strings.Join(v, " and "))
		}
	}
	return d, nil
}

// values returns the different values of a key.
func values(pairs []pair, key string) (found []string) {
	for _, p := range pairs {
		if p.key == key && !slices.Contains(found, p.value) {
			found = append(found, p.value)
		}
	}
	return found
}

// String leaves out a key that its values explain.
func (p pair) String() string {
	if _, err := strconv.Atoi(p.value); err == nil {
		return p.key + " " + p.value
	} else if slices.Contains([]string{"", "by", "op", "source", "way", "size"}, p.key) {
		return p.value
	}
	return p.key + ": " + p.value
}

func median(sorted []float64) float64 {
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}
