package arbiter

import (
	"encoding/binary"

	pb "go.etcd.io/raft/v3/raftpb"
)

// memory says what a voter knows of its own past. Raft stands on what voters
// promised and hold; one whose disk is lost has forgotten both, and would, by its
// vote, elect a leader that lacks what was committed. It cannot tell that from a
// first start. So it takes no part until it knows from both others what it may have
// been part of: a quorum that it belonged to had one of them.
type memory byte

const (
	none   memory = 0 // nothing stored: asks
	behind memory = 1 // floor and target are known, its log has not got there
	whole  memory = 2 // votes
)

// logEnd is the newest entry of a log. Raft's order of logs, 5.4.1 of the paper.
type logEnd struct{ term, index uint64 }

func (e logEnd) less(o logEnd) bool {
	return e.term < o.term || e.term == o.term && e.index < o.index
}

// joining is the way back into the memory.
type joining struct {
	memory memory
	floor  uint64 // highest term of both others: no vote in it or before
	target logEnd // newest log of both others: no vote before ours is as new

	askAt   Nanos
	since   Nanos // of the first ask
	answers [3]answer
}

type answer struct {
	got    bool
	memory bool // the other one remembers something
	term   uint64
	end    logEnd
}

func (j *joining) restore(s *stored) {
	j.memory, j.floor, j.target = s.memory, s.floor, s.target
}

// ask asks the two others what this voter may have forgotten, and shows a leader how
// long its log really is.
func (c *Core) ask() {
	j := &c.join
	if j.memory == whole || c.now < j.askAt {
		return
	}
	if j.since == 0 {
		j.since = max(c.now, 1)
	}
	j.askAt = c.now + c.heartbeat
	msg := []byte{wireVersion, kindAsk}
	msg = binary.AppendUvarint(msg, c.self.Boot)
	msg = binary.AppendUvarint(msg, c.tail.index)
	for i, n := range c.names {
		if uint64(i+1) != c.id {
			c.out.Messages = append(c.out.Messages, Message{To: n, Data: msg})
		}
	}
	c.learn()
}

// asked answers a voter without memory, and starts its log from the beginning if we
// are the leader and think that it holds more than it does.
func (c *Core) asked(id uint64, r *reader) error {
	boot, last := r.num64(), r.num()
	if !r.done() {
		return ErrMalformed
	}
	if c.leads() {
		c.rewind(id, last)
	}
	if c.join.memory == behind {
		return nil // what we would say is not the whole truth
	}
	msg := []byte{wireVersion, kindAnswer}
	msg = binary.AppendUvarint(msg, boot)
	msg = append(msg, byte(c.join.memory/whole))
	msg = binary.AppendUvarint(msg, c.node.BasicStatus().HardState.GetTerm())
	msg = binary.AppendUvarint(msg, c.tail.term)
	msg = binary.AppendUvarint(msg, c.tail.index)
	c.out.Messages = append(c.out.Messages, Message{To: c.names[id-1], Data: msg})
	return nil
}

// rewind takes back what raft believes a voter to hold, if that has less: raft only
// ever moves forward. Removing and adding the voter locally makes it look anew; no
// quorum is counted in between.
func (c *Core) rewind(id, last uint64) {
	p, ok := c.node.Status().Progress[id]
	if !ok || p.Match <= last {
		return
	}
	c.counters.Discarded++
	for _, t := range []pb.ConfChangeType{pb.ConfChangeRemoveNode, pb.ConfChangeAddNode} {
		c.node.ApplyConfChange(&pb.ConfChange{Type: t.Enum(), NodeId: new(id)})
	}
}

func (c *Core) answered(id uint64, r *reader) error {
	boot := r.num64()
	a := answer{got: true, memory: r.flag(), term: r.num(), end: logEnd{r.num(), r.num()}}
	if !r.done() {
		return ErrMalformed
	}
	if c.join.memory == none && boot == c.self.Boot {
		c.join.answers[id-1] = a
		c.learn()
	}
	return nil
}

// learn decides from the answers. Both others must have answered, since each may
// know something that the other does not. If one has no memory either and the third
// does not answer for a second or ten FailureTimeout, it is taken for the first start of a pair whose
// second appliance is not there yet.
func (c *Core) learn() {
	j := &c.join
	if j.memory != none {
		return
	}
	got, remember := 0, false
	floor, target := uint64(0), logEnd{}
	for _, a := range j.answers {
		if a.got {
			got++
			remember = remember || a.memory
			floor = max(floor, a.term)
			if target.less(a.end) {
				target = a.end
			}
		}
	}
	if got < 2 && (got == 0 || remember || c.now-j.since < c.firstStart) {
		return
	}
	j.memory, j.floor, j.target = behind, floor, target
	c.dirty = true
	c.recall()
}

// recall ends the absence once our log and our term have got there.
func (c *Core) recall() {
	j := &c.join
	if j.memory == behind && !c.tail.less(j.target) && c.node.BasicStatus().HardState.GetTerm() >= j.floor {
		j.memory = whole
		c.dirty = true
	}
}

// remembers reports whether this voter may take m: without memory nothing; of a term
// before the floor nothing; a request for votes only when it is whole, and for a term
// in which it cannot have voted before. A pre-vote promises nothing, so it is taken in
// any term: by the answer a voter that was cut off learns how far the terms have got.
func (c *Core) remembers(m *pb.Message) bool {
	j := &c.join
	switch m.GetType() {
	case pb.MsgPreVote:
		return j.memory == whole
	case pb.MsgVote:
		return j.memory == whole && (j.floor == 0 || m.GetTerm() > j.floor)
	}
	return j.memory != none && m.GetTerm() >= j.floor
}
