package appliance

import (
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/loglimit"
	"lockstep/replication"
	"lockstep/replication/roles"
)

// How late this process and the peer's are, and what follows from it: see
// roles.Patience.

// timing is of the journal; its mu guards it.
type timing struct {
	patience  roles.Patience
	fresh     replication.Nanos // see replication.Core.SetPatience
	heartbeat replication.Nanos // the peer says something at least so often
	due       replication.Nanos // when the ticker's timer is to fire
	// tell, if set, hears each time how long silence is borne. late, if set, hears of
	// delays from half a failure_timeout on. Both are called with nothing locked.
	tell func(replication.Nanos)
	late func(own bool, d time.Duration)
}

// heardAfter notes how late the peer's frame is that has just come: before it the newest
// one came at then. mu is held.
func (t *timing) heardAfter(then, now replication.Nanos) (late replication.Nanos) {
	if late = now - then - t.heartbeat; late > 0 {
		t.patience.PeerDelay(now, late)
	}
	return late
}

// fired notes how late the ticker's timer is. mu is held.
func (t *timing) fired(now replication.Nanos) (late replication.Nanos) {
	if late = now - t.due; t.due > 0 && late > 0 {
		t.patience.OwnDelay(now, late)
		return late
	}
	return 0
}

// warn tells of a delay that is close to a takeover without a fault.
func (t *timing) warn(own bool, late replication.Nanos) {
	if t.late != nil && late >= t.patience.FailureTimeout/2 {
		t.late(own, time.Duration(late))
	}
}

// watchTiming lets the patience follow what is measured.
func (n *Node) watchTiming() {
	t, p := &n.journal.timing, &n.cfg.Pair
	t.heartbeat = replication.Nanos(p.Heartbeat)
	t.patience.FailureTimeout = replication.Nanos(p.FailureTimeout)
	if p.Witness.IsValid() {
		t.patience.Longest = roles.LongestPatience(t.patience.FailureTimeout)
	} else {
		c := n.aloneConfig()
		t.patience.Longest, t.fresh = c.LongestPatience(), c.FreshFor()
	}
	t.late = n.warnLate
}

// warnLate names the cause and the key, once a minute for each of the two.
func (n *Node) warnLate(own bool, late time.Duration) {
	late = late.Round(time.Millisecond)
	if own {
		n.log.Warn("this process does not get a CPU in time: connections stall, and takeovers without a fault are near. "+
			"Give the machine more CPU, take other load off it, or raise pair.failure_timeout on all nodes",
			"late", late, "failure_timeout", n.cfg.Pair.FailureTimeout, loglimit.Per("own"))
		return
	}
	n.log.Warn("the peer's heartbeats come late: it does not get a CPU in time, or the sync network is slow. Takeovers without a fault are near. "+
		"See to that, or raise pair.failure_timeout on all nodes",
		"late", late, "failure_timeout", n.cfg.Pair.FailureTimeout, loglimit.Per("peer"))
}

// tookOver begins the time in which silence is borne longest.
func (j *journal) tookOver() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.timing.patience.TookOver(j.now())
}

// statusTiming says how long silence is borne, and why.
func (n *Node) statusTiming(s *control.Status) {
	j := n.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	p, now := &j.timing.patience, j.now()
	own, peer := p.Delays(now)
	s.Timing = control.Timing{
		FailureTimeoutMicros: int64(p.FailureTimeout / 1000), EffectiveMicros: int64(p.Effective(now) / 1000),
		OwnLateMicros: int64(own / 1000), PeerLateMicros: int64(peer / 1000), HoldDown: p.Holds(now),
	}
}
