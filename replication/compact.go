package replication

import (
	"net/netip"

	"lockstep/replication/wire"
)

// A standby may hold a million connections of which next to all are idle: so what it keeps of one of them is
// small. Addresses are without what netip adds to them, what many connections share is there once, and of streams
// at rest there is a position each.

// ends is what many connections share: their service, and the two ends that are not the client's.
type ends struct {
	service     string
	vip, server netip.AddrPort
}

// maxEnds bounds the table of ends. Beyond it connections have their own.
const maxEnds = 1024

// shared is what the connections of a store have in common, or take turns with.
type shared struct {
	names map[string]string
	ends  map[ends]*ends
	spare []*[2]stored // for kept.moving
}

// compact is a record. The client's address is client; ours at the server's leg is local.
type compact struct {
	*ends
	client, local compactAddr
	legs          [2]compactLeg // the client's, the server's
}

// compactAddr is a netip.AddrPort without a zone.
type compactAddr struct {
	addr   [16]byte
	port   uint16
	family uint8 // 4, 6; 0: there is none
}

// compactLeg is a LegRecord without its addresses.
type compactLeg struct {
	iss, irs, tsOffset, peerTS, rttMicros uint32
	mss, ourMSS                           uint16
	peerWS, ourWS                         int8
	sack, ts                              bool
}

func compactAddrOf(ap netip.AddrPort) compactAddr {
	c := compactAddr{addr: ap.Addr().As16(), port: ap.Port(), family: 6}
	switch {
	case !ap.Addr().IsValid():
		c.family = 0
	case ap.Addr().Is4():
		c.family = 4
	}
	return c
}

func (c *compactAddr) addrPort() netip.AddrPort {
	var a netip.Addr
	switch c.family {
	case 4:
		a = netip.AddrFrom4([4]byte(c.addr[12:]))
	case 6:
		a = netip.AddrFrom16(c.addr)
	}
	return netip.AddrPortFrom(a, c.port)
}

func compactLegOf(l *LegRecord) compactLeg {
	return compactLeg{
		iss: l.ISS, irs: l.IRS, tsOffset: l.TSOffset, peerTS: l.PeerTS, rttMicros: l.RTTMicros,
		mss: l.MSS, ourMSS: l.OurMSS, peerWS: l.PeerWS, ourWS: l.OurWS, sack: l.SACK, ts: l.TS,
	}
}

func (c *compactLeg) record(local, remote netip.AddrPort) LegRecord {
	return LegRecord{
		Local: local, Remote: remote, ISS: c.iss, IRS: c.irs, MSS: c.mss, OurMSS: c.ourMSS, PeerWS: c.peerWS, OurWS: c.ourWS,
		SACK: c.sack, TS: c.ts, TSOffset: c.tsOffset, PeerTS: c.peerTS, RTTMicros: c.rttMicros,
	}
}

// clientFlow and serverFlow are the local and remote addresses of the legs.
func (c *compact) clientFlow() [2]netip.AddrPort {
	return [2]netip.AddrPort{c.vip, c.client.addrPort()}
}
func (c *compact) serverFlow() [2]netip.AddrPort {
	return [2]netip.AddrPort{c.local.addrPort(), c.server}
}

// records are the legs of the record.
func (c *compact) records() (client, server LegRecord) {
	f, g := c.clientFlow(), c.serverFlow()
	return c.legs[0].record(f[0], f[1]), c.legs[1].record(g[0], g[1])
}

// setRecord puts the legs of a record into k.
func (s *standby) setRecord(k *kept, service string, client, server *LegRecord) {
	k.compact = compact{
		ends:   s.share(ends{service, client.Local, server.Remote}),
		client: compactAddrOf(client.Remote), local: compactAddrOf(server.Local),
		legs: [2]compactLeg{compactLegOf(client), compactLegOf(server)},
	}
}

// share returns the one that is the same.
func (s *standby) share(e ends) *ends {
	if p := s.ends[e]; p != nil {
		return p
	}
	p := &e
	if len(s.ends) < maxEnds {
		s.ends[e] = p
	}
	return p
}

// maxSpareStreams bounds what is kept for the next connections whose streams move.
const maxSpareStreams = 256

// streams are k's, to be changed; settled afterwards.
func (s *standby) streams(k *kept) *[2]stored {
	if k.moving != nil {
		return k.moving
	}
	if n := len(s.spare); n > 0 {
		k.moving, s.spare = s.spare[n-1], s.spare[:n-1]
	} else {
		k.moving = new([2]stored)
	}
	for i, at := range k.rest {
		t := &k.moving[i]
		*t = stored{base: at, delivered: at, end: at, chunks: t.chunks}
	}
	return k.moving
}

// stream is one of k's, to be looked at.
func (k *kept) stream(i Stream) stored {
	if k.moving != nil {
		return k.moving[i]
	}
	at := k.rest[i]
	return stored{base: at, delivered: at, end: at}
}

// settled keeps no more than positions of streams that are at rest.
func (s *standby) settled(k *kept) {
	if k.moving == nil {
		return
	}
	for i := range k.moving {
		if !k.moving[i].rests() {
			return
		}
	}
	for i := range k.moving {
		k.rest[i] = k.moving[i].end
	}
	s.spareStreams(k)
}

// spareStreams takes from k what has moved.
func (s *standby) spareStreams(k *kept) {
	if k.moving != nil && len(s.spare) < maxSpareStreams {
		s.spare = append(s.spare, k.moving)
	}
	k.moving = nil
}

// rests reports whether there is nothing to know of a stream but one position.
func (s *stored) rests() bool {
	return s.base == s.end && s.delivered == s.end && s.due == 0 && !s.fin && len(s.chunks) == 0
}

// entryOf takes what is said of a connection that is here.
func (s *standby) entryOf(now Nanos, index uint64, k *kept, e *wire.Entry) error {
	switch e.Kind {
	case wire.EntryData:
		s.touch(k, index)
		return s.data(k, e)
	case wire.EntryDelivered:
		s.touch(k, index)
		return s.deliver(k, e.Delivered, e.FinDelivered)
	case wire.EntryClose:
		return s.close(now, k, e.Close)
	}
	return s.applyLog(index, k, e)
}
