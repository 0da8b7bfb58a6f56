package replication

import "fmt"

// Reason says why the core refused or dropped something.
type Reason uint8

const (
	StaleEpoch       Reason = iota // a frame of an older epoch (invariant 4)
	WrongEpoch                     // a frame of an epoch we have not been told of
	BadFrame                       // malformed, or not expected in our role
	BadBatch                       // a batch that contradicts the store (invariant 5)
	NoSession                      // a frame without a session
	UnknownConn                    // a call for a connection not in the table
	BadOffset                      // a call whose offset contradicts the earlier ones
	DuplicateOpen                  // Open of a connection that exists
	BadRecord                      // a record that cannot be replicated
	LimitConns                     // Limits.MaxConns
	LimitStream                    // Limits.MaxHeldPerStream
	LimitTotal                     // Limits.MaxHeldTotal
	LimitPending                   // Limits.MaxPending
	LimitSegments                  // segments of a log
	PeerVersion                    // a connection that the standby's version cannot express
	PeerRefused                    // the standby's own limits
	LegBehind                      // Forgo: a server's leg, or its beginning of a head, that the standby could not continue
	LimitLives                     // Limits.MaxLives
	LimitDecided                   // Limits.MaxDecidedPerLife, MaxDecidedTotal, or a decision that is too large
	TombstoneEvicted               // Limits.MaxTombstones
	BrokenInvariant                // an internal check failed; the permit was not raised
	NumReasons
)

func (r Reason) String() string {
	switch r {
	case StaleEpoch:
		return "stale_epoch"
	case WrongEpoch:
		return "wrong_epoch"
	case BadFrame:
		return "bad_frame"
	case BadBatch:
		return "bad_batch"
	case NoSession:
		return "no_session"
	case UnknownConn:
		return "unknown_connection"
	case BadOffset:
		return "bad_offset"
	case DuplicateOpen:
		return "duplicate_open"
	case BadRecord:
		return "bad_record"
	case LimitConns:
		return "limit_connections"
	case LimitStream:
		return "limit_stream"
	case LimitTotal:
		return "limit_total"
	case LimitPending:
		return "limit_pending"
	case LimitSegments:
		return "limit_segments"
	case PeerVersion:
		return "peer_version"
	case PeerRefused:
		return "peer_refused"
	case LegBehind:
		return "leg_behind"
	case LimitLives:
		return "limit_lives"
	case LimitDecided:
		return "limit_decided"
	case TombstoneEvicted:
		return "tombstone_evicted"
	case BrokenInvariant:
		return "broken_invariant"
	}
	return "reason?"
}

// Stats are the core's counters at one moment.
type Stats struct {
	Role       Role
	Epoch      uint64
	PeerJoined bool
	// InSync: a takeover now would continue every connection. Why says why not, else
	// it is empty.
	InSync bool
	// CanTakeOver: what the standby holds is complete as far as it goes, so Takeover
	// would not refuse; connections that it does not hold would be lost.
	CanTakeOver bool
	Why         string

	Connections int // active: in the table; standby: records, tombstones not counted
	Protected   int // active: the standby holds them or is about to
	Unprotected int // active: it does not and will not
	Tombstones  int // standby
	Logged      int // active: of Protected, those whose log the standby keeps; standby: the same

	// Active: how many connections ran already when the standby joined, and how many
	// of these are adopted or have ended. Equal when the snapshot is over.
	SnapshotTotal, SnapshotDone int

	LagBytes          uint64 // active: stream bytes shipped or pending, not confirmed
	OldestUnconfirmed Nanos  // active: since when something waits for a confirmation; 0: nothing
	Outstanding       int    // active: batches in flight
	PendingBytes      int    // active: bytes of batches not yet in flight
	HeldBytes         uint64 // active: what the standby should hold; standby: what it does
	Lives             int    // that determinants belong to
	DecidedBytes      int    // of all their decisions

	Batches uint64 // active: sent; standby: applied; in this session
	RTT     Nanos  // of heartbeats, smoothed; 0: not known

	Drops [NumReasons]uint64 // since New, indexed by Reason
}

// lacking corrects InSync for n connections that the standby does not hold.
func (s *Stats) lacking(n int) {
	if s.InSync && n > 0 {
		s.InSync = false
		s.Why = fmt.Sprintf("%d connections are not held by the standby (they began before it joined, or a limit was reached)", n)
	}
}
