package stack

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Delayed acknowledgements (RFC 9293, 3.8.6.3). netstack acknowledges whatever comes at once. Where
// requests and answers alternate, each answer would have carried that, and half of all packets that
// leave say nothing else. So a leg on which data of ours has followed the peer's within delayMax
// (what Linux calls ping-pong mode) keeps such an acknowledgement back as one that is owed, until
// a segment that leaves carries it, or for delayMax. It is never kept back
//
//   - of more than one full segment: a sender of many has every second acknowledged (RFC 5681, 4.2),
//     at once, by which BBR and others measure their path;
//   - of what has come in two segments: a sender with two segments in flight expects no delay, and
//     sends the second again after two round trips (RFC 8985, 7.2);
//   - if the answer has left already, with what the gate permitted then;
//   - if it is no news (a duplicate, SACK blocks, a window update), covers a FIN, or if
//     the peer has less than half of a window left;
//   - while it is not known where a continued leg's peer is, or something of it is missing.
//
// Each of these also ends ping-pong mode, and so does a delay that nothing of ours has ended: what comes
// next is acknowledged at once until an answer follows again.

const (
	// delayMax is Linux's least (TCP_DELACK_MIN), a fifth of the least retransmission time-out
	// that is in use; RFC 9293 allows half a second.
	delayMax = 40 * time.Millisecond
	// delayTick is how exactly it is kept: it ends up to so much before.
	delayTick = 10 * time.Millisecond
)

// delayer knows the legs whose delay may have to be ended, by the tick at which they are looked at:
// one list and one ticker for all, which stands still while there are none. A leg whose answer
// has left stays in it until then, so that an exchange costs the list nothing. Its lock is a leaf.
type delayer struct {
	mu    sync.Mutex
	slots [delayMax/delayTick + 1][]*Leg
	now   int // slot of the last tick
	n     int
	kick  chan struct{}
}

// legDelay is what is known of the peer's data, by ClockMillis, and the delay.
type legDelay struct {
	pingPong  bool
	listed    bool   // the delayer has it
	stamped   bool   // firstTS is valid
	many      bool   // more has come since what is not acknowledged
	came      uint8  // segments with data since an ACK has left; netstack may take some at once
	answered  bool   // ours has left since its newest data came
	heardAt   uint32 // when its newest data came
	unackedAt uint32 // when the first came that is not acknowledged
	firstTS   uint32 // the stamp of that (RFC 7323, 4.3: a delay is part of the round trip)
}

// add makes the delayer look at the leg after some ticks.
func (d *delayer) add(l *Leg, ticks int) {
	d.mu.Lock()
	i := (d.now + max(1, min(ticks, len(d.slots)-1))) % len(d.slots)
	d.slots[i] = append(d.slots[i], l)
	d.n++
	first := d.n == 1
	d.mu.Unlock()
	if first {
		select {
		case d.kick <- struct{}{}:
		default:
		}
	}
}

// turn goes on by a tick and returns the legs to be looked at.
func (d *delayer) turn() []*Leg {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now = (d.now + 1) % len(d.slots)
	legs := d.slots[d.now]
	d.slots[d.now] = nil
	d.n -= len(legs)
	return legs
}

func (d *delayer) empty() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.n == 0
}

// delayLoop runs until Close.
func (e *Engine) delayLoop() {
	defer e.wg.Done()
	t := time.NewTicker(delayTick)
	defer t.Stop()
	for {
		t.Stop()
		select {
		case <-e.done:
			return
		case <-e.delays.kick:
		}
		t.Reset(delayTick)
		for !e.delays.empty() {
			select {
			case <-e.done:
				return
			case <-t.C:
			}
			for _, l := range e.delays.turn() {
				l.endDelay()
			}
		}
	}
}

// fullSegment is the payload of a full segment between us and the peer.
func (l *Leg) fullSegment() uint64 {
	n := min(l.p.OurMSS, l.p.MSS)
	if l.p.TS {
		n -= min(n, header.TCPOptionTSLength+2)
	}
	return uint64(n)
}

