package worker

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

// settle decides, together with all ranks, where g's gradients are reduced: on the devices if that is possible for everyone. wanted says
// that every rank would.
func (s *Session) settle(g *generation, wanted bool) error {
	s.leaveDevice()
	if s.res == nil {
		return nil
	}
	refusals := []refused{{nobody, errors.New("a worker has no GPU")}}
	if wanted {
		var on bool
		var err error
		if on, refusals, err = s.house(g); err != nil {
			return err
		}
		if on {
			s.res.on = true
			says := (&mapping{}).says()
			if s.res.team.way != nil {
				says = s.res.team.way.says()
			}
			s.log.Info(says, "gen", g.number(), "rank", g.rank, "world", g.world())
			return nil
		}
	}
	s.leaveDevice()
	if err := s.bringHome(); err != nil {
		return err
	}
	s.res.abandon()
	var why []string
	level, mine := slog.LevelInfo, false
	for _, no := range refusals {
		why, mine = append(why, no.because.Error()), mine || no.by == g.rank
	}
	because := strings.Join(why, "; ")
	if mine && s.res.told != because {
		level, s.res.told = slog.LevelWarn, because
	}
	s.log.Log(g.ctx, level, "gradients are reduced by way of the host", "gen", g.number(), "rank", g.rank, "by", refusals[0].by, "because", because)
	return nil
}

// refused is a rank's no to one way of reducing on the devices.
type refused struct {
	by      int
	because error
}

// house makes g's gradients at home on the device, in the first way that all ranks have. on, and what was refused, are equal on all of them; err is this
// one's or the group's end.
func (s *Session) house(g *generation) (on bool, refusals []refused, err error) {
	r := s.res
	r.team = newTeam(g.view, g.rank, s.plan.Shards, r.grads.Len())
	if g.group == nil {
		no, err := s.tolerable(r.reserve(g.view.Ranges[g.rank], s.plan.Shards))
		return no == nil, []refused{{g.rank, no}}, err
	}
	for _, try := range []func(*generation) (int, error, error){s.share, s.exchange} {
		by, no, err := try(g)
		if no == nil || err != nil {
			return err == nil, refusals, err
		}
		s.leaveDevice()
		refusals = append(refusals, refused{by, no})
	}
	return false, refusals, nil
}

// share makes room for g's gradients on the device, and has the ranks open each other's. What is refused, and by which rank, is equal
// on all of them; err is this one's or the group's end.
func (s *Session) share(g *generation) (by int, refused, err error) {
	r := s.res
	handles, err := r.offer(g.view.Ranges[g.rank], s.plan.Shards)
	if err == nil {
		err = r.team.reserve(r.dev)
	}
	offers, by, refused, err := s.vote(g, handles, err)
	if refused != nil || err != nil {
		return by, refused, err
	}
	w := &mapping{}
	r.team.way = w
	_, by, refused, err = s.vote(g, nil, w.enter(r.dev.(kernels.Sharer), g.rank, offers))
	return by, refused, err
}

// vote is consent after what this rank did or could not do. A device that has failed ends it.
func (s *Session) vote(g *generation, handles [][]byte, did error) (all [][][]byte, by int, refused, err error) {
	mine, err := s.tolerable(did)
	if err != nil {
		return nil, nobody, nil, err
	}
	return s.consent(g, handles, mine)
}

// tolerable splits err of the device into what the way by the host avoids, and the end of the device.
func (s *Session) tolerable(err error) (refused, fatal error) {
	if err == nil {
		return nil, nil
	}
	return err, s.res.dev.Sync()
}

// reasonLen is the most bytes of a reason that ranks tell each other.
const reasonLen = 255

// consent tells all ranks this one's handles, or why it refuses, and gives the first refusal or everybody's handles.
func (s *Session) consent(g *generation, handles [][]byte, mine error) (all [][][]byte, by int, refused, err error) {
	partials := 1
	for _, r := range g.view.Ranges {
		partials = max(partials, len(elastic.Partials(r, s.plan.Shards)))
	}
	room := max((partials+1)*(1+kernels.MaxHandle)+1, 1+reasonLen)
	own := make([]byte, 0, room)
	if mine == nil {
		own = append(own, byte(len(handles)))
		for _, h := range handles {
			own = append(append(own, byte(len(h))), h...)
		}
	} else {
		why := mine.Error()
		own = append(append(own, refusal), why[:min(len(why), reasonLen)]...)
	}
	out := make([]byte, room*g.world())
	if err := g.group.AllGather(g.ctx, collective.Of(out), collective.Of(own[:room])); err != nil {
		return nil, nobody, nil, err
	}
	for rank := range g.world() {
		record := out[rank*room : (rank+1)*room]
		if record[0] == refusal {
			why, _, _ := bytes.Cut(record[1:], []byte{0})
			return nil, rank, errors.New(string(why)), nil
		}
		list := make([][]byte, record[0])
		rest := record[1:]
		for i := range list {
			n := 1 + int(rest[0])
			list[i], rest = rest[1:n], rest[n:]
		}
		all = append(all, list)
	}
	return all, nobody, nil, nil
}

// refusal stands where a record has its number of handles.
const refusal = 255

// bringHome makes the reduced gradients, if they are on the device, a vector of the host.
func (s *Session) bringHome() error {
	v := &s.vec
	if !v.away() {
		return nil
	}
	b := v.take()
	if err := s.res.fetch(v, s.params, b); err != nil {
		v.give(b)
		return err
	}
	copy(tail(b), tail(v.reduced))
	v.reduced = b
	return nil
}

// leaveDevice ends this rank's part in a generation's reductions on devices.
func (s *Session) leaveDevice() {
	if err := s.res.leave(); err != nil {
		s.log.Warn("memory of other workers' GPUs could not be closed", "err", err)
	}
}
