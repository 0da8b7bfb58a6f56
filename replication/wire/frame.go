package wire

import (
	"encoding/binary"
	"hash/crc32"
)

// Version is the newest frame and payload format of this build. A change of any
// payload but Hello and Reject raises it; MinVersion is the oldest still read and
// written. Which one a session uses is agreed on by its Hellos (Hello.Common).
//
//	1  the first
//	2  a batch may hold EntryAdopt
//	3  a batch may hold EntryLeg, EntryLog, EntryReleased, EntryCheckpoint, EntryUnlog
//	4  Fitness
//	5  a batch may hold EntrySplice; its checksum covers the header only; the first heartbeat
//	   comes before the first batch
//	6  a batch may hold EntryTerminate, EntryLife, EntryDecided, EntryForgotten, EntryLifeOver; a
//	   heartbeat says how long its sender bears silence; Orders
const (
	Version    = 6
	MinVersion = 1

	// AdoptVersion and LogVersion are the first with those entries.
	AdoptVersion = 2
	LogVersion   = 3
	// FitnessVersion is the first with Fitness.
	FitnessVersion = 4
	// ClockVersion is the first in which a session's first heartbeat comes before its first
	// batch.
	ClockVersion = 5
	// SpliceVersion is the first with EntrySplice.
	SpliceVersion = 5
	// SealedVersion is the first in which the payload of a batch is not in its checksum. The
	// records that carry it are sealed (RFC 8446, 5.2), which finds whatever happens to it on
	// its way; to sum up every byte once more on both sides cost as much as half of sealing it.
	SealedVersion = 5
	// TerminateVersion is the first with EntryTerminate.
	TerminateVersion = 6
	// DecideVersion is the first with EntryLife, EntryDecided, EntryForgotten and EntryLifeOver.
	DecideVersion = 6
	// PromiseVersion is the first whose heartbeats say how long their sender bears silence.
	PromiseVersion = 6
	// OrdersVersion is the first with Orders.
	OrdersVersion = 6
)

const (
	// HeaderLen is the size of the fixed header, bytes.
	HeaderLen = 32
	// MaxPayload bounds what a peer may claim, bytes. It is well above the largest
	// batch (replication.Limits.MaxBatchBytes) so that neither limit is tight.
	MaxPayload = 1 << 20
	// MaxFrame is the largest frame, header included, bytes.
	MaxFrame = HeaderLen + MaxPayload

	magic = 0x4C4B5350 // "LKSP"
)

// Type says what a frame carries.
type Type uint8

const (
	TypeHello        Type = 1
	TypeReject       Type = 2
	TypeBatch        Type = 3
	TypeAck          Type = 4
	TypeHeartbeat    Type = 5
	TypeHeartbeatAck Type = 6
	TypeFitness      Type = 7
	TypeOrders       Type = 8

	// Between voters, on connections of their own.
	TypeVoterHello   Type = 16
	TypeVoterMessage Type = 17
)

func (t Type) String() string {
	switch t {
	case TypeHello:
		return "hello"
	case TypeReject:
		return "reject"
	case TypeBatch:
		return "batch"
	case TypeAck:
		return "ack"
	case TypeHeartbeat:
		return "heartbeat"
	case TypeHeartbeatAck:
		return "heartbeat-ack"
	case TypeFitness:
		return "fitness"
	case TypeOrders:
		return "orders"
	case TypeVoterHello:
		return "voter-hello"
	case TypeVoterMessage:
		return "voter-message"
	}
	return "type?"
}

// Header is a frame's header without magic, length and checksum.
type Header struct {
	Version uint8
	Type    Type
	Epoch   uint64
	Index   uint64
}

// Error is a constant error of this package.
type Error string

func (e Error) Error() string { return string(e) }

