package arbiter

import (
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// Message is for another voter.
type Message struct {
	To   string // voter name
	Data []byte // at most maxMessage bytes
}

// Ready is what the core wants done, in the order in which the effects must happen.
// It belongs to the caller.
type Ready struct {
	// Persist, if not nil, must be on disk durably before Messages are sent and before
	// anything below takes effect. If it cannot be written, stop this voter.
	Persist  []byte
	Messages []Message

	State State // newest committed
	// Claimed: our claim was committed since the last Ready. State may have moved on:
	// act on it only if State.Epoch is Claimed.Epoch.
	Claimed *Claim
	// Lease: State.Active is us, and we may speak before this point in time
	// (exclusive); 0: not at all. Within an epoch it never goes back, but for Yield,
	// which makes it 0 until the hand-over has failed.
	Lease Nanos
	// Solo: State.Active is us, State has no standby, and none is on its way: nobody
	// can continue our connections, so what waits for a standby may go on without.
	// Stronger than a look at State, which a standby that was added before
	// RemoveStandby may still enter for a moment.
	Solo bool

	Leader bool // this voter leads
	Quorum bool // another voter was heard within FailureTimeout
	Joined bool // this voter votes; false until it has heard what it may have forgotten
}

// Counters count since the start. Messages of which Step reports an error are in one
// of the first four.
type Counters struct {
	Unknown, Gone, Malformed, Contradicting uint64

	VotesRefused   uint64 // within a lease, or too soon after the start
	Campaigns      uint64 // elections begun, pre-votes included
	Forced         uint64 // those of them that did not wait for a lease
	HandOvers      uint64 // leadership given to another
	WithoutMemory  uint64 // messages passed over because this voter has lost its memory
	Discarded      uint64 // log positions of a voter taken back because it lost its log
	Snapshots      uint64 // state taken from another voter instead of its log
	Steps, Rounds  uint64 // messages taken; rounds begun
	RoundsAnswered uint64
}

// Counters returns the counters.
func (c *Core) Counters() Counters { return c.counters }

// Ready returns what is to be done; never nil.
func (c *Core) Ready() *Ready {
	r := c.out
	c.out = Ready{}
	if c.dirty {
		c.dirty = false
		r.Persist = c.encode()
	}
	r.State = c.state
	r.Lease = c.lease()
	r.Solo = c.solo()
	r.Leader = c.leads()
	r.Quorum = c.quorum()
	r.Joined = c.join.memory == whole
	return &r
}

// pump takes what raft has ready: to the disk, into the state, into Messages. Raft
// counts it as durable at once; that holds because nothing of it leaves, nor shows,
// before Persist of the same Ready is written.
func (c *Core) pump() {
	for c.node.HasReady() {
		rd := c.node.Ready()
		if !raft.IsEmptySnap(rd.Snapshot) {
			c.restore(rd.Snapshot)
		}
		if !raft.IsEmptyHardState(rd.HardState) {
			_ = c.disk.SetHardState(rd.HardState) // in memory: cannot fail
		}
		if len(rd.Entries) > 0 {
			_ = c.disk.Append(rd.Entries)
		}
		if rd.MustSync || !raft.IsEmptySnap(rd.Snapshot) {
			c.dirty = true
		}
		for _, m := range rd.Messages {
			c.send(m)
		}
		for _, e := range rd.CommittedEntries {
			c.apply(e)
		}
		for _, rs := range rd.ReadStates {
			c.roundAnswered(rs.RequestCtx)
		}
		c.node.Advance(rd)
		c.observe()
	}
	c.tail = c.end()
	c.recall()
}

func (c *Core) send(m *pb.Message) {
	if m.GetType() == pb.MsgVote || m.GetType() == pb.MsgPreVote {
		c.mark(m)
	}
	c.out.Messages = append(c.out.Messages, Message{
		To: c.names[m.GetTo()-1], Data: appendRaft(nil, m),
	})
}

// restore takes the state from a snapshot that the leader sent.
func (c *Core) restore(s *pb.Snapshot) {
	_ = c.disk.ApplySnapshot(s) // raft offers only newer ones
	r := reader{b: s.GetData()}
	c.enter(r.state()) // Step has looked at it
	c.index = s.GetMetadata().GetIndex()
	c.counters.Snapshots++
}

func (c *Core) apply(e *pb.Entry) {
	c.index = e.GetIndex()
	c.lead.applied(e.GetTerm())
	cmd, ok := decodeCommand(e.GetData())
	if !ok {
		return
	}
	before := c.state
	next, done := before.apply(cmd, e.GetTerm())
	if !done {
		return
	}
	c.enter(next)
	if cmd.kind == cmdClaim && cmd.member == c.self {
		c.out.Claimed = &Claim{Epoch: next.Epoch, Whole: cmd.whole, InSet: before.Standby == c.self}
	}
}

// end returns the newest entry of our log.
func (c *Core) end() logEnd {
	last, _ := c.disk.LastIndex()
	term, _ := c.disk.Term(last)
	return logEnd{term, last}
}

// uncommitted returns the entries that may or may not be committed one day.
func (c *Core) uncommitted() []*pb.Entry {
	if c.tail.index <= c.index {
		return nil
	}
	ents, _ := c.disk.Entries(c.index+1, c.tail.index+1, 1<<62)
	return ents
}

// compact replaces a log that has grown long by a snapshot.
func (c *Core) compact() {
	first, _ := c.disk.FirstIndex()
	if c.tail.index-first+1 <= c.limit || c.index < first {
		return
	}
	if _, err := c.disk.CreateSnapshot(c.index, nil, appendState(nil, c.state)); err != nil {
		return
	}
	if keep := c.limit / 4; c.index >= first+keep {
		_ = c.disk.Compact(c.index - keep)
	}
	c.dirty = true
}

// encode makes the blob of Persist.
func (c *Core) encode() []byte {
	hs, _, _ := c.disk.InitialState()
	snap, _ := c.disk.Snapshot()
	s := &stored{
		memory: c.join.memory, floor: c.join.floor, target: c.join.target,
		term: hs.GetTerm(), vote: hs.GetVote(), commit: hs.GetCommit(),
		index: snap.GetMetadata().GetIndex(), sTerm: snap.GetMetadata().GetTerm(),
	}
	if s.index > 0 {
		r := reader{b: snap.GetData()}
		s.state = r.state()
	}
	if last := c.end().index; last > s.index {
		s.entries, _ = c.disk.Entries(s.index+1, last+1, 1<<62)
	}
	return encodeStored(c.names, c.self.Node, s)
}
