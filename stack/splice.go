package stack

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/splice"
	"lockstep/tun"
)

// A spliced connection is passed on between its two peers, not ended: from TUN to TUN a segment
// changes its addresses and checksums, no more. Package splice knows how, and where the two ends
// are; here is what lies around it: the table, the handshake that waits for the standby, the
// end, and what is said in the peers' names when the gateway ends a connection itself.

// Spliced is one connection of that kind.
type Spliced struct {
	engine *Engine
	queue  uint8 // of the device's, by which its packets leave, and so come

	opened   atomic.Bool   // the client has answered the server's SYN-ACK, or was known to be past it
	asked    atomic.Uint32 // SYNs of the client since the present server was dialled
	refused  atomic.Bool   // by the present server, or nobody can reach it
	answered atomic.Bool   // by the present server: the SYN-ACK is held until Accept
	ended    atomic.Uint32 // see SplicedEnd
	ownPort  atomic.Bool   // Local's port is one of ours
	half     bool          // counted among the handshakes; engine.mu
	buried   time.Duration // engine.mu

	mu       sync.Mutex // guards what follows; beneath it Leg.mu and a table shard, see taken.go
	events   SplicedEvents
	conn     splice.Conn
	dialled  bool // the server's flow is in the table
	accepted bool // the SYN-ACK may pass
	gone     bool // out of the table
	splicedNotes
	held   []byte        // until it is opened: the server's last answer to the SYN, as the client is to get it, with its virtio-net header
	owedAt time.Duration // when those that owe an answer were asked
	splicedHands
}

// SplicedEvents is told of a spliced connection, on the packet path: it must not block, and lets a
// worker act.
type SplicedEvents interface {
	// Turned: the server has answered or refused the SYN, the client has asked again or has
	// completed its handshake, or the connection has ended: look at it.
	Turned()
	// Revived: what had ended goes on, since the peer did not believe the RST that ended it.
	Revived()
}

// Passer is a Handler that can take clients whose connections are passed on.
type Passer interface {
	// Passing is Incoming for a connection that is to be passed on. It must call p.SetEvents
	// before it returns; later it calls p.Dial, or p.Drop.
	Passing(p *Spliced)
}

// SplicedEnd says how a spliced connection has ended.
type SplicedEnd uint32

// Values of SplicedEnd.
const (
	NotEnded      SplicedEnd = iota
	EndedInOrder             // both FINs are acknowledged
	EndedByReset             // by one of the peers
	EndedUnproven            // the client has not completed its handshake in time
	EndedReplaced            // the client begins another connection from the same port
)

// splicedHalfOpen is how long a client whose connection is passed on may be silent in its
// handshake: longer than the pauses between its first SYNs. Should it come again, it begins anew.
const splicedHalfOpen = 16 * time.Second

// splicedSide is what the table has of a flow: the connection, and who sends on that flow.
type splicedSide struct {
	*Spliced
	from splice.Side
}

// Pass makes new connections with a listening address be passed on as far as may says so of their clients;
// it must not block. The handler is a Passer then.
func (e *Engine) Pass(addr netip.AddrPort, may func(client netip.AddrPort) bool) {
	e.mu.Lock()
	e.listeners[addr].passes = may
	e.mu.Unlock()
}

// SetEvents: see Passer.
func (p *Spliced) SetEvents(ev SplicedEvents) {
	p.mu.Lock()
	p.events = ev
	p.mu.Unlock()
}

// listener is whom to tell.
func (p *Spliced) listener() SplicedEvents {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.events
}

// Addrs are the addresses; Local and Server are those of the newest Dial.
func (p *Spliced) Addrs() splice.Addrs {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn.Addrs()
}

// Opened reports whether the client has completed its handshake.
func (p *Spliced) Opened() bool { return p.opened.Load() }

// Answered reports whether the server has answered the SYN; Refused that it has refused it, or that
// there is no way to it; Asked how often the client has sent its SYN again meanwhile.
func (p *Spliced) Answered() bool { return p.answered.Load() }

// Refused: see Answered.
func (p *Spliced) Refused() bool { return p.refused.Load() }

// Asked: see Answered.
func (p *Spliced) Asked() int { return int(p.asked.Load()) }

