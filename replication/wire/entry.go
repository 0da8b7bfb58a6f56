package wire

import (
	"encoding/binary"
	"net/netip"
)

// EntryKind says what one entry of a batch does.
type EntryKind uint8

const (
	// EntrySynced: the standby has now been told of everything that it must be able
	// to continue. Until it has applied one, it is not in sync. There is one in a
	// session; entries of kind Adopt come before it.
	EntrySynced EntryKind = 1
	// EntryOpen: a connection begins; Record.
	EntryOpen EntryKind = 2
	// EntryData: bytes of a stream, and perhaps its FIN.
	EntryData EntryKind = 3
	// EntryDelivered: how far both receivers have acknowledged.
	EntryDelivered EntryKind = 4
	// EntryClose: a connection ends for the standby.
	EntryClose EntryKind = 5
	// EntryAdopt: a connection that runs already, one of a joiner's snapshot: Record,
	// and for both streams how far their receivers have acknowledged them and how far
	// the bytes go that follow in entries of kind Data. From version 2 on.
	EntryAdopt EntryKind = 6

	// The following are of version 3 on; see log.go.

	// EntryLeg: another server leg serves the connection from now on, or the one of the
	// Open or Adopt before does not begin where the connection does.
	EntryLeg EntryKind = 7
	// EntryLog: the connection of the Open or Adopt before is logged.
	EntryLog EntryKind = 8
	// EntryReleased: how far the response was released to the client, and its digest.
	EntryReleased EntryKind = 9
	// EntryCheckpoint: replay starts here from now on.
	EntryCheckpoint EntryKind = 10
	// EntryUnlog: the connection is not logged any more.
	EntryUnlog EntryKind = 11

	// EntrySplice: a connection that is passed on, not ended, begins, or is one of a
	// joiner's snapshot; Record. Nothing but its Close follows. From version 5 on.
	EntrySplice EntryKind = 12

	// EntryTerminate: a connection that was passed on is ended here from now on; Record, and for both
	// streams how far their receivers have acknowledged them, beyond which nothing was acknowledged to
	// their senders. What a plain connection's Open is followed by may follow. From version 6 on.
	EntryTerminate EntryKind = 13

	// The following are of version 6 on; see decided.go.

	// EntryLife: a life begins, or is one of a joiner's snapshot.
	EntryLife EntryKind = 14
	// EntryDecided: a determinant is decided.
	EntryDecided EntryKind = 15
	// EntryForgotten: nobody asks for that one any more.
	EntryForgotten EntryKind = 16
	// EntryLifeOver: nor for any of that life.
	EntryLifeOver EntryKind = 17
)

// Entry is one decoded entry. Which fields are valid depends on Kind.
type Entry struct {
	Kind EntryKind
	ID   ConnID
	// Record is of Open, Adopt, Splice and Terminate, without Logged and Start, which entries of their own
	// carry. Of Leg only Server is valid.
	Record Record

	Stream Stream // Data
	Off    uint64 // Data: of the first byte
	Data   []byte // Data: aliases the frame
	Fin    bool   // Data: the stream ends after Data

	Delivered    [2]uint64 // Delivered, Adopt, Terminate: by Stream, FIN counted
	FinDelivered [2]bool   // Delivered, Adopt, Terminate: the offset includes the stream's FIN
	End          [2]uint64 // Adopt: at least Delivered; the bytes between them follow

	Close CloseKind // Close

	Start      [2]uint64 // Leg: see Record.Start
	Checkpoint [2]uint64 // Log, Checkpoint: by Stream, where replay starts
	Released   Released  // Released: State aliases the frame

	LifeName string  // Life
	Decided  Decided // Life, LifeOver: only Life; Forgotten: also Number; Decided: Key and Value alias the frame
}

const (
	dataResponse = 1 << 0
	dataFin      = 1 << 1

	deliveredRequestFin  = 1 << 0
	deliveredResponseFin = 1 << 1

	legSACK = 1 << 0
	legTS   = 1 << 1

	addrNone, addr4, addr6 = 0, 4, 6
)

