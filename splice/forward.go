package splice

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Reason says why a packet is to go no further.
type Reason uint8

const (
	DropNone      Reason = iota // forward
	DropMalformed               // lengths that lie
	DropOptions                 // TCP options that lie about their length
	DropSigned                  // a SYN that wants signed segments: the addresses are under the signature
	DropStale                   // does not belong to this connection
	DropICMP                    // an ICMP error that quotes nothing in flight, or a path MTU that nobody has
)

var reasonNames = [...]string{"", "malformed", "bad-options", "signed-segments", "stale-segment", "icmp-error"}

func (r Reason) String() string { return reasonNames[r] }

// Event is what a packet means for whoever keeps the connection.
type Event uint8

const (
	EventNone Event = iota
	// EventSYN: the client's SYN, for the first time or again.
	EventSYN
	// EventSYNACK: the server's answer to the client's newest SYN, by which Params are complete
	// or have changed. Until they are recorded it must not leave. A repetition with the same
	// numbers is no event. If one has left, another may leave without a record of its own (a server that
	// begins to send SYN cookies, or ends it, answers differently): a successor learns numbers and
	// timestamps from the ends, and by the former's window scales it reckons with windows that may be
	// wrong, so it may find out later than else where the ends are, and that they have closed. Nothing is dropped for that.
	EventSYNACK
	// EventRefused: a RST answers the SYN. Nothing has ended yet: the next server may be tried.
	EventRefused
	// EventOpened: the client has answered the SYN-ACK.
	EventOpened
	// EventReused: a client's SYN that begins another connection from the same port. Neither packet
	// nor tracker was changed. A connection that stands sees none: there the server is asked by
	// passing the SYN on, and answers that it knows the connection; if not, that is an end. Nor does one
	// of which it is asked whether it has ended: the SYN is dropped.
	EventReused
	// EventEnded: State is Closed or Reset from now on. (The packet may be one to be dropped.)
	EventEnded
	// EventRevived: the tombstone was none, State is what it was before.
	EventRevived
)

var eventNames = [...]string{"", "syn", "syn-ack", "refused", "opened", "reused", "ended", "revived"}

func (e Event) String() string { return eventNames[e] }

// Verdict is what becomes of a packet. If Drop is DropNone and Answer false the packet is translated
// and may be written.
type Verdict struct {
	Drop  Reason
	Event Event
	// Answer: the connection was killed. The packet, which was not changed, goes no further and
	// is answered by Conn.Answer.
	Answer bool
	// Unanswered: it has passed before, and its receiver, which has not acknowledged it, has been silent for Silence.
	Unanswered bool
}

const (
	flagFIN = uint8(header.TCPFlagFin)
	flagSYN = uint8(header.TCPFlagSyn)
	flagRST = uint8(header.TCPFlagRst)
	flagACK = uint8(header.TCPFlagAck)
	flagECE = 1 << 6
	flagCWR = 1 << 7
)

// segment is one inbound segment.
type segment struct {
	from     Side
	flags    uint8
	window   uint16
	seq, ack uint32
	end      uint32 // sequence number behind payload and FIN
	payload  uint32
	opts     []byte
	now      time.Duration
}

// Forward takes a segment, or a superpacket, of one side: it translates it in place for the
// other and notes what it says. vnet is its virtio-net header (only the first byte is looked at);
// ip the first contiguous part of the packet, which holds all headers; ipLen the bytes before the
// TCP header; total the bytes of the packet. The checksum was verified, but by whom does not
// matter. now is the time on the caller's monotonic clock.
//
// TTL and hop limit stay: the kernel's forwarding to the device and from it takes one each.
func (c *Conn) Forward(from Side, vnet, ip []byte, ipLen, total int, now time.Duration) (v Verdict) {
	if len(vnet) == 0 || ipLen < header.IPv4MinimumSize || len(ip) < ipLen+header.TCPMinimumSize {
		return Verdict{Drop: DropMalformed}
	}
	tcp := ip[ipLen:]
	n := int(tcp[12]>>4) * 4
	if n < header.TCPMinimumSize || n > len(tcp) || total < ipLen+n || c.v6 && ipLen < header.IPv6MinimumSize {
		return Verdict{Drop: DropMalformed}
	}
	tcp = tcp[:n]
	s := segment{
		from: from, flags: tcp[13], window: be16(tcp[14:]), seq: be32(tcp[4:]), ack: be32(tcp[8:]),
		payload: uint32(total - ipLen - n), opts: tcp[header.TCPMinimumSize:], now: now,
	}
	s.end = s.seq + s.payload
	if s.flags&flagFIN != 0 {
		s.end++
	}
	partial := vnet[0]&vnetNeedsCsum != 0
	unanswered := c.unanswered(&s)
	switch {
	case c.state == Killed:
		v = c.refuse(&s)
	case s.flags&flagSYN != 0:
		v = c.syn(&s, tcp, partial)
	case s.flags&flagRST != 0:
		v.Event = c.rst(&s)
	default:
		v.Event = c.segment(&s)
	}
	if v.Drop != DropNone || v.Answer || v.Event == EventReused {
		return v
	}
	v.Unanswered = unanswered
	e := &c.ends[from]
	e.heard = now
	e.segments++
	c.rewrite(from, partial, ip, tcp)
	return v
}