const (
	ErrShort       Error = "wire: frame is cut short"
	ErrMagic       Error = "wire: not a lockstep frame (bad magic)"
	ErrReserved    Error = "wire: reserved bits are set"
	ErrVersion     Error = "wire: frame version is not supported"
	ErrTooLarge    Error = "wire: frame claims more than the limit"
	ErrLength      Error = "wire: frame length does not match its header"
	ErrChecksum    Error = "wire: checksum does not match"
	ErrType        Error = "wire: unknown frame type"
	ErrTrailing    Error = "wire: bytes left after the last field"
	ErrVarint      Error = "wire: number is cut short, too large or not in its shortest form"
	ErrEntry       Error = "wire: unknown batch entry"
	ErrFlags       Error = "wire: unknown flags"
	ErrAddr        Error = "wire: address is malformed"
	ErrSpliced     Error = "wire: a connection that is passed on has no log and one server leg only"
	ErrService     Error = "wire: service name is longer than 63 bytes"
	ErrZone        Error = "wire: an address with an IPv6 zone cannot be replicated"
	ErrWindowScale Error = "wire: window scale is outside -1..14"
	ErrName        Error = "wire: name is longer than 63 bytes"
	ErrOrder       Error = "wire: version range is empty"
	ErrDecided     Error = "wire: key or value of a determinant is too long"
	ErrState       Error = "wire: protocol state is longer than 64 bytes"
)

// Begin appends room for a header. What is appended after it is the payload,
// until Finish closes the frame.
func Begin(dst []byte) []byte {
	return append(dst, make([]byte, HeaderLen)...)
}

// Finish fills in the header of the frame that Begin started at frame[start:].
// The frame must not be larger than MaxFrame.
func Finish(frame []byte, start int, h Header) {
	f := frame[start:]
	binary.BigEndian.PutUint32(f, magic)
	f[4] = h.Version
	f[5] = byte(h.Type)
	f[6], f[7] = 0, 0
	binary.BigEndian.PutUint64(f[8:], h.Epoch)
	binary.BigEndian.PutUint64(f[16:], h.Index)
	binary.BigEndian.PutUint32(f[24:], uint32(len(f)-HeaderLen))
	binary.BigEndian.PutUint32(f[28:], checksum(f))
}

// checksum covers the header up to its own field, and the payload, unless it is a batch's of a
// version that leaves that to the record.
func checksum(f []byte) uint32 {
	t := crc32.MakeTable(crc32.Castagnoli) // the shared table, not a new one
	sum := crc32.Update(0, t, f[:28])
	if f[4] >= SealedVersion && Type(f[5]) == TypeBatch {
		return sum
	}
	return crc32.Update(sum, t, f[HeaderLen:])
}

// FrameLen returns the length of the whole frame whose first bytes are hdr, which
// must hold at least HeaderLen bytes. A reader calls it before it makes room: a
// claim beyond MaxFrame is an error, as is anything that is not a frame at all.
func FrameLen(hdr []byte) (int, error) {
	if len(hdr) < HeaderLen {
		return 0, ErrShort
	}
	if binary.BigEndian.Uint32(hdr) != magic {
		return 0, ErrMagic
	}
	if hdr[6]|hdr[7] != 0 {
		return 0, ErrReserved
	}
	n := binary.BigEndian.Uint32(hdr[24:])
	if n > MaxPayload {
		return 0, ErrTooLarge
	}
	return HeaderLen + int(n), nil
}

// Decode checks one whole frame and returns its header and payload, which
// aliases frame.
func Decode(frame []byte) (Header, []byte, error) {
	n, err := FrameLen(frame)
	if err != nil {
		return Header{}, nil, err
	}
	if n != len(frame) {
		return Header{}, nil, ErrLength
	}
	if checksum(frame) != binary.BigEndian.Uint32(frame[28:]) {
		return Header{}, nil, ErrChecksum
	}
	h := Header{
		Version: frame[4],
		Type:    Type(frame[5]),
		Epoch:   binary.BigEndian.Uint64(frame[8:]),
		Index:   binary.BigEndian.Uint64(frame[16:]),
	}
	switch h.Type {
	case TypeHello, TypeReject, TypeVoterHello: // readable whatever the version
	case TypeVoterMessage: // a version of its own, agreed on by VoterHello
	case TypeBatch, TypeAck, TypeHeartbeat, TypeHeartbeatAck:
		if h.Version < MinVersion || h.Version > Version {
			return Header{}, nil, ErrVersion
		}
	case TypeFitness:
		if h.Version < FitnessVersion || h.Version > Version {
			return Header{}, nil, ErrVersion
		}
	case TypeOrders:
		if h.Version < OrdersVersion || h.Version > Version {
			return Header{}, nil, ErrVersion
		}
	default:
		return Header{}, nil, ErrType
	}
	return h, frame[HeaderLen:], nil
}