// MaxDataOverhead bounds what AppendData adds to its bytes: kind, flags and three
// varints.
const MaxDataOverhead = 2 + 3*binary.MaxVarintLen64

// MaxSmallEntry bounds every entry without data, bytes: the largest is Adopt with
// the longest name, four IPv6 addresses and the largest offsets.
const MaxSmallEntry = 256

// AppendSynced appends an EntrySynced.
func AppendSynced(dst []byte) []byte { return append(dst, byte(EntrySynced)) }

// AppendOpen appends an EntryOpen; r must be valid (Record.Validate).
func AppendOpen(dst []byte, r *Record) []byte {
	return appendRecord(append(dst, byte(EntryOpen)), r)
}

// AppendSplice appends an EntrySplice; r must be valid (Record.Validate).
func AppendSplice(dst []byte, r *Record) []byte {
	return appendRecord(append(dst, byte(EntrySplice)), r)
}

// AppendTerminate appends an EntryTerminate; r must be valid (Record.Validate).
func AppendTerminate(dst []byte, r *Record, delivered [2]uint64, fin [2]bool) []byte {
	dst = append(dst, byte(EntryTerminate), finFlags(fin))
	dst = appendRecord(dst, r)
	dst = appendUvarint(dst, delivered[Request])
	return appendUvarint(dst, delivered[Response])
}

// AppendAdopt appends an EntryAdopt; r must be valid (Record.Validate).
func AppendAdopt(dst []byte, r *Record, delivered, end [2]uint64, fin [2]bool) []byte {
	dst = append(dst, byte(EntryAdopt), finFlags(fin))
	dst = appendRecord(dst, r)
	for s := range delivered {
		dst = appendUvarint(dst, delivered[s])
		dst = appendUvarint(dst, end[s])
	}
	return dst
}

// finFlags packs which of the two streams' FINs an offset includes.
func finFlags(fin [2]bool) (flags byte) {
	if fin[Request] {
		flags |= deliveredRequestFin
	}
	if fin[Response] {
		flags |= deliveredResponseFin
	}
	return flags
}

func appendRecord(dst []byte, r *Record) []byte {
	dst = appendUvarint(dst, uint64(r.ID))
	dst = appendString(dst, r.Service)
	dst = appendLeg(dst, &r.Client)
	return appendLeg(dst, &r.Server)
}

