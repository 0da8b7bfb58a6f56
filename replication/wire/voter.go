package wire

import "encoding/binary"

// VoterVersion is the protocol between voters that this build speaks;
// VoterMinVersion is the oldest still spoken.
const (
	VoterVersion    = 1
	VoterMinVersion = 1
)

// MaxVoterMessage is the longest message between voters, bytes.
const MaxVoterMessage = 64 << 10

// VoterHello is the first frame of both sides of a connection between voters.
type VoterHello struct {
	MinVersion, MaxVersion uint8  // versions of the voters' protocol that the sender speaks
	Pair, Node             string // at most maxName bytes each
	Boot                   uint64 // differs after each start of the process
	// FailureTimeout is how long the sender, having heard an active, keeps from
	// helping another one into its place, nanoseconds. Leases count on it.
	FailureTimeout uint64
}

// AppendVoterHello appends a VoterHello frame.
func AppendVoterHello(dst []byte, h *VoterHello) ([]byte, error) {
	if len(h.Pair) > maxName || len(h.Node) > maxName {
		return dst, ErrName
	}
	if h.MinVersion > h.MaxVersion {
		return dst, ErrOrder
	}
	start := len(dst)
	dst = append(Begin(dst), h.MinVersion, h.MaxVersion)
	dst = binary.BigEndian.AppendUint64(dst, h.Boot)
	dst = binary.BigEndian.AppendUint64(dst, h.FailureTimeout)
	dst = appendString(dst, h.Pair)
	dst = appendString(dst, h.Node)
	Finish(dst, start, Header{Version: MinVersion, Type: TypeVoterHello})
	return dst, nil
}

// DecodeVoterHello reads the payload of a VoterHello frame. Bytes that a newer
// peer has appended are ignored.
func DecodeVoterHello(payload []byte) (VoterHello, error) {
	var h VoterHello
	const fixed = 2 + 8 + 8
	if len(payload) < fixed {
		return h, ErrShort
	}
	h.MinVersion, h.MaxVersion = payload[0], payload[1]
	if h.MinVersion > h.MaxVersion {
		return h, ErrOrder
	}
	h.Boot = binary.BigEndian.Uint64(payload[2:])
	h.FailureTimeout = binary.BigEndian.Uint64(payload[10:])
	rest := payload[fixed:]
	var err error
	if h.Pair, rest, err = readString(rest, maxName); err != nil {
		return h, err
	}
	if h.Node, rest, err = readString(rest, maxName); err != nil {
		return h, err
	}
	if len(rest) != 0 && h.MaxVersion <= VoterVersion {
		return h, ErrTrailing
	}
	return h, nil
}

// AppendVoterMessage appends a frame that carries one message between voters,
// which is opaque here and at most MaxVoterMessage bytes long.
func AppendVoterMessage(dst []byte, version uint8, msg []byte) ([]byte, error) {
	if len(msg) > MaxVoterMessage {
		return dst, ErrTooLarge
	}
	start := len(dst)
	dst = append(Begin(dst), msg...)
	Finish(dst, start, Header{Version: version, Type: TypeVoterMessage})
	return dst, nil
}
