package stack

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A peer's keepalive (RFC 1122, 4.2.3.6) asks whether the other end is there, not whether
// the gateway is. netstack would answer it; instead the relay is told, asks the other leg's
// peer, and answers when that has. So a dead peer is found as without a gateway, by
// whoever asks, after his own time. The relay asks by itself, too, of peers that have
// been silent for long.

// PassAsks makes a peer's keepalives events (Asked) that the relay answers.
func (l *Leg) PassAsks() {
	l.mu.Lock()
	l.passAsks = true
	l.mu.Unlock()
}

// asks reports whether a segment is a keepalive of a peer with which all is quiet: it has
// sent and got everything that there is. With a closed window the same form is a window
// probe, which is netstack's to answer. mu is held.
func (l *Leg) asks(s *segment) bool {
	const kind = header.TCPFlagSyn | header.TCPFlagFin | header.TCPFlagRst | header.TCPFlagAck
	return l.passAsks && s.payload <= 1 && s.tcp.Flags()&kind == header.TCPFlagAck &&
		s.tcp.SequenceNumber() == l.rxSeq(l.rxNxt)-1 && l.rxAcked == l.rxNxt && l.rxEdge > l.rxAcked &&
		s.tcp.AckNumber() == l.txSeq(l.txNxt) && l.txUna >= l.txNxt && l.peerAck <= l.txNxt
}

// Asked reports, once, whether the peer has asked.
func (l *Leg) Asked() bool { return l.asked.Load() && l.asked.Swap(false) }

// Answer answers the peer's keepalive.
func (l *Leg) Answer() { l.reply(l.ackNow, false) }

// Probe makes the peer show that it is there; what it says is an event, and Awaited is
// false from then on. ok is false if it cannot be asked now.
func (l *Leg) Probe() (ok bool) {
	l.reply(func() []byte {
		if ok = (l.state == stAttached || l.state == stParked) && l.err == nil; !ok {
			return nil
		}
		l.awaited.Store(true)
		return l.probe()
	}, false)
	return ok
}

// Awaited reports whether the peer has not said anything since the last Probe.
func (l *Leg) Awaited() bool { return l.awaited.Load() }

// Silent is for how long nothing has come from the peer, give or take janitorPeriod.
func (l *Leg) Silent() time.Duration {
	return time.Duration(l.engine.tick.Load() - l.heardAt.Load())
}

// heard notes a sign of life, and reports whether it was awaited.
func (l *Leg) heard() bool {
	l.heardAt.Store(l.engine.tick.Load())
	return l.awaited.Load() && l.awaited.Swap(false)
}

// Fail gives up a peer that does not answer: Err is errTimeout. Should it be there all
// the same, it is told (RFC 9293, 3.8.3).
func (l *Leg) Fail() {
	l.mu.Lock()
	if l.err != nil || l.state >= stTombstone {
		l.mu.Unlock()
		return
	}
	l.err = errTimeout
	l.mu.Unlock()
	l.sendReset()
}
