package main

import (
	"bytes"
	"fmt"
	"image/color"
	"slices"
	"strings"

	xfont "golang.org/x/image/font"
	"golang.org/x/perf/benchunit"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Lengths are points: 600 are 800 pixels.
const (
	least     = 600 // the width, unless the labels need more
	plotWidth = 300 // at least
	margin    = 16
	gap       = 10
	rowHeight = 15
	slack     = 1.15 // for fonts that are wider than the one that is measured
)

var (
	black, dark, other, light = color.Gray{0x1a}, color.Gray{0x55}, color.Gray{0x99}, color.Gray{0xdd}

	// Okabe and Ito's colours, which colour-blind people can tell apart, without
	// those that are too light on white.
	palette = []color.Color{
		color.RGBA{0x00, 0x72, 0xb2, 0xff}, color.RGBA{0xe6, 0x9f, 0x00, 0xff}, color.RGBA{0x00, 0x9e, 0x73, 0xff},
		color.RGBA{0xcc, 0x79, 0xa7, 0xff}, color.RGBA{0xd5, 0x5e, 0x00, 0xff}, color.RGBA{0x56, 0xb4, 0xe9, 0xff},
	}

	title, header, label = style(14, xfont.WeightBold, black), style(9.5, xfont.WeightBold, black), style(9.5, 0, black)
	note, small          = style(8.5, 0, dark), style(8, 0, dark)
)

func style(size vg.Length, weight xfont.Weight, c color.Color) draw.TextStyle {
	return draw.TextStyle{Color: c, YAlign: -0.4, Handler: plot.DefaultTextHandler, // the middle of small letters
		Font: font.Font{Typeface: "Liberation", Variant: "Sans", Size: size, Weight: weight}}
}

// render returns the picture as SVG: from the top, and labels, bars or dots, and
// figures from the left. How high it is, is known once it is drawn: so that is done
// twice, first with no height.
func (p *picture) render(height vg.Length) ([]byte, error) {
	_, unit := benchunit.Tidy(1, p.unit)
	labels, figures := slack*note.Width("log scale")+gap, vg.Length(0)
	for _, g := range p.groups {
		for _, r := range g.rows {
			labels = max(labels, slack*label.Width(r.label))
			figures = max(figures, slack*label.Width(quantity(median(r.runs), unit, false)))
		}
	}
	width := max(least, labels+plotWidth+figures+2*(margin+gap))
	left, right := margin+labels+gap, width-margin-figures-gap
	canvas := vgsvg.New(width, max(height, 1))
	dc, y := draw.New(canvas), height-margin
	line := func(color color.Color, thick, x0, y0, x1, y1 vg.Length) {
		dc.StrokeLine2(draw.LineStyle{Color: color, Width: thick}, x0, y0, x1, y1)
	}
	put := func(s draw.TextStyle, x, y vg.Length, txt string) { dc.FillText(s, vg.Point{X: x, Y: y}, txt) }
	text := func(s draw.TextStyle, height vg.Length, txt string) {
		for _, l := range wrap(s, (width-2*margin)/slack, txt) {
			put(s, margin, y-height/2, l)
			y -= height
		}
	}
	line(color.White, height, 0, height/2, width, height/2)
	text(title, 20, p.title)
	text(note, 12, p.explain)
	together := 1
	if p.compare {
		together = len(p.groups)
	}
	for panel := range slices.Chunk(p.groups, together) {
		a := newAxis(panel, p.line)
		x := func(v float64) vg.Length { return left + vg.Length(a.Norm(v))*(right-left) }
		y -= 6
		for _, g := range panel {
			if g.heading != "" {
				y -= 3
				text(header, rowHeight, g.heading)
			}
			bottom := y - rowHeight*vg.Length(len(g.rows))
			for _, t := range a.ticks {
				line(light, 0.6, x(t), y, x(t), bottom)
			}
			for _, r := range g.rows {
				y -= rowHeight
				middle, mid := y+rowHeight/2, median(r.runs)
				put(label, margin, middle, r.label)
				put(label, right+gap, middle, quantity(mid, unit, false))
				if a.bars {
					line(r.color, 10, left, middle, x(mid), middle)
				} else {
					line(light, 0.6, left, middle, right, middle)
				}
				if p.line > 0 {
					line(dark, 1.2, x(p.line), y, x(p.line), y+rowHeight)
				}
				if len(r.bare) > 0 {
					line(black, 1.6, x(median(r.bare)), y+1, x(median(r.bare)), y+rowHeight-1)
				}
				if lo, hi := x(slices.Min(r.runs)), x(slices.Max(r.runs)); len(r.runs) > 1 {
					line(black, 0.8, lo, middle, hi, middle)
					line(black, 0.8, lo, middle-2.5, lo, middle+2.5)
					line(black, 0.8, hi, middle-2.5, hi, middle+2.5)
				}
				if !a.bars {
					dc.DrawGlyphNoClip(draw.GlyphStyle{Color: r.color, Radius: 3.2, Shape: draw.CircleGlyph{}}, vg.Point{X: x(mid), Y: middle})
				}
			}
		}
		y -= 8
		for _, t := range a.ticks {
			s := quantity(t, unit, true)
			put(note, x(t)-note.Width(s)/2, y, s)
		}
		if a.log {
			put(note, margin, y, "log scale")
		}
		y -= 8
	}
	y -= 6
	text(small, 11, p.footer())
	if height == 0 {
		return p.render(margin - y)
	}
	var svg bytes.Buffer
	_, err := canvas.WriteTo(&svg)
	// Arial and Helvetica are as wide as Liberation, and more machines have one.
	return bytes.ReplaceAll(svg.Bytes(), []byte("Liberation Sans"), []byte("Liberation Sans,Arial,Helvetica,sans-serif")), err
}

// footer is the small print: how it was measured, and where.
func (p *picture) footer() string {
	s := fmt.Sprintf("Benchmark%s, %s.", p.bench, p.unit)
	if p.runs > 1 {
		s += fmt.Sprintf(" Median of up to %d runs; whiskers from the lowest to the highest.", p.runs)
	}
	for _, c := range p.config {
		s += fmt.Sprintf(" %s: %s.", c.key, c.value)
	}
	return s
}

// wrap breaks a text into lines.
func wrap(s draw.TextStyle, width vg.Length, txt string) (lines []string) {
	for _, word := range strings.Fields(txt) {
		if i := len(lines) - 1; i >= 0 && s.Width(lines[i]+" "+word) <= width {
			lines[i] += " " + word
		} else {
			lines = append(lines, word)
		}
	}
	return lines
}
