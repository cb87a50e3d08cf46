package coordinator

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/proto"

	"github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
)

// StateFile is the name of the database in a state directory.
const StateFile = "farandole.db"

// lockWait is how long another coordinator may take to let go of the state file.
const lockWait = 3 * time.Second

var (
	bucketJobs   = []byte("jobs")   // job id → saved, as JSON
	bucketEvents = []byte("events") // job id → bucket of seq → JobEvent
)

// saved is everything durable about one job.
type saved struct {
	ID       string
	Created  time.Time
	Spec     []byte // coordinatorpb.JobSpec
	Plan     []byte // coordinatorpb.Plan; empty before the first worker
	Record   elastic.Record
	Restarts int            // used up of MaxRestarts
	Burnt    map[string]int // agent id → slots that a dead worker used up
	Started  time.Time      // when the first view was announced
	Paused   time.Duration  // between the last commit of a generation and the first of the next, in all
	Ended    []byte         // coordinatorpb.JobEnded; empty while it runs
}

// store is the durable state: one bbolt file, fsynced at every write.
type store struct{ db *bolt.DB }

func openStore(path string) (*store, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("coordinator: %s is in use by another coordinator: stop it, or choose another --state-dir", path)
	}
	if err != nil {
		return nil, fmt.Errorf("coordinator: open %s: %w", path, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		if _, err := tx.CreateBucketIfNotExists(bucketJobs); err != nil {
			return err
		}
		_, err := tx.CreateBucketIfNotExists(bucketEvents)
		return err
	})
	if err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("coordinator: prepare %s: %w", path, err)
	}
	return &store{db: db}, nil
}

func (s *store) close() error { return s.db.Close() }

// put makes a job's state durable before it returns, together with events that happened since the last put.
func (s *store) put(v *saved, events []*coordinatorpb.JobEvent) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("coordinator: encode job %s: %w", v.ID, err)
	}
	err = s.db.Update(func(tx *bolt.Tx) error {
		if err := tx.Bucket(bucketJobs).Put([]byte(v.ID), b); err != nil {
			return err
		}
		if len(events) == 0 {
			return nil
		}
		eb, err := tx.Bucket(bucketEvents).CreateBucketIfNotExists([]byte(v.ID))
		if err != nil {
			return err
		}
		for _, e := range events {
			m, err := proto.Marshal(e)
			if err != nil {
				return err
			}
			if err := eb.Put(binary.BigEndian.AppendUint64(nil, uint64(e.Seq)), m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("coordinator: save job %s: %w", v.ID, err)
	}
	return nil
}

// jobs reads every job.
func (s *store) jobs() ([]*saved, error) {
	var out []*saved
	err := s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketJobs).ForEach(func(k, b []byte) error {
			v := new(saved)
			if err := json.Unmarshal(b, v); err != nil {
				return fmt.Errorf("job %s: %w", k, err)
			}
			out = append(out, v)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("coordinator: read state: %w", err)
	}
	return out, nil
}

// events reads a job's history in order.
func (s *store) events(job string) ([]*coordinatorpb.JobEvent, error) {
	var out []*coordinatorpb.JobEvent
	err := s.db.View(func(tx *bolt.Tx) error {
		eb := tx.Bucket(bucketEvents).Bucket([]byte(job))
		if eb == nil {
			return nil
		}
		return eb.ForEach(func(_, b []byte) error {
			e := new(coordinatorpb.JobEvent)
			if err := proto.Unmarshal(b, e); err != nil {
				return err
			}
			out = append(out, e)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("coordinator: read events of %s: %w", job, err)
	}
	return out, nil
}
