package main

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests here hold the promise on a network that fails: hosts are network namespaces, and links are cut, in both directions
// or one, slowed down and healed. Each ends by comparing the weights with those of an undisturbed run.

// netArgs take some 20 seconds on one worker: faults of seconds lie inside.
func netArgs(steps string) []string {
	return []string{"gpt", "--model", "tiny", "--steps", steps, "--shards", "8", "--batch", "96", "--seq", "64"}
}

// trains waits for a step of the current view.
func (j *netJob) trains() { j.lines.waitFor(j.lab.e, ": step ") }

// start begins a job of least to most workers, and waits until all of them train on so many hosts.
func (j *netJob) start(least, most, hosts int, steps string) {
	flags := []string{"--min", strconv.Itoa(least), "--max", strconv.Itoa(most), "--workers", strconv.Itoa(most)}
	j.run(flags, netArgs(steps)...)
	j.lines.waitFor(j.lab.e, fmt.Sprintf("%d workers on %d hosts", most, hosts))
	j.trains()
}

// done requires the right end.
func (j *netJob) done(want string, steps int64) e2eResult {
	t := j.lab.e
	t.Helper()
	r := j.wait()
	require.Zero(t, r.code, "%s", r.out)
	require.Equal(t, want, r.WeightsSHA256, "%s", r.out)
	requireLedger(t, r.summary, steps)
	t.Logf("%s", r.out)
	return r
}

func TestNetAHostIsCutOff(t *testing.T) {
	want := newNetLab(t).e.alone(netArgs("500")...)
	directions := map[string]func(h *netHost){
		"both ways":        (*netHost).cut,
		"it is not heard":  func(h *netHost) { h.mute(drop) },
		"it hears nothing": func(h *netHost) { h.deaf(drop) },
	}
	for name, strike := range directions {
		t.Run(name, func(t *testing.T) {
			l := newNetLab(t)
			j := l.coordinator()
			j.agent("one", 0, 2)
			two := j.agent("two", 0, 2)
			j.start(2, 4, 2, "500")
			strike(two)
			j.lines.waitFor(t, ": 2 workers")
			j.trains()
			two.heal()
			j.lines.waitFor(t, "4 workers on 2 hosts, going on after step")
			j.done(want, 500)
		})
	}
}

func TestNetPartition(t *testing.T) {
	l := newNetLab(t)
	want := l.e.alone(netArgs("500")...)
	j := l.coordinator()
	for i, name := range []string{"one", "two", "three", "four"} {
		j.agent(name, i/2, 1)
	}
	j.start(2, 4, 4, "500")
	l.split(drop)
	j.lines.waitFor(t, "2 workers on 2 hosts")
	j.trains()
	l.split("")
	j.lines.waitFor(t, "4 workers on 4 hosts, going on after step")
	j.done(want, 500)
}

// The side with the coordinator has too few: nobody commits anything until the link is back.
func TestNetPartitionBelowTheMinimum(t *testing.T) {
	l := newNetLab(t)
	want := l.e.alone(netArgs("400")...)
	j := l.coordinator()
	j.agent("one", 0, 1)
	j.agent("two", 1, 1)
	j.agent("three", 1, 1)
	j.start(3, 3, 3, "400")
	l.split(drop)
	j.lines.waitFor(t, "waiting for workers")
	time.Sleep(3 * time.Second) // of which nothing may be committed
	l.split("")
	j.lines.waitFor(t, "3 workers on 3 hosts, going on after step")
	r := j.done(want, 400)
	require.LessOrEqual(t, r.Ledger[0].Last, r.lostAt(t)+1, "%s", r.out)
}

// lostAt is the step at which the first member was lost.
func (r *e2eResult) lostAt(t *testing.T) int64 {
	for _, ev := range r.Events {
		if ev.Kind == "loss" {
			return ev.Step
		}
	}
	require.Fail(t, "nobody was lost", "%s", r.out)
	return 0
}

