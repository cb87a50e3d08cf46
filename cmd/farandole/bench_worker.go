package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/worker"
)

// benchWorker is the program of a benchmark that runs as a job: as many workers as ranks, on the agents' hosts. The job's
// first step makes the ranks known to one another: each adds its host and address to a gradient, whose sum has them
// all. Every later step is one cell. Rank 0 prints the timings, which reach the command line as the job's log.
type benchWorker struct {
	task     benchTask
	out      io.Writer
	listener benchListener
	here     string    // this rank's host and address, as the others are told
	seats    []float32 // the parameter: a place of benchSeatBytes for each rank
	told     []float32 // its gradient
	session  *worker.Session
	rank     int
	notes    benchNotes
	group    *collective.Group
}

const (
	// benchSeatBytes is the room for one rank's host and address.
	benchSeatBytes = 512

	// benchLinePrefix marks the lines of the job's log that carry a timing.
	benchLinePrefix = "farandole-bench "

	// maxTaskBytes bounds a task on a command line; Linux takes 128 KiB.
	maxTaskBytes = 100 << 10

	// benchModesty is how long a rank keeps its own failure to itself: when another died, that one's agent shall be heard
	// first, and this rank's loss of it is no news.
	benchModesty = time.Second

	// maxTaskText bounds it unpacked.
	maxTaskText = 64 << 20
)

// pack makes the task one argument of a command line.
func (t *benchTask) pack() (string, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if err := json.NewEncoder(w).Encode(t); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	s := base64.StdEncoding.EncodeToString(b.Bytes())
	if len(s) > maxTaskBytes {
		return "", fmt.Errorf("%s are too many for one job: use fewer sizes", count(int64(len(t.Cells)), "measurement"))
	}
	return s, nil
}

func unpackTask(s string) (t benchTask, err error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return t, err
	}
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return t, err
	}
	return t, json.NewDecoder(io.LimitReader(r, maxTaskText)).Decode(&t)
}

func newBenchWorkerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "worker TASK",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := unpackTask(args[0])
			if err != nil {
				return usagef("read the task: %w: is farandole of one version on all hosts?", err)
			}
			worker.Main(&benchWorker{task: t, out: cmd.OutOrStdout()})
			return nil
		},
	}
}

func (w *benchWorker) Setup(_ context.Context, s *worker.Session) error {
	t, err := benchTransportByName(w.task.Transport)
	if err != nil {
		return &worker.UsageError{Reason: "transport " + err.Error() + ": is farandole of one version on all hosts?"}
	}
	ip, _, err := net.SplitHostPort(os.Getenv("FARANDOLE_LISTEN"))
	if err != nil {
		return errors.New("FARANDOLE_LISTEN is no address: start this by farandole bench --coordinator")
	}
	if w.listener, err = t.listen(benchSocket{ip: ip, checksum: w.task.Checksum, provider: w.task.Provider, log: w.notes.logger()}); err != nil {
		return err
	}
	if w.here = os.Getenv("FARANDOLE_HOST") + " " + w.listener.Addr(); len(w.here) > benchSeatBytes {
		return fmt.Errorf("host and address, %q, are longer than %d bytes", w.here, benchSeatBytes)
	}
	w.session = s
	n := w.task.Ranks * benchSeatBytes
	w.seats, w.told = make([]float32, n), make([]float32, n)
	s.Param("seats", []int{n}, w.seats, w.told)
	s.Plan(worker.Plan{Steps: int64(1 + len(w.task.Cells)), Shards: w.task.Ranks, SamplesPerStep: 1, Program: "farandole bench"})
	return nil
}

// Gradients is called once a step, because there are as many workers as shards: the shard is the rank.
func (w *benchWorker) Gradients(_ context.Context, shard elastic.Shard) (float64, error) {
	if shard.Step == 1 {
		w.rank = shard.Index
		for i, c := range []byte(w.here) {
			w.told[w.rank*benchSeatBytes+i] = float32(c)
		}
	}
	return 0, nil
}

func (w *benchWorker) Apply(_ context.Context, step elastic.Step) error {
	ctx := w.session.StepContext() // ends when the job does, or when a rank is lost
	if step == 1 {
		copy(w.seats, w.told)
		return w.connect(ctx)
	}
	if w.group == nil {
		return errors.New("this rank came too late to be measured")
	}
	cell := int(step) - 2
	r, err := measureCell(ctx, w.group, w.task.Cells[cell])
	if err != nil {
		time.Sleep(benchModesty)
		return fmt.Errorf("rank %d: %s: %w", w.rank, w.task.Cells[cell], err)
	}
	r.Cell, r.Notes = cell, w.notes.take()
	if err := w.report(ctx, r); err != nil {
		return fmt.Errorf("rank %d: collect the results: %w", w.rank, err)
	}
	return nil
}

func (w *benchWorker) connect(ctx context.Context) error {
	hosts, addrs, err := w.seated()
	if err != nil {
		return err
	}
	t, err := benchTransportByName(w.task.Transport)
	if err != nil {
		return err
	}
	if others := slices.Compact(slices.Sorted(slices.Values(hosts))); t.oneHost && len(others) > 1 {
		return &worker.UsageError{Reason: fmt.Sprintf("%s reaches ranks on one host alone, and these are on %s: use --transport tcp", t.name, strings.Join(others, ", "))}
	}
	ctx, cancel := context.WithTimeout(ctx, benchForm)
	defer cancel()
	tr, err := w.listener.Connect(ctx, transport.ID{Job: "bench", Generation: 1, Rank: w.rank}, addrs)
	if err == nil {
		w.group, err = w.task.group(tr, &w.notes)
	}
	if err != nil {
		return fmt.Errorf("rank %d: %w", w.rank, err)
	}
	return nil
}

// seated are the hosts and addresses of all ranks.
func (w *benchWorker) seated() (hosts, addrs []string, err error) {
	for r := range w.task.Ranks {
		var b []byte
		for _, c := range w.seats[r*benchSeatBytes : (r+1)*benchSeatBytes] {
			if c != 0 {
				b = append(b, byte(c))
			}
		}
		host, addr, ok := strings.Cut(string(b), " ")
		if !ok {
			return nil, nil, fmt.Errorf("rank %d told %q, which is no host and address", r, b)
		}
		hosts, addrs = append(hosts, host), append(addrs, addr)
	}
	return hosts, addrs, nil
}

// report collects a cell's results on rank 0, which prints what they come to.
func (w *benchWorker) report(ctx context.Context, r benchResult) error {
	mine, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if w.rank != 0 {
		if err := w.group.Send(ctx, 0, fmt.Appendf(nil, "%08x", len(mine))); err != nil {
			return err
		}
		return w.group.Send(ctx, 0, mine)
	}
	all := []benchResult{r}
	for from := 1; from < w.task.Ranks; from++ {
		head := make([]byte, 8)
		if err := w.group.Recv(ctx, from, head); err != nil {
			return err
		}
		var n int
		if _, err := fmt.Sscanf(string(head), "%x", &n); err != nil || n > maxBenchLine {
			return fmt.Errorf("rank %d sent a length of %q", from, head)
		}
		b := make([]byte, n)
		if err := w.group.Recv(ctx, from, b); err != nil {
			return err
		}
		var theirs benchResult
		if err := json.Unmarshal(b, &theirs); err != nil {
			return fmt.Errorf("rank %d: %w", from, err)
		}
		all = append(all, theirs)
	}
	t, err := mergeResults(all)
	if err != nil {
		return err
	}
	line, err := json.Marshal(t)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w.out, "%s%s\n", benchLinePrefix, line)
	return err
}
