package wire

// The entries of logged connections and of connections whose server leg was
// replaced (version 3).

// Digest is of response bytes. Who makes it chooses the hash; the two appliances of a
// pair must agree on it, this package only carries it.
type Digest [16]byte

// MaxState is the longest Released.State, bytes.
const MaxState = 64

// Released says how much of a response was released to the client. A response is cut
// into segments; the last one is open and grows.
type Released struct {
	End uint64 // behind the last byte that was released; the FIN does not count
	Sum Digest // of the open segment, from its start to End
	// Cut closes the segment: the next one starts at End.
	Cut bool
	// State is the protocol adapter's at End, at most MaxState bytes, opaque. It
	// replaces what was said before.
	State []byte
}

const releasedCut = 1 << 0

// AppendLeg appends an EntryLeg; l must be valid.
func AppendLeg(dst []byte, id ConnID, l *LegRecord, start [2]uint64) []byte {
	dst = appendUvarint(append(dst, byte(EntryLeg)), uint64(id))
	dst = appendLeg(dst, l)
	dst = appendUvarint(dst, start[Request])
	return appendUvarint(dst, start[Response])
}

// AppendLog appends an EntryLog.
func AppendLog(dst []byte, id ConnID, checkpoint [2]uint64) []byte {
	return appendCheckpoint(append(dst, byte(EntryLog)), id, checkpoint)
}

// AppendCheckpoint appends an EntryCheckpoint.
func AppendCheckpoint(dst []byte, id ConnID, off [2]uint64) []byte {
	return appendCheckpoint(append(dst, byte(EntryCheckpoint)), id, off)
}

// AppendReleased appends an EntryReleased; r.State has at most MaxState bytes.
func AppendReleased(dst []byte, id ConnID, r *Released) []byte {
	var flags byte
	if r.Cut {
		flags |= releasedCut
	}
	dst = append(dst, byte(EntryReleased), flags)
	dst = appendUvarint(dst, uint64(id))
	dst = appendUvarint(dst, r.End)
	dst = append(dst, r.Sum[:]...)
	dst = append(dst, byte(len(r.State)))
	return append(dst, r.State...)
}

// AppendUnlog appends an EntryUnlog.
func AppendUnlog(dst []byte, id ConnID) []byte {
	return appendUvarint(append(dst, byte(EntryUnlog)), uint64(id))
}

// Validate reports whether r can be encoded.
func (r *Released) Validate() error {
	if len(r.State) > MaxState {
		return ErrState
	}
	return nil
}

func appendCheckpoint(dst []byte, id ConnID, off [2]uint64) []byte {
	dst = appendUvarint(dst, uint64(id))
	dst = appendUvarint(dst, off[Request])
	return appendUvarint(dst, off[Response])
}

func readID(b []byte, e *Entry) ([]byte, error) {
	id, b, err := readUvarint(b)
	e.ID = ConnID(id)
	return b, err
}

// readOffsets reads one offset per stream.
func readOffsets(b []byte, off *[2]uint64) ([]byte, error) {
	var err error
	if off[Request], b, err = readUvarint(b); err != nil {
		return nil, err
	}
	off[Response], b, err = readUvarint(b)
	return b, err
}

func readServerLeg(b []byte, e *Entry) ([]byte, error) {
	b, err := readID(b, e)
	if err != nil {
		return nil, err
	}
	if b, err = readLeg(b, &e.Record.Server); err != nil {
		return nil, err
	}
	return readOffsets(b, &e.Start)
}

func readCheckpoint(b []byte, e *Entry) ([]byte, error) {
	b, err := readID(b, e)
	if err != nil {
		return nil, err
	}
	return readOffsets(b, &e.Checkpoint)
}

func readReleased(b []byte, e *Entry) ([]byte, error) {
	if len(b) == 0 {
		return nil, ErrShort
	}
	if b[0]&^releasedCut != 0 {
		return nil, ErrFlags
	}
	e.Released.Cut = b[0]&releasedCut != 0
	b, err := readID(b[1:], e)
	if err != nil {
		return nil, err
	}
	if e.Released.End, b, err = readUvarint(b); err != nil {
		return nil, err
	}
	n := len(e.Released.Sum)
	if len(b) < n+1 {
		return nil, ErrShort
	}
	copy(e.Released.Sum[:], b)
	if b[n] > MaxState {
		return nil, ErrState
	}
	e.Released.State, b, err = readBytes8(b[n:], MaxState)
	return b, err
}
