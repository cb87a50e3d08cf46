package main

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

func told(c *curve, step int64, loss float64) {
	c.event(&pb.JobEvent{Of: &pb.JobEvent_Progress{Progress: &pb.Progress{Step: step, Loss: loss, World: 2, Generation: 1, TokensPerSecond: 10}}})
}

func changed(c *curve, kind string, step int64, generation uint64) {
	c.event(&pb.JobEvent{Of: &pb.JobEvent_Change{Change: &pb.MemberChange{Kind: kind, Step: step, Generation: generation}}})
}

func TestCurveFigures(t *testing.T) {
	var c curve
	for step, loss := range []float64{math.NaN(), 5.5, math.NaN(), 4.25, 4} {
		told(&c, int64(step), loss) // step 0 has no loss yet
	}
	told(&c, 3, 4.125) // again, from a checkpoint
	told(&c, 5, math.Inf(1))
	require.Equal(t, "step,loss,tokens_per_second,workers,generation\n"+
		"1,5.5,10.0,2,1\n2,NaN,10.0,2,1\n3,4.125,10.0,2,1\n5,+Inf,10.0,2,1\n", string(c.csv()))
}

// TestCurveOfManySteps: a job of any length has a curve of bounded size that reaches from its first steps to its last ones.
func TestCurveOfManySteps(t *testing.T) {
	const steps = 40 * maxCurvePoints
	var c curve
	for s := int64(1); s <= steps; s++ {
		told(&c, s, 1)
		changed(&c, "loss", s, 2)
		require.LessOrEqual(t, len(c.points), maxCurvePoints)
	}
	require.Greater(t, len(c.points), maxCurvePoints/3)
	require.Len(t, c.lost, maxCurvePoints)
	require.EqualValues(t, 1, c.points[0].Step)
	gap := int64(steps / (maxCurvePoints / 3))
	last := int64(0)
	for _, p := range c.points {
		require.LessOrEqual(t, p.Step-last, gap)
		last = p.Step
	}
	require.LessOrEqual(t, steps-last, gap)
}

func TestCurvePicture(t *testing.T) {
	near := func(got uint32, want uint8) bool { return math.Abs(float64(got>>8)-float64(want)) < 25 } // lines have soft edges
	has := func(img image.Image, want color.RGBA) bool {
		for y := range img.Bounds().Max.Y {
			for x := range img.Bounds().Max.X {
				r, g, b, _ := img.At(x, y).RGBA()
				if near(r, want.R) && near(g, want.G) && near(b, want.B) {
					return true
				}
			}
		}
		return false
	}
	drawn := func(c *curve) image.Image {
		b, err := c.png()
		require.NoError(t, err)
		img, err := png.Decode(bytes.NewReader(b))
		require.NoError(t, err)
		return img
	}
	var c curve
	drawn(&c) // of a job that ended at once
	changed(&c, "join", 0, 0)
	for s := range int64(300) {
		told(&c, s, 5-math.Sqrt(float64(s))/6)
	}
	told(&c, 300, math.NaN())
	img := drawn(&c)
	require.True(t, has(img, curveColors[0]))
	require.False(t, has(img, lostColor), "nobody was lost")
	require.False(t, has(img, joinedColor), "the first workers are no change")
	changed(&c, "loss", 100, 1)
	changed(&c, "join", 200, 3)
	img = drawn(&c)
	require.True(t, has(img, lostColor))
	require.True(t, has(img, joinedColor))
}

func TestCurveFiles(t *testing.T) {
	dir := t.TempDir()
	csv, picture := filepath.Join(dir, "loss.csv"), filepath.Join(dir, "loss.PNG")
	require.NoError(t, checkCurves([]string{csv, picture}))
	for path, say := range map[string]string{
		filepath.Join(dir, "loss"):             "ends in .png",
		filepath.Join(dir, "loss.svg"):         "ends in .png",
		filepath.Join(dir, "none", "loss.png"): "does not exist",
	} {
		err := checkCurves([]string{csv, path})
		require.ErrorContains(t, err, say)
		require.Equal(t, exitUsage, exitCodeOf(err))
	}
	var c curve
	told(&c, 1, 2)
	require.NoError(t, c.write(csv))
	require.NoError(t, c.write(picture))
	b, err := os.ReadFile(csv)
	require.NoError(t, err)
	require.Equal(t, 2, strings.Count(string(b), "\n"))
	require.FileExists(t, picture)
}
