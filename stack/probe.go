package stack

import (
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A continued leg's peer is asked where it is (Leg.probe) until it has said so, and
// is sent the first segment that it may lack until it has that: the network may be
// away for some seconds, in which both ends double their time-outs. Then the first
// probe that gets through ends the wait, not a timer.

// probeDelays are the spans between probes. From one to the next is one step, and the
// last two last: 10 seconds of quick ones, then two minutes of slow ones. After that
// the peer's own timers, or its keepalives, are left.
var probeDelays = [...]time.Duration{50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, time.Second}

const (
	probesQuick = 50
	probesSlow  = 120
)

// prober knows the legs that are to be probed. Its lock is a leaf.
type prober struct {
	mu sync.Mutex
	dues[*Leg]

	resuming    bool          // see Resume
	silentSince time.Duration // of it
	refused     atomic.Bool   // something of a leg's peer was not taken in, see Leg.missed
	back        bool          // somebody has come back, see Leg.back
	backSince   time.Duration // who had been silent since then
	backAt      time.Duration // when others were asked for that last
}

// add takes the place of what the leg is queued for: of probeDelays, or atOnce. l.mu is held.
func (p *prober) add(l *Leg, delay int, now time.Duration) {
	l.turn++
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dues.add(l, l.turn, delay, now)
}

// due tells whose time has come: see dues.take. Which turn of a leg counts is its own lock's.
func (p *prober) due(now time.Duration) (items []due[*Leg], wait time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.take(now, func(due[*Leg]) bool { return true })
}

// probeTurn is what probing does when something is due.
func (e *Engine) probeTurn() (n int, wait time.Duration, ok bool) {
	if since, ok := e.probes.resumed(); ok {
		e.resumeLegs(since)
	}
	since, again, back := e.probes.cameBack(e.now())
	if back {
		e.askSilent(since)
	}
	items, wait, ok := e.probes.due(e.now())
	for _, it := range items {
		it.who.probeAgain(it.turn)
	}
	if again > 0 && (!ok || again < wait) {
		wait, ok = again, true
	}
	return len(items), wait, ok
}

// startProbing makes the prober look after the leg, if its peer is past the handshake:
// until then that is the janitor's. mu is held.
func (l *Leg) startProbing() {
	if l.probing || !l.restored && !l.resumed || !l.confirmed || l.halfWay {
		return
	}
	l.probing = true
	l.engine.probes.add(l, l.probeQueue(), l.engine.now())
}

// probeQueue chooses the next delay: longer than a round trip.
func (l *Leg) probeQueue() int {
	if l.probesSent >= probesQuick {
		return len(probeDelays) - 1
	}
	q := min(int(l.probesSent), len(probeDelays)-2)
	for q < len(probeDelays)-2 && probeDelays[q] < 2*time.Duration(l.p.RTTMicros)*time.Microsecond {
		q++
	}
	return q
}

// locatedNow is called when the peer has said for the first time where it is: what it
// may lack, and has had time to acknowledge, leaves again at once. mu is held.
func (l *Leg) locatedNow() {
	if l.headAcked(); l.head == nil {
		l.headDone = true // what is sent from now on is sent to a peer that is there
	} else if l.headDue() {
		l.probing = true
		l.engine.probes.add(l, atOnce, l.engine.now())
	}
}

// headDue reports whether the kept segment has had time to be acknowledged.
func (l *Leg) headDue() bool {
	return l.engine.now()-l.headAt >= max(probeDelays[0], 2*time.Duration(l.p.RTTMicros)*time.Microsecond)
}

// probeAgain sends the next probe, if one is needed.
func (l *Leg) probeAgain(turn uint32) {
	l.outMu.Lock()
	defer l.outMu.Unlock()
	l.mu.Lock()
	if turn != l.turn {
		l.mu.Unlock()
		return
	}
	var b []byte
	var head *stack.PacketBuffer
	switch {
	case l.state != stAttached || l.probesSent >= probesQuick+probesSlow || l.located && l.head == nil && !l.missing() && !l.unheard:
		l.probing, l.resumed, l.unheard, l.suspected = false, false, false, false
		l.dropHead()
	default:
		l.probesSent++
		if l.headAcked(); l.head != nil && l.headDue() && !l.suspected {
			head = l.headAgain()
		}
		if l.unheard || !l.located && l.head == nil || l.missing() && l.rxNxt == l.rxProbed {
			b = l.probe() // what is missing does not come
		}
		l.rxProbed = l.rxNxt
		l.engine.C.Probes.Add(1)
		l.engine.probes.add(l, l.probeQueue(), l.engine.now())
	}
	piece, fragment := uint16(0), l.fragment
	if head != nil {
		piece = l.pieceSize(head.HeaderSize())
	}
	l.mu.Unlock()
	if head != nil {
		if fragment {
			l.engine.mayFragment(head, piece)
		}
		l.engine.emit(head, piece)
		head.DecRef()
	}
	if b != nil {
		l.engine.emitMade(b)
	}
}

// keepHead keeps a segment that leaves, if the peer may lack its first byte as the next
// one: a continued leg's peer, or any that is sent it again, or while we are silent. Its
// bytes are netstack's send queue, which keeps them anyway. mu is held.
func (l *Leg) keepHead(pkt *stack.PacketBuffer, tcp header.TCP, payload int) {
	if payload == 0 {
		return
	}
	start, ok := l.txOffset(tcp.SequenceNumber())
	again := ok && start+uint64(payload) <= l.headSeen
	if ok && !again {
		l.headSeen = start + uint64(payload)
	}
	if !ok || start > max(l.txUna, l.peerAck) || start+uint64(payload) <= l.txUna {
		return // not the next one, or a window probe
	}
	if !again {
		l.headFirst = time.Duration(l.engine.tick.Load())
	}
	continued := l.restored && !l.headDone
	if !continued && !again && l.engine.Active() {
		return // netstack's timer looks after it
	}
	l.dropHead()
	l.head, l.headEnd, l.headAt = pkt.Clone(), start+uint64(payload), l.engine.now()
	switch {
	case continued:
		l.startProbing()
	case again:
		l.suspect()
	}
}

// dropHead lets go of the kept segment. mu is held.
func (l *Leg) dropHead() {
	if l.head != nil {
		l.head.DecRef()
		l.head = nil
	}
}

// headAcked lets go of the kept segment once the peer has it. The peer is with this
// endpoint then, and the rest is netstack's. mu is held.
func (l *Leg) headAcked() {
	if has := max(l.txUna, l.peerAck); l.head != nil && has >= l.headEnd {
		l.headDone = l.txUna >= l.headEnd && l.located
		l.dropHead()
	}
}

// headAgain makes the kept segment fit to leave again, with what is true now, and
// returns a reference to it. outMu and mu are held.
func (l *Leg) headAgain() *stack.PacketBuffer {
	pkt := l.head
	tcp := header.TCP(pkt.TransportHeader().Slice())
	if start, has := l.headEnd-uint64(pkt.Data().Size()), max(l.txUna, l.peerAck); has > start {
		trimFront(pkt, int(has-start))
		tcp.SetSequenceNumber(l.txSeq(has))
	}
	markUrgent(tcp, 0) // of the first copy; a superpacket's pieces would all carry it
	ack := l.permitted(l.rxNxt)
	tcp.SetAckNumber(l.rxSeq(ack))
	tcp.SetWindowSize(l.windowTo(ack, l.rxEdge))
	l.left(ack, l.rxEdge)
	opts := []byte(tcp[header.TCPMinimumSize:tcp.DataOffset()])
	ts, sack, _ := locateOptions(opts)
	if ts >= 0 {
		put32(opts[ts+2:], l.tsNow())
		put32(opts[ts+6:], l.echo())
	}
	if sack >= 0 { // of that moment
		for i := range opts[sack : sack+int(opts[sack+1])] {
			opts[sack+i] = header.TCPOptionNOP
		}
	}
	l.headAt = l.engine.now()
	return pkt.IncRef()
}
