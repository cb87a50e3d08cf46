package elastic

import "fmt"

// decide chooses the step to resume at and each member's way there, from the fences of a view's members in
// rank order. HoldsState in them means a state that may be used. It is false when there is none and no checkpoint either.
//
// The step is the highest that anybody holds, alive or as a checkpoint; the living win a tie. A member that is
// one step behind gets that step's reduced gradient where somebody still has it; everybody else gets the state,
// in stripes from several members.
func decide(fences []Fence) (r Step, sync []SyncPlan, ok bool) {
	best, saved, loader := Step(-1), Step(0), -1
	for i, f := range fences {
		if f.HoldsState {
			best = max(best, f.Applied)
		}
		if f.Checkpoint > saved {
			saved, loader = f.Checkpoint, i
		}
	}
	if best < 0 && saved == 0 {
		return 0, nil, false
	}
	var holders, reducers []int
	if saved > best {
		r, holders = saved, []int{loader}
	} else {
		r, loader = best, -1
		for i, f := range fences {
			if f.HoldsState && f.Applied == r {
				holders = append(holders, i)
				if f.HoldsReduced {
					reducers = append(reducers, i)
				}
			}
		}
	}
	sync = make([]SyncPlan, len(fences))
	needy := 0
	for i, f := range fences {
		switch {
		case i == loader:
			sync[i] = SyncPlan{Kind: SyncCheckpoint}
		case loader < 0 && f.HoldsState && f.Applied == r:
			sync[i] = SyncPlan{Kind: SyncNone}
		case f.HoldsState && f.Applied == r-1 && len(reducers) > 0:
			sync[i] = SyncPlan{Kind: SyncReduced, From: sources(reducers, needy, 1)}
			needy++
		default:
			sync[i] = SyncPlan{Kind: SyncState, From: sources(holders, needy, MaxSources)}
			needy++
		}
	}
	return r, sync, true
}

// sources gives the i-th member in need up to n of the holders, spreading the load over all of them.
func sources(holders []int, i, n int) []int {
	n = min(n, len(holders))
	from := make([]int, n)
	for j := range from {
		from[j] = holders[(i*n+j)%len(holders)]
	}
	return from
}

func lacking(have, need int) string {
	return fmt.Sprintf("%d of at least %d workers are there", have, need)
}

func resumeNote(sync []SyncPlan, r Step) string {
	for _, p := range sync {
		if p.Kind == SyncCheckpoint {
			return fmt.Sprintf("; it starts from the checkpoint of step %d", r)
		}
	}
	return ""
}
