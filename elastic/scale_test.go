package elastic_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/farandole-ml/farandole/elastic"
)

// BenchmarkLargeJob is what the state machine does for a job of many workers: all come, one dies, all go on.
func BenchmarkLargeJob(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				s := elastic.New(elastic.Policy{Job: "j", Start: n})
				id := func(i int) elastic.MemberID { return elastic.MemberID(fmt.Sprint("w", i)) }
				fence := elastic.Fence{HoldsState: true}
				for i := range n {
					s.Step(0, elastic.Joined{Member: elastic.Member{ID: id(i)}, Fence: fence, Shards: 2 * n})
				}
				for gen := elastic.Generation(1); gen <= 2; gen++ {
					for i := range n {
						s.Step(time.Second, elastic.Fenced{ID: id(i), Generation: gen, Fence: fence})
					}
					for i := range n {
						s.Step(time.Second, elastic.Formed{ID: id(i), Generation: gen})
					}
					if gen == 1 {
						s.Step(time.Second, elastic.Lost{ID: id(n / 2), Reason: "killed"})
					}
				}
				for i := range n {
					s.Step(time.Second, elastic.Heard{ID: id(i), Generation: 2, Applied: 1})
				}
				if v := s.View(); v == nil || v.Generation != 2 || v.World() != n-1 || s.Applied() != 1 {
					b.Fatal("there is no second view")
				}
			}
		})
	}
}
