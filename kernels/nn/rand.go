package nn

// golden is 2⁶⁴ divided by the golden ratio, the increment of SplitMix64.
const golden = 0x9e3779b97f4a7c15

// mix is the output function of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64 bits that changes half of
// them when one changes.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// stream is a counter-based random stream: number i is a function of key and i alone.
// Its bits are part of the checkpoint contract: they never change between versions or machines.
type stream struct{ key uint64 }

// streamOf is the stream of a seed and a tensor's name, so that adding a tensor changes no other's values.
func streamOf(seed uint64, name string) stream {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return stream{mix(mix(seed+golden) ^ h)}
}

func (s stream) at(i uint64) uint64 { return mix(s.key + (i+1)*golden) }

// normal is number i of a standard normal distribution, as the sum of twelve 16-bit uniforms (Irwin–Hall).
// Sum, centring and division by 2¹⁶ are exact, so the bits are equal on every machine: no logarithm, no cosine, and
// nothing that a compiler could fuse. The tails end at ±6.
func (s stream) normal(i uint64) float32 {
	const even = 0x0000ffff0000ffff // lanes 0 and 2 of four
	var lanes uint64
	for k := range uint64(3) {
		x := s.at(3*i + k)
		lanes += x&even + x>>16&even
	}
	sum := int32(lanes&0xffffffff) + int32(lanes>>32)
	return float32(sum-12*65535/2) / 65536
}

// fillNormal sets x to std times the stream's normals.
func (s stream) fillNormal(x []float32, std float32) {
	for i := range x {
		x[i] = s.normal(uint64(i)) * std
	}
}
