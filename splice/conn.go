package splice

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// Side is one end of a connection: who sends a packet, or gets it.
type Side uint8

const (
	Client Side = iota
	Server
)

// Other is the opposite end.
func (s Side) Other() Side { return s ^ 1 }

// Addrs are the four addresses of a spliced connection, all of one family. The client talks to
// VIP; the server is talked to from Local, which is the client's own address or one of the
// gateway's.
type Addrs struct{ Client, VIP, Local, Server netip.AddrPort }

// Params is what the handshake has settled: options as the other side has been told them. WS is -1
// unless both sides scale their windows; TS and SACK: both have offered it.
type Params struct {
	ISN      [2]uint32 // indexed by Side
	MSS      [2]uint16 // bytes
	WS       [2]int8
	TS, SACK bool
}

// State is how far a connection is.
type State uint8

const (
	Opening    State = iota // until the client has answered the server's SYN-ACK
	Open                    // both may send
	HalfClosed              // one has sent its FIN
	Closed                  // both FINs are acknowledged: a tombstone
	Reset                   // a RST has passed that its receiver believes: a tombstone
	Killed                  // by the gateway: a tombstone that answers in both ends' names
)

var stateNames = [...]string{"opening", "open", "half-closed", "closed", "reset", "killed"}

func (s State) String() string { return stateNames[s] }

// flow names one leg as the gateway sees it. IPv4 addresses are in their 4-in-6 form.
type flow struct {
	local, remote         [16]byte
	localPort, remotePort uint16
}

// Conn is a spliced connection. The zero value is none: Init or Restore comes first. It is
// meant to be embedded by value, a million times, so it has no pointers and is small.
type Conn struct {
	client, server flow // the client's leg (local: VIP) and the server's (remote: Server)
	// Differences in the one's complement sum of what a packet from the client becomes;
	// of one from the server they are the complement.
	diff   struct{ addr, port uint16 }
	maxMSS uint16
	v6     bool

	state State
	// located: the positions in ends are known. proven: they follow from a handshake that
	// was seen here, so who does not see the segments cannot have made them.
	located, proven bool
	ts, sack        bool
	odd             [2]uint8 // segments of each side in a row that were not believed

	ends  [2]end // indexed by Side
	offer offer  // the client's newest SYN
	// cookie, if hasCookie, is the initial sequence number of the server's SYN-ACK before its newest.
	cookie    uint32
	moved     time.Duration // when one of them has sent or acknowledged a byte, or a SYN or FIN
	doubt     moment        // by may have believed a RST
	ended     moment        // by sent what ended it
	asked     moment        // by was asked, see Ask
	hasCookie bool
	// askedAck is the number by which the answer of one that is closed is known.
	askedAck uint32
}

// moment is something that an end has done: when, who, and that it has. The zero value: it has not.
type moment int64

func momentOf(at time.Duration, by Side) moment { return moment(at)<<2 | moment(by)<<1 | 1 }

func (m moment) at() time.Duration { return time.Duration(m >> 2) }
func (m moment) by() Side          { return Side(m >> 1 & 1) }
func (m moment) has() bool         { return m&1 != 0 }

// end is what is known of one side: of the stream that it sends, and of what it said of the other's.
type end struct {
	isn      uint32
	next     uint32 // sequence number behind the highest octet sent
	ack      uint32 // highest acknowledgement sent
	edge     uint32 // right edge of the window announced, the highest
	fin      uint32 // sequence number behind the FIN, if hasFIN
	tsVal    uint32 // newest TSval sent
	tsRecent uint32 // newest TSval that the other side has taken for an echo (RFC 7323, 4.3)
	window   uint16 // field of the newest acknowledgement
	mss      uint16
	ws       int8
	heardIt  bool // since nothing was known of it
	hasFIN   bool
	hasTS    bool
	heard    time.Duration

	bytes, delivered, segments uint64
}

// offer is what a client's SYN says.
type offer struct {
	isn, tsVal  uint32
	mss, window uint16
	ws          int8
	ts, sack    bool
	valid       bool
	flags       uint8
}

// Init makes c a connection of which nothing has been seen. maxMSS is the most that either side
// may be told to send in a segment, bytes, because a network between is smaller; 0: all.
func (c *Conn) Init(a Addrs, maxMSS uint16) {
	*c = Conn{maxMSS: maxMSS}
	c.ends[Client].ws, c.ends[Server].ws = -1, -1
	c.setAddrs(a)
}

// Restore makes c a connection that was opened elsewhere: what p says is known, where the
// two ends are is not.
func (c *Conn) Restore(a Addrs, p Params, maxMSS uint16) {
	c.Init(a, maxMSS)
	c.state, c.ts, c.sack = Open, p.TS, p.SACK
	for s := range c.ends {
		e := &c.ends[s]
		e.isn, e.mss, e.ws = p.ISN[s], p.MSS[s], p.WS[s]
	}
	c.offer = offer{isn: p.ISN[Client], mss: p.MSS[Client], ws: p.WS[Client], ts: p.TS, sack: p.SACK, valid: true}
}

