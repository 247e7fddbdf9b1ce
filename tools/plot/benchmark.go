package main

import (
	"errors"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
	"golang.org/x/perf/benchunit"
)

// A picture is a chart with its benchmarks, in the order of the input.
type picture struct {
	chart
	groups []*group
	labels []string
	runs   int    // of a benchmark, at most
	config []pair // what the output says of the machine and the like
}

type group struct {
	heading string
	rows    []*row
}

// A row is all runs of a benchmark, in base units: ns are seconds, MB are bytes.
type row struct {
	label      string
	color      color.Color
	runs, bare []float64
}

type pair struct{ key, value string }

// read returns the pictures of all charts; those without benchmarks have no groups.
func read(paths []string) (all []*picture, err error) {
	for _, c := range charts {
		all = append(all, &picture{chart: c})
	}
	files, found := benchfmt.Files{Paths: paths, AllowStdin: true}, false
	for files.Scan() {
		switch r := files.Result().(type) {
		case *benchfmt.SyntaxError:
			return nil, r
		case *benchfmt.Result:
			found = true
			for _, p := range all {
				if err := p.add(r); err != nil {
					file, line := r.Pos()
					return nil, fmt.Errorf("%s:%d: %w", file, line, err)
				}
			}
		}
	}
	if err := files.Err(); err != nil {
		return nil, err
	} else if !found {
		return nil, errors.New("no benchmark in the input")
	}
	return all, nil
}

// add adds a run of a benchmark, if it is one of the picture's.
func (p *picture) add(r *benchfmt.Result) error {
	base, keys, procs := parse(r.Name)
	var heading, label []string
	fill := palette[0]
	for _, k := range keys {
		if len(p.rows) > 0 && !slices.Contains(p.rows, k.key) {
			heading = append(heading, k.String())
		} else {
			label = append(label, k.String())
		}
		if k.key == "by" && !ours(k.value) {
			fill = other
		}
	}
	runs, bare := values(r, p.unit), values(r, p.bare)
	if base != p.bench || len(runs) == 0 || len(label) < max(1, len(p.rows)) {
		return nil
	}
	for _, v := range append(runs, bare...) {
		if !(v >= 0 && v <= math.MaxFloat64) {
			return fmt.Errorf("%v cannot be drawn", v)
		}
	}
	title, name := strings.Join(heading, ", "), strings.Join(label, ", ")
	if p.only != nil && !p.only.MatchString(name) {
		return nil
	}
	i := slices.IndexFunc(p.groups, func(g *group) bool { return g.heading == title })
	if i < 0 {
		i, p.groups = len(p.groups), append(p.groups, &group{heading: title})
	}
	g := p.groups[i]
	i = slices.IndexFunc(g.rows, func(r *row) bool { return r.label == name })
	if i < 0 {
		if p.labels = add(p.labels, name); p.compare && !slices.Contains(p.rows, "by") {
			fill = palette[slices.Index(p.labels, name)%len(palette)]
		}
		i, g.rows = len(g.rows), append(g.rows, &row{label: name, color: fill})
	}
	g.rows[i].runs, g.rows[i].bare = append(g.rows[i].runs, runs...), append(g.rows[i].bare, bare...)
	p.runs = max(p.runs, len(g.rows[i].runs))
	r.SetConfig("GOMAXPROCS", procs)
	for _, c := range r.Config {
		next := pair{c.Key, string(c.Value)}
		if slices.ContainsFunc(p.config, func(d pair) bool { return d.key == next.key && d != next && slices.Contains(same, d.key) }) {
			return fmt.Errorf("not to be compared with what is before: %s", next)
		} else if c.Key != ".file" {
			p.config = add(p.config, next)
		}
	}
	return nil
}

// same is the configuration that all benchmarks of a picture have to share.
var same = []string{"goos", "goarch", "cpu", "pkg", "GOMAXPROCS"}

// parse takes a name apart. A part without a key belongs to the value before it,
// which has a slash.
func parse(name benchfmt.Name) (base string, keys []pair, procs string) {
	first, parts := name.Parts()
	procs = "1" // which go test leaves off
	for _, p := range parts {
		part := string(p)
		key, value, found := strings.Cut(part[1:], "=")
		switch {
		case part[0] == '-':
			procs = part[1:]
		case found || len(keys) == 0:
			keys = append(keys, pair{key, value})
		default:
			keys[len(keys)-1].value += part
		}
	}
	return string(first), keys, procs
}

// values returns the one value of a unit, or none.
func values(r *benchfmt.Result, unit string) (v []float64) {
	_, tidied := benchunit.Tidy(1, unit)
	for _, u := range r.Values {
		if u.Unit == tidied || u.Unit == unit { // the reader leaves the unit of 0 as it was
			v = append(v, u.Value)
		}
	}
	return v
}

// add appends what the list does not have.
func add[T comparable](list []T, v T) []T {
	if slices.Contains(list, v) {
		return list
	}
	return append(list, v)
}

// String leaves out a key that its values explain.
func (p pair) String() string {
	if slices.Contains([]string{"by", "op", "source", "way", "size"}, p.key) {
		return p.value
	}
	return strings.TrimSpace(p.key + " " + p.value)
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
