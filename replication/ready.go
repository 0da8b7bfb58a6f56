package replication

// Permit says how far a stream may be acknowledged to its sender.
type Permit struct {
	ID     ConnID
	Stream Stream
	Off    uint64 // an ACK may cover every byte below it, the FIN counted as one
}

// Range asks the shell for bytes of a stream, by Core.Data.
type Range struct {
	ID       ConnID
	Stream   Stream // always Response
	From, To uint64 // To counts the FIN as one byte if it has been received
}

// Ready is what the core wants done. The fields are in the order in which the
// effects must happen. What must reach the standby before an effect has been
// confirmed by it when the effect appears here, so an effect may come late, never
// early.
//
// A connection may appear that the shell has ended meanwhile; ignore it.
// The slices are valid until the next call of Core.Ready.
type Ready struct {
	// Unprotected connections go on without the standby; it has confirmed that it
	// will not continue them, or never knew them, or is gone for good (PeerLost: then they
	// are all that were given to Open before). Their gates open entirely:
	// no Permits come for them unless they are adopted for another standby. A finished
	// connection may be among them.
	Unprotected []ConnID
	// Opened: the standby holds the record, so the SYN-ACK may leave for the client
	// (invariant 1) and the first request byte for the server (invariant 3). Each
	// connection appears exactly once, also if it is unprotected.
	Opened []ConnID
	// Legs: the standby holds the newest server leg of Core.ServerLeg, or will not continue
	// the connection: what that server says may go to the client (invariant 3).
	Legs []ConnID
	// Unlogged connections reached a limit with their log, which the standby does not keep
	// any more; they are still protected, as plain ones. What the relay keeps itself is
	// not concerned.
	Unlogged []ConnID
	// Held: decisions that may be told (invariant 9). Per life Below only grows.
	Held []Held
	// Permits raise the gates: an ACK to the sender of Stream may cover Off
	// (invariant 2). Per stream they only grow. After Close(Finished) they still
	// come, until both streams are permitted to their ends.
	Permits []Permit
	// Need: response bytes that have been pending for too long; hand them in with
	// Data, from From or later, as soon as convenient.
	Need []Range
	// Adopt: connections that ran before the standby joined. For each: close both
	// gates, take a picture of both streams, and answer with Core.Adopt, or with
	// Core.Close if it has ended. Only when all are answered does the standby become
	// in sync, so none may be forgotten.
	Adopt []ConnID
}

// empty reports whether there is nothing to do.
func (r *Ready) empty() bool {
	return len(r.Unprotected) == 0 && len(r.Opened) == 0 && len(r.Legs) == 0 && len(r.Unlogged) == 0 &&
		len(r.Held) == 0 && len(r.Permits) == 0 && len(r.Need) == 0 && len(r.Adopt) == 0
}

func (r *Ready) reset() {
	r.Unprotected = r.Unprotected[:0]
	r.Opened = r.Opened[:0]
	r.Legs = r.Legs[:0]
	r.Unlogged = r.Unlogged[:0]
	r.Held = r.Held[:0]
	r.Permits = r.Permits[:0]
	r.Need = r.Need[:0]
	r.Adopt = r.Adopt[:0]
}
