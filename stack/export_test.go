package stack

import (
	"net/netip"
	"time"
)

// SweepAfter lets the janitor do what it would do d from now.
func (e *Engine) SweepAfter(d time.Duration) { e.sweep(e.now() + d) }

// ResumeNow is Resume that has chosen the legs when it returns.
func (e *Engine) ResumeNow(silence time.Duration) { e.resumeLegs(e.now() - silence) }

// Resuming reports whether somebody is going to be asked after a silence.
func (e *Engine) Resuming() bool {
	e.probes.mu.Lock()
	defer e.probes.mu.Unlock()
	return e.probes.resuming
}

// AskSilentNow asks whoever fell silent d ago, as when another one has come back.
func (e *Engine) AskSilentNow(d time.Duration) { e.askSilent(e.now() - d) }

// Unheard reports whether the peer is asked where it is after a silence.
func (l *Leg) Unheard() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unheard
}

// SynAckMax is how often a client is sent the SYN-ACK.
const SynAckMax = synAckMax

// SynAckContinued is the same after a takeover.
const SynAckContinued = synAckContinued

// TombstoneLife is how long a tombstone answers.
const TombstoneLife = tombstoneLife

// Endpoints counts netstack's endpoints, those on their way out included.
func (e *Engine) Endpoints() int {
	return len(e.stack.RegisteredEndpoints()) + len(e.stack.CleanupEndpoints())
}

// TakeAllPorts leaves no port for a leg from one of our addresses to a server.
func (e *Engine) TakeAllPorts(local netip.Addr, server netip.AddrPort) { e.takeAll(local, server) }

// DelayMax is how long an acknowledgement may wait for an answer.
const DelayMax = delayMax

// CameBack tells since how long ago whoever has come back was silent, if others are to be asked.
func (e *Engine) CameBack() (ago time.Duration, ok bool) {
	p := &e.probes
	p.mu.Lock()
	defer p.mu.Unlock()
	return e.now() - p.backSince, p.back || p.backAt != 0
}

// Suspected reports whether the peer is asked because it does not acknowledge what was sent again.
func (l *Leg) Suspected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.suspected
}

// Turns counts what the prober has in store for the leg.
func (e *Engine) Turns(l *Leg) (n int) {
	l.mu.Lock()
	turn := l.turn
	l.mu.Unlock()
	p := &e.probes
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.queues {
		for _, it := range q {
			if it.who == l && it.turn == turn {
				n++
			}
		}
	}
	return n
}