// AppendData appends an EntryData.
func AppendData(dst []byte, id ConnID, s Stream, off uint64, b []byte, fin bool) []byte {
	var flags byte
	if s == Response {
		flags |= dataResponse
	}
	if fin {
		flags |= dataFin
	}
	dst = append(dst, byte(EntryData), flags)
	dst = appendUvarint(dst, uint64(id))
	dst = appendUvarint(dst, off)
	dst = appendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

// AppendDelivered appends an EntryDelivered.
func AppendDelivered(dst []byte, id ConnID, off [2]uint64, fin [2]bool) []byte {
	dst = append(dst, byte(EntryDelivered), finFlags(fin))
	dst = appendUvarint(dst, uint64(id))
	dst = appendUvarint(dst, off[Request])
	return appendUvarint(dst, off[Response])
}

// AppendClose appends an EntryClose.
func AppendClose(dst []byte, id ConnID, k CloseKind) []byte {
	return appendUvarint(append(dst, byte(EntryClose), byte(k)), uint64(id))
}

// Entries walks over the payload of a Batch frame.
type Entries struct {
	rest []byte
	// Intern, if set, turns a service name into a string; it saves the standby an
	// allocation per connection. The argument aliases the frame.
	Intern func([]byte) string
}

// NewEntries starts at the first entry of a batch's payload.
func NewEntries(payload []byte) Entries { return Entries{rest: payload} }

// Next reads the next entry into e. It reports false at the end or on an error.
func (es *Entries) Next(e *Entry) (bool, error) {
	b := es.rest
	if len(b) == 0 {
		return false, nil
	}
	e.Kind = EntryKind(b[0])
	b = b[1:]
	var err error
	switch e.Kind {
	case EntrySynced:
	case EntryOpen, EntrySplice:
		b, err = es.readRecord(b, e)
		e.Record.Spliced = e.Kind == EntrySplice
	case EntryAdopt:
		b, err = es.readAdopt(b, e)
		e.Record.Spliced = false
	case EntryTerminate:
		b, err = es.readTerminate(b, e)
		e.Record.Spliced = false
	case EntryData:
		b, err = readData(b, e)
	case EntryDelivered:
		b, err = readDelivered(b, e)
	case EntryClose:
		b, err = readClose(b, e)
	case EntryLeg:
		b, err = readServerLeg(b, e)
	case EntryLog, EntryCheckpoint:
		b, err = readCheckpoint(b, e)
	case EntryReleased:
		b, err = readReleased(b, e)
	case EntryUnlog:
		b, err = readID(b, e)
	case EntryLife:
		b, err = readLife(b, e)
	case EntryDecided:
		b, err = readDecided(b, e)
	case EntryForgotten:
		b, err = readForgotten(b, e)
	case EntryLifeOver:
		b, err = readLifeID(b, e)
	default:
		err = ErrEntry
	}
	if err != nil {
		return false, err
	}
	es.rest = b
	return true, nil
}

func (es *Entries) readAdopt(b []byte, e *Entry) ([]byte, error) {
	b, err := readFinFlags(b, e)
	if err != nil {
		return nil, err
	}
	if b, err = es.readRecord(b, e); err != nil {
		return nil, err
	}
	for s := range e.Delivered {
		if e.Delivered[s], b, err = readUvarint(b); err != nil {
			return nil, err
		}
		if e.End[s], b, err = readUvarint(b); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (es *Entries) readTerminate(b []byte, e *Entry) ([]byte, error) {
	b, err := readFinFlags(b, e)
	if err != nil {
		return nil, err
	}
	if b, err = es.readRecord(b, e); err != nil {
		return nil, err
	}
	if e.Delivered[Request], b, err = readUvarint(b); err != nil {
		return nil, err
	}
	e.Delivered[Response], b, err = readUvarint(b)
	return b, err
}

func (es *Entries) readRecord(b []byte, e *Entry) ([]byte, error) {
	id, b, err := readUvarint(b)
	if err != nil {
		return nil, err
	}
	e.ID = ConnID(id)
	e.Record.ID = e.ID
	name, b, err := readBytes8(b, MaxService)
	if err != nil {
		return nil, err
	}
	if es.Intern != nil {
		e.Record.Service = es.Intern(name)
	} else {
		e.Record.Service = string(name)
	}
	if b, err = readLeg(b, &e.Record.Client); err != nil {
		return nil, err
	}
	return readLeg(b, &e.Record.Server)
}

func readData(b []byte, e *Entry) ([]byte, error) {
	if len(b) == 0 {
		return nil, ErrShort
	}
	flags := b[0]
	if flags&^(dataResponse|dataFin) != 0 {
		return nil, ErrFlags
	}
	e.Stream = Stream(flags & dataResponse)
	e.Fin = flags&dataFin != 0
	id, b, err := readUvarint(b[1:])
	if err != nil {
		return nil, err
	}
	e.ID = ConnID(id)
	if e.Off, b, err = readUvarint(b); err != nil {
		return nil, err
	}
	n, b, err := readUvarint(b)
	if err != nil {
		return nil, err
	}
	if n > uint64(len(b)) {
		return nil, ErrShort
	}
	e.Data = b[:n]
	return b[n:], nil
}

// readFinFlags reads what finFlags has packed.
func readFinFlags(b []byte, e *Entry) ([]byte, error) {
	if len(b) == 0 {
		return nil, ErrShort
	}
	flags := b[0]
	if flags&^(deliveredRequestFin|deliveredResponseFin) != 0 {
		return nil, ErrFlags
	}
	e.FinDelivered = [2]bool{flags&deliveredRequestFin != 0, flags&deliveredResponseFin != 0}
	return b[1:], nil
}

func readDelivered(b []byte, e *Entry) ([]byte, error) {
	b, err := readFinFlags(b, e)
	if err != nil {
		return nil, err
	}
	id, b, err := readUvarint(b)
	if err != nil {
		return nil, err
	}
	e.ID = ConnID(id)
	if e.Delivered[Request], b, err = readUvarint(b); err != nil {
		return nil, err
	}
	e.Delivered[Response], b, err = readUvarint(b)
	return b, err
}

func readClose(b []byte, e *Entry) ([]byte, error) {
	if len(b) == 0 {
		return nil, ErrShort
	}
	e.Close = CloseKind(b[0])
	if e.Close < Finished || e.Close > Unprotected {
		return nil, ErrFlags
	}
	id, b, err := readUvarint(b[1:])
	e.ID = ConnID(id)
	return b, err
}

// legFixed is the part of a leg behind its two addresses, bytes.
const legFixed = 4 + 4 + 2 + 2 + 1 + 1 + 1 + 4 + 4 + 4

func appendLeg(dst []byte, l *LegRecord) []byte {
	dst = appendAddrPort(dst, l.Local)
	dst = appendAddrPort(dst, l.Remote)
	dst = binary.BigEndian.AppendUint32(dst, l.ISS)
	dst = binary.BigEndian.AppendUint32(dst, l.IRS)
	dst = binary.BigEndian.AppendUint16(dst, l.MSS)
	dst = binary.BigEndian.AppendUint16(dst, l.OurMSS)
	var flags byte
	if l.SACK {
		flags |= legSACK
	}
	if l.TS {
		flags |= legTS
	}
	dst = append(dst, byte(l.PeerWS), byte(l.OurWS), flags)
	dst = binary.BigEndian.AppendUint32(dst, l.TSOffset)
	dst = binary.BigEndian.AppendUint32(dst, l.PeerTS)
	return binary.BigEndian.AppendUint32(dst, l.RTTMicros)
}

func readLeg(b []byte, l *LegRecord) ([]byte, error) {
	var err error
	if l.Local, b, err = readAddrPort(b); err != nil {
		return nil, err
	}
	if l.Remote, b, err = readAddrPort(b); err != nil {
		return nil, err
	}
	if len(b) < legFixed {
		return nil, ErrShort
	}
	l.ISS = binary.BigEndian.Uint32(b)
	l.IRS = binary.BigEndian.Uint32(b[4:])
	l.MSS = binary.BigEndian.Uint16(b[8:])
	l.OurMSS = binary.BigEndian.Uint16(b[10:])
	l.PeerWS, l.OurWS = int8(b[12]), int8(b[13])
	flags := b[14]
	if flags&^(legSACK|legTS) != 0 {
		return nil, ErrFlags
	}
	l.SACK, l.TS = flags&legSACK != 0, flags&legTS != 0
	l.TSOffset = binary.BigEndian.Uint32(b[15:])
	l.PeerTS = binary.BigEndian.Uint32(b[19:])
	l.RTTMicros = binary.BigEndian.Uint32(b[23:])
	return b[legFixed:], l.Validate()
}

// appendAddrPort writes the family, the address and the port. The family of an
// IPv4-mapped address stays 6: decoding returns what was encoded.
func appendAddrPort(dst []byte, ap netip.AddrPort) []byte {
	a := ap.Addr()
	switch {
	case !a.IsValid():
		dst = append(dst, addrNone)
	case a.Is4():
		x := a.As4()
		dst = append(append(dst, addr4), x[:]...)
	default:
		x := a.As16()
		dst = append(append(dst, addr6), x[:]...)
	}
	return binary.BigEndian.AppendUint16(dst, ap.Port())
}

func readAddrPort(b []byte) (netip.AddrPort, []byte, error) {
	if len(b) == 0 {
		return netip.AddrPort{}, nil, ErrShort
	}
	var n int
	switch b[0] {
	case addrNone:
	case addr4:
		n = 4
	case addr6:
		n = 16
	default:
		return netip.AddrPort{}, nil, ErrAddr
	}
	if len(b) < 1+n+2 {
		return netip.AddrPort{}, nil, ErrShort
	}
	a, _ := netip.AddrFromSlice(b[1 : 1+n]) // n == 0: the zero Addr
	port := binary.BigEndian.Uint16(b[1+n:])
	return netip.AddrPortFrom(a, port), b[1+n+2:], nil
}