// Ended says whether and how it has ended.
func (p *Spliced) Ended() SplicedEnd { return SplicedEnd(p.ended.Load()) }

// Gone reports whether it is out of the table: nothing is passed on any more, and nothing told.
func (p *Spliced) Gone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gone
}

// Tended is how a connection is that is looked at about once a second.
type Tended struct {
	// Idle is for how long no byte has been sent or acknowledged, whatever else is said; Silent for how long nothing at
	// all has come from that side which was silent longer.
	Idle, Silent time.Duration
	Owed         bool // an end has not been heard of since Ask has asked it
	Doubt        bool // something may have to be asked before long
	Gone         bool // see Gone
}

// Tend looks at it and, unless it is still opening, asks an end for what should be known of it and is not.
func (p *Spliced) Tend(opened bool) (t Tended) {
	var buf [splice.MaxMade]byte
	var b []byte
	p.lockSeen()
	now := p.engine.now()
	if opened && !p.gone {
		p.paused(now)
	}
	t.Gone = p.gone
	t.Idle = now - p.conn.Moved()
	if p.isAway() && t.Idle >= offloadIdle {
		p.takeBack()
	}
	heard := [2]time.Duration{p.conn.HeardFrom(splice.Client), p.conn.HeardFrom(splice.Server)}
	t.Silent = now - min(heard[0], heard[1])
	for s := range splice.Side(2) {
		t.Owed = t.Owed || p.owes[s] && heard[s] < p.owedAt
	}
	if t.Doubt = p.conn.Doubtful(); t.Doubt && opened && !p.gone {
		if to, ask := p.conn.Ask(now); ask {
			b = p.conn.Probe(to, buf[:])
		}
	}
	p.mu.Unlock()
	if b != nil {
		p.emitMade(b)
	}
	return t
}

// Ask makes the one that was silent for longer say that it is there, if it was for so long; the other's turn is next. Both at
// once would not do: the answer of the first passes the question to the second, which has an older timestamp then, and
// newer Linux discards an old ACK without a word (PAWSOldAck).
func (p *Spliced) Ask(silent time.Duration) {
	var buf [splice.MaxMade]byte
	var b []byte
	p.lockSeen()
	now := p.engine.now()
	to := splice.Client
	if p.conn.HeardFrom(splice.Server) < p.conn.HeardFrom(splice.Client) {
		to = splice.Server
	}
	p.owes = [2]bool{}
	if now-p.conn.HeardFrom(to) >= silent && !p.gone {
		p.owes[to], p.owedAt = true, now
		b = p.conn.Probe(to, buf[:])
	}
	p.mu.Unlock()
	if b != nil {
		p.emitMade(b)
	}
}

// AskServer asks the server whether it knows a connection of whose client nothing has come. One that does not answers
// by a RST, which ends it.
func (p *Spliced) AskServer() {
	var buf [splice.MaxMade]byte
	var b []byte
	p.mu.Lock()
	if p.conn.HeardFrom(splice.Client) == 0 && !p.gone {
		b = p.conn.Probe(splice.Server, buf[:])
	}
	p.mu.Unlock()
	if b != nil {
		p.emitMade(b)
	}
}

// Params says of the two legs what a record does: as if each had been ended here, with the
// other peer's numbers for ours.
func (p *Spliced) Params() (client, server Params) {
	p.lockSeen()
	a, k := p.conn.Addrs(), p.conn.Params()
	ts := [2]uint32{p.conn.Position(splice.Client).TSVal, p.conn.Position(splice.Server).TSVal}
	p.mu.Unlock()
	of := func(local, remote netip.AddrPort, peer splice.Side) Params {
		o := peer.Other()
		return Params{
			Local: local, Remote: remote, ISS: k.ISN[o], IRS: k.ISN[peer], MSS: k.MSS[peer], OurMSS: k.MSS[o],
			PeerWS: k.WS[peer], OurWS: k.WS[o], SACK: k.SACK, TS: k.TS, PeerTS: ts[peer],
		}
	}
	return of(a.VIP, a.Client, splice.Client), of(a.Local, a.Server, splice.Server)
}

