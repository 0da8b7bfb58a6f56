package carry

import (
	"time"

	"lockstep/stack"
)

// Keepalive says when a peer that is silent is asked whether it is there: after Idle,
// then every Interval; after Count questions without an answer it is dead. Idle 0: never.
type Keepalive struct {
	Idle, Interval time.Duration
	Count          int
}

// Asked is what is known of one leg's peer being there. Only the worker uses it.
type Asked struct {
	owed   bool  // its peer has asked, and is answered when the other one has
	later  bool  // the other one is to be asked as soon as its leg has an endpoint
	probes int32 // of our own without an answer
}

// Pass asks the other leg's peer if l's peer has asked, and answers when that has. If
// there is nobody to ask, the gateway answers for itself: a connection that waits for
// another server is alive.
func (a *Asked) Pass(l, other *stack.Leg) {
	if l.Asked() {
		a.owed, a.later = true, true
	}
	if a.owed && a.later {
		there := other != nil && other.Err() == nil
		if there && !other.Probe() && other.Attaching() {
			return // it wakes the connection when it has its endpoint
		}
		a.later = false
	}
	if a.owed && (other == nil || !other.Awaited()) {
		a.owed = false
		l.Answer()
	}
}

// Probe asks l's peer if it is time for that, gives it up if it was asked often enough,
// and says when to look again.
func (a *Asked) Probe(l *stack.Leg, k *Keepalive) time.Duration {
	if !l.Awaited() {
		a.probes = 0
	}
	switch silent := l.Silent(); {
	case silent < k.Idle:
		return k.Idle - silent
	case int(a.probes) >= k.Count:
		l.Fail()
	case l.Probe():
		a.probes++
	}
	return k.Interval
}
