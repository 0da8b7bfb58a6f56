package wire

// Entries of version 6 for determinants: results of wrapped servers' calls, on which these have to agree. They belong to a
// life: that of a connection, or of a service's programs from their start on. A life, and a decision in it, has a number of its own;
// what the key and the value of a decision mean only the servers know.

const (
	// MaxLifeName bounds what a life is called, bytes.
	MaxLifeName = 127
	// MaxKey and MaxValue bound a decision, bytes.
	MaxKey   = 1024
	MaxValue = 1024
)

// LifeID names a life. The active chooses it, and never uses one twice while the pair lives.
type LifeID uint64

// Decided is a decision.
type Decided struct {
	Life   LifeID
	Number uint64 // in its life, rising
	Key    []byte
	Value  []byte
}

// Fits reports whether the decision can be encoded.
func (d *Decided) Fits() bool { return len(d.Key) <= MaxKey && len(d.Value) <= MaxValue }

// AppendLife appends an EntryLife; the name has at most MaxLifeName bytes.
func AppendLife(dst []byte, id LifeID, name string) []byte {
	return appendString(appendUvarint(append(dst, byte(EntryLife)), uint64(id)), name)
}

// AppendDecided appends an EntryDecided; d must fit.
func AppendDecided(dst []byte, d *Decided) []byte {
	dst = appendUvarint(append(dst, byte(EntryDecided)), uint64(d.Life))
	dst = appendUvarint(dst, d.Number)
	dst = append(appendUvarint(dst, uint64(len(d.Key))), d.Key...)
	return append(appendUvarint(dst, uint64(len(d.Value))), d.Value...)
}

// AppendForgotten appends an EntryForgotten.
func AppendForgotten(dst []byte, id LifeID, number uint64) []byte {
	return appendUvarint(appendUvarint(append(dst, byte(EntryForgotten)), uint64(id)), number)
}

// AppendLifeOver appends an EntryLifeOver.
func AppendLifeOver(dst []byte, id LifeID) []byte {
	return appendUvarint(append(dst, byte(EntryLifeOver)), uint64(id))
}

func readLife(b []byte, e *Entry) ([]byte, error) {
	b, err := readLifeID(b, e)
	if err != nil {
		return nil, err
	}
	e.LifeName, b, err = readString(b, MaxLifeName)
	return b, err
}

func readLifeID(b []byte, e *Entry) ([]byte, error) {
	id, b, err := readUvarint(b)
	e.Decided.Life = LifeID(id)
	return b, err
}

func readDecided(b []byte, e *Entry) ([]byte, error) {
	b, err := readForgotten(b, e)
	if err != nil {
		return nil, err
	}
	if e.Decided.Key, b, err = readSized(b, MaxKey); err != nil {
		return nil, err
	}
	e.Decided.Value, b, err = readSized(b, MaxValue)
	return b, err
}

func readForgotten(b []byte, e *Entry) ([]byte, error) {
	b, err := readLifeID(b, e)
	if err != nil {
		return nil, err
	}
	e.Decided.Number, b, err = readUvarint(b)
	return b, err
}

// readSized reads bytes behind their number; they alias b.
func readSized(b []byte, limit uint64) (s, rest []byte, err error) {
	n, b, err := readUvarint(b)
	if err != nil {
		return nil, nil, err
	}
	if n > limit {
		return nil, nil, ErrDecided
	}
	if n > uint64(len(b)) {
		return nil, nil, ErrShort
	}
	return b[:n], b[n:], nil
}
