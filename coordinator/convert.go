package coordinator

import (
	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
)

func memberFrom(m *pb.Member) elastic.Member {
	return elastic.Member{
		ID: elastic.MemberID(m.GetId()), Addr: m.GetAddr(), Host: m.GetHost(), Class: m.GetClass(),
		Rank: int(m.GetLocalRank()),
	}
}

func fenceFrom(f *pb.Fence) elastic.Fence {
	return elastic.Fence{
		Generation: elastic.Generation(f.GetGeneration()), Applied: elastic.Step(f.GetApplied()),
		HoldsReduced: f.GetHoldsReduced(), HoldsState: f.GetHoldsState(), Checkpoint: elastic.Step(f.GetCheckpoint()),
		View: elastic.Generation(f.GetView()), Term: elastic.Generation(f.GetTerm()),
	}
}

func viewTo(v *elastic.View) *pb.View {
	out := &pb.View{
		Job: v.Job, Generation: uint64(v.Generation), Shards: int32(v.Shards), Resume: int64(v.Resume),
		ResumeTerm: uint64(v.ResumeTerm),
	}
	for i, m := range v.Roster {
		out.Roster = append(out.Roster, &pb.Member{
			Id: string(m.ID), Addr: m.Addr, Host: m.Host, Class: m.Class, LocalRank: int32(m.Rank),
		})
		out.Ranges = append(out.Ranges, &pb.Range{First: int32(v.Ranges[i].First), End: int32(v.Ranges[i].End)})
		sp := &pb.SyncPlan{Kind: int32(v.Sync[i].Kind)}
		for _, r := range v.Sync[i].From {
			sp.From = append(sp.From, int32(r))
		}
		out.Sync = append(out.Sync, sp)
	}
	return out
}

func ledgerTo(l []elastic.Term) []*pb.Term {
	var out []*pb.Term
	for _, t := range l {
		out = append(out, &pb.Term{
			Generation: uint64(t.Generation), First: int64(t.First), Last: int64(t.Last), World: int32(t.World),
		})
	}
	return out
}
