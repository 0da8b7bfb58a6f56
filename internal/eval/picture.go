package eval

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"regexp"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// pictureKind is how samples become a picture.
type pictureKind int

const (
	lines        pictureKind = iota // each sample a point of its series' line
	medians                         // at each X the median, and least and most
	cumulative                      // the share of samples that are no greater
	distribution                    // of pauses: what the median is made of, and all of them cumulated
)

// picture is an SVG document with what it is of.
type picture struct {
	Title string
	SVG   []byte
}

// Widths and heights of a picture on the page.
const (
	pictureWidth  = 17 * vg.Centimeter
	pictureHeight = 8 * vg.Centimeter
	barHeight     = 0.8 * vg.Centimeter
	legendRow     = 0.5 * vg.Centimeter
	margin        = 0.6 * vg.Centimeter // in it the last tick's label ends
)

// sans is what text is measured in. Browsers that do not have it take one of the same widths, or a wider one, for which there is
// room because text is written smaller than it was measured.
var sans = font.Font{Typeface: "Liberation", Variant: "Sans"}

var written = regexp.MustCompile(`font-family:Liberation Sans;(.*?)font-size:([0-9.]+)px`)

const smaller = 0.88

// palette is Okabe and Ito's, whose colours those can tell apart, too, who do not see red and green as others do. Lines have dashes
// beside it.
var palette = [...]color.RGBA{
	{0, 114, 178, 255}, {213, 94, 0, 255}, {0, 158, 115, 255}, {204, 121, 167, 255}, {86, 180, 233, 255}, {230, 159, 0, 255}, {0, 0, 0, 255},
}

var dashes = [...][]vg.Length{nil, {vg.Points(6), vg.Points(2)}, {vg.Points(2), vg.Points(2)}, {vg.Points(8), vg.Points(2), vg.Points(2), vg.Points(2)}}

func style(i int) draw.LineStyle {
	return draw.LineStyle{Color: palette[i%len(palette)], Width: vg.Points(1.5), Dashes: dashes[i%len(dashes)]}
}

// pictures of an experiment's samples: one for each part, or of all of them.
func pictures(e experiment, all []Sample) (some []picture, err error) {
	add := func(title string, draw func() ([]byte, error)) error {
		svg, err := draw()
		if err != nil {
			return fmt.Errorf("draw %s: %w", e.name, err)
		}
		some = append(some, picture{title, svg})
		return nil
	}
	if e.kind == distribution {
		if err := add("What the median pause is made of", func() ([]byte, error) { return bars(e, all) }); err != nil {
			return nil, err
		}
		var whole []Sample
		for _, s := range all {
			if s.Part == partGap {
				whole = append(whole, s)
			}
		}
		err = add("All of them", func() ([]byte, error) { return e.draw(whole, cumulative, e.y, "share of the failovers") })
		return some, err
	}
	for _, part := range parts(all) {
		var panel []Sample
		for _, s := range all {
			if s.Part == part {
				panel = append(panel, s)
			}
		}
		if err := add(part, func() ([]byte, error) { return e.draw(panel, e.kind, e.x, e.y) }); err != nil {
			return nil, err
		}
	}
	return some, nil
}

// parts are the names of samples' parts, in their order.
func parts(all []Sample) (names []string) {
	for _, s := range all {
		if !slices.Contains(names, s.Part) {
			names = append(names, s.Part)
		}
	}
	return names
}

// draw samples in one panel.
func (e experiment) draw(all []Sample, kind pictureKind, x, y string) ([]byte, error) {
	p, legend := newPlot(), newLegend()
	p.X.Label.Text, p.Y.Label.Text = x, y
	p.Add(plotter.NewGrid())
	for i, name := range series(all) {
		points := pointsOf(kind, of(all, name, ""))
		line, err := plotter.NewLine(points.XYs)
		if err != nil {
			return nil, err
		}
		line.LineStyle = style(i)
		p.Add(line)
		legend.add(name, line)
		if kind != medians {
			continue
		}
		bars, err := plotter.NewYErrorBars(points)
		if err != nil {
			return nil, err
		}
		bars.LineStyle = draw.LineStyle{Color: palette[i%len(palette)], Width: vg.Points(1)}
		p.Add(bars)
	}
	if e.logX {
		p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
		if kind == cumulative {
			p.X.Min = max(p.X.Min, 1e-3)
		}
	}
	if kind != cumulative && kind != lines {
		p.Y.Min = 0
	}
	return render(p, legend, pictureHeight)
}

