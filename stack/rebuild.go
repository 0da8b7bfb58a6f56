package stack

import (
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Resume says from where a leg is continued: offsets in the two streams.
type Resume struct {
	// Received is the first byte of the peer's stream that the endpoint is to
	// receive: everything below is held here. The peer's FIN is not counted.
	Received uint64
	// Sent is the first byte of our stream that the endpoint is to send:
	// everything below is known to be acknowledged. Our FIN is not counted.
	Sent uint64
	// Held is the end of what is known to have arrived of our stream from its source,
	// the source's FIN not counted; HeldFIN: that follows there. So the former active
	// can have sent no more than the source's window beyond. ManySources: the stream's
	// source may have changed.
	Held        uint64
	HeldFIN     bool
	ManySources bool
	// Ahead is how many bytes before Received wait elsewhere for their receiver. They
	// count against the window if they are more than one: see Leg.edge.
	Ahead uint64
	// PeerFIN: the peer's FIN follows right after Received and is held too.
	PeerFIN bool
	// PeerKnows: the peer is known to be past its handshake.
	PeerKnows bool
	// HalfWay: a server, whose client may still be in its handshake: see Dial.
	HalfWay bool
	// Quiet: nothing was going on, so the peer is not disturbed: no probe, no
	// repeated ACK. Thousands of idle legs would otherwise delay the busy ones.
	Quiet bool
	// Parked: and the leg gets no endpoint before something goes on (see Park). Only where
	// Quiet has an effect.
	Parked bool
}

// Restore puts a leg of another appliance into the table, without an endpoint:
// its segments queue and wake ev until Attach. p.TSOffset must already be in
// terms of this appliance's clock.
func (e *Engine) Restore(p Params, r Resume, ev Events) (*Leg, error) {
	l := &Leg{
		engine: e, flow: flowOf(p.Local, p.Remote), v6: p.Local.Addr().Is6() && !p.Local.Addr().Is4In6(),
		events: ev, state: stWaiting, p: p,
		legHandshake: legHandshake{confirmed: r.PeerKnows, halfWay: r.HalfWay},
		legContinued: legContinued{restored: true, finHeld: r.PeerFIN, quiet: r.Quiet && r.PeerKnows && !r.PeerFIN},
		legHurry:     legHurry{probed: true},
		legReceiving: legReceiving{
			rxNxt: r.Received, rxFreed: r.Received, rxAcked: r.Received, rxEdge: r.Received + e.window, permit: r.Received, gateOpen: true,
		},
		legSending: legSending{txNxt: r.Sent, txUna: r.Sent},
	}
	if r.PeerFIN {
		// The peer may have been told that its FIN is here: an ACK must not go back.
		l.permit, l.rxAcked = r.Received+1, r.Received+1
		l.rxFin = r.Received + 1
	}
	if r.Parked && l.quiet {
		l.state = stParked
	}
	l.txReach = e.reach(&r)
	l.rxAhead = r.Ahead
	l.rxEdge = min(l.rxEdge, max(l.edgeLimit(), r.Received))
	if p.OurWS >= 0 {
		l.ws = uint8(p.OurWS)
	}
	// A tombstone in its place is of an earlier connection between the same ports, which
	// this appliance has seen end when it was active before, or which it has been told of.
	if !e.put(l) {
		return nil, ErrAddrInUse
	}
	if l.ownPort = e.ownPort(l.p.Local); l.ownPort {
		e.ports.claim(&l.p)
	}
	if !l.confirmed {
		e.halfOpenBegins(l) // nobody knows that its client was ever there
	} else {
		e.Heard(p.Remote.Addr())
	}
	return l, nil
}

// Bury puts a connection that ended in order into the table as a tombstone.
func (e *Engine) Bury(p Params, r Resume) {
	l, err := e.Restore(p, r, noEvents{})
	if err == nil {
		l.Finish()
	}
}

type noEvents struct{}

func (noEvents) Wake(*Leg)              {}
func (noEvents) Delivered(*Leg, uint64) {}

// Attach gives a waiting leg its endpoint, by a private handshake: netstack dials
// the peer, and the wrap answers in the peer's place with numbers chosen so that
// RCV.NXT comes out right; the difference between netstack's ISN and the wire's
// is what is added from then on (FT-TCP, section on reincarnation). No packet of
// the handshake leaves. It returns before the handshake is complete; the
// endpoint's first event tells.
func (l *Leg) Attach() error {
	l.mu.Lock()
	if l.state != stWaiting {
		l.mu.Unlock()
		return nil
	}
	l.state = stBuilding
	l.mu.Unlock()
	if err := l.connect(); err != nil {
		l.end(stClosed, err)
		return err
	}
	return nil
}

// Dial opens a leg to a server, in the open. local's port may be zero for one
// that the engine picks. SetEvents is done with ev before anything can happen.
// halfWay: the server's SYN-ACK is not answered before Complete.
func (e *Engine) Dial(p Params, halfWay bool, ev Events) (*Leg, error) {
	l := &Leg{engine: e, events: ev, state: stDialing, p: p}
	l.halfWay = halfWay
	l.v6 = p.Remote.Addr().Is6()
	var err error
	l.ownPort, err = e.takePort(&l.p, func() bool {
		l.flow = flowOf(l.p.Local, l.p.Remote)
		return e.put(l)
	})
	if err != nil {
		return nil, err
	}
	if err := l.connect(); err != nil {
		l.end(stClosed, err)
		return nil, err
	}
	return l, nil
}

// put puts l into the table, if need be in the place of a connection that has ended: a client
// that comes again from the same port begins a new one with the server, too.
func (e *Engine) put(l *Leg) bool {
	e.wake(&l.flow)
	return e.table.add(l) || e.vacate(&l.flow) && e.table.add(l)
}

// vacate takes a tombstone out of the table and reports whether the flow is free.
func (e *Engine) vacate(f *flow) bool {
	if side := e.table.spliced(f); side.Spliced != nil {
		if side.Ended() == NotEnded {
			return false
		}
		side.Drop()
		return true
	}
	old := e.table.get(f)
	if old == nil {
		return true
	}
	old.mu.Lock()
	ended := old.state >= stTombstone
	old.mu.Unlock()
	if ended {
		e.table.remove(old)
	}
	return ended
}

func (l *Leg) connect() error {
	ep, waits, err := l.engine.newEndpoint(l)
	if err != nil {
		return err
	}
	waits.entry.Init(l, allEvents)
	waits.wq.EventRegister(&waits.entry)
	if !l.keep(ep, waits) {
		waits.wq.EventUnregister(&waits.entry)
		ep.Close()
		return ErrReset
	}
	switch terr := ep.Connect(fullAddress(l.p.Remote)).(type) {
	case *tcpip.ErrConnectStarted, nil:
		return nil
	case *tcpip.ErrPortInUse, *tcpip.ErrBadLocalAddress:
		return ErrAddrInUse
	default:
		return errorOf(terr)
	}
}

// keep gives the leg its endpoint, unless it has ended meanwhile: a packet may end one that
// is being attached (dropLegs), and nobody would end that endpoint any more.
func (l *Leg) keep(ep tcpip.Endpoint, waits *legWaits) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state >= stTombstone {
		return false
	}
	l.ep, l.waits = ep, waits
	return true
}

