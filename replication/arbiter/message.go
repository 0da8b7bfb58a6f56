package arbiter

import (
	"encoding/binary"

	pb "go.etcd.io/raft/v3/raftpb"
)

// A message is a version, a kind, and what the kind says. Sender and receiver are
// the transport's, so nobody can speak for another; indices of entries and the set of
// voters are implied. Numbers are varints.
const (
	wireVersion = 1

	kindRaft   = 1
	kindAsk    = 2 // of a voter without memory: boot, length of its log
	kindAnswer = 3 // to it: its boot, whether we have no memory either, term, last entry
)

// Limits of what is accepted, from peers and from the disk.
const (
	maxMessage = 64 << 10 // bytes

	maxName    = 64
	maxNumber  = 1 << 62 // terms, indices
	maxContext = 32
	maxData    = 256             // of one entry
	maxEntries = 1024            // in one message, and uncommitted in the log
	maxStored  = 64 * maxEntries // in the blob: a leader that never commits adds to its log too
)

// transfer is raft's mark of a vote that may be given within a lease (its
// campaignTransfer).
const transfer = "CampaignTransfer"

func appendRaft(b []byte, m *pb.Message) []byte {
	b = append(b, wireVersion, kindRaft, byte(m.GetType()))
	reject := byte(0)
	if m.GetReject() {
		reject = 1
	}
	b = append(b, reject)
	for _, v := range []uint64{m.GetTerm(), m.GetLogTerm(), m.GetIndex(), m.GetCommit(), m.GetRejectHint()} {
		b = binary.AppendUvarint(b, v)
	}
	b = appendBytes(b, m.GetContext())
	if m.GetType() == pb.MsgSnap {
		meta := m.GetSnapshot().GetMetadata()
		b = binary.AppendUvarint(b, meta.GetIndex())
		b = binary.AppendUvarint(b, meta.GetTerm())
		return appendBytes(b, m.GetSnapshot().GetData())
	}
	b = binary.AppendUvarint(b, uint64(len(m.GetEntries())))
	return appendEntries(b, m.GetEntries())
}

func appendEntries(b []byte, ents []*pb.Entry) []byte {
	for _, e := range ents {
		b = binary.AppendUvarint(b, e.GetTerm())
		b = appendBytes(b, e.GetData())
	}
	return b
}

func appendBytes(b, v []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

// entries reads n entries that follow index.
func (r *reader) entries(n, index, limit uint64) []*pb.Entry {
	if n > limit {
		r.fail()
		return nil
	}
	var ents []*pb.Entry
	last := uint64(0)
	for i := range n {
		term := r.num()
		data := r.bytes(maxData)
		if _, ok := decodeCommand(data); term < max(last, 1) || len(data) > 0 && !ok {
			r.fail()
		}
		if r.bad {
			return nil
		}
		last = term
		ents = append(ents, &pb.Entry{Term: new(term), Index: new(index + 1 + i), Data: data})
	}
	return ents
}

// raft reads what appendRaft wrote, behind version and kind.
func (r *reader) raft(from, to uint64) *pb.Message {
	t := pb.MessageType(r.byte())
	switch t {
	case pb.MsgApp, pb.MsgAppResp, pb.MsgVote, pb.MsgVoteResp, pb.MsgSnap, pb.MsgHeartbeat,
		pb.MsgHeartbeatResp, pb.MsgTimeoutNow, pb.MsgPreVote, pb.MsgPreVoteResp:
	default:
		r.fail() // local to a voter, or never sent here
		return nil
	}
	m := &pb.Message{Type: t.Enum(), From: new(from), To: new(to), Reject: new(r.flag())}
	m.Term, m.LogTerm, m.Index = new(r.num()), new(r.num()), new(r.num())
	m.Commit, m.RejectHint = new(r.num()), new(r.num())
	m.Context = r.bytes(maxContext)
	if t == pb.MsgSnap {
		index, term := r.num(), r.num()
		data := r.bytes(maxData)
		s := &reader{b: data}
		if s.state(); index == 0 || term == 0 || !s.done() {
			r.fail()
		}
		m.Snapshot = snapshot(index, term, data)
	} else {
		n := r.num()
		m.Entries = r.entries(n, m.GetIndex(), maxEntries)
		if n > 0 && t != pb.MsgApp {
			r.fail()
		}
	}
	if m.GetTerm() == 0 { // raft would take it for a local message
		r.fail()
	}
	if !r.done() {
		return nil
	}
	return m
}

// snapshot makes raft's form of a state at index. The voters are always the same.
func snapshot(index, term uint64, data []byte) *pb.Snapshot {
	return &pb.Snapshot{
		Data: data,
		Metadata: &pb.SnapshotMetadata{
			Index: new(index), Term: new(term),
			ConfState: &pb.ConfState{Voters: []uint64{1, 2, 3}, AutoLeave: new(false)},
		},
	}
}
