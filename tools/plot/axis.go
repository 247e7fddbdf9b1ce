package main

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/perf/benchunit"
	"gonum.org/v1/plot"
)

// An axis is a scale with its ticks. Bars begin at 0, which a logarithmic scale
// does not have: so there, and around a line, the values are dots.
type axis struct {
	plot.Axis
	ticks     []float64
	bars, log bool
}

func newAxis(groups []*group, line float64) (a axis) {
	var shown []float64
	for _, g := range groups {
		for _, r := range g.rows {
			shown = slices.Concat(shown, r.runs, r.bare)
		}
	}
	a.Scale, a.bars = plot.LinearScale{}, line == 0
	if !a.bars {
		shown = append(shown, line)
	}
	lo, hi := slices.Min(shown), slices.Max(shown)
	if lo > 0 && lo < hi/25 { // a shorter bar cannot be read
		a.Scale, a.bars, a.log = plot.LogScale{}, false, true
		first, last := int(math.Floor(math.Log10(lo))), int(math.Ceil(math.Log10(hi)))
		for exponent := first; exponent <= last; exponent++ {
			a.ticks = append(a.ticks, math.Pow10(exponent))
			if last-first <= 2 && exponent < last {
				a.ticks = append(a.ticks, 2*math.Pow10(exponent), 5*math.Pow10(exponent))
			}
		}
	} else {
		if a.bars {
			lo = 0
		}
		if lo == hi {
			hi++
		}
		step := math.Pow10(int(math.Ceil(math.Log10(hi-lo)))) / 5
		if hi-lo < 1.5*step {
			step /= 4
		}
		for i := math.Floor(lo / step); len(a.ticks) == 0 || (i-1)*step < hi; i++ {
			a.ticks = append(a.ticks, i*step)
		}
	}
	a.Min, a.Max = a.ticks[0], a.ticks[len(a.ticks)-1]
	return a
}

// quantity returns a value with its unit, such as 1.23 µs: three digits, or for a
// tick as few as it needs.
func quantity(value float64, unit string, tick bool) string {
	name, per, found := strings.Cut(unit, "/")
	scale := benchunit.Scaler{Prec: 3, Factor: 1}
	if found && value > 0 {
		scale = benchunit.CommonScale([]float64{value}, benchunit.Decimal)
	}
	number := strconv.FormatFloat(value/scale.Factor, 'f', scale.Prec-1, 64)
	if tick {
		number = strconv.FormatFloat(value/scale.Factor, 'g', 3, 64)
	}
	short := map[string]string{"sec": "s", "B": "B"}[name]
	if per == "s" {
		short += "/s"
	}
	return strings.TrimSpace(number + " " + scale.Prefix + short)
}
