package collective

// owners reduces a buffer by the owners of its parts, in up to three rounds.
//
// A host's first ranks, as many as the smallest host has, own one part each. Every rank sends each owner on its host that part of
// all its sources; the owner reduces them in one pass. The owners of the same part on several hosts then do the same with shares of
// the part, one share for each host: the owner of a share reduces the hosts' values. What is finished goes to the part's owners
// on the other hosts, and from every owner to the ranks on its host.
//
// With one host there are two rounds, and every rank is an owner. Each round's messages wait for rounds before alone, so no
// circle of waiting ranks can arise.
//
// Where the ranks of this host need no messages (spec.near), only the round between the hosts is here: see Group.byHost.
type owners struct {
	p     *plan
	s     *spec
	hosts *hosts
	host  []int // the ranks of this rank's host
	here  int   // this rank's host
	part  grid  // the buffer, a segment for each owner
	mine  int   // this rank's part; -1: none
	chunk int
	room  []piece // for what comes
}

// item is the c-th chunk of the share of one host in one owner's part. Shares are cut alike on every host.
type item struct{ share, c int }

func (p *plan) byOwners(s *spec, h *hosts) {
	o := &owners{p: p, s: s, hosts: h, here: h.of[p.rank], mine: h.index[p.rank], chunk: s.chunk}
	o.host = h.groups[o.here]
	o.part = newGrid(s.bytes, h.owners(), s.chunk, s.size)
	if o.mine >= o.part.world {
		o.mine = -1
	}
	one := len(h.groups) == 1
	p.circleUnless(s.near || one && o.part.bytes/o.part.unit >= o.part.world && s.everyRankSends())
	o.post()
	if o.mine >= 0 {
		if !s.near {
			o.inside()
		}
		o.across()
	}
	o.collect()
}

// near gives the other ranks on this rank's host, the left neighbour first (step -1) or the right one (step 1); none when
// they need no messages.
func (o *owners) near(step int) (ranks []int) {
	if o.s.near {
		return nil
	}
	n := len(o.host)
	for i := 1; i < n; i++ {
		ranks = append(ranks, o.host[((o.hosts.index[o.p.rank]+i*step)%n+n)%n])
	}
	return ranks
}

// far is the owner of part on another host, by places further.
func (o *owners) far(part, by int) (rank, host int) {
	n := len(o.hosts.groups)
	host = ((o.here+by)%n + n) % n
	return o.hosts.groups[host][part], host
}

// at is where an item of a part is.
func (o *owners) at(part int, i item) span {
	whole := o.part.segment(part)
	g := o.shares(part)
	s := g.chunk(i.share, i.c)
	return span{whole.lo + s.lo, whole.lo + s.hi}
}

// shares cuts a part into one share for each host, with equally many chunks for all parts.
func (o *owners) shares(part int) grid {
	whole := o.part.segment(part)
	g := newGrid(whole.hi-whole.lo, len(o.hosts.groups), o.chunk, o.s.size)
	g.unit = o.part.unit
	g.chunks = newGrid(o.s.bytes/o.part.world+o.part.unit, len(o.hosts.groups), o.chunk, o.s.size).chunks
	return g
}

// items gives the items of the shares that wanted picks, chunk by chunk.
func (o *owners) items(wanted func(share int) bool) (all []item) {
	for c := range o.shares(0).chunks {
		for share := range o.hosts.groups {
			if wanted(share) {
				all = append(all, item{share, c})
			}
		}
	}
	return all
}

func (o *owners) every(int) bool           { return true }
func (o *owners) own(share int) bool       { return share == o.here }
func (o *owners) elsewhere(share int) bool { return share != o.here }

// finished gives the items of a part in the order in which its owner here has them.
func (o *owners) finished() []item {
	return append(o.items(o.own), o.items(o.elsewhere)...)
}

// post writes down all messages, in the order in which they will go.
func (o *owners) post() {
	p := o.p
	for _, to := range o.near(1) {
		if part := o.hosts.index[to]; part < o.part.world {
			for _, i := range o.items(o.every) {
				for k := range o.s.sources(p.rank) {
					p.send(to, o.at(part, i).at(o.s.source(k)), true)
				}
			}
		}
	}
	if o.mine < 0 {
		return
	}
	for by := 1; by < len(o.hosts.groups); by++ {
		to, host := o.far(o.mine, by)
		for _, i := range o.items(func(share int) bool { return share == host }) {
			p.send(to, o.at(o.mine, i).at(bufOut), o.s.near)
		}
		for _, i := range o.items(o.own) {
			p.send(to, o.at(o.mine, i).at(bufOut), false)
		}
	}
	for _, to := range o.near(1) {
		for _, i := range o.finished() {
			p.send(to, o.at(o.mine, i).at(bufOut), false)
		}
	}
}

// rooms gives n pieces of scratch that can hold any item.
func (o *owners) rooms(n int) []piece {
	for len(o.room) < n {
		o.room = append(o.room, o.p.take(o.shares(0).largest()+o.part.unit))
	}
	return o.room[:n]
}

// inside is the round on this host.
func (o *owners) inside() {
	p, s := o.p, o.s
	several := len(o.hosts.groups) > 1
	srcs := make([][]piece, len(o.host))
	for _, i := range o.items(o.every) {
		at := o.at(o.mine, i)
		if at.lo == at.hi {
			continue
		}
		used := 0
		for k := range srcs {
			srcs[k] = srcs[k][:0]
		}
		for _, from := range o.near(-1) {
			for range s.sources(from) {
				in := o.rooms(used + 1)[used].part(at.hi - at.lo)
				used++
				p.recv(from, in)
				srcs[o.hosts.index[from]] = append(srcs[o.hosts.index[from]], in)
			}
		}
		for k := range s.sources(p.rank) {
			srcs[o.hosts.index[p.rank]] = append(srcs[o.hosts.index[p.rank]], at.at(s.source(k)))
		}
		reduction := redLast
		if several {
			reduction = s.redHost(o.here)
		}
		p.reduce(reduction, at.at(bufOut), concat(srcs)...)
		switch {
		case !several:
			p.releaseAll(o.near(1))
		case i.share != o.here:
			p.release(o.hosts.groups[i.share][o.mine])
		}
	}
}

// across is the round between the hosts.
func (o *owners) across() {
	p, n := o.p, len(o.hosts.groups)
	if n == 1 {
		return
	}
	srcs := make([]piece, n)
	for _, i := range o.items(o.own) {
		at := o.at(o.mine, i)
		if at.lo == at.hi {
			continue
		}
		for by := 1; by < n; by++ {
			from, host := o.far(o.mine, -by)
			srcs[host] = o.rooms(n - 1)[by-1].part(at.hi - at.lo)
			p.recv(from, srcs[host])
		}
		srcs[o.here] = at.at(bufOut)
		p.reduce(redLast, at.at(bufOut), srcs...)
		for by := 1; by < n; by++ {
			to, _ := o.far(o.mine, by)
			p.release(to)
		}
		p.releaseAll(o.near(1))
	}
	for _, i := range o.items(o.elsewhere) {
		if at := o.at(o.mine, i); at.lo < at.hi {
			p.recv(o.hosts.groups[i.share][o.mine], at.at(bufOut))
			p.releaseAll(o.near(1))
		}
	}
}

// collect gets the other owners' parts.
func (o *owners) collect() {
	for _, i := range o.finished() {
		for _, from := range o.near(-1) {
			if part := o.hosts.index[from]; part < o.part.world {
				o.p.recv(from, o.at(part, i).at(bufOut))
			}
		}
	}
}