// incomingSpliced takes a client's SYN.
func (e *Engine) incomingSpliced(s *segment) {
	p := &Spliced{engine: e, queue: e.queueOf(addrPort(s.flow.remote, s.flow.remotePort))}
	client, vip := addrPort(s.flow.remote, s.flow.remotePort), addrPort(s.flow.local, s.flow.localPort)
	p.conn.Init(splice.Addrs{Client: client, VIP: vip}, e.mss(s.v6))
	// Nobody is dialled yet: the packet is read, not passed on.
	b := append(append(make([]byte, 0, 128), s.ip...), s.tcp...)
	var hdr [tun.VnetHeaderLen]byte
	if v := p.conn.Forward(splice.Client, hdr[:], b, s.ipLen, len(b), e.now()); v.Drop != splice.DropNone {
		e.C.drop(dropOf(v.Drop))
		return
	}
	if !e.table.addSpliced(&s.flow, splicedSide{p, splice.Client}) {
		e.C.drop(DropStaleSegment)
		return
	}
	e.splicedHalfOpenBegins(p, vip, client)
	e.passer.Passing(p)
}

// Dial passes the client's SYN on to a server, from an address of which the port may be 0: the
// engine picks one then. A server that was dialled before is told that nobody comes.
func (p *Spliced) Dial(local, server netip.AddrPort) error {
	p.hangUp()
	e, at := p.engine, Params{Local: local, Remote: server}
	var f flow
	own, err := e.takePort(&at, func() bool {
		f = flowOf(at.Local, at.Remote)
		e.wake(&f)
		side := splicedSide{p, splice.Server}
		return e.table.addSpliced(&f, side) || e.vacate(&f) && e.table.addSpliced(&f, side)
	})
	if err != nil {
		return err
	}
	p.ownPort.Store(own)
	var buf [splice.MaxMade]byte
	p.mu.Lock()
	if p.gone { // its client has begun anew meanwhile
		p.mu.Unlock()
		p.leaveServer(splice.Addrs{Local: at.Local, Server: server})
		return ErrReset
	}
	p.conn.Retarget(at.Local, server)
	// Whatever the former server has said since the worker looked.
	p.refused.Store(false)
	p.answered.Store(false)
	p.asked.Store(0)
	p.held = nil
	p.dialled = true
	b := p.conn.MakeSYN(buf[:])
	p.mu.Unlock()
	p.emitMade(b)
	return nil
}

// hangUp ends what was begun with a server.
func (p *Spliced) hangUp() {
	var buf [splice.MaxMade]byte
	p.lockBack()
	if !p.dialled {
		p.mu.Unlock()
		return
	}
	p.dialled, p.held = false, nil
	a := p.conn.Addrs()
	b, sure := p.conn.Reset(splice.Server, buf[:])
	sure = sure && !p.refused.Load()
	p.mu.Unlock()
	if sure {
		p.emitMade(b)
	}
	p.leaveServer(a)
}

// HangUp ends a connection whose client is not there: the server is told, the client not.
func (p *Spliced) HangUp() {
	p.hangUp()
	p.Drop()
}

// leaveServer takes the server's flow out of the table.
func (p *Spliced) leaveServer(a splice.Addrs) {
	f := flowOf(a.Local, a.Server)
	p.engine.table.removeSpliced(&f, p)
	p.givePort(a)
}

// givePort gives back a port of ours. A tombstone may keep the flow: whoever gets the port next takes that, too.
func (p *Spliced) givePort(a splice.Addrs) {
	if p.ownPort.Swap(false) {
		p.engine.ports.give(&Params{Local: a.Local, Remote: a.Server})
	}
}

// Accept lets the server's SYN-ACK pass. The record must be safe by now (invariant 1).
func (p *Spliced) Accept() {
	p.mu.Lock()
	b := p.held
	p.accepted = true // it is kept: it may be lost
	p.mu.Unlock()
	p.engine.emitHeld(p.queue, b)
}

// Refuse passes on the RST by which the last server has refused, if there is one, and ends the connection.
func (p *Spliced) Refuse() {
	p.mu.Lock()
	b := p.held
	if !p.refused.Load() {
		b = nil // a SYN-ACK, after all, of which there is no record
	}
	p.held = nil
	p.mu.Unlock()
	p.engine.emitHeld(p.queue, b)
	p.Drop()
}