// Retarget gives a connection that is Opening another server, and another address of ours for
// it. The client's SYN is kept: see MakeSYN.
func (c *Conn) Retarget(local, server netip.AddrPort) {
	a := c.Addrs()
	a.Local, a.Server = local, server
	c.setAddrs(a)
	c.located, c.proven, c.state = false, false, Opening
	c.ends[Server] = end{ws: -1}
	if c.offer.valid {
		c.begin()
	}
}

func (c *Conn) setAddrs(a Addrs) {
	c.client, c.server = flowOf(a.VIP, a.Client), flowOf(a.Local, a.Server)
	c.v6 = c.client.remote != as4in6(c.client.remote)
	sum := func(fs ...*[16]byte) (x uint16) {
		for _, b := range fs {
			for i := 0; i < 16; i += 2 {
				x = add16(x, binary.BigEndian.Uint16(b[i:]))
			}
		}
		return x
	}
	was, is := sum(&c.client.remote, &c.client.local), sum(&c.server.local, &c.server.remote)
	c.diff.addr = add16(is, ^was)
	c.diff.port = add16(add16(c.server.localPort, c.server.remotePort), ^add16(c.client.remotePort, c.client.localPort))
}

// as4in6 is a with the prefix of an IPv4 address in IPv6's form.
func as4in6(a [16]byte) (b [16]byte) {
	b[10], b[11] = 0xff, 0xff
	copy(b[12:], a[12:])
	return b
}

func flowOf(local, remote netip.AddrPort) flow {
	return flow{local.Addr().As16(), remote.Addr().As16(), local.Port(), remote.Port()}
}

// Addrs returns the addresses.
func (c *Conn) Addrs() Addrs {
	of := func(a [16]byte, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16(a).Unmap(), port)
	}
	return Addrs{
		Client: of(c.client.remote, c.client.remotePort), VIP: of(c.client.local, c.client.localPort),
		Local: of(c.server.local, c.server.localPort), Server: of(c.server.remote, c.server.remotePort),
	}
}

// Serves reports whether that is the flow with the present server; IPv4 addresses are in their 4-in-6 form.
func (c *Conn) Serves(local, remote [16]byte, localPort, remotePort uint16) bool {
	return c.server == flow{local, remote, localPort, remotePort}
}

// Params returns what the handshake has settled, complete once the server's SYN-ACK was forwarded.
func (c *Conn) Params() Params {
	p := Params{TS: c.ts, SACK: c.sack}
	for s := range c.ends {
		e := &c.ends[s]
		p.ISN[s], p.MSS[s], p.WS[s] = e.isn, e.mss, e.ws
	}
	return p
}

// State says how far the connection is.
func (c *Conn) State() State { return c.state }

// Located reports whether it is known where both ends are.
func (c *Conn) Located() bool { return c.located }

// Believed reports whether the newest segment of s, with neither SYN nor RST, was one that its receiver would take.
func (c *Conn) Believed(s Side) bool { return c.located && c.odd[s] == 0 }

// HeardFrom is when s has sent its newest packet.
func (c *Conn) HeardFrom(s Side) time.Duration { return c.ends[s].heard }

// Heard is when the newest packet of either side came.
func (c *Conn) Heard() time.Duration { return max(c.ends[Client].heard, c.ends[Server].heard) }

// Moved is when the newest byte, SYN or FIN was sent or acknowledged: neither keepalives and their
// answers count, nor what is not believed.
func (c *Conn) Moved() time.Duration { return c.moved }

// Position is what is known of one end.
type Position struct {
	Known   bool          // else all numbers are guesses
	Next    uint32        // sequence number behind the highest octet that it has sent
	Ack     uint32        // highest acknowledgement that it has sent
	Edge    uint32        // right edge of the window that it has announced, the highest
	Window  uint16        // window field of its newest acknowledgement
	HasFIN  bool          // it has sent its FIN
	FIN     uint32        // sequence number behind that
	TSVal   uint32        // newest TSval that it has sent, if timestamps are used
	Echo    uint32        // what it would echo now: TSval of the other end (RFC 7323, section 4.3)
	HeardAt time.Duration // when its newest packet came

	Bytes     uint64 // payload sent, without repetitions
	Delivered uint64 // of that acknowledged by the other end
	Segments  uint64 // packets; a superpacket counts as one
}

// Position returns what is known of s.
func (c *Conn) Position(s Side) Position {
	e := &c.ends[s]
	return Position{
		Known: c.located, Next: e.next, Ack: e.ack, Edge: e.edge, Window: e.window, HasFIN: e.hasFIN, FIN: e.fin,
		TSVal: e.tsVal, Echo: c.ends[s.Other()].tsRecent, HeardAt: e.heard,
		Bytes: e.bytes, Delivered: e.delivered, Segments: e.segments,
	}
}

// after reports whether a comes after b in sequence space (RFC 9293, 3.4).
func after(a, b uint32) bool { return int32(a-b) > 0 }

func be16(b []byte) uint16     { return binary.BigEndian.Uint16(b) }
func be32(b []byte) uint32     { return binary.BigEndian.Uint32(b) }
func put16(b []byte, v uint16) { binary.BigEndian.PutUint16(b, v) }
