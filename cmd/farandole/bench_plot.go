package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// The picture's size and its curves' colours, which differ in brightness too, for those who do not tell hues apart.
const plotSide = 8 * vg.Inch

var curveColors = []color.RGBA{{0x1b, 0x6c, 0xa8, 0xff}, {0xe0, 0x7b, 0x00, 0xff}}

// plotReport writes a picture of r to path: bus bandwidth above, time below, both by size on logarithmic axes, with a
// curve for each place, and the earlier run's curves, if there is one.
func plotReport(path string, r *benchReport, earlier *earlierRun) error {
	b, err := drawReport(r, earlier)
	if err != nil {
		return failf("--plot %s: %w", path, err)
	}
	if err := writeFileAtomic(path, b); err != nil {
		return failf("--plot %s: %v", path, causeOf(err))
	}
	return nil
}

// drawReport is the picture as PNG.
func drawReport(r *benchReport, earlier *earlierRun) ([]byte, error) {
	title := fmt.Sprintf("%s, %s over %s", r.Op, count(int64(r.Ranks), "rank"), r.Transport)
	if len(r.Rows) > 0 {
		title += ", " + r.Rows[0].Type
		if r.Rows[0].Redop != "none" {
			title += " " + r.Rows[0].Redop
		}
	}
	above, err := diagram("bus bandwidth, GB/s", plotCurves(r, earlier, func(r benchRow) float64 { return r.BusBW }))
	if err != nil {
		return nil, err
	}
	above.Title.Text = title
	below, err := diagram("time, µs", plotCurves(r, earlier, func(r benchRow) float64 { return r.TimeUS }))
	if err != nil {
		return nil, err
	}
	img := vgimg.New(plotSide, plotSide)
	pad := vg.Points(12)
	parts := plot.Align([][]*plot.Plot{{above}, {below}}, draw.Tiles{Rows: 2, Cols: 1,
		PadTop: pad, PadBottom: pad, PadLeft: pad, PadRight: pad, PadY: pad}, draw.New(img))
	above.Draw(parts[0][0])
	below.Draw(parts[1][0])
	var b bytes.Buffer
	_, err = vgimg.PngCanvas{Canvas: img}.WriteTo(&b)
	return b.Bytes(), err
}

// diagram is one of the two: sizes to the right, both axes logarithmic.
func diagram(label string, curves []plotCurve) (*plot.Plot, error) {
	p := plot.New()
	p.X.Label.Text, p.Y.Label.Text = "size, bytes", label
	if len(curves) == 0 {
		p.Y.Label.Text += ": nothing to show"
		return p, nil
	}
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = plot.TickerFunc(sizeTicks), plot.LogTicks{Prec: -1}
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())
	for _, c := range curves {
		line, points, err := plotter.NewLinePoints(c.points)
		if err != nil {
			return nil, err
		}
		line.Color, points.Color = c.color, c.color
		line.Width, points.Shape = vg.Points(1.5), draw.CircleGlyph{}
		if c.dashed {
			line.Dashes = []vg.Length{vg.Points(5), vg.Points(3)}
		}
		p.Add(line, points)
		p.Legend.Add(c.name, line, points)
	}
	return p, nil
}

// maxSizeTicks is how many sizes find room below the axis.
const maxSizeTicks = 14

// sizeTicks marks powers of two.
func sizeTicks(low, high float64) (ticks []plot.Tick) {
	from, to := math.Ceil(math.Log2(low)), math.Floor(math.Log2(high))
	step := max(1, math.Ceil((to-from)/maxSizeTicks))
	for e := from; e <= to; e += step {
		ticks = append(ticks, plot.Tick{Value: math.Exp2(e), Label: sizeMark(int(e))})
	}
	return ticks
}

// sizeMark is 2^e bytes in a few letters.
func sizeMark(e int) string {
	if e < 0 {
		return ""
	}
	return fmt.Sprint(1<<(e%10)) + []string{"", "K", "M", "G", "T"}[min(e/10, 4)]
}

// plotCurve is one line of a picture.
type plotCurve struct {
	name   string
	color  color.RGBA
	dashed bool
	points plotter.XYs
}

// plotCurves are the curves of a report and of the earlier one. What a logarithm has no place for is left out.
func plotCurves(r *benchReport, earlier *earlierRun, of func(benchRow) float64) (out []plotCurve) {
	add := func(rows []benchRow, suffix string, dashed bool) {
		for i, in := range []bool{false, true} {
			c := plotCurve{name: []string{"out of place", "in place"}[i] + suffix, color: curveColors[i], dashed: dashed}
			for _, row := range rows {
				if y := of(row); row.InPlace == in && y > 0 && row.Size > 0 {
					c.points = append(c.points, plotter.XY{X: float64(row.Size), Y: y})
				}
			}
			if len(c.points) > 0 {
				out = append(out, c)
			}
		}
	}
	add(r.Rows, "", false)
	if earlier != nil {
		suffix := ", earlier"
		if t := earlier.report.Transport; t != r.Transport {
			suffix += " over " + t
		}
		add(earlier.report.Rows, suffix, true)
	}
	return out
}
