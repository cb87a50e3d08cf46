//go:build linux

package shm

import "testing"

func BenchmarkSegment(b *testing.B) {
	for b.Loop() {
		f, m, err := createMemory("x", segmentBytes(4))
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
		unmapMemory(m)
	}
}
func BenchmarkConnect(b *testing.B) {
	for b.Loop() {
		for _, t := range connected(b, 4) {
			t.Close()
		}
	}
}