// privateHandshake handles what netstack sends while the leg is being built. mu
// is held; the returned function injects the peer's part once it is not.
func (l *Leg) privateHandshake(tcp header.TCP) func() {
	flags := tcp.Flags()
	switch {
	case flags&header.TCPFlagRst != 0:
		return nil
	case flags&header.TCPFlagSyn != 0:
		return l.answerSYN(tcp)
	case tcp.SequenceNumber() == l.stackISS+1:
		return l.attached()
	}
	return nil
}

// answerSYN plays the peer's SYN-ACK.
func (l *Leg) answerSYN(tcp header.TCP) func() {
	l.stackISS = tcp.SequenceNumber()
	l.seqDelta = l.txSeq(l.txNxt) - (l.stackISS + 1)
	l.stackWS = 0
	var tsEcr uint32
	walkOptions(tcp[header.TCPMinimumSize:tcp.DataOffset()], func(kind byte, o []byte) {
		switch kind {
		case header.TCPOptionWS:
			if l.p.PeerWS >= 0 {
				l.stackWS = o[2]
			}
		case header.TCPOptionTS:
			val := be32(o[2:])
			l.tsDelta = l.engine.ClockMillis() + l.p.TSOffset - val
			l.tsBorn, l.staleTS = l.tsNow(), l.p.PeerTS
			// netstack takes its first round trip from the echo: tell it that
			// of the real handshake, not that of this private one, or the
			// first retransmission time-out would be far too short on a WAN.
			tsEcr = val - l.p.RTTMicros/1000
		}
	})
	opts := synOptions(make([]byte, header.TCPOptionsMaximumSize), l.p.MSS, l.p.PeerWS, l.p.SACK, l.p.TS, l.p.PeerTS, tsEcr)
	b := l.flow.build(make([]byte, maxMade), l.v6, true, made{
		flags: header.TCPFlagSyn | header.TCPFlagAck,
		seq:   l.rxSeq(l.rxNxt) - 1, ack: l.stackISS + 1,
		window: l.firstWindow(), opts: opts,
	})
	return func() { l.engine.inject(b, l.v6) }
}

