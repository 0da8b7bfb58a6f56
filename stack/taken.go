package stack

import (
	"errors"
	"fmt"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/splice"
)

// A connection that is passed on may be ended here while it runs (decision 27): TakeUp makes its two legs, which
// begin behind what is in flight (drain.go); splice.Switch says of each segment which way it goes; when both
// ends have all that they had sent to each other before, TakenUp leaves the connection to its legs. Until then
// it is one that is passed on, to the standby as well, and can be that again: LetGo.

// taken is what a connection has that is being taken up.
type taken struct {
	sw   splice.Switch
	legs [2]*Leg   // by the side that a leg talks to
	base [2]uint32 // sequence number of the octet at offset 0 of each side's stream
}

// splicedTaking is what of that a connection keeps.
type splicedTaking struct {
	taken  *taken     // unless nil: it is being ended here
	stamps *stampLook // nil: nobody has looked
	floors bool       // floor has something
	floor  [2]uint32  // of each side: the newest stamp that was made in its name, if that is newer than its own
}

// stampLook is what was first seen of the two ends' timestamps: whether they count milliseconds, as netstack does.
type stampLook struct {
	at  [2]time.Duration
	val [2]uint32
}

// errNotNow is why a connection stays passed on.
var errNotNow = errors.New("stack: a connection cannot be ended here now")

// stampSpan is how long an end's timestamps must have been watched.
const stampSpan = 500 * time.Millisecond

// takenRTT is the first guess of a round trip, of which nothing is known: the retransmission time-out that
// follows from it is longer than most, and each acknowledgement mends it.
const takenRTT = 100 * time.Millisecond

// TakeUp begins to end it here. The legs are without endpoints, as of Restore.
func (p *Spliced) TakeUp(client, server Events) (c, s *Leg, err error) {
	p.lockBack()
	defer p.mu.Unlock()
	if p.gone || p.taken != nil || !p.accepted || p.Ended() != NotEnded {
		return nil, nil, fmt.Errorf("%w: it is over, or being taken up", errNotNow)
	}
	if !p.tickMillis() {
		return nil, nil, fmt.Errorf("%w: an end's timestamps do not count milliseconds, as far as is known", errNotNow)
	}
	t := &taken{}
	if why := t.sw.Begin(&p.conn); why != splice.RefusalNone {
		return nil, nil, fmt.Errorf("%w: %s", errNotNow, why)
	}
	for i := range splice.Side(2) {
		t.base[i] = t.sw.Own(i) - 1 // offset 0 would say that the peer may be in its handshake
	}
	for i, ev := range [2]Events{client, server} {
		t.legs[i] = p.newLeg(t, splice.Side(i), ev)
		p.engine.table.addBeside(t.legs[i])
	}
	p.taken = t
	return t.legs[splice.Client], t.legs[splice.Server], nil
}

// tickMillis reports whether both ends' timestamps count milliseconds: netstack's would run ahead of those of a slower
// clock, and what the end says itself afterwards would seem old (RFC 7323, 5.3). mu is held.
func (p *Spliced) tickMillis() bool {
	if !p.conn.Params().TS {
		return true
	}
	if p.stamps == nil {
		return false
	}
	for i := range splice.Side(2) {
		at := p.conn.Position(i)
		span, ticks := at.HeardAt-p.stamps.at[i], time.Duration(int32(at.TSVal-p.stamps.val[i]))*time.Millisecond
		if p.stamps.at[i] == 0 || span < stampSpan || ticks < span*9/10 || ticks > span*11/10 {
			return false
		}
	}
	return true
}

// look notes when an end's timestamp was first known. mu is held.
func (p *Spliced) look() {
	if !p.conn.Located() || !p.conn.Params().TS {
		return
	}
	if p.stamps == nil {
		p.stamps = new(stampLook)
	}
	for i := range splice.Side(2) {
		if at := p.conn.Position(i); p.stamps.at[i] == 0 && at.HeardAt != 0 {
			p.stamps.at[i], p.stamps.val[i] = at.HeardAt, at.TSVal
		}
	}
}

// newLeg makes the leg that talks to one side. mu is held.
func (p *Spliced) newLeg(t *taken, i splice.Side, ev Events) *Leg {
	e, o := p.engine, i.Other()
	a, k := p.conn.Addrs(), p.conn.Params()
	peer, other := p.conn.Position(i), p.conn.Position(o)
	local, remote := a.VIP, a.Client
	if i == splice.Server {
		local, remote = a.Local, a.Server
	}
	rx, tx := uint64(t.sw.Point(i)-t.base[i]), uint64(t.sw.Point(o)-t.base[o])
	own := uint64(t.sw.Own(i) - t.base[i])
	edge := max(uint64(other.Edge-t.base[i]), own)
	l := &Leg{
		engine: e, flow: flowOf(local, remote), v6: remote.Addr().Is6() && !remote.Addr().Is4In6(),
		events: ev, state: stWaiting,
		p: Params{
			Local: local, Remote: remote, ISS: t.base[o] - 1, IRS: t.base[i] - 1, MSS: k.MSS[i], OurMSS: k.MSS[o],
			PeerWS: k.WS[i], OurWS: k.WS[o], SACK: k.SACK, TS: k.TS, PeerTS: peer.TSVal,
			TSOffset:  other.TSVal + uint32((e.now()-other.HeardAt)/time.Millisecond) - e.ClockMillis(),
			RTTMicros: uint32(takenRTT / time.Microsecond),
		},
		legHandshake: legHandshake{confirmed: true},
		legContinued: legContinued{restored: true, quiet: true, drain: legDrain{on: true, edge: edge}},
		legReceiving: legReceiving{rxNxt: rx, rxFreed: rx, rxAcked: own, rxEdge: edge, rxWants: rx + e.window, permit: own},
		legSending:   legSending{txNxt: tx, txUna: tx, txReach: uint64(other.Next - t.base[o]), peerEdge: uint64(peer.Edge - t.base[o])},
		legStamps:    legStamps{tsKnown: true, tsAt: e.now()},
	}
	l.ws = uint8(max(l.p.OurWS, 0))
	return l
}

