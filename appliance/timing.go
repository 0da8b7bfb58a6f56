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

// watchTiming lets the patience follow what is measured.
func (n *Node) watchTiming() {
	p := &n.cfg.Pair
	bear := roles.Patience{FailureTimeout: replication.Nanos(p.FailureTimeout)}
	var alone *roles.AloneConfig
	if p.Witness.IsValid() {
		bear.Longest = roles.LongestPatience(bear.FailureTimeout)
	} else {
		c := n.aloneConfig()
		alone, bear.Longest = &c, c.LongestPatience()
	}
	n.journal.shell.SetPatience(bear, alone, replication.Nanos(p.Heartbeat))
	n.journal.onLate = func(own bool, late replication.Nanos) {
		if late >= bear.FailureTimeout/2 { // close to a takeover without a fault
			n.warnLate(own, time.Duration(late))
		}
	}
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

// promised is what the session goes by, of a pair without a witness: on the active its lease, on the standby the longest that it
// has to bear silence for; 0: there is none.
func (n *Node) promised() replication.Nanos {
	if n.alone == nil || !n.journal.stats().PeerJoined {
		return 0
	}
	if n.getRole() == replication.RoleActive {
		return n.journal.peerPromise().Wait
	}
	return n.journal.promised().Most.Wait
}

// statusTiming says how long silence is borne, and why.
func (n *Node) statusTiming(s *control.Status) {
	p, now := n.journal.shell.Patience(), n.journal.now()
	own, peer := p.Delays(now)
	s.Timing = control.Timing{
		FailureTimeoutMicros: int64(p.FailureTimeout / 1000), EffectiveMicros: int64(p.Effective(now) / 1000),
		PromisedMicros: int64(n.promised() / 1000),
		OwnLateMicros:  int64(own / 1000), PeerLateMicros: int64(peer / 1000), HoldDown: p.Holds(now),
	}
}
