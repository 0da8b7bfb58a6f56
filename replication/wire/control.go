package wire

import "encoding/binary"

// Heartbeat shows that the sender lives, and tells the standby the clock from
// which the active makes its TCP timestamps.
type Heartbeat struct {
	ClockMillis uint32 // the sender's TSval clock, milliseconds, wraps (RFC 7323, 5.4)
	// Unprotected is how many connections the sender, if active, could not hand over.
	Unprotected uint32
	// Unfit: the sender, if it is the standby, should not be handed over to: one of its
	// networks is down. It travels in a bit that no count reaches, so that an older
	// active, which looks at a standby's count as little as at this, can read it.
	Unfit bool
	// WaitMicros and MuteMicros are what the sender promises and counts on, see replication.Promise; microseconds,
	// at most maxPromise. From PromiseVersion on.
	WaitMicros, MuteMicros uint32
}

// maxPromise is the longest failure_timeout, microseconds; nobody promises more.
const maxPromise = 60_000_000

// unfitBit is above maxUnprotected, which no table of connections reaches.
const (
	unfitBit       = 1 << 31
	maxUnprotected = unfitBit - 1
)

// AppendHeartbeat appends a Heartbeat frame of the session's version; seq counts up
// from 1.
func AppendHeartbeat(dst []byte, version uint8, epoch, seq uint64, hb Heartbeat) []byte {
	start := len(dst)
	dst = Begin(dst)
	dst = binary.BigEndian.AppendUint32(dst, hb.ClockMillis)
	word := min(hb.Unprotected, maxUnprotected)
	if hb.Unfit {
		word |= unfitBit
	}
	dst = binary.BigEndian.AppendUint32(dst, word)
	if version >= PromiseVersion {
		dst = binary.BigEndian.AppendUint32(dst, min(hb.WaitMicros, maxPromise))
		dst = binary.BigEndian.AppendUint32(dst, min(hb.MuteMicros, maxPromise))
	}
	Finish(dst, start, Header{Version: version, Type: TypeHeartbeat, Epoch: epoch, Index: seq})
	return dst
}

// DecodeHeartbeat reads the payload of a Heartbeat frame of that version.
func DecodeHeartbeat(version uint8, payload []byte) (Heartbeat, error) {
	size := 8
	if version >= PromiseVersion {
		size = 16
	}
	if len(payload) < size {
		return Heartbeat{}, ErrShort
	}
	if len(payload) > size {
		return Heartbeat{}, ErrTrailing
	}
	word := binary.BigEndian.Uint32(payload[4:])
	hb := Heartbeat{ClockMillis: binary.BigEndian.Uint32(payload), Unprotected: word &^ unfitBit, Unfit: word&unfitBit != 0}
	if version >= PromiseVersion {
		hb.WaitMicros, hb.MuteMicros = binary.BigEndian.Uint32(payload[8:]), binary.BigEndian.Uint32(payload[12:])
		if max(hb.WaitMicros, hb.MuteMicros) > maxPromise {
			return Heartbeat{}, ErrTooLarge
		}
	}
	return hb, nil
}

// AppendHeartbeatAck appends the answer to heartbeat seq. It has no payload.
func AppendHeartbeatAck(dst []byte, version uint8, epoch, seq uint64) []byte {
	start := len(dst)
	dst = Begin(dst)
	Finish(dst, start, Header{Version: version, Type: TypeHeartbeatAck, Epoch: epoch, Index: seq})
	return dst
}

// MaxRefused is how many connections one Ack can refuse. A batch of MaxPayload
// cannot touch more than that many (an entry has at least 3 bytes).
const MaxRefused = MaxPayload / 12

// AppendAck appends an Ack frame: every batch up to index is applied, but the
// refused connections were dropped by the standby (a limit) and will not be
// continued by it.
func AppendAck(dst []byte, version uint8, epoch, index uint64, refused []ConnID) []byte {
	start := len(dst)
	dst = appendUvarint(Begin(dst), uint64(len(refused)))
	for _, id := range refused {
		dst = appendUvarint(dst, uint64(id))
	}
	Finish(dst, start, Header{Version: version, Type: TypeAck, Epoch: epoch, Index: index})
	return dst
}

// DecodeAck reads the payload of an Ack frame and appends the refused
// connections to dst.
func DecodeAck(dst []ConnID, payload []byte) ([]ConnID, error) {
	n, b, err := readUvarint(payload)
	if err != nil {
		return dst, err
	}
	// Each takes a byte at least, so that a claim cannot outgrow the frame.
	if n > MaxRefused || n > uint64(len(b)) {
		return dst, ErrTooLarge
	}
	for range n {
		var id uint64
		if id, b, err = readUvarint(b); err != nil {
			return dst, err
		}
		dst = append(dst, ConnID(id))
	}
	if len(b) != 0 {
		return dst, ErrTrailing
	}
	return dst, nil
}

func appendUvarint(dst []byte, v uint64) []byte { return binary.AppendUvarint(dst, v) }

// readUvarint refuses longer forms than needed: there is one encoding per value.
func readUvarint(b []byte) (uint64, []byte, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 || (n > 1 && b[n-1] == 0) {
		return 0, nil, ErrVarint
	}
	return v, b[n:], nil
}
