package script

import (
	"errors"
	"sync/atomic"

	"lockstep/replication"
	"lockstep/tun/tuntest"
)

// monitored is the appliance's device: it looks at every packet at the moment of
// its emission and compares it with what the standby holds at that moment. A
// packet that is in order now stays in order, because the store only learns.
type monitored struct {
	*tuntest.End
	rig     *Rig
	j       *Journal
	written atomic.Uint64 // packets that are in the pipe, or were
	check   bool
}

// WriteV implements tun.Device.
func (m *monitored) WriteV(bufs [][]byte) error {
	if m.check && len(bufs) > 0 {
		var pkt []byte
		for _, b := range bufs[1:] {
			pkt = append(pkt, b...)
		}
		m.inspect(bufs[0], pkt)
	}
	before := m.Dropped()
	err := m.End.WriteV(bufs)
	if m.Dropped() != before {
		m.rig.violate("the pipe to the peers is full: the test is too fast")
	}
	if err == nil {
		m.written.Add(1)
	}
	return err
}

// inspect checks invariants 1 to 3.
func (m *monitored) inspect(hdr, pkt []byte) {
	s, err := Decode(hdr, pkt)
	if err != nil {
		if !errors.Is(err, errOther) && !m.rig.o.Foreign {
			m.rig.violate("packet of the appliance: %v: %x", err, pkt)
		}
		return
	}
	if m.rig.isServer(s.Src.Addr()) {
		return // handed back to the router, not ours
	}
	j := m.j
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.standby == nil {
		return
	}
	key := flowKey{s.Src, s.Dst}
	if s.Flags&(SYN|ACK) == SYN {
		delete(j.legs, key) // a new dial
		return
	}
	if s.Flags&RST != 0 {
		return
	}
	if s.asks() {
		// Of a connection of which no leg is left here, though its record may be: a leg that
		// ends is gone before the journal is told. Its ACK acknowledges nothing. A peer whose
		// connection lives finds it out by that.
		return
	}
	leg, known := j.legs[key]
	if !known {
		switch {
		case s.Flags&SYN != 0 && m.rig.o.Cookies:
			// Nothing is remembered of this client, by nobody; see stack/cookie.go.
		case s.Flags&SYN != 0:
			m.rig.violate("invariant 1: SYN-ACK without a record: %s", &s)
		case j.serves(s.Src):
			// The request again, for another server, as a standby would tell it again.
		case len(s.Payload) > 0 || s.Flags&FIN != 0:
			m.rig.violate("invariant 3: bytes to a server without a record: %s", &s)
		}
		return
	}
	if leg.free {
		return
	}
	if kind, gone := j.ended[leg.id]; gone && kind != replication.Finished {
		return
	}
	if leg.sender == replication.Request {
		j.fromLaterLeg(leg, &s)
	}
	off := uint32(leg.start) + s.Ack - leg.irs - 1
	held := leg.seen || leg.later && leg.there // of a later leg the connection's record suffices
	switch {
	case leg.adopted && off <= uint32(leg.told):
		// Said before it was adopted: once in sync the standby holds it (see deliver).
	case !held && s.Flags&SYN != 0:
		m.rig.violate("invariant 1: SYN-ACK before the standby holds the record: %s", &s)
	case leg.spliced:
	case !held && off != 0:
		m.rig.violate("invariant 2: ACK of %d before the standby holds the record: %s", off, &s)
	case !held && len(s.Payload) > 0 && leg.sender == replication.Response:
		m.rig.violate("invariant 3: request bytes before the standby holds the record: %s", &s)
	case held && off > uint32(leg.held):
		m.rig.violate("invariant 2: ACK of offset %d of the %v stream, the standby holds %d: %s", off, leg.sender, leg.held, &s)
	}
}

// fromLaterLeg checks that nothing goes to the client that another server has said before
// the standby holds the record of its leg. mu is held.
func (j *Journal) fromLaterLeg(client *legInfo, s *Segment) {
	from := j.past.serving[client.id]
	if from == nil || !from.later || from.seen || from.free {
		return
	}
	end := s.Seq - client.iss - 1 + uint32(len(s.Payload))
	if s.Flags&FIN != 0 {
		end++
	}
	if int32(end-uint32(from.released)) > 0 && len(s.Payload)+int(s.Flags&FIN) > 0 {
		j.violate("invariant 3: the response up to %d, of another server whose leg the standby does not hold; %d were released before: %s", end, from.released, s)
	}
}
