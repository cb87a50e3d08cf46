package main

import (
	"image"
	"image/color"
	"image/draw"
	"math"

	"golang.org/x/image/font"
	"golang.org/x/image/font/inconsolata"
	"golang.org/x/image/math/fixed"
	"golang.org/x/image/vector"
)

// canvas draws lines, boxes and text. Coordinates are pixels from the upper left corner.
type canvas struct {
	img *image.RGBA
}

func newCanvas(width, height int) *canvas {
	c := &canvas{image.NewRGBA(image.Rect(0, 0, width, height))}
	draw.Draw(c.img, c.img.Bounds(), image.White, image.Point{}, draw.Src)
	return c
}

// line is a straight line of that width, smoothed.
func (c *canvas) line(x0, y0, x1, y1, width float64, ink color.RGBA) {
	length := math.Hypot(x1-x0, y1-y0)
	if length == 0 {
		return
	}
	// Half the width, at a right angle to the line.
	dx, dy := -(y1-y0)/length*width/2, (x1-x0)/length*width/2
	c.polygon(ink, x0+dx, y0+dy, x1+dx, y1+dy, x1-dx, y1-dy, x0-dx, y0-dy)
}

func (c *canvas) rect(x0, y0, x1, y1 float64, ink color.RGBA) {
	c.polygon(ink, x0, y0, x1, y0, x1, y1, x0, y1)
}

func (c *canvas) frame(x, y, width, height int, ink color.RGBA) {
	l, t, r, b := float64(x), float64(y), float64(x+width), float64(y+height)
	c.line(l, t, r, t, 1, ink)
	c.line(r, t, r, b, 1, ink)
	c.line(r, b, l, b, 1, ink)
	c.line(l, b, l, t, 1, ink)
}

// polygon fills the shape whose corners are given as x, y, x, y, … It rasterizes within the shape's own bounds.
func (c *canvas) polygon(ink color.RGBA, xy ...float64) {
	low := image.Pt(math.MaxInt32, math.MaxInt32)
	high := image.Pt(0, 0)
	for i := 0; i < len(xy); i += 2 {
		low = image.Pt(min(low.X, int(math.Floor(xy[i]))), min(low.Y, int(math.Floor(xy[i+1]))))
		high = image.Pt(max(high.X, int(math.Ceil(xy[i]))), max(high.Y, int(math.Ceil(xy[i+1]))))
	}
	r := vector.NewRasterizer(high.X-low.X, high.Y-low.Y)
	for i := 0; i < len(xy); i += 2 {
		x, y := float32(xy[i]-float64(low.X)), float32(xy[i+1]-float64(low.Y))
		if i == 0 {
			r.MoveTo(x, y)
		} else {
			r.LineTo(x, y)
		}
	}
	r.ClosePath()
	r.Draw(c.img, image.Rectangle{low, high}, image.NewUniform(ink), image.Point{})
}

// alignment says which end of a text its x is.
type alignment int

const (
	alignLeft alignment = iota
	alignMiddle
	alignRight
)

// text writes s, vertically centred on y.
func (c *canvas) text(x, y int, s string, ink color.RGBA, a alignment, bold bool) {
	face := inconsolata.Regular8x16
	if bold {
		face = inconsolata.Bold8x16
	}
	width := font.MeasureString(face, s).Round()
	switch a {
	case alignMiddle:
		x -= width / 2
	case alignRight:
		x -= width
	}
	d := &font.Drawer{Dst: c.img, Src: image.NewUniform(ink), Face: face, Dot: fixed.P(x, y+face.Ascent/2-1)}
	d.DrawString(s)
}
