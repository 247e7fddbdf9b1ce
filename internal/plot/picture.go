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
	slack     = 1.1 // for fonts that are wider than the one that is measured
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

// render returns the picture as SVG. How high it is, is known when it is drawn: so
// that is done twice.
func render(c chart, d data) ([]byte, error) {
	_, unit := benchunit.Tidy(1, c.unit)
	labels, figures := slack*note.Width("log scale")+gap, vg.Length(0)
	for _, g := range d.groups {
		for _, r := range g.rows {
			labels = max(labels, slack*label.Width(r.label))
			figures = max(figures, slack*label.Width(quantity(median(r.runs), unit, false)))
		}
	}
	width := max(least, labels+plotWidth+figures+2*(margin+gap))
	canvas := vgsvg.New(width, 1)
	height := paint(draw.New(canvas), c, d, unit, margin+labels+gap, width-margin-figures-gap)
	canvas = vgsvg.New(width, height)
	paint(draw.New(canvas), c, d, unit, margin+labels+gap, width-margin-figures-gap)
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return nil, err
	}
	// Arial and Helvetica are as wide as Liberation, and more machines have one.
	return bytes.ReplaceAll(svg.Bytes(), []byte("font-family:Liberation Sans"),
		[]byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif")), nil
}

// paint draws from the top: labels, bars or dots between left and right, figures.
// It returns the height that it needs.
func paint(dc draw.Canvas, c chart, d data, unit string, left, right vg.Length) vg.Length {
	rectangle := func(color color.Color, x0, y0, x1, y1 vg.Length) {
		dc.FillPolygon(color, []vg.Point{{X: x0, Y: y0}, {X: x1, Y: y0}, {X: x1, Y: y1}, {X: x0, Y: y1}})
	}
	line := func(color color.Color, width, x0, y0, x1, y1 vg.Length) {
		dc.StrokeLine2(draw.LineStyle{Color: color, Width: width}, x0, y0, x1, y1)
	}
	rectangle(color.White, dc.Min.X, dc.Min.Y, dc.Max.X, dc.Max.Y)
	y := dc.Max.Y - margin
	text := func(s draw.TextStyle, height vg.Length, txt string) {
		for _, l := range wrap(s, (dc.Max.X-2*margin)/slack, txt) {
			dc.FillText(s, vg.Point{X: margin, Y: y - height/2}, l)
			y -= height
		}
	}
	text(title, 20, c.title)
	text(note, 12, c.explain())
	for _, panel := range panels(c, d.groups) {
		a := newAxis(panel, c.line)
		x := func(v float64) vg.Length { return left + vg.Length(a.Norm(v))*(right-left) }
		y -= 6
		bottom := y - 3
		for _, g := range panel {
			bottom -= rowHeight * vg.Length(len(g.rows))
			if g.heading != "" {
				bottom -= rowHeight + 4
			}
		}
		for _, t := range a.ticks {
			line(light, 0.6, x(t), y, x(t), bottom)
			s := note
			s.XAlign = draw.XCenter
			dc.FillText(s, vg.Point{X: x(t), Y: bottom - 7}, quantity(t, unit, true))
		}
		if c.line > 0 {
			line(dark, 1.2, x(c.line), y, x(c.line), bottom)
		}
		for _, g := range panel {
			if g.heading != "" {
				y -= 4
				text(header, rowHeight, g.heading)
			}
			for _, r := range g.rows {
				y -= rowHeight
				middle, mid := y+rowHeight/2, median(r.runs)
				dc.FillText(label, vg.Point{X: margin, Y: middle}, r.label)
				dc.FillText(label, vg.Point{X: right + gap, Y: middle}, quantity(mid, unit, false))
				if a.bars {
					rectangle(r.color, left, middle-5, x(mid), middle+5)
				} else {
					line(light, 0.6, left, middle, right, middle)
				}
				for _, v := range r.bare {
					line(black, 1.6, x(v), y+1, x(v), y+rowHeight-1)
				}
				if lo, hi := r.runs[0], r.runs[len(r.runs)-1]; len(r.runs) > 1 {
					line(black, 0.8, x(lo), middle, x(hi), middle)
					line(black, 0.8, x(lo), middle-2.5, x(lo), middle+2.5)
					line(black, 0.8, x(hi), middle-2.5, x(hi), middle+2.5)
				}
				if !a.bars {
					dc.DrawGlyphNoClip(draw.GlyphStyle{Color: r.color, Radius: 3.2, Shape: draw.CircleGlyph{}}, vg.Point{X: x(mid), Y: middle})
				}
			}
		}
		y = bottom - 7
		if a.log {
			dc.FillText(note, vg.Point{X: margin, Y: y}, "log scale")
		}
		y -= 8
	}
	y -= 6
	text(small, 11, c.footer(d))
	return dc.Max.Y - y + margin
}

// explain says how to read the picture.
func (c chart) explain() string {
	s := c.measure + "; less is better."
	if strings.HasSuffix(c.unit, "/s") {
		s = c.measure + "; more is better."
	}
	if c.bare != "" {
		s += " The black line is the same with bare system calls."
	}
	if slices.Contains(c.rows, "by") {
		s += " Blue is this library."
	}
	return s
}

// footer is the small print: how it was measured, and where.
func (c chart) footer(d data) string {
	fewest, most := len(d.groups[0].rows[0].runs), 0
	for _, g := range d.groups {
		for _, r := range g.rows {
			fewest, most = min(fewest, len(r.runs)), max(most, len(r.runs))
		}
	}
	runs := fmt.Sprint(most)
	if fewest < most {
		runs = fmt.Sprintf("%d to %d", fewest, most)
	}
	s := fmt.Sprintf("Benchmark%s, %s.", c.bench, c.unit)
	if most > 1 {
		s = fmt.Sprintf("Benchmark%s, %s, median of %s runs; whiskers from the lowest to the highest.", c.bench, c.unit, runs)
	}
	var keys []string
	for _, p := range d.config {
		if !slices.Contains(keys, p.key) {
			keys = append(keys, p.key)
			s += fmt.Sprintf(" %s: %s.", p.key, strings.Join(values(d.config, p.key), ", "))
		}
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
