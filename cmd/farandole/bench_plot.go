package main

import (
	"bytes"
	"fmt"
	"image/color"
	"image/png"
)

// plotReport writes a picture of r to path: bus bandwidth above, time below, both by size on logarithmic axes, with a
// curve for each place, and the earlier run's curves, if there is one.
func plotReport(path string, r *benchReport, earlier *earlierRun) error {
	title := fmt.Sprintf("%s, %s over %s", r.Op, count(int64(r.Ranks), "rank"), r.Transport)
	if len(r.Rows) > 0 {
		title += ", " + r.Rows[0].Type
		if r.Rows[0].Redop != "none" {
			title += " " + r.Rows[0].Redop
		}
	}
	c := newCanvas(plotWidth, plotHeight)
	c.text(plotWidth/2, plotMargin/3, title, inkColor, alignMiddle, true)
	half := (plotHeight - plotMargin) / 2
	panels := []struct {
		label string
		of    func(benchRow) float64
	}{
		{"bus bandwidth, GB/s", func(r benchRow) float64 { return r.BusBW }},
		{"time, µs", func(r benchRow) float64 { return r.TimeUS }},
	}
	for i, p := range panels {
		f := &plotFrame{canvas: c, yLabel: p.label, xLabel: "size, bytes", curves: plotCurves(r, earlier, p.of),
			left: plotMargin + 48, top: plotMargin + i*half, width: plotWidth - plotMargin - 72, height: half - 64, legend: i == 0}
		f.draw()
	}
	var b bytes.Buffer
	if err := png.Encode(&b, c.img); err != nil {
		return failf("--plot %s: %w", path, err)
	}
	if err := writeFileAtomic(path, b.Bytes()); err != nil {
		return failf("--plot %s: %v", path, causeOf(err))
	}
	return nil
}

// plotCurve is one line of a picture.
type plotCurve struct {
	name   string
	color  color.RGBA
	dashed bool
	points []plotPoint
}

type plotPoint struct{ x, y float64 }

// plotCurves are the curves of a report and of the earlier one. What a logarithm has no place for is left out.
func plotCurves(r *benchReport, earlier *earlierRun, of func(benchRow) float64) (out []plotCurve) {
	add := func(rows []benchRow, suffix string, dashed bool) {
		for i, in := range []bool{false, true} {
			c := plotCurve{name: []string{"out of place", "in place"}[i] + suffix, color: curveColors[i], dashed: dashed}
			for _, row := range rows {
				if y := of(row); row.InPlace == in && y > 0 && row.Size > 0 {
					c.points = append(c.points, plotPoint{float64(row.Size), y})
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
