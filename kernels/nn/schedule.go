package nn

import "math"

// Schedule is a learning rate that rises linearly over Warmup steps to Peak, then falls along half a cosine to Floor at
// step Steps and stays there.
type Schedule struct {
	Peak   float64
	Floor  float64
	Warmup int64
	Steps  int64 // of the whole job; zero keeps Peak after the warm-up
}

// LR is the learning rate of a step, 1 for the first. Its bits are equal on every machine: each product is rounded by
// a conversion, which the language does not let a compiler fuse, and the cosine is our own.
func (s Schedule) LR(step int64) float64 {
	if step <= s.Warmup {
		return s.Peak * float64(step) / float64(s.Warmup)
	}
	if s.Steps == 0 {
		return s.Peak
	}
	if step >= s.Steps {
		return s.Floor
	}
	progress := float64(step-s.Warmup) / float64(s.Steps-s.Warmup)
	return s.Floor + float64((s.Peak-s.Floor)*halfCosine(progress))
}

// halfCosine is (1 + cos πx)/2 for x in [0, 1].
func halfCosine(x float64) float64 {
	if x > 0.5 {
		return 1 - halfCosine(1-x)
	}
	// The Taylor series in y = (πx)² ≤ 2.47: the term after the last is below 1e-17.
	y := float64(math.Pi * x)
	y = float64(y * y)
	const terms = 12
	cos := 1.0
	for k := terms; k > 0; k-- {
		cos = 1 - float64(float64(y/float64(2*k*(2*k-1)))*cos)
	}
	return float64((1 + cos) / 2)
}
