package wire

import "net/netip"

// ConnID names one connection for its whole life, on both appliances. The active
// chooses it and never uses one twice while the pair lives (epoch in the high
// bits, a counter in the low ones).
type ConnID uint64

// Stream is one direction of a connection.
type Stream uint8

const (
	Request  Stream = 0 // client to server
	Response Stream = 1 // server to client
)

func (s Stream) String() string {
	switch s {
	case Request:
		return "request"
	case Response:
		return "response"
	}
	return "stream?"
}

// CloseKind says how a connection ended.
type CloseKind uint8

const (
	// Finished: both FINs were acknowledged by their receivers. The standby keeps
	// a tombstone so that it can acknowledge a retransmitted FIN after a takeover.
	Finished CloseKind = 1
	// Aborted: reset or given up; nothing of it is kept.
	Aborted CloseKind = 2
	// Unprotected: the connection goes on, but the standby must not continue it.
	Unprotected CloseKind = 3
)

func (k CloseKind) String() string {
	switch k {
	case Finished:
		return "finished"
	case Aborted:
		return "aborted"
	case Unprotected:
		return "unprotected"
	}
	return "close?"
}

// MaxService is the longest service name in a record, bytes.
const MaxService = 63

// LegRecord is all that is needed to continue one TCP leg in another endpoint.
// Sequence numbers and timestamps are those on the wire, not netstack's.
type LegRecord struct {
	Local, Remote netip.AddrPort // ours and the peer's; no IPv6 zone
	ISS, IRS      uint32         // our and the peer's initial sequence numbers
	MSS           uint16         // the peer's MSS option, bytes
	OurMSS        uint16         // ours, bytes
	PeerWS, OurWS int8           // window scale 0..14 (RFC 7323, 2.3); -1: not negotiated
	SACK, TS      bool           // negotiated
	TSOffset      uint32         // our wire TSval = millisecond clock of the active + TSOffset
	PeerTS        uint32         // a recent TSval of the peer
	RTTMicros     uint32         // handshake round trip, microseconds; 0: not known
}

// Record is a connection as the standby must know it before its SYN-ACK leaves.
type Record struct {
	ID             ConnID
	Service        string // at most MaxService bytes
	Client, Server LegRecord

	// Logged: the request is kept from the last checkpoint on, so that another server
	// can have it replayed. EntryLog carries it.
	Logged bool
	// Start is, by Stream, the offset in the connection's stream at which the server
	// leg's own stream begins: 0, 0 for the first leg; one that had the request replayed
	// began at a checkpoint. EntryLeg carries it.
	Start [2]uint64
	// Spliced: the connection is passed on between its two peers, not ended here. No byte
	// of it is kept anywhere but at its ends, so the record is all there is to know.
	// EntrySplice carries it.
	Spliced bool
}

// Fits reports whether a session of a version can carry r at all. Before version 3
// a logged connection is carried as a plain one.
func (r *Record) Fits(version uint8) bool {
	return (version >= LogVersion || r.Start == [2]uint64{}) && (version >= SpliceVersion || !r.Spliced)
}

// maxWindowScale is the largest shift of RFC 7323, 2.3.
const maxWindowScale = 14

// Validate reports whether r can be encoded.
func (r *Record) Validate() error {
	if len(r.Service) > MaxService {
		return ErrService
	}
	if r.Spliced && (r.Logged || r.Start != [2]uint64{}) {
		return ErrSpliced
	}
	if err := r.Client.Validate(); err != nil {
		return err
	}
	return r.Server.Validate()
}

// Validate reports whether l can be encoded.
func (l *LegRecord) Validate() error {
	if l.Local.Addr().Zone() != "" || l.Remote.Addr().Zone() != "" {
		return ErrZone
	}
	if l.PeerWS < -1 || l.PeerWS > maxWindowScale || l.OurWS < -1 || l.OurWS > maxWindowScale {
		return ErrWindowScale
	}
	return nil
}
