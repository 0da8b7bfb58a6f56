package roles

// Patience is how long an appliance bears the other's silence in a session before it
// takes it for dead: failure_timeout on machines that are on time. Where timers run late
// or the other's heartbeats come late (both want a CPU), it is four times the longest
// delay of the last minute, so that being late is not taken for being dead; and in the
// seconds after a takeover, when the machines have most to do, it is the longest that is
// allowed, so that one takeover does not cause the next.
//
// Only the patience grows, never a lease: the active falls silent after failure_timeout
// as ever, so whoever waits longer before he takes over can only be later than it
// (invariant 4). Each of the two measures for itself, and nothing has to be agreed.
type Patience struct {
	FailureTimeout Nanos
	// Longest bounds it; not below FailureTimeout.
	Longest Nanos

	own, peer worst
	holdUntil Nanos
}

const (
	// patienceFactor: a delay that was seen will be exceeded some time.
	patienceFactor = 4
	// holdDown is how long after a takeover the patience is the longest.
	holdDown = 10_000 * millis
	// half of the time for which a delay is remembered, at least.
	half = 30_000 * millis
)

// LongestPatience is what silence may be borne for with a witness: the voters' own time
// does not depend on it. Who has set failure_timeout to seconds has been patient enough.
func LongestPatience(failureTimeout Nanos) Nanos {
	return max(failureTimeout, min(5*failureTimeout, 2000*millis))
}

// LongestPatience is what silence may be borne for without a witness. FreshFor is how long
// after a confirmed heartbeat silence has to be judged at the latest: a standby that waited
// for longer would have to give its store up (see takeTime).
// It is shorter than the kernel's patience with the session's connection, too.
func (c *AloneConfig) LongestPatience() Nanos {
	return max(c.FailureTimeout, min(c.FreshFor(), max(2000*millis, c.FailureTimeout*3/2)))
}

// FreshFor: see LongestPatience.
func (c *AloneConfig) FreshFor() Nanos { return c.takeTime() - c.FailureTimeout/2 - 20*millis }

// OwnDelay tells that a timer of this process ran so late.
func (p *Patience) OwnDelay(now, late Nanos) { p.own.add(now, late) }

// PeerDelay tells that a sign of life of the other came so late.
func (p *Patience) PeerDelay(now, late Nanos) { p.peer.add(now, late) }

// TookOver tells that one of the two has just taken over from the other.
func (p *Patience) TookOver(now Nanos) { p.holdUntil = now + holdDown }

// Holds reports whether a takeover was a moment ago.
func (p *Patience) Holds(now Nanos) bool { return now < p.holdUntil }

// Delays are the longest of the last minute.
func (p *Patience) Delays(now Nanos) (own, peer Nanos) {
	return p.own.longest(now), p.peer.longest(now)
}

// Effective is how long silence is to be borne now.
func (p *Patience) Effective(now Nanos) Nanos {
	if p.Holds(now) {
		return max(p.FailureTimeout, p.Longest)
	}
	own, peer := p.Delays(now)
	return max(p.FailureTimeout, min(p.Longest, patienceFactor*max(own, peer)))
}

// worst is the longest delay of the last half to one minute.
type worst struct {
	since     Nanos // when cur began
	cur, last Nanos
}

func (w *worst) add(now, d Nanos) {
	w.turn(now)
	w.cur = max(w.cur, d)
}

func (w *worst) longest(now Nanos) Nanos {
	w.turn(now)
	return max(w.cur, w.last)
}

func (w *worst) turn(now Nanos) {
	switch {
	case now-w.since < half:
	case now-w.since < 2*half:
		w.since, w.last, w.cur = now, w.cur, 0
	default:
		*w = worst{since: now}
	}
}