// initialSendWindow is what the endpoint may send before the peer's first
// segment tells its window. It is small, because the true one is not known: a
// peer drops what does not fit and says so.
const initialSendWindow = 14600 // ten segments, RFC 6928

// attached ends the private handshake: what waited goes in. The leg counts as
// attached only when it has, so that nothing that arrives overtakes it.
func (l *Leg) attached() func() {
	l.engine.C.Rebuilt.Add(1)
	var inject [][]byte
	var ts []byte
	if l.p.TS {
		ts = tsOption(make([]byte, 12), l.p.PeerTS, 0)
	}
	peer := func(flags header.TCPFlags, seq uint32, window uint16) {
		inject = append(inject, l.flow.build(make([]byte, maxMade), l.v6, true, made{
			flags: flags, seq: seq, ack: l.stackISS + 1,
			window: window, opts: ts,
		}))
	}
	var probe []byte
	l.bornAt = l.engine.now()
	window := l.firstWindow() >> max(l.p.PeerWS, 0)
	if l.again() {
		// A segment from before the window makes netstack announce RCV.NXT
		// with its whole window: that acknowledges at once all that is held.
		// A held FIN does the same, and acknowledges itself.
		if l.finHeld {
			peer(header.TCPFlagAck|header.TCPFlagFin, l.rxSeq(l.rxNxt), window)
		} else {
			peer(header.TCPFlagAck, l.rxSeq(l.rxNxt)-1, window)
		}
		if l.parked {
			inject[0] = l.withByte(inject[0])
		}
		if l.knowsWindow() && !l.finHeld {
			peer(header.TCPFlagAck, l.rxSeq(l.rxNxt), l.peerWindow(l.txNxt)) // that of the SYN is of 64 KB at most
		}
		if !l.quiet && !l.halfWay { // a server in SYN-RECEIVED may take a probe for an error
			probe = l.probe()
			l.startProbing()
		}
	}
	return func() {
		for _, b := range inject {
			l.engine.inject(b, l.v6)
		}
		if probe != nil {
			l.engine.emitMade(probe)
		}
		replay := func(p *stack.PacketBuffer) { l.engine.replay(l, p) }
		l.release(l.takePending(), replay)
		l.mu.Lock()
		rest := l.pending // came while the others were replayed
		l.pending = nil
		if l.state == stBuilding {
			l.state = stAttached
		}
		l.mu.Unlock()
		l.release(rest, replay)
		l.events.Wake(l)
	}
}

func (l *Leg) takePending() []*stack.PacketBuffer {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.pending
	l.pending = nil
	return p
}

// probe makes the segment that asks the peer where it is: a SYN-ACK if it may
// still be in its handshake, else one from below its window, which it must
// answer with an ACK (RFC 9293, 3.10.7.4; the form of a keepalive, RFC 1122
// 4.2.3.6).
func (l *Leg) probe() []byte {
	if !l.confirmed {
		return l.synAck()
	}
	ack := l.permitted(l.rxNxt) // a held FIN was acknowledged by the former active, or is to be now
	m := made{flags: header.TCPFlagAck, seq: l.txSeq(l.txNxt) - 1, ack: l.rxSeq(ack), window: l.windowTo(ack, l.rxEdge)}
	if from := max(l.txUna, l.peerAck); l.resumed {
		m.seq = l.txSeq(from) - 1 // below its window though it may lack what is in flight
		if l.txFin > 0 && from+1 == l.txFin {
			m.flags, m.seq = m.flags|header.TCPFlagFin, l.txSeq(from) // and that is our FIN
		}
	}
	l.left(ack, l.rxEdge)
	m.opts = l.ackOptions(l.echo(), nil)
	l.probed, l.rxProbed = true, l.rxNxt
	return l.build(m)
}

// AskPeer makes a continued leg's peer say how far it is, if it has not: it was not
// asked when it seemed idle (Resume.Quiet), and a probe or its answer may be lost.
func (l *Leg) AskPeer() {
	l.reply(func() []byte {
		if l.state != stAttached && l.state != stParked || !l.restored || l.located {
			return nil
		}
		return l.probe()
	}, false)
}

// replay gives a queued packet to the leg as if it arrived now.
func (e *Engine) replay(l *Leg, pkt *stack.PacketBuffer) {
	var s segment
	b := firstSlice(pkt)
	if s.parse(b, pkt.Size()) != parsedTCP {
		return
	}
	if l.input(&s, pkt, true) == vDeliver {
		e.deliver(s.v6, pkt)
	}
}