// The coordinator alone is cut off: the workers' ring is whole and trains on.
func TestNetTheCoordinatorIsCutOff(t *testing.T) {
	l := newNetLab(t)
	want := l.e.alone(netArgs("500")...)
	j := l.coordinator()
	j.agent("one", 1, 1)
	j.agent("two", 1, 1)
	j.start(2, 2, 2, "500")
	l.split(drop)
	time.Sleep(5 * time.Second)
	l.split("")
	r := j.done(want, 500)
	require.Greater(t, r.Ledger[0].Last, r.lostAt(t)+10, "it trained on after the coordinator had lost it\n%s", r.out)
}

// A link that comes and goes costs a bounded number of views.
func TestNetFlappingLink(t *testing.T) {
	const flaps = 30
	l := newNetLab(t)
	want := l.e.alone(netArgs("500")...)
	j := l.coordinator()
	j.agent("one", 0, 2)
	two := j.agent("two", 0, 2)
	j.start(2, 4, 2, "500")
	for range flaps {
		two.cut()
		time.Sleep(200 * time.Millisecond)
		two.heal()
		time.Sleep(200 * time.Millisecond)
	}
	r := j.done(want, 500)
	require.Less(t, r.Generations, flaps, "%s", r.out)
}

// A slow link makes the job slow, and nobody is evicted.
func TestNetSlowLink(t *testing.T) {
	l := newNetLab(t)
	want := l.e.alone(netArgs("60")...)
	j := l.coordinator()
	j.agent("one", 0, 1)
	two := j.agent("two", 0, 1)
	two.mute("tbf rate 20mbit burst 32kb latency 300ms")
	j.run([]string{"--min", "2", "--max", "2", "--workers", "2"}, netArgs("60")...)
	r := j.done(want, 60)
	require.Equal(t, []int{2}, r.WorldSizes, "%s", r.out)
}

// A link whose queue is too short loses packets.
func TestNetPacketLoss(t *testing.T) {
	l := newNetLab(t)
	want := l.e.alone(netArgs("60")...)
	j := l.coordinator()
	j.agent("one", 0, 1)
	two := j.agent("two", 0, 1)
	two.mute("tbf rate 50mbit burst 16kb limit 16kb")
	j.run([]string{"--min", "2", "--max", "2", "--workers", "2"}, netArgs("60")...)
	r := j.done(want, 60)
	require.Equal(t, []int{2}, r.WorldSizes, "%s", r.out)
	lost := two.dropped("eth0")
	t.Logf("%d packets were lost", lost)
	require.Positive(t, lost)
}

// Data travels on links of its own: cut one, and everybody reaches the coordinator still.
func TestNetOnlyTheDataLinkIsCut(t *testing.T) {
	want := newNetLab(t).e.alone(netArgs("500")...)
	for direction, cut := range map[string]time.Duration{"both ways": 4 * time.Second, "one way": 4 * time.Second, "for long": 20 * time.Second} {
		t.Run(direction, func(t *testing.T) {
			l := newNetLab(t)
			j := l.coordinator()
			one, two := j.dataHosts()
			j.start(1, 2, 2, "500")
			one.shape("data", drop)
			if direction != "one way" {
				two.shape("data", drop)
			}
			time.Sleep(cut)
			one.shape("data", "")
			two.shape("data", "")
			r := j.done(want, 500)
			require.Greater(t, r.Generations, 1, "%s", strings.TrimSpace(r.out))
			require.Less(t, r.Generations, 20, "%s", r.out)
		})
	}
}

// dataHosts is two agents whose workers reach each other by a link of their own.
func (j *netJob) dataHosts() (one, two *netHost) {
	l := j.lab
	one, two = l.host(0), l.host(0)
	one.do("ip", "link", "add", "data", "type", "veth", "peer", "name", "data", "netns", strconv.Itoa(two.pid))
	for i, h := range []*netHost{one, two} {
		addr := fmt.Sprintf("10.213.8.%d", i+1)
		h.do("ip", "addr", "add", addr+"/24", "dev", "data")
		h.do("ip", "link", "set", "data", "up")
		j.agentAt(h, []string{"one", "two"}[i], addr, 1)
	}
	return one, two
}
