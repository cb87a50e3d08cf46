package elastic

// Partials are the fewest maximal nodes of the reduction tree over shards shards that cover r, left to right.
// The tree is sum[a,b) = sum[a,m) + sum[m,b) with m = (a+b)/2, down to single shards.
func Partials(r Range, shards int) []Range {
	return appendPartials(nil, r, Range{0, shards})
}

func appendPartials(to []Range, r, node Range) []Range {
	if node.Len() <= 0 || r.End <= node.First || node.End <= r.First {
		return to
	}
	if r.First <= node.First && node.End <= r.End {
		return append(to, node)
	}
	m := (node.First + node.End) / 2
	to = appendPartials(to, r, Range{node.First, m})
	return appendPartials(to, r, Range{m, node.End})
}

// Assign splits shards into world contiguous ranges in rank order, sizes as equal as they can be.
func Assign(shards, world int) []Range {
	ranges := make([]Range, world)
	for r := range ranges {
		ranges[r] = Range{shards * r / world, shards * (r + 1) / world}
	}
	return ranges
}
