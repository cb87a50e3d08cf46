//go:build linux

package shm

import (
	"context"
	"testing"

	"github.com/farandole-ml/farandole/collective"
)

// BenchmarkAlone is what an operation costs beside the waiting and the transfers: a group of one.
func BenchmarkAlone(b *testing.B) {
	g := collective.New(connected(b, 1)[0])
	defer g.Close()
	x := collective.Of(make([]float32, 256))
	for _, c := range []collective.Call{
		{Kind: collective.OpBarrier},
		{Kind: collective.OpAllReduce, Out: x, In: x},
	} {
		b.Run(c.Kind.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := g.Do(context.Background(), &c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
