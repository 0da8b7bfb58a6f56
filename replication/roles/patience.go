package roles

import "lockstep/replication"

// Patience is how long an appliance bears the other's silence in a session before it
// takes it for dead: failure_timeout on machines that are on time. Where timers run late
// or the other's heartbeats come late (both want a CPU), it is four times the longest
// delay of the last minute, so that being late is not taken for being dead; and in the
// seconds after a takeover, when the machines have most to do, it is the longest that is
// allowed, so that one takeover does not cause the next.
//
// Each of the two measures for itself. With a witness only the patience grows, never a lease, and nothing has to be agreed:
// whoever waits longer before he takes over can only be later than the end of a lease (invariant 4). Without one the
// standby promises it, in its heartbeats, and the active goes by that (replication.Core.Promise; AloneConfig.Promise): it may
// speak for so long without being confirmed, and stays mute for longer, since its standby may continue its store for longer.
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
	// timerLate is what a timer that rings is late by at most, on a machine whose delays are not known yet.
	timerLate = 20 * millis
	// half of the time for which a delay is remembered, at least.
	half = 30_000 * millis
)

// LongestPatience is what silence may be borne for with a witness: the voters' own time
// does not depend on it. Who has set failure_timeout to seconds has been patient enough.
func LongestPatience(failureTimeout Nanos) Nanos {
	return max(failureTimeout, min(5*failureTimeout, 2000*millis))
}

// LongestPatience is what silence may be borne for without a witness: as with one, but an active whose standby is gone
// has to be on its own, a lease and a doubtTime later, before somebody starts empty.
// It is shorter than the kernel's patience with the session's connection, too.
func (c *AloneConfig) LongestPatience() Nanos {
	return max(c.FailureTimeout, min(LongestPatience(c.FailureTimeout), (c.StartEmptyAfter-c.doubtTime(c.FailureTimeout))/3))
}

// FreshFor is how long after a confirmed heartbeat silence has to be judged at the latest, if the active is known to go by
// that promise at least: a standby that waited for longer would have to give its store up (see takeTime).
func (c *AloneConfig) FreshFor(p replication.Promise) Nanos {
	return c.takeTime(p) - c.FailureTimeout/2 - timerLate
}

// lateAfter is from when on after the end of its lease an active that begins to doubt is taken for one that was not running: what its
// standby has announced meanwhile is repeated by nobody. A longer promise leaves it no more time.
func (c *AloneConfig) lateAfter() Nanos { return c.doubtTime(c.FailureTimeout) / 2 }

// BearFor is how long after a confirmed heartbeat an active judges silence at the latest, by what its standby has promised: its lease
// is over by then, and it asks in time not to be taken for late (see lateAfter).
func (c *AloneConfig) BearFor(p replication.Promise) Nanos {
	return replication.LeaseTime(p.Wait) + c.lateAfter() - timerLate
}

// Promise is what a standby promises next that would bear silence for wish, and of whose promises the active may go by p.
// It gets there in a few steps, each of which waits for the answer to the one before: first the active is to be mute for longer, then
// the standby waits for longer, and the other way round. At each moment what is left of takeTime when the longest Wait that
// counts is over, should the active know of the shortest only, is at least what is left with FailureTimeout: as much is
// there for a slow link.
func (c *AloneConfig) Promise(wish Nanos, p replication.Promised) replication.Promise {
	wish = max(c.FailureTimeout, min(wish, c.LongestPatience()))
	next := replication.Promise{Mute: wish}
	if p.Least.Wait != wish || p.Most.Wait != wish {
		next.Mute = max(wish, p.Most.Mute)
	}
	spread := (p.Least.Mute - c.FailureTimeout) * 3 / 5 // see takeTime
	next.Wait = max(p.Most.Wait-spread, min(wish, p.Least.Wait+spread))
	return next
}

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
