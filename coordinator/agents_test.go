package coordinator

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
)

// A job may place a worker on an agent before it hears that the agent is there, with a list of what ran there before.
func TestAttachedAgentKeepsWhatWasPlacedSince(t *testing.T) {
	agents := newAgents(time.Second, slog.New(slog.DiscardHandler), func() {})
	attach := func() uint64 {
		return agents.attach(&pb.AgentHello{Id: "a", Host: "h", Slots: 2}, newOutbox[*pb.AgentCommand](agentQueue))
	}
	j := &job{members: map[elastic.MemberID]*member{}, state: elastic.New(elastic.Policy{Min: 1})}
	first := attach()
	before := j.newMember("before", "h")
	before.agent, before.stream = "a", first
	second := attach()
	ag, _, ok := agents.place("job", "since", nil)
	require.True(t, ok)
	since := j.newMember("since", "h")
	since.agent, since.stream = ag.id, ag.stream

	j.agentAttached("a", "h", second, nil)
	require.Contains(t, j.members, elastic.MemberID("since"))
	require.Equal(t, "a", j.members["since"].agent)
	require.NotContains(t, j.members, elastic.MemberID("before"), "its process is gone")
}
