package main

import (
	"strconv"
	"strings"
)

// teeRule says which streams of which worker are shown: bit 0 standard output, bit 1 standard error.
type teeRule struct {
	all     int
	byLocal map[int]int // by local rank; the others show nothing
}

// parseTee reads torchrun's --tee: 0 to 3, or LOCAL_RANK:0 to 3 separated by commas.
func parseTee(s string) (teeRule, error) {
	bad := usagef("--tee wants 0, 1, 2 or 3, or such as 0:3,1:2 for single workers, not %q", s)
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > 3 {
			return teeRule{}, bad
		}
		return teeRule{all: n}, nil
	}
	r := teeRule{byLocal: map[int]int{}}
	for part := range strings.SplitSeq(s, ",") {
		rank, streams, ok := strings.Cut(strings.TrimSpace(part), ":")
		k, err1 := strconv.Atoi(rank)
		v, err2 := strconv.Atoi(streams)
		if !ok || err1 != nil || err2 != nil || k < 0 || v < 0 || v > 3 {
			return teeRule{}, bad
		}
		if _, twice := r.byLocal[k]; twice {
			return teeRule{}, usagef("--tee %s has worker %d twice: leave one out", s, k)
		}
		r.byLocal[k] = v
	}
	return r, nil
}

func (r teeRule) shows(local int, stderr bool) bool {
	bits := r.all
	if r.byLocal != nil {
		bits = r.byLocal[local]
	}
	if stderr {
		return bits&2 != 0
	}
	return bits&1 != 0
}
