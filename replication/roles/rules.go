package roles

import (
	"encoding/binary"

	"lockstep/replication"
	"lockstep/replication/arbiter"
)

// Nanos is a point in time or a span of the clock that is passed in.
type Nanos = replication.Nanos

const millis Nanos = 1_000_000

// Never is no point in time.
const Never = replication.Never

// Rules are those by which one appliance takes, keeps and gives up its role: Voted with a
// witness, Alone without. They are told what time it is and what has come, and act on the
// appliance at once. The methods must not run concurrently. Whoever drives them tells of
// all that has come before he calls Tick: after a pause of the process much has.
type Rules interface {
	// Session decides about a new session from what both said last, we at saidAt; the one
	// before must be lost by then.
	Session(now, saidAt Nanos, ours, theirs Said) Verdict
	// SessionLost tells that the session has ended, or that the peer was silent in it for
	// FailureTimeout. It reports false if there was none.
	SessionLost(now Nanos, why string) bool
	// SyncChanged tells that InSync may have changed, on either side.
	SyncChanged()

	// Decided tells what the voters have decided.
	Decided(now Nanos, d Decision)
	// Refused tells that the peer's own kernel refuses connections to its port, asked since
	// Prove was switched on: the process that we knew is dead. (One that ends in order is
	// mute before its port is closed.)
	Refused(now Nanos)
	// Claimed tells that somebody, by hardware address, claims one of our addresses, asked
	// or not.
	Claimed(now Nanos, who string)

	// HandOver begins a hand-over: we are mute. Drained follows when the standby has
	// confirmed everything or has had its time. An error says why there is none.
	HandOver(now Nanos) error
	// Drained lets the standby take over. After an error it was not told to, and Declined
	// follows.
	Drained(now Nanos) error
	// Declined is where the standby does not take over: we go on.
	Declined(now Nanos, why error)

	// Tick does what is due at Next; without it, too, it is to be called several times
	// within StartEmptyAfter/2.
	Tick(now Nanos)
	Next() Nanos

	// Handed reports that this appliance has handed over, or is about to, and says so in
	// its Hello: that it has no role, and Said.InSync.
	Handed() bool
	// Waits tells when an appliance without a role will start without connections, if
	// nothing is heard before.
	Waits() (until Nanos, waits bool)
	// Stage says in a word where this appliance stands.
	Stage() string
}

var (
	_ Rules = (*Voted)(nil)
	_ Rules = (*Alone)(nil)
)

// Boot tells one incarnation of an appliance from another.
type Boot [16]byte

// none reports that it is nobody.
func (b Boot) none() bool { return b == Boot{} }

// Said is what one side said of itself when a session was made.
type Said struct {
	Node  string
	Boot  Boot // its incarnation
	Role  replication.Role
	Epoch uint64
	// InSync: of a standby, its store is whole, and it may be continuing it; of an active,
	// its standby was in sync and is not released, so the voters may have it in the in-sync
	// set; of one without a role, it has handed over what it had.
	InSync bool
	// Holds is how many connections it has.
	Holds uint64
}

// member is how the voters call that incarnation.
func (s *Said) member() arbiter.Member { return MemberOf(s.Node, s.Boot) }

// MemberOf is how the voters call an incarnation of a node.
func MemberOf(node string, b Boot) arbiter.Member {
	return arbiter.Member{Node: node, Boot: binary.BigEndian.Uint64(b[:8])}
}

// Verdict is what a new session is good for.
type Verdict int

const (
	Stale Verdict = iota // close it: both dial again and say what they are then
	Park                 // keep it until Unpark: closing it at once would make both dial in a loop
	Begin                // replicate over it, with the role and epoch that we have now
)

// Decision is what the voters have decided: their newest state, our newest claim since
// the decision before if there is one, and arbiter.Ready.Solo.
type Decision struct {
	State arbiter.State
	Claim *arbiter.Claim
	Solo  bool
}

// Error is a constant error of this package.
type Error string

func (e Error) Error() string { return string(e) }

const (
	ErrNotActive  Error = "this appliance is not active"
	ErrNoStandby  Error = "no standby is connected"
	ErrNotInSync  Error = "the standby is not in sync: a switchover would lose connections (see `lockstep status`)"
	ErrHandingNow Error = "a switchover is under way"
	ErrNotKnown   Error = "the witness does not know yet that the standby is in sync: try again"
	ErrLost       Error = "the standby was lost"
	ErrNotClaimed Error = "the standby did not take over in time"
)

// HandingOver is the Stage of an active whose hand-over is under way.
const HandingOver = "handing over"

// ActiveSilent is why a standby without a witness takes over from one that nobody has
// proved dead.
const ActiveSilent = "the active is silent"

// HandOverLimit bounds a hand-over: after it the active goes on, if it still may.
const HandOverLimit = 2000 * millis