// hears notes that a segment of netstack's acknowledges up to ack, where it had acknowledged up to
// before, and ends ping-pong mode if that shows that the peer needs to hear of it. mu is held.
func (l *Leg) hears(before, ack uint64, pure bool) {
	if ack > before {
		l.delay.heardAt, l.delay.answered = l.engine.ClockMillis(), !pure
		if l.delay.many = l.rxAcked < before; !l.delay.many {
			l.delay.unackedAt = l.delay.heardAt
		}
	}
	if pure && (ack <= before || ack > l.rxAcked+l.fullSegment()) {
		l.delay.pingPong = false
	}
}

// leaves notes that a segment of ours that ends at off leaves: new data may be an answer. mu is held.
func (l *Leg) leaves(off uint64, payload int) {
	if off <= l.txNxt {
		return
	}
	l.txNxt, l.delay.answered = off, true
	if payload > 0 && l.rxNxt > 0 && !l.delay.pingPong && l.engine.ClockMillis()-l.delay.heardAt < uint32(delayMax/time.Millisecond) {
		l.delay.pingPong = true
	}
}

// mayDelay reports whether the acknowledgement of what is below ack may wait for an answer. mu is held.
func (l *Leg) mayDelay(ack uint64, sack bool) bool {
	switch {
	case !l.delay.pingPong || l.delay.many || l.delay.came > 1 || l.delay.answered || sack || ack <= l.rxAcked:
		return false
	case l.rxFin > 0 && ack >= l.rxFin || l.finHeld:
		return false
	case l.rxEdge < ack+min(l.engine.window, 0xffff<<l.ws)/2:
		return false
	case l.restored && (!l.located || l.peerAck > l.txUna) || l.resumed || l.unheard || l.missing():
		return false
	}
	return l.delayLeft() > 0
}

// delayLeft is how many ticks of the delay are left.
func (l *Leg) delayLeft() int {
	gone := time.Duration(l.engine.ClockMillis()-l.delay.unackedAt) * time.Millisecond
	return int(max(0, delayMax-gone) / delayTick)
}

// holdBack begins the delay of the acknowledgement that is owed. mu is held.
func (l *Leg) holdBack() {
	if !l.delay.stamped {
		l.delay.stamped, l.delay.firstTS = true, l.owed.tsEcr
	}
	l.engine.C.AcksDelayed.Add(1)
	if !l.delay.listed {
		l.delay.listed = true
		l.engine.delays.add(l, l.delayLeft())
	}
}

// endDelay sends what was kept back for long enough, and nothing has carried.
func (l *Leg) endDelay() {
	l.outMu.Lock()
	defer l.outMu.Unlock()
	l.mu.Lock()
	l.delay.listed = false
	var b []byte
	if l.state == stAttached && l.owed.set && l.owed.ack > l.rxAcked {
		if n := l.delayLeft(); n > 0 {
			l.delay.listed = true
			l.engine.delays.add(l, n)
		} else {
			l.delay.pingPong = false
			b = l.payOwed()
		}
	}
	l.mu.Unlock()
	if b != nil {
		l.engine.emitMade(b)
	}
}

// endDelayNow sends what waits for an answer, if no gate keeps it: to be called before one is shut.
// outMu is held.
func (l *Leg) endDelayNow() {
	l.mu.Lock()
	var b []byte
	if l.gateOpen {
		b = l.payOwed()
	}
	l.mu.Unlock()
	if b != nil {
		l.engine.emitMade(b)
	}
}

// stampOfFirst is the TSecr to send where netstack has ecr, the stamp of the newest.
func (l *Leg) stampOfFirst(ecr uint32) uint32 {
	if l.delay.stamped && int32(ecr-l.delay.firstTS) > 0 {
		return l.delay.firstTS
	}
	return ecr
}