// curve is points with how far each can be off.
type curve struct {
	plotter.XYs
	plotter.YErrors
}

func pointsOf(kind pictureKind, all []Sample) (c curve) {
	switch kind {
	case medians:
		for _, g := range spreads(all) {
			c.XYs = append(c.XYs, plotter.XY{X: g.x, Y: g.median})
			c.YErrors = append(c.YErrors, struct{ Low, High float64 }{g.median - g.least, g.most - g.median})
		}
	case cumulative:
		v := slices.Sorted(slices.Values(values(all)))
		for i, x := range v {
			c.XYs = append(c.XYs, plotter.XY{X: x, Y: float64(i+1) / float64(len(v))})
		}
		c.XYs = thin(c.XYs)
	default:
		for _, s := range all {
			c.XYs = append(c.XYs, plotter.XY{X: s.X, Y: s.Y})
		}
	}
	return c
}

// thin leaves out what nobody can see: most of many points. The first and the last hundred stay, which are a distribution's ends.
func thin(all plotter.XYs) plotter.XYs {
	const most, ends = 1000, 100
	if len(all) <= most {
		return all
	}
	some := slices.Clone(all[:ends])
	step := float64(len(all)-2*ends) / (most - 2*ends)
	for at := float64(ends); at < float64(len(all)-ends); at += step {
		some = append(some, all[int(at)])
	}
	return append(some, all[len(all)-ends:]...)
}

// bars are what medians are made of, one bar a series.
func bars(e experiment, all []Sample) ([]byte, error) {
	p, legend := newPlot(), newLegend()
	p.X.Label.Text = e.y
	names := series(all)
	slices.Reverse(names) // the first one is uppermost
	var below *plotter.BarChart
	for i, part := range []string{partKnown, partRebuild, partRest} {
		var v plotter.Values
		for _, name := range names {
			m := quantile(values(of(all, name, part)), 0.5)
			if math.IsNaN(m) {
				m = 0
			}
			v = append(v, m)
		}
		b, err := plotter.NewBarChart(v, barHeight*6/10)
		if err != nil {
			return nil, err
		}
		b.Horizontal, b.Color, b.LineStyle.Width = true, palette[i], 0
		if below != nil {
			b.StackOn(below)
		}
		below = b
		p.Add(b)
		legend.add(part, b)
	}
	p.NominalY(names...)
	return render(p, legend, barHeight*vg.Length(len(names)+2))
}

func newPlot() *plot.Plot {
	p := plot.New()
	for _, style := range []*text.Style{&p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label} {
		size := style.Font.Size
		style.Font = font.From(sans, size)
	}
	return p
}

// legend stands above a plot, where it hides no line.
type legend struct {
	plot.Legend
	rows int
}

func newLegend() *legend {
	l := &legend{Legend: plot.NewLegend()}
	l.Top, l.Left, l.Padding = true, true, vg.Points(3)
	l.TextStyle.Font = font.From(sans, l.TextStyle.Font.Size)
	return l
}

func (l *legend) add(name string, thumbs ...plot.Thumbnailer) {
	l.Add(name, thumbs...)
	l.rows++
}

func render(p *plot.Plot, l *legend, height vg.Length) ([]byte, error) {
	above := legendRow * vg.Length(l.rows)
	c := vgsvg.NewWith(vgsvg.UseWH(pictureWidth, height+above+2*margin))
	whole := draw.New(c)
	l.Draw(draw.Crop(whole, 2*margin, 0, 0, -margin/2))
	p.Draw(draw.Crop(whole, margin/2, -margin, margin/2, -above-margin))
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return nil, err
	}
	return written.ReplaceAllFunc(b.Bytes(), func(style []byte) []byte {
		parts := written.FindSubmatch(style)
		size, err := strconv.ParseFloat(string(parts[2]), 64)
		if err != nil {
			return style
		}
		return fmt.Appendf(nil, "font-family:'Liberation Sans',Arimo,Arial,Helvetica,sans-serif;%sfont-size:%.4gpx", parts[1], size*smaller)
	}), nil
}
