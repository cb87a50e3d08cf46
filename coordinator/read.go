package coordinator

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/proto"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// ErrInUse says that a coordinator is using a state directory.
var ErrInUse = errors.New("a coordinator is using it")

// ReadJobs gives the jobs in a state directory that no coordinator uses now, oldest first, and changes nothing there. Its
// errors are os.ErrNotExist when there is no state, ErrInUse, or that the file cannot be read.
func ReadJobs(stateDir string) ([]*pb.JobStatus, error) {
	path := filepath.Join(stateDir, StateFile)
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait, ReadOnly: true})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, ErrInUse
	}
	if err != nil {
		return nil, fmt.Errorf("coordinator: open %s: %w", path, err)
	}
	st := &store{db: db}
	defer func() { _ = st.close() }()
	all, err := st.jobs()
	if err != nil {
		return nil, err
	}
	sort.Slice(all, func(a, b int) bool { return all[a].Created.Before(all[b].Created) })
	out := make([]*pb.JobStatus, 0, len(all))
	for _, v := range all {
		s, err := v.status()
		if err != nil {
			return nil, fmt.Errorf("coordinator: job %s: %w", v.ID, err)
		}
		out = append(out, s)
	}
	return out, nil
}

// status is what the durable state alone says of a job. One that has not ended stands at its last view's resume step.
func (v *saved) status() (*pb.JobStatus, error) {
	spec, out := new(pb.JobSpec), &pb.JobStatus{Job: v.ID, Status: "interrupted", Ledger: ledgerTo(v.Record.Ledger)}
	if err := proto.Unmarshal(v.Spec, spec); err != nil {
		return nil, err
	}
	out.Name = spec.Name
	if len(v.Plan) > 0 {
		out.Plan = new(pb.Plan)
		if err := proto.Unmarshal(v.Plan, out.Plan); err != nil {
			return nil, err
		}
	}
	if w := v.Record.View; w != nil {
		out.Generation, out.World, out.Step = uint64(w.Generation), int32(w.World()), int64(w.Resume)
	}
	if len(v.Ended) > 0 {
		e := new(pb.JobEnded)
		if err := proto.Unmarshal(v.Ended, e); err != nil {
			return nil, err
		}
		out.Status, out.Step, out.Loss, out.Ledger = e.Status, e.Steps, e.Loss, e.Ledger
	}
	return out, nil
}
