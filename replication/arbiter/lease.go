package arbiter

import (
	"encoding/binary"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"lockstep/replication"
)

// leading is what a leader keeps; zero on the others.
type leading struct {
	term    uint64
	own     bool   // an entry of our term is applied: State is what all before us left
	beatAt  Nanos  // next round
	checkAt Nanos  // next look whether a quorum answers
	rounds  uint64 // begun in this term
	sent    [sentRing]Nanos
	proof   Nanos // a quorum has promised FailureTimeout counted from then

	// handed: in this term the leadership was offered to another voter, whose election
	// waits for no lease. Since nobody knows when that comes to pass, we neither
	// speak nor claim until we are elected in a later term.
	handed   uint64 // to whom; 0: not
	handedBy Nanos  // until when it must have worked
}

// sentRing is how many rounds can be unanswered at a time and still count.
const sentRing = 64

func (l *leading) applied(term uint64) {
	if l.term != 0 && term == l.term {
		l.own = true
	}
}

func (c *Core) leads() bool { return c.lead.term != 0 }

// begun: raft has just made us the leader. The voters promised when they gave their
// votes, which was after we had asked.
func (c *Core) begun(term uint64) {
	c.lead = leading{term: term, beatAt: c.now + c.heartbeat, checkAt: c.now + c.failure, proof: c.vote.asked}
	c.vote.forceAt = 0
}

// beat sends a round and looks after a hand-over.
func (c *Core) beat() {
	l := &c.lead
	if c.now < l.beatAt {
		return
	}
	l.beatAt = c.now + c.heartbeat
	if l.handed != 0 && c.now >= l.handedBy {
		c.stepDown()
		return
	}
	if c.now >= l.checkAt {
		l.checkAt = c.now + c.failure
		if c.local(pb.MsgCheckQuorum); !c.stillLeads() {
			return
		}
		c.resend()
	}
	c.counters.Rounds++
	if l.own && l.handed == 0 {
		// Raft numbers them in the same way, from one.
		l.rounds++
		l.sent[l.rounds%sentRing] = c.now
		c.node.ReadIndex(binary.BigEndian.AppendUint64(nil, l.rounds))
	} else {
		c.local(pb.MsgBeat)
	}
	if l.handed != 0 {
		c.offer()
	}
}

// resend lets raft try again with a voter to which it has sent a snapshot: it would
// wait for one that is lost for ever.
func (c *Core) resend() {
	for id := uint64(1); id <= 3; id++ {
		if p, ok := c.node.Status().Progress[id]; ok && p.State == tracker.StateSnapshot {
			c.node.ReportSnapshot(id, raft.SnapshotFailure)
		}
	}
}

// local gives raft one of its own messages. RawNode takes those only in the name of
// its storage thread; the name has no other meaning here.
func (c *Core) local(t pb.MessageType) {
	_ = c.node.Step(&pb.Message{Type: t.Enum(), From: new(raft.LocalAppendThread)})
	c.pump()
}

func (c *Core) stillLeads() bool {
	return c.node.BasicStatus().RaftState == raft.StateLeader
}

// stepDown gives up the leadership: two looks for a quorum, with nothing heard in
// between.
func (c *Core) stepDown() {
	for range 2 {
		if c.leads() {
			c.local(pb.MsgCheckQuorum)
		}
	}
}

// round reports whether ctx is one of the contexts that raft makes.
func round(ctx []byte) bool { return len(ctx) == 0 || len(ctx) == 8 }

// roundNumber reads raft's number of a round from a heartbeat's context.
func roundNumber(ctx []byte) uint64 {
	if len(ctx) != 8 {
		return 0
	}
	return binary.LittleEndian.Uint64(ctx)
}

// roundAnswered: at least one other voter has answered the round, so it will refuse
// other leaders for FailureTimeout from when it got it, which was after it was sent.
func (c *Core) roundAnswered(ctx []byte) {
	l := &c.lead
	if len(ctx) != 8 {
		return
	}
	n := binary.BigEndian.Uint64(ctx)
	if n > l.rounds || l.rounds-n >= sentRing {
		return
	}
	c.counters.RoundsAnswered++
	l.proof = max(l.proof, l.sent[n%sentRing])
}

// lease returns until when this voter may speak as the active.
func (c *Core) lease() Nanos {
	if c.state.Active != c.self {
		return 0
	}
	return c.claim.lease
}

// extend counts the lease anew. The voters count FailureTimeout on their clocks, we
// LeaseTime on ours.
func (c *Core) extend() {
	if !c.leads() || !c.lead.own || c.lead.handed != 0 || c.state.Active != c.self {
		return
	}
	c.claim.lease = max(c.claim.lease, c.lead.proof+replication.LeaseTime(c.failure))
}

// handOver offers the leadership to a voter.
func (c *Core) handOver(to uint64) {
	c.counters.HandOvers++
	c.lead.handed = to
	c.lead.handedBy = c.now + c.failure
	c.claim.lease = 0
	c.node.TransferLeader(to)
	c.pump()
}

// offer repeats it, since raft says it once and the message may be lost.
func (c *Core) offer() {
	st := c.node.Status()
	if p, ok := st.Progress[c.lead.handed]; ok && p.Match == c.tail.index {
		c.send(&pb.Message{Type: pb.MsgTimeoutNow.Enum(), To: new(c.lead.handed), Term: new(c.lead.term)})
	}
}
