package main

import (
	"fmt"
	"image/color"
	"math"
)

// The picture's size and colours. The colours differ in brightness too, for those who do not tell hues apart.
const (
	plotWidth  = 960
	plotHeight = 960
	plotMargin = 56
)

var (
	inkColor    = color.RGBA{0x22, 0x22, 0x22, 0xff}
	gridColor   = color.RGBA{0xe4, 0xe4, 0xe4, 0xff}
	curveColors = []color.RGBA{{0x1b, 0x6c, 0xa8, 0xff}, {0xe0, 0x7b, 0x00, 0xff}}
)

// plotFrame is one diagram: a grid of powers, axes and curves. x counts by powers of two, y by powers of ten.
type plotFrame struct {
	canvas         *canvas
	left, top      int
	width, height  int
	xLabel, yLabel string
	curves         []plotCurve
	legend         bool
	xLow, xHigh    float64 // logarithms
	yLow, yHigh    float64
	xStep          int // powers between two marks
}

// maxXMarks is how many sizes find room below the axis.
const maxXMarks = 14

func (f *plotFrame) draw() {
	if len(f.curves) == 0 {
		f.canvas.text(f.left+f.width/2, f.top+f.height/2, f.yLabel+": nothing to show", inkColor, alignMiddle, false)
		return
	}
	f.scale()
	f.grid()
	for _, c := range f.curves {
		f.curve(c)
	}
	f.canvas.frame(f.left, f.top, f.width, f.height, inkColor)
	f.canvas.text(f.left, f.top-10, f.yLabel, inkColor, alignLeft, true)
	f.canvas.text(f.left+f.width, f.top+f.height+40, f.xLabel, inkColor, alignRight, false)
	if f.legend {
		f.key()
	}
}

// scale finds the powers that enclose all points.
func (f *plotFrame) scale() {
	f.xLow, f.yLow = math.Inf(1), math.Inf(1)
	f.xHigh, f.yHigh = math.Inf(-1), math.Inf(-1)
	for _, c := range f.curves {
		for _, p := range c.points {
			f.xLow, f.xHigh = min(f.xLow, math.Log2(p.x)), max(f.xHigh, math.Log2(p.x))
			f.yLow, f.yHigh = min(f.yLow, math.Log10(p.y)), max(f.yHigh, math.Log10(p.y))
		}
	}
	f.xLow, f.xHigh = math.Floor(f.xLow), math.Ceil(f.xHigh)
	f.yLow, f.yHigh = math.Floor(f.yLow), math.Ceil(f.yHigh)
	if f.xLow == f.xHigh {
		f.xLow, f.xHigh = f.xLow-1, f.xHigh+1
	}
	if f.yLow == f.yHigh {
		f.yHigh++
	}
	f.xStep = int(math.Ceil((f.xHigh - f.xLow) / maxXMarks))
}

func (f *plotFrame) at(p plotPoint) (x, y float64) { return f.x(math.Log2(p.x)), f.y(math.Log10(p.y)) }

func (f *plotFrame) x(log float64) float64 {
	return float64(f.left) + (log-f.xLow)/(f.xHigh-f.xLow)*float64(f.width)
}

func (f *plotFrame) y(log float64) float64 {
	return float64(f.top+f.height) - (log-f.yLow)/(f.yHigh-f.yLow)*float64(f.height)
}

func (f *plotFrame) grid() {
	bottom, right := float64(f.top+f.height), float64(f.left+f.width)
	for e := int(f.xLow); e <= int(f.xHigh); e += f.xStep {
		x := f.x(float64(e))
		f.canvas.line(x, float64(f.top), x, bottom, 1, gridColor)
		f.canvas.text(int(x), int(bottom)+16, sizeMark(e), inkColor, alignMiddle, false)
	}
	for e := int(f.yLow); e <= int(f.yHigh); e++ {
		for digit := 1; digit <= 9; digit++ {
			log := float64(e) + math.Log10(float64(digit))
			if log > f.yHigh || digit > 1 && f.yHigh-f.yLow > 3 {
				break
			}
			y := f.y(log)
			f.canvas.line(float64(f.left), y, right, y, 1, gridColor)
			// Few powers leave room for 2 and 5 between them.
			if digit == 1 || f.yHigh-f.yLow <= 2 && (digit == 2 || digit == 5) {
				f.canvas.text(f.left-6, int(y), fmt.Sprintf("%g", math.Round(math.Pow(10, log)*1e9)/1e9), inkColor, alignRight, false)
			}
		}
	}
}

// sizeMark is 2^e bytes in a few letters.
func sizeMark(e int) string {
	if e < 0 {
		return ""
	}
	return fmt.Sprint(1<<(e%10)) + []string{"", "K", "M", "G", "T"}[min(e/10, 4)]
}

// The lengths of a dash and of the gap behind it, and half the side of a point's mark.
const (
	dashLength = 8
	gapLength  = 6
	markHalf   = 3.5
)

func (f *plotFrame) curve(c plotCurve) {
	for i, p := range c.points {
		x, y := f.at(p)
		if i > 0 {
			px, py := f.at(c.points[i-1])
			f.stroke(px, py, x, y, c)
		}
		f.canvas.rect(x-markHalf, y-markHalf, x+markHalf, y+markHalf, c.color)
	}
}

func (f *plotFrame) stroke(x0, y0, x1, y1 float64, c plotCurve) {
	if !c.dashed {
		f.canvas.line(x0, y0, x1, y1, 2, c.color)
		return
	}
	length := math.Hypot(x1-x0, y1-y0)
	for at := 0.0; at < length; at += dashLength + gapLength {
		a, b := at/length, min(at+dashLength, length)/length
		f.canvas.line(x0+(x1-x0)*a, y0+(y1-y0)*a, x0+(x1-x0)*b, y0+(y1-y0)*b, 2, c.color)
	}
}

// key names the curves, in the corner where rising curves leave room.
func (f *plotFrame) key() {
	x, y := float64(f.left+14), float64(f.top+18)
	for _, c := range f.curves {
		f.stroke(x, y, x+36, y, c)
		f.canvas.text(int(x)+44, int(y), c.name, inkColor, alignLeft, false)
		y += 20
	}
}
