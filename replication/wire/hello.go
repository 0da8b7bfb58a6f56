package wire

import "encoding/binary"

// maxName is the longest pair or node name, bytes.
const maxName = 63

// RoleState is what a node says of itself when a session begins.
type RoleState uint8

const (
	RoleNone    RoleState = 0 // just started, no role yet
	RoleActive  RoleState = 1
	RoleStandby RoleState = 2
)

// Hello is the first frame of both sides of a session.
type Hello struct {
	MinVersion, MaxVersion uint8  // versions of frames that the sender reads and writes
	Pair, Node             string // at most maxName bytes each
	Role                   RoleState
	InSync                 bool     // standby: its store is whole; active: its standby was in sync and is not released; none: has handed over
	Epoch                  uint64   // the newest epoch that the sender has seen
	BootID                 [16]byte // differs after each start of the process
	Holds                  uint64   // connections that an active has; older builds say 0
}

const helloInSync = 1 << 0

// AppendHello appends a Hello frame.
func AppendHello(dst []byte, h *Hello) ([]byte, error) {
	if len(h.Pair) > maxName || len(h.Node) > maxName {
		return dst, ErrName
	}
	if h.MinVersion > h.MaxVersion {
		return dst, ErrOrder
	}
	start := len(dst)
	dst = Begin(dst)
	var flags byte
	if h.InSync {
		flags |= helloInSync
	}
	dst = append(dst, h.MinVersion, h.MaxVersion, byte(h.Role), flags)
	dst = binary.BigEndian.AppendUint64(dst, h.Epoch)
	dst = append(dst, h.BootID[:]...)
	dst = binary.BigEndian.AppendUint64(dst, h.Holds)
	dst = appendString(dst, h.Pair)
	dst = appendString(dst, h.Node)
	Finish(dst, start, Header{Version: MinVersion, Type: TypeHello})
	return dst, nil
}

// DecodeHello reads the payload of a Hello frame. Bytes that a newer peer has
// appended are ignored: they mean something only to versions both can speak.
func DecodeHello(payload []byte) (Hello, error) {
	var h Hello
	const fixed = 4 + 8 + 16 + 8
	if len(payload) < fixed {
		return h, ErrShort
	}
	h.MinVersion, h.MaxVersion = payload[0], payload[1]
	if h.MinVersion > h.MaxVersion {
		return h, ErrOrder
	}
	h.Role = RoleState(payload[2])
	newer := h.MaxVersion > Version
	if h.Role > RoleStandby || (payload[3]&^helloInSync != 0 && !newer) {
		return h, ErrFlags
	}
	h.InSync = payload[3]&helloInSync != 0
	h.Epoch = binary.BigEndian.Uint64(payload[4:])
	copy(h.BootID[:], payload[12:])
	h.Holds = binary.BigEndian.Uint64(payload[28:])
	rest := payload[fixed:]
	var err error
	if h.Pair, rest, err = readString(rest, maxName); err != nil {
		return h, err
	}
	if h.Node, rest, err = readString(rest, maxName); err != nil {
		return h, err
	}
	if len(rest) != 0 && !newer {
		return h, ErrTrailing
	}
	return h, nil
}

// Common returns the highest version that both sides speak.
func (h *Hello) Common(peer *Hello) (version uint8, ok bool) {
	v := min(h.MaxVersion, peer.MaxVersion)
	return v, v >= h.MinVersion && v >= peer.MinVersion
}

// RejectCode says why a session was refused.
type RejectCode uint8

const (
	RejectOther   RejectCode = 0
	RejectPair    RejectCode = 1 // another pair's name
	RejectNode    RejectCode = 2 // not the node that the key belongs to, or ourselves
	RejectVersion RejectCode = 3 // no common version
	RejectBusy    RejectCode = 4 // there is a session already
	RejectKey     RejectCode = 5 // the key is not pinned
	// RejectTimeouts: the voters' failure_timeout differ.
	RejectTimeouts RejectCode = 6
)

// Reject tells the peer why its session is refused; the sender then closes.
type Reject struct {
	Code RejectCode
	Text string // for the peer's operator; at most 255 bytes
}

// maxRejectText is the longest Reject.Text, bytes.
const maxRejectText = 255

// AppendReject appends a Reject frame; a longer text is cut.
func AppendReject(dst []byte, r Reject) []byte {
	start := len(dst)
	dst = append(Begin(dst), byte(r.Code))
	dst = appendString(dst, r.Text[:min(len(r.Text), maxRejectText)])
	Finish(dst, start, Header{Version: MinVersion, Type: TypeReject})
	return dst
}

// DecodeReject reads the payload of a Reject frame.
func DecodeReject(payload []byte) (Reject, error) {
	if len(payload) < 1 {
		return Reject{}, ErrShort
	}
	r := Reject{Code: RejectCode(payload[0])}
	var err error
	r.Text, _, err = readString(payload[1:], maxRejectText)
	return r, err
}

// appendString appends a length byte and s, which is at most 255 bytes long.
func appendString(dst []byte, s string) []byte {
	return append(append(dst, byte(len(s))), s...)
}

func readString(b []byte, limit int) (string, []byte, error) {
	raw, rest, err := readBytes8(b, limit)
	return string(raw), rest, err
}

// readBytes8 reads a length byte and as many bytes.
func readBytes8(b []byte, limit int) (raw, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, ErrShort
	}
	n := int(b[0])
	if n > limit {
		return nil, nil, ErrName
	}
	if len(b) < 1+n {
		return nil, nil, ErrShort
	}
	return b[1 : 1+n], b[1+n:], nil
}