// drains takes a segment with neither SYN nor RST while it is taken up: it reports whether that
// is done with, and goes to no endpoint. mu is held, and released.
func (p splicedSide) drains(s *segment, hdr, first, rest []byte) (done bool) {
	t, n := p.taken, len(first)+len(rest)
	at := s.ipLen + len(s.tcp)
	head := append(make([]byte, 0, at), first[:at]...)
	v := p.conn.Forward(p.from, hdr, head, s.ipLen, n, p.engine.now()) // where the ends are is to be known if it is let go
	if t.sw.Phase() != splice.Draining {
		p.mu.Unlock()
		return false
	}
	believed := s.tcp.Flags()&header.TCPFlagAck != 0 && p.conn.Believed(p.from)
	if v.Drop != splice.DropNone {
		p.mu.Unlock()
		p.engine.C.drop(dropOf(v.Drop))
		return true
	}
	lastHop(head)
	if !believed { // the end judges, as ever
		p.mu.Unlock()
		p.engine.writeParts(p.queue, hdr, head, first[at:], rest)
		return true
	}
	seq := s.tcp.SequenceNumber()
	here := p.conn.Position(p.from)
	route := t.sw.Segment(p.from, seq, seq+s.segLen(), here.Ack)
	ended := t.sw.Phase() != splice.Draining
	pass := crossing{queue: p.queue, vnet: hdr, head: head, ipLen: s.ipLen, first: first[at:], rest: rest, bare: route.Bare, acked: here.Ack, stamp: here.TSVal}
	from, to, events := t.legs[p.from], t.legs[p.from.Other()], p.events
	p.mu.Unlock()
	from.hearsPassing(here.TSVal)
	to.passOn(&pass)
	if ended {
		events.Turned()
	}
	return !route.Endpoint
}

// Drained reports whether all from before the points has arrived: TakenUp may come.
func (p *Spliced) Drained() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken != nil && p.taken.sw.Phase() == splice.Telling
}

// TakenUp leaves a drained connection to its legs. It reports false if a reset has come before: Ended tells.
func (p *Spliced) TakenUp() bool {
	p.mu.Lock()
	t, a := p.taken, p.conn.Addrs()
	if t == nil || t.sw.Phase() != splice.Telling {
		p.mu.Unlock()
		return false
	}
	p.gone, p.taken = true, nil
	p.mu.Unlock()
	// What is read from now on finds the legs only.
	cf, sf := flowOf(a.VIP, a.Client), flowOf(a.Local, a.Server)
	p.engine.table.removeSpliced(&cf, p)
	p.engine.table.removeSpliced(&sf, p)
	t.legs[splice.Server].ownPort = p.ownPort.Swap(false)
	return true
}

// LetGo gives up taking it up: it is passed on as before. What the endpoints have is unacknowledged to
// its sender, who sends it again.
func (p *Spliced) LetGo() {
	p.mu.Lock()
	legs := p.letGo()
	p.mu.Unlock()
	dropLegs(legs)
}

// letGo is LetGo up to the end of the legs it returns, which are to be dropped. mu is held.
func (p *Spliced) letGo() (legs []*Leg) {
	t := p.taken
	if t == nil {
		return nil
	}
	p.taken = nil
	for i := range splice.Side(2) {
		// What an end says itself must not be older than what was said in its name (RFC 7323, 5.3).
		if l := t.legs[i.Other()]; l.p.TS {
			p.floor[i], p.floors = l.newestStamp(), true
		}
	}
	return t.legs[:]
}

func dropLegs(legs []*Leg) {
	for _, l := range legs {
		l.Drop()
	}
}

// raiseStamp gives a segment of an end whose own stamps are behind those that were made in its name the
// newest of them. mu is held.
func (p splicedSide) raiseStamp(hdr []byte, tcp header.TCP) {
	if !p.floors {
		return
	}
	ts, _, ok := locateOptions([]byte(tcp[header.TCPMinimumSize:]))
	if !ok || ts < 0 || p.floor[p.from] == 0 {
		return
	}
	ts += header.TCPMinimumSize + 2
	if d := be32(tcp[ts:]) - p.floor[p.from]; int32(d) >= 0 {
		p.floor[p.from] = 0
		return
	}
	f := fields{tcp: tcp, sums: hdr[0]&1 == 0}
	f.put(ts, be(p.floor[p.from]))
}

// Stall is how an end that takes nothing stands.
type Stall struct {
	Full bool   // the window that it has announced is used up, but for less than a segment
	Next uint32 // of the other end: behind the highest octet sent
	Ack  uint32 // its own
}

// ClientStall says how the client stands, with the server's bytes. It is to be asked about once a second, from the
// beginning on.
func (p *Spliced) ClientStall() Stall {
	p.lockSeen()
	defer p.mu.Unlock()
	p.look()
	if !p.conn.Located() || p.conn.State() != splice.Open || p.taken != nil {
		return Stall{}
	}
	c, s := p.conn.Position(splice.Client), p.conn.Position(splice.Server)
	left := int32(c.Edge - s.Next)
	return Stall{Full: left < int32(p.conn.Params().MSS[splice.Client]), Next: s.Next, Ack: c.Ack}
}
