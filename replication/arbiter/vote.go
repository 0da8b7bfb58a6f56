package arbiter

import (
	"bytes"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// voting is a voter's side of the lease: what it has promised to the leader, and when
// it asks for votes itself.
type voting struct {
	// quietUntil: until then this voter gives no vote (but a forced one) and asks for
	// none. FailureTimeout after it last answered a leader or gave a vote.
	quietUntil Nanos
	delay      Nanos // see SetDelay
	retryAt    Nanos // earliest next campaign after one without success
	forceAt    Nanos // the same for a forced one
	leader     Member
	lacking    bool  // the witness: an appliance asked for votes whose log lacks some of ours
	asked      Nanos // when it asked for the votes of askedTerm
	askedTerm  uint64
}

// begin: a voter that has just started does not remember whom it promised what
// before, so it keeps quiet for as long as the longest promise lasts.
func (c *Core) begin() {
	c.vote.quietUntil = c.now + c.failure + c.heartbeat
}

// promise: from now on no other leader for FailureTimeout.
func (c *Core) promise() {
	c.vote.quietUntil = max(c.vote.quietUntil, c.now+c.failure)
}

// quiet reports whether this voter must not help another leader: it promised so, or
// it speaks itself.
func (c *Core) quiet() bool {
	return c.now < c.vote.quietUntil || c.now < c.lease()
}

// stepRaft gives raft a message, unless a rule forbids it.
func (c *Core) stepRaft(from Member, m *pb.Message) error {
	if err := c.check(m); err != nil {
		return err
	}
	if !c.remembers(m) {
		c.counters.WithoutMemory++
		return nil
	}
	c.counters.Steps++
	t := m.GetType()
	switch t {
	case pb.MsgVote, pb.MsgPreVote:
		forced := bytes.Equal(m.GetContext(), []byte(transfer))
		if !forced && c.quiet() || c.now < c.lease() {
			c.counters.VotesRefused++
			return nil
		}
		c.forgetLeader()
		if (logEnd{m.GetLogTerm(), m.GetIndex()}).less(c.tail) {
			c.vote.lacking = true
		}
	case pb.MsgTimeoutNow:
		if c.witness || !c.canCampaign() || c.node.BasicStatus().Lead != m.GetFrom() {
			return nil
		}
		c.counters.Forced++
	}
	_ = c.node.Step(m) // an error means that raft has ignored it
	st := c.node.BasicStatus()
	switch t {
	case pb.MsgApp, pb.MsgHeartbeat, pb.MsgSnap:
		if st.Lead == m.GetFrom() && st.HardState.GetTerm() == m.GetTerm() {
			c.vote.leader = from
			c.vote.lacking, c.claim.waiting = false, 0
			c.promise()
		}
	case pb.MsgVote:
		if st.HardState.GetVote() == m.GetFrom() && st.HardState.GetTerm() == m.GetTerm() {
			c.promise()
		}
	}
	return nil
}

// check refuses what would break raft's assumptions, which it defends by panic.
func (c *Core) check(m *pb.Message) error {
	st := c.node.BasicStatus()
	switch m.GetType() {
	case pb.MsgHeartbeat:
		if m.GetCommit() > c.tail.index || !round(m.GetContext()) {
			return ErrContra // meant for what we were before we lost our log
		}
	case pb.MsgHeartbeatResp:
		if !round(m.GetContext()) || roundNumber(m.GetContext()) > c.lead.rounds {
			return ErrContra
		}
	case pb.MsgAppResp:
		if m.GetIndex() > c.tail.index || m.GetReject() && m.GetRejectHint() > m.GetIndex() {
			return ErrContra
		}
	case pb.MsgApp:
		if len(m.GetEntries()) > 0 && m.GetEntries()[len(m.GetEntries())-1].GetTerm() > m.GetTerm() ||
			c.tail.index > c.index+maxEntries {
			return ErrContra
		}
		commit := st.HardState.GetCommit()
		for _, e := range m.GetEntries() {
			if e.GetIndex() > commit {
				break
			}
			if term, err := c.disk.Term(e.GetIndex()); err == nil && term != e.GetTerm() {
				return ErrContra
			}
		}
	case pb.MsgSnap:
		if m.GetSnapshot().GetMetadata().GetTerm() > m.GetTerm() {
			return ErrContra
		}
	}
	return nil
}

// forgetLeader lets raft give its vote: it keeps to its leader for as long as it
// knows one, because its own clock stands still.
func (c *Core) forgetLeader() {
	if !c.leads() {
		_ = c.node.ForgetLeader()
	}
}

// canCampaign: the witness does so only when nobody else can win, because what was
// committed last is in its log and in that of an appliance that is dead. It then leads
// until it has passed its log on.
func (c *Core) canCampaign() bool {
	return c.join.memory == whole && (!c.witness || c.vote.lacking)
}

// campaignAt is when this voter asks for votes unless it hears of a leader. No two
// have the same time; the first node comes first.
func (c *Core) campaignAt() Nanos {
	wait := [...]Nanos{1: c.heartbeat / 4, 2: c.heartbeat * 3 / 4, 3: 2 * c.heartbeat}[c.id]
	return max(c.vote.quietUntil+c.vote.delay+wait, c.vote.retryAt)
}

// SetDelay tells how much longer than it must this voter waits before it asks for votes
// because of silence: for a leader that may only be late. It delays no promise and no
// forced vote, and never makes anything earlier.
func (c *Core) SetDelay(d Nanos) { c.vote.delay = max(d, 0) }

// maybeCampaign asks for votes if it is time, or if the active is dead for certain.
func (c *Core) maybeCampaign() {
	if !c.canCampaign() {
		return
	}
	st := c.node.BasicStatus()
	led := st.Lead != raft.None && c.now < c.vote.quietUntil && !c.dead(c.vote.leader)
	switch {
	case !c.witness && c.now >= c.vote.forceAt && !led && c.mayForce():
		c.counters.Forced++
		c.vote.forceAt = c.now + c.failure + Nanos(c.id)*c.heartbeat/2
		if st.RaftState == raft.StateFollower {
			// As if the leader had handed over to us: no pre-vote, and the votes are marked.
			_ = c.node.Step(&pb.Message{
				Type: pb.MsgTimeoutNow.Enum(), From: new(c.id), To: new(c.id), Term: new(st.HardState.GetTerm()),
			})
			break
		}
		_ = c.node.Campaign()
	case c.now >= c.campaignAt():
		_ = c.node.Campaign()
	default:
		return
	}
	c.counters.Campaigns++
	// A pre-vote costs nothing and may be asked again soon, in case somebody heard the
	// old leader later than we. A vote must be given time to come back.
	c.pump()
	if c.node.BasicStatus().RaftState == raft.StatePreCandidate {
		c.vote.retryAt = c.now + c.heartbeat/2 + Nanos(c.id)*c.heartbeat/8
	}
}

// mayForce reports whether the votes need not wait for a lease, because the active
// is proved dead: the one in State, and whoever an entry that may yet be committed
// would make active. A voter that holds a newer claim than our log does not vote for
// us at all, so nobody else can be the active.
func (c *Core) mayForce() bool {
	s := c.state
	if s.Active.None() || !c.dead(s.Active) {
		return false
	}
	for _, e := range c.uncommitted() {
		if cmd, ok := decodeCommand(e.GetData()); ok && cmd.kind == cmdClaim && !c.dead(cmd.member) {
			return false
		}
	}
	return true
}

// mark makes a request for votes a forced one.
func (c *Core) mark(m *pb.Message) {
	if len(m.GetContext()) == 0 && !c.witness && c.mayForce() {
		m.Context = []byte(transfer)
	}
}

// observe follows raft's role after each of its steps.
func (c *Core) observe() {
	st := c.node.BasicStatus()
	term := st.HardState.GetTerm()
	if st.RaftState == raft.StateCandidate && c.vote.askedTerm != term {
		c.vote.asked, c.vote.askedTerm = c.now, term
		c.vote.retryAt = c.now + c.failure + Nanos(c.id)*c.heartbeat/2
	}
	switch leads := st.RaftState == raft.StateLeader; {
	case leads && c.lead.term != term:
		c.begun(term)
	case !leads && c.lead.term != 0:
		c.lead = leading{}
		c.promise() // give the others a chance
	}
}
