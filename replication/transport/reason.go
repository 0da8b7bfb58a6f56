package transport

import (
	"errors"
	"fmt"
	"sync"

	"lockstep/replication/wire"
)

// Reason says why a connection was refused or a session ended. It is log
// value, counter name and metric label at once.
type Reason string

// Reasons to refuse a connection before it is a session.
const (
	RefusedWrongKey  Reason = "wrong_key"         // the certificate is not the pinned one
	RefusedWrongPair Reason = "wrong_pair"        // another pair's name
	RefusedWrongNode Reason = "wrong_node"        // not the configured peer, or not the key's owner
	RefusedVersion   Reason = "no_common_version" // the protocol version ranges do not meet
	RefusedDuplicate Reason = "duplicate_session" // a live session exists
	RefusedHandshake Reason = "handshake_failed"  // no TLS, garbage, or cut short
	RefusedTimeout   Reason = "handshake_timeout" // silent before the session was up
	RefusedTooMany   Reason = "too_many_handshakes"
	RefusedTimeouts  Reason = "other_failure_timeout" // the voters' failure_timeout differ
)

// Reasons for which a session ends.
const (
	ClosedLocally    Reason = "closed_locally"
	ClosedByPeer     Reason = "closed_by_peer" // ended between two frames
	ClosedCut        Reason = "cut_in_frame"   // ended within a frame
	ClosedBadFrame   Reason = "bad_frame"      // a header that is none, or a frame the handler refused
	ClosedTooLong    Reason = "frame_too_long" // a length beyond the limit
	ClosedCorrupt    Reason = "corrupt_record" // TLS could not authenticate what arrived
	ClosedSend       Reason = "send_failed"    // writing failed or took longer than WriteTimeout
	ClosedReceive    Reason = "receive_failed" // reading failed
	ClosedSuperseded Reason = "superseded"     // a newer session with the peer took its place
)

// rejectCode is the wire's number for a refusal.
func rejectCode(r Reason) wire.RejectCode {
	switch r {
	case RefusedWrongKey:
		return wire.RejectKey
	case RefusedWrongPair:
		return wire.RejectPair
	case RefusedWrongNode:
		return wire.RejectNode
	case RefusedVersion:
		return wire.RejectVersion
	case RefusedDuplicate:
		return wire.RejectBusy
	case RefusedTimeouts:
		return wire.RejectTimeouts
	}
	return wire.RejectOther
}

// rejectReason is the inverse of rejectCode.
func rejectReason(c wire.RejectCode) Reason {
	switch c {
	case wire.RejectKey:
		return RefusedWrongKey
	case wire.RejectPair:
		return RefusedWrongPair
	case wire.RejectNode:
		return RefusedWrongNode
	case wire.RejectVersion:
		return RefusedVersion
	case wire.RejectBusy:
		return RefusedDuplicate
	case wire.RejectTimeouts:
		return RefusedTimeouts
	}
	return RefusedHandshake
}

// Error is a refusal or the end of a session.
type Error struct {
	Reason Reason
	ByPeer bool   // the peer refused us
	Detail string // for the operator; may be empty
	Err    error  // the cause; may be nil
}

// Error implements error.
func (e *Error) Error() string {
	s := string(e.Reason)
	if e.ByPeer {
		s = "refused by the peer: " + s
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil {
		s = fmt.Sprintf("%s: %v", s, e.Err)
	}
	return s
}

// Gist is the error without what differs from one attempt to the next, such as
// ports: two with the same gist need to be logged only once.
func (e *Error) Gist() string {
	short := *e
	for next := short.Err; next != nil; next = errors.Unwrap(next) {
		short.Err = next
	}
	return short.Error()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Counters counts by reason. It is touched once per connection, never per frame.
// The zero value is ready.
type Counters struct {
	mu sync.Mutex
	m  map[Reason]uint64 // guarded by mu; at most one entry per Reason
}

// Add counts one.
func (c *Counters) Add(r Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = map[Reason]uint64{}
	}
	c.m[r]++
}

// Snapshot returns a copy.
func (c *Counters) Snapshot() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]uint64, len(c.m))
	for r, n := range c.m {
		out[string(r)] = n
	}
	return out
}

// Once remembers what was logged already: both sides of a refusal try again for
// ever, and a log that repeats itself every second hides everything else. The zero
// value is ready.
type Once struct {
	mu   sync.Mutex
	said map[string]bool // guarded by mu; at most maxSaid
}

const maxSaid = 64

// First reports whether text is new since the last Forget.
func (o *Once) First(text string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.said[text] {
		return false
	}
	if o.said == nil || len(o.said) >= maxSaid {
		o.said = map[string]bool{}
	}
	o.said[text] = true
	return true
}

// Forget makes everything new again.
func (o *Once) Forget() {
	o.mu.Lock()
	o.said = nil
	o.mu.Unlock()
}