// refuse takes a segment of a connection that was killed.
func (c *Conn) refuse(s *segment) Verdict {
	switch {
	case s.flags&(flagSYN|flagACK|flagRST) == flagSYN && s.from == Client:
		return Verdict{Event: EventReused}
	case s.flags&flagRST != 0:
		return Verdict{Drop: DropStale}
	}
	return Verdict{Answer: true}
}

// syn takes a segment with SYN.
func (c *Conn) syn(s *segment, tcp []byte, partial bool) Verdict {
	switch {
	case s.flags&(flagRST|flagFIN) != 0, (s.flags&flagACK == 0) != (s.from == Client):
		return Verdict{Drop: DropStale} // neither a client's SYN nor a server's SYN-ACK
	case s.from == Server:
		return c.synAck(s, tcp, partial)
	}
	known := c.offer.valid && c.offer.isn == s.seq
	switch {
	case c.toBeAsked(s.now):
		return Verdict{Drop: DropStale} // a true client's comes again
	case c.state == Closed, c.state == Reset, c.state == Opening && c.offer.valid && !known:
		return Verdict{Event: EventReused}
	}
	o, drop := c.readSYN(tcp, partial)
	if drop != DropNone {
		return Verdict{Drop: drop}
	}
	if c.state == Opening {
		c.offer = o
		if !c.located {
			c.begin()
			c.moved = s.now
		}
		return Verdict{Event: EventSYN}
	}
	if s.seq == c.ends[Client].isn {
		return Verdict{Event: EventSYN}
	}
	c.offer = o
	return Verdict{}
}

// begin starts the client's end at the SYN that it has offered.
func (c *Conn) begin() {
	o, e := &c.offer, &c.ends[Client]
	*e = end{
		isn: o.isn, next: o.isn + 1, mss: o.mss, ws: o.ws, tsVal: o.tsVal, hasTS: o.ts, window: o.window,
		heard: e.heard, segments: e.segments, bytes: e.bytes, delivered: e.delivered,
	}
	c.hasCookie = false
	c.ends[Server].ack = o.isn + 1 // where a server that has the SYN is
}

// synAck takes a SYN-ACK of the server.
func (c *Conn) synAck(s *segment, tcp []byte, partial bool) Verdict {
	client, server := &c.ends[Client], &c.ends[Server]
	current := c.offer.isn == client.isn
	switch {
	case !c.offer.valid || s.ack != c.offer.isn+1 || c.state == Closed || c.state == Reset:
		return Verdict{Drop: DropStale}
	case c.state != Opening && !current:
		// The server has restarted, it seems, and knows nothing of the connection that stood. Its client's
		// SYN begins another when it comes again. Whoever has forged the SYN can forge this as well, so
		// the client is asked first whether it lives.
		c.proven = false
		c.state, c.ended = Reset, momentOf(s.now, Server)
		return Verdict{Drop: DropStale, Event: EventEnded}
	case c.state != Opening && current && s.seq == server.isn:
		// Repeated, because the client's ACK was lost. The options were agreed on then.
		if _, drop := c.readSYN(tcp, partial); drop != DropNone {
			return Verdict{Drop: drop}
		}
		return Verdict{}
	case c.state != Opening && current && c.located:
		return Verdict{Drop: DropStale} // the client has answered another one
	}
	o, drop := c.readSYN(tcp, partial)
	if drop != DropNone {
		return Verdict{Drop: drop}
	}
	before := c.Params()
	if c.state != Opening {
		c.begin() // continued in its handshake
		c.state = Opening
	} else if c.located && o.isn != server.isn {
		c.cookie, c.hasCookie = server.isn, true
	}
	client.ws, server.ws = -1, -1
	if c.offer.ws >= 0 && o.ws >= 0 {
		client.ws, server.ws = c.offer.ws, o.ws
	}
	c.ts, c.sack = c.offer.ts && o.ts, c.offer.sack && o.sack
	server.isn, server.mss = o.isn, o.mss
	server.next, server.ack, server.edge, server.window = o.isn+1, s.ack, s.ack+uint32(o.window), o.window
	server.tsVal, server.tsRecent, server.hasTS, server.hasFIN = o.tsVal, o.tsVal, o.ts, false
	client.ack, client.edge = o.isn+1, o.isn+1+uint32(client.window)
	client.tsRecent = client.tsVal
	c.located, c.proven, c.odd, c.moved = true, true, [2]uint8{}, s.now
	if c.Params() != before {
		return Verdict{Event: EventSYNACK}
	}
	return Verdict{}
}
