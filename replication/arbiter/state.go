package arbiter

import (
	"encoding/binary"
	"fmt"
)

// Member is one incarnation of a node: a process from its start to its end.
type Member struct {
	Node string // voter name, 1 to 64 bytes
	Boot uint64 // drawn at each process start, never 0
}

// None reports whether m is nobody.
func (m Member) None() bool { return m == Member{} }

func (m Member) String() string {
	if m.None() {
		return "none"
	}
	return fmt.Sprintf("%s/%x", m.Node, m.Boot)
}

// State is what the voters agree on.
type State struct {
	Epoch   uint64 // Raft term of Active's claim; 0: nobody has claimed yet
	Active  Member
	Standby Member // the standby in sync; zero: none, the active is solo
}

// Claim is the beginning of an epoch.
type Claim struct {
	Epoch uint64
	// Whole: this incarnation was the committed standby; it continues what its store
	// holds.
	Whole bool
	// InSet: this incarnation was the committed standby, whether its voter had heard that
	// the store is whole (SetAble) or not. If the store is, it continues too; otherwise it
	// starts with no connections.
	InSet bool
}

// Kinds of command in the log. The values are on disk and on the wire.
const (
	cmdClaim  byte = 1
	cmdAdd    byte = 2
	cmdRemove byte = 3
)

// command is a log entry's content. It says which epoch it was made for: in another
// one it has no effect, so a command that is committed late cannot do harm.
type command struct {
	kind   byte
	base   uint64 // State.Epoch when it was proposed
	whole  bool   // of a claim
	member Member // who claims, who is added; of a remove: none
}

// apply returns the state after cmd, committed in term, and whether it had an
// effect. All voters apply the same commands in the same order.
func (s State) apply(cmd command, term uint64) (State, bool) {
	if cmd.base != s.Epoch {
		return s, false
	}
	switch cmd.kind {
	case cmdClaim:
		if term <= s.Epoch || cmd.whole && cmd.member != s.Standby {
			return s, false
		}
		return State{Epoch: term, Active: cmd.member}, true
	case cmdAdd:
		if cmd.member.Node == s.Active.Node {
			return s, false
		}
		s.Standby = cmd.member
	case cmdRemove:
		s.Standby = Member{}
	}
	return s, true
}

func appendMember(b []byte, m Member) []byte {
	b = append(b, byte(len(m.Node)))
	b = append(b, m.Node...)
	return binary.AppendUvarint(b, m.Boot)
}

func appendState(b []byte, s State) []byte {
	b = binary.AppendUvarint(b, s.Epoch)
	b = appendMember(b, s.Active)
	return appendMember(b, s.Standby)
}

func appendCommand(b []byte, c command) []byte {
	whole := byte(0)
	if c.whole {
		whole = 1
	}
	b = append(b, c.kind, whole)
	b = binary.AppendUvarint(b, c.base)
	return appendMember(b, c.member)
}

// reader takes values off a byte slice. After a fault it returns zeros and ok is
// false.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) fail() { r.bad, r.b = true, nil }

// done reports whether all was well and nothing is left.
func (r *reader) done() bool { return !r.bad && len(r.b) == 0 }

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

// num reads a number. Terms, indices and counts beyond maxNumber are refused: raft
// adds to them without looking.
func (r *reader) num() uint64 {
	v := r.num64()
	if v > maxNumber {
		r.fail()
		return 0
	}
	return v
}

func (r *reader) num64() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(limit uint64) []byte {
	n := r.num()
	if n > limit || n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	if n == 0 {
		return nil
	}
	v := append([]byte(nil), r.b[:n]...)
	r.b = r.b[n:]
	return v
}

func (r *reader) flag() bool {
	v := r.byte()
	if v > 1 {
		r.fail()
	}
	return v == 1
}

func (r *reader) member() Member {
	m := Member{Node: string(r.bytes(maxName))}
	m.Boot = r.num64()
	if (m.Node == "") != (m.Boot == 0) {
		r.fail()
	}
	return m
}

func (r *reader) state() State {
	return State{Epoch: r.num(), Active: r.member(), Standby: r.member()}
}

func (r *reader) command() command {
	c := command{kind: r.byte(), whole: r.flag(), base: r.num(), member: r.member()}
	if c.kind < cmdClaim || c.kind > cmdRemove || (c.kind == cmdRemove) != c.member.None() {
		r.fail()
	}
	return c
}

// decodeCommand reads an entry's content; ok is false for an empty one, which a new
// leader appends to commit what its predecessors left.
func decodeCommand(data []byte) (cmd command, ok bool) {
	if len(data) == 0 {
		return command{}, false
	}
	r := reader{b: data}
	cmd = r.command()
	return cmd, r.done()
}
