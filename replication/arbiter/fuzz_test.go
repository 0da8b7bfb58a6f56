package arbiter

import (
	"encoding/binary"
	"errors"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"
)

func testCore(t testing.TB, node string, boot uint64, disk []byte) *Core {
	t.Helper()
	c, err := New(Config{Self: Member{node, boot}, Appliances: [2]string{"b", "a"}, Witness: "w", Stored: disk})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// trio is three voters without a network: messages arrive at once.
type trio struct {
	t     testing.TB
	core  [3]*Core
	disk  [3][]byte
	now   Nanos
	down  [3]bool
	claim []Claim
	sent  []byte // everything, for comparison
	lost  bool   // a disk was: a leader may take a voter for what it was before
}

func newTrio(t testing.TB) *trio {
	x := &trio{t: t}
	for i, n := range []string{"a", "b", "w"} {
		x.core[i] = testCore(t, n, uint64(i+1), nil)
	}
	return x
}

// run lets d pass, millisecond by millisecond.
func (x *trio) run(d Nanos) {
	for end := x.now + d; x.now < end; {
		x.now += millisecond
		for i, c := range x.core {
			if !x.down[i] {
				c.Tick(x.now)
			}
		}
		x.exchange()
	}
}

// exchange carries messages until all is quiet.
func (x *trio) exchange() {
	for busy := true; busy; {
		busy = false
		for i, c := range x.core {
			if x.down[i] {
				continue
			}
			r := c.Ready()
			if r.Persist != nil {
				x.disk[i] = r.Persist
				x.sent = append(x.sent, r.Persist...)
			}
			if r.Claimed != nil {
				x.claim = append(x.claim, *r.Claimed)
			}
			for _, m := range r.Messages {
				busy = true
				x.sent = append(x.sent, m.Data...)
				to := c.voter(m.To) - 1
				if x.down[to] {
					continue
				}
				if err := x.core[to].Step(x.now, c.self, m.Data); err != nil && !(x.lost && errors.Is(err, ErrContra)) {
					x.t.Fatalf("%d ms, %v to %s: %v", x.now/millisecond, c.self, m.To, err)
				}
			}
		}
	}
}

// script plays messages into a leader, a follower and a voter without memory: each a
// control byte (to whom, from whom, header or not), two bytes of length, a payload.
func script(t *testing.T, b []byte) {
	x := newTrio(t)
	x.run(400 * millisecond)
	x.core[0].AddStandby(x.now, x.core[1].self)
	x.exchange()
	fresh := testCore(t, "b", 77, nil)
	for n := 0; len(b) >= 3 && n < 300; n++ {
		control := b[0]
		size := min(int(binary.BigEndian.Uint16(b[1:])), len(b)-3)
		msg := b[3 : 3+size]
		b = b[3+size:]
		to := [4]*Core{x.core[0], x.core[1], x.core[2], fresh}[control&3]
		from := x.core[control>>2%3].self
		if control&0x80 == 0 {
			msg = append([]byte{wireVersion, control >> 5 & 3}, msg...)
		}
		x.now += Nanos(control>>4&1) * 60 * millisecond
		epoch := to.state.Epoch
		_ = to.Step(x.now, from, msg)
		to.Tick(x.now)
		r := to.Ready()
		if r.State.Epoch < epoch {
			t.Fatalf("epoch goes from %d to %d", epoch, r.State.Epoch)
		}
		for _, m := range r.Messages {
			if len(m.Data) > maxMessage {
				t.Fatalf("message of %d bytes", len(m.Data))
			}
		}
		if r.Persist != nil {
			testCore(t, to.self.Node, 99, r.Persist) // what we write we can read
		}
	}
}

func piece(control byte, msg []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{control}, uint16(len(msg))), msg...)
}

// FuzzStep: no sequence of messages panics, takes an epoch back, or leads to a blob
// that cannot be read.
func FuzzStep(f *testing.F) {
	add := appendCommand(nil, command{kind: cmdAdd, base: 1, member: Member{"b", 2}})
	claim := appendCommand(nil, command{kind: cmdClaim, base: 1, member: Member{"b", 2}})
	m := func(t pb.MessageType, term, index, logTerm, commit uint64, data ...[]byte) []byte {
		msg := &pb.Message{Type: t.Enum(), Term: new(term), Index: new(index), LogTerm: new(logTerm), Commit: new(commit)}
		for _, d := range data {
			msg.Entries = append(msg.Entries, &pb.Entry{Term: new(term), Data: d})
		}
		if t == pb.MsgSnap {
			msg.Snapshot = snapshot(index, logTerm, appendState(nil, State{Epoch: 4, Active: Member{"a", 9}}))
		}
		return appendRaft(nil, msg)
	}
	const raw = 0x80
	for _, s := range [][][]byte{
		{piece(raw|1, m(pb.MsgApp, 1, 3, 1, 3, add)), piece(raw|1, m(pb.MsgHeartbeat, 1, 0, 0, 4))},
		{piece(raw|1|16, m(pb.MsgPreVote, 2, 9, 2, 0)), piece(raw|2|4|16, m(pb.MsgVote, 2, 9, 2, 0)), piece(raw|2|4, m(pb.MsgApp, 2, 3, 1, 3, nil, claim))},
		{piece(raw|1, m(pb.MsgSnap, 5, 40, 4, 0)), piece(raw|1, m(pb.MsgTimeoutNow, 5, 0, 0, 0))},
		{piece(raw|4, m(pb.MsgAppResp, 1, 3, 0, 0)), piece(raw|8, m(pb.MsgHeartbeatResp, 1, 0, 0, 0)), piece(raw|8, m(pb.MsgVoteResp, 9, 0, 0, 0))},
		{piece(raw|3, []byte{wireVersion, kindAnswer, 77, 1, 5, 4, 9}), piece(raw|3|8, []byte{wireVersion, kindAnswer, 77, 1, 6, 4, 9}), piece(raw|3, m(pb.MsgSnap, 6, 40, 4, 0))},
		{piece(raw|4, []byte{wireVersion, kindAsk, 78, 0}), piece(raw|1, m(pb.MsgApp, 1, 2, 1, 2, nil, nil, nil))},
	} {
		var b []byte
		for _, p := range s {
			b = append(b, p...)
		}
		f.Add(b)
	}
	f.Fuzz(script)
}

// FuzzStored: a blob is refused, or makes a voter that works.
func FuzzStored(f *testing.F) {
	x := newTrio(f)
	x.run(400 * millisecond)
	for _, d := range x.disk {
		f.Add(d[:len(d)-4])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = binary.BigEndian.AppendUint32(b, castagnoli(b)) // or nothing gets behind it
		c, err := New(Config{Self: Member{"a", 5}, Appliances: [2]string{"a", "b"}, Witness: "w", Stored: b})
		if err != nil {
			return
		}
		for now := Nanos(0); now < 400*millisecond; now += 10 * millisecond {
			c.Tick(now)
			if r := c.Ready(); r.Persist != nil {
				testCore(t, "a", 6, r.Persist)
			}
		}
	})
}