// Deny tells a client that nobody listens, before anything else was done.
func (p *Spliced) Deny() {
	var buf [splice.MaxMade]byte
	p.mu.Lock()
	b, sure := p.conn.Reset(splice.Client, buf[:])
	p.mu.Unlock()
	if sure {
		p.emitMade(b)
	}
	p.Drop()
}

// Revive makes a tombstone a connection again: see SplicedEvents.
func (p *Spliced) Revive() {
	p.engine.mu.Lock()
	delete(p.engine.passedBy, p)
	p.engine.mu.Unlock()
}

// String describes it.
func (p *Spliced) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.conn.Addrs()
	return fmt.Sprintf("%v > %v | %v > %v %v", a.Client, a.VIP, a.Local, a.Server, p.conn.State())
}

// Finish leaves a tombstone, which passes on what is repeated, of a connection that has ended.
func (p *Spliced) Finish() {
	p.LetGo()
	p.engine.splicedHalfOpenDone(p)
	p.lockBack()
	gone, a := p.gone, p.conn.Addrs()
	p.mu.Unlock()
	if gone {
		return
	}
	p.givePort(a)
	p.engine.burySpliced(p)
}

// Abort resets both peers. What they say then is answered with another RST.
func (p *Spliced) Abort() {
	p.LetGo()
	var buf [2][2][splice.MaxMade]byte
	var made [2][2][]byte
	p.ended.CompareAndSwap(uint32(NotEnded), uint32(EndedByReset))
	p.lockBack()
	if !p.gone {
		for s := range splice.Side(2) {
			if s == splice.Server && !p.dialled || s == splice.Client && !p.accepted {
				continue
			}
			made[s][0], _ = p.conn.Reset(s, buf[s][0][:])
			made[s][1], _ = p.conn.ResetAhead(s, buf[s][1][:])
		}
		p.conn.Kill(p.engine.now())
	}
	p.mu.Unlock()
	for s := range made {
		for _, b := range made[s] {
			if b != nil {
				p.emitMade(b)
			}
		}
	}
	p.Finish()
}

// Drop ends the connection without a word.
func (p *Spliced) Drop() {
	p.LetGo()
	p.engine.splicedHalfOpenDone(p)
	p.lockBack()
	gone, dialled, a := p.gone, p.dialled, p.conn.Addrs()
	p.gone, p.held = true, nil
	p.mu.Unlock()
	if gone {
		return
	}
	f := flowOf(a.VIP, a.Client)
	p.engine.table.removeSpliced(&f, p)
	if dialled {
		p.leaveServer(a)
	}
}

// RestoreSpliced puts a connection of another appliance into the table, with the parameters of its
// legs. ended: it is a tombstone.
func (e *Engine) RestoreSpliced(client, server Params, ended bool, ev SplicedEvents) (*Spliced, error) {
	p := &Spliced{engine: e, queue: e.queueOf(client.Remote), events: ev, dialled: true, accepted: true}
	p.opened.Store(true)
	p.answered.Store(true)
	v6 := client.Remote.Addr().Is6() && !client.Remote.Addr().Is4In6()
	k := splice.Params{TS: client.TS, SACK: client.SACK}
	k.ISN = [2]uint32{client.IRS, server.IRS}
	k.MSS = [2]uint16{client.MSS, server.MSS}
	k.WS = [2]int8{client.PeerWS, server.PeerWS}
	p.conn.Restore(splice.Addrs{Client: client.Remote, VIP: client.Local, Local: server.Local, Server: server.Remote}, k, e.mss(v6))
	cf, sf := flowOf(client.Local, client.Remote), flowOf(server.Local, server.Remote)
	for _, f := range [2]*flow{&cf, &sf} {
		e.vacate(f)
	}
	if !e.table.addSpliced(&cf, splicedSide{p, splice.Client}) {
		return nil, ErrAddrInUse
	}
	if !e.table.addSpliced(&sf, splicedSide{p, splice.Server}) {
		e.table.removeSpliced(&cf, p)
		return nil, ErrAddrInUse
	}
	if !ended && e.ownPort(server.Local) {
		p.ownPort.Store(true)
		e.ports.claim(&server)
	}
	e.Heard(client.Remote.Addr())
	if ended {
		p.ended.Store(uint32(EndedInOrder))
		p.Finish()
	}
	return p, nil
}
