package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// curve is a job's loss by step, and when workers went and came. One goroutine owns it.
type curve struct {
	points []*pb.Progress // steps ascend
	every  int64          // steps that lie at least between two points, once there were too many
	lost   []int64        // the step after which each worker was lost
	joined []int64
}

// maxCurvePoints bounds a curve: with more points every second one goes. A picture is a tenth as wide.
const maxCurvePoints = 1 << 13

func (c *curve) event(e *pb.JobEvent) {
	switch v := e.Of.(type) {
	case *pb.JobEvent_Progress:
		c.progress(v.Progress)
	case *pb.JobEvent_Change:
		switch {
		case len(c.lost)+len(c.joined) >= maxCurvePoints:
		case v.Change.Kind == "loss":
			c.lost = append(c.lost, v.Change.Step)
		case v.Change.Kind == "join" && v.Change.Generation > 0: // those of the first view are no change
			c.joined = append(c.joined, v.Change.Step)
		}
	}
}

func (c *curve) progress(p *pb.Progress) {
	// Steps that were done again, from an older checkpoint, replace what they repeat.
	for len(c.points) > 0 && c.points[len(c.points)-1].Step >= p.Step {
		c.points = c.points[:len(c.points)-1]
	}
	if n := len(c.points); p.Step == 0 || n > 0 && p.Step-c.points[n-1].Step < c.every {
		return
	}
	if c.points = append(c.points, p); len(c.points) <= maxCurvePoints {
		return
	}
	kept := c.points[:0]
	for i := 0; i < len(c.points); i += 2 {
		kept = append(kept, c.points[i])
	}
	clear(c.points[len(kept):])
	c.points = kept
	c.every = max(1, (kept[len(kept)-1].Step-kept[0].Step)/int64(len(kept)-1))
}

// curveKinds are the ways to write a curve, by the file's ending.
var curveKinds = map[string]func(*curve) ([]byte, error){
	".csv": func(c *curve) ([]byte, error) { return c.csv(), nil },
	".png": (*curve).png,
}

// checkCurves proves that the curves can be written.
func checkCurves(paths []string) error {
	for _, path := range paths {
		if curveKinds[strings.ToLower(filepath.Ext(path))] == nil {
			return usagef("--curve %s: name a file that ends in .png for a picture or in .csv for its figures", path)
		}
		if err := writableFile("--curve", path); err != nil {
			return err
		}
	}
	return nil
}

// write puts the curve at path, whose ending checkCurves knows.
func (c *curve) write(path string) error {
	b, err := curveKinds[strings.ToLower(filepath.Ext(path))](c)
	if err != nil {
		return err
	}
	return writeFileAtomic(path, b)
}

func (c *curve) csv() []byte {
	var b bytes.Buffer
	b.WriteString("step,loss,tokens_per_second,workers,generation\n")
	for _, p := range c.points {
		fmt.Fprintf(&b, "%d,%s,%.1f,%d,%d\n", p.Step, strconv.FormatFloat(p.Loss, 'g', 6, 64), p.TokensPerSecond, p.World, p.Generation)
	}
	return b.Bytes()
}

// The curve's picture: a pale line for each step's loss, a dark one for the mean of a hundredth of the steps.
const (
	curveWidth  = 10 * vg.Inch
	curveHeight = 5 * vg.Inch
	curveMeans  = 100
)

var (
	paleColor   = color.RGBA{0xa9, 0xc9, 0xdd, 0xff}
	lostColor   = color.RGBA{0xc0, 0x39, 0x2b, 0xff}
	joinedColor = color.RGBA{0x2e, 0x8b, 0x57, 0xff}
)

func (c *curve) png() ([]byte, error) {
	p := plot.New()
	p.X.Label.Text, p.Y.Label.Text = "step", "loss"
	p.Legend.Top = true
	p.Add(plotter.NewGrid())
	all := c.finite()
	if len(all) == 0 {
		p.Y.Label.Text += ": nothing to show"
	} else if err := addLines(p,
		curveLine{"loss of a step", all, paleColor, 0.7},
		curveLine{"mean", means(all), curveColors[0], 1.8},
	); err != nil {
		return nil, err
	}
	low, high := p.Y.Min, p.Y.Max
	for _, m := range []struct {
		name  string
		steps []int64
		color color.RGBA
	}{{"worker lost", c.lost, lostColor}, {"worker joined", c.joined, joinedColor}} {
		for i, step := range m.steps {
			line := curveLine{points: plotter.XYs{{X: float64(step), Y: low}, {X: float64(step), Y: high}}, color: m.color, width: 1}
			if i == 0 {
				line.name = m.name
			}
			if err := addLines(p, line); err != nil {
				return nil, err
			}
		}
	}
	img := vgimg.New(curveWidth, curveHeight)
	pad := vg.Points(12)
	p.Draw(draw.Crop(draw.New(img), pad, -pad, pad, -pad))
	var b bytes.Buffer
	_, err := vgimg.PngCanvas{Canvas: img}.WriteTo(&b)
	return b.Bytes(), err
}

// finite are the points that a picture has a place for.
func (c *curve) finite() (out plotter.XYs) {
	for _, p := range c.points {
		if !math.IsNaN(p.Loss) && !math.IsInf(p.Loss, 0) {
			out = append(out, plotter.XY{X: float64(p.Step), Y: p.Loss})
		}
	}
	return out
}

// means are the means of neighbours, about curveMeans of them.
func means(all plotter.XYs) (out plotter.XYs) {
	width := (len(all) + curveMeans - 1) / curveMeans
	for len(all) > 0 {
		part := all[:min(width, len(all))]
		all = all[len(part):]
		var sum plotter.XY
		for _, p := range part {
			sum.X, sum.Y = sum.X+p.X, sum.Y+p.Y
		}
		out = append(out, plotter.XY{X: sum.X / float64(len(part)), Y: sum.Y / float64(len(part))})
	}
	return out
}

// curveLine is a line of the picture; without a name it is not in the legend.
type curveLine struct {
	name   string
	points plotter.XYs
	color  color.RGBA
	width  float64
}

func addLines(p *plot.Plot, lines ...curveLine) error {
	for _, l := range lines {
		line, err := plotter.NewLine(l.points)
		if err != nil {
			return err
		}
		line.Color, line.Width = l.color, vg.Points(l.width)
		p.Add(line)
		if l.name != "" {
			p.Legend.Add(l.name, line)
		}
	}
	return nil
}
