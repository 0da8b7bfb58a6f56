package appliance

import (
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/health"
	"lockstep/appliance/kept"
	"lockstep/appliance/relay"
	"lockstep/replication"
)

// Canaries are held to the servers of a service of protection log or hot while the
// service has connections, and for a moment longer. A server of one connection at a time
// would serve a canary and nobody else. health.canary: false switches it off; who does
// not know that is found out here.

const (
	// canaryLook is how often it is looked whether the canaries should be held.
	canaryLook = time.Second
	// starvedLooks is for how many looks in a row no client must have been answered, so
	// that it is tried whether that is the canaries' doing.
	starvedLooks = 3
	// letGoFor is how long the canaries are let go of then: a server that had waited for
	// the end of one answers the next connection within moments.
	letGoFor = 200 * time.Millisecond
	// starvedTries is how many tries in a row have to help, each within starvedWindow looks
	// of the one before: an answer that was due anyway looks like help.
	starvedTries  = 5
	starvedWindow = 120
	// starvedPause is the pause after one that has not, in looks.
	starvedPause = 60
)

// starved finds out whether canaries keep clients from being served.
type starved struct {
	looks, helped int
	since         int  // looks since the last try that helped
	off           bool // they do: none is held any more
}

// look is told what the service's connections are, once per canaryLook, while canaries
// are held. It reports whether to try without.
func (s *starved) look(g kept.Gauge) (try bool) {
	if s.since++; s.since > starvedWindow {
		s.helped = 0
	}
	switch {
	case s.off:
		return false
	case g.Connections == 0 || g.Unanswered < g.Connections:
		s.looks = min(s.looks, 0)
	default:
		s.looks++
	}
	return s.looks >= starvedLooks
}

// tried is told what they are letGoFor after the canaries have ended.
func (s *starved) tried(g kept.Gauge) {
	switch {
	case g.Connections == 0: // they have gone, which tells nothing
		s.looks = 0
		return
	case g.Unanswered == g.Connections:
		s.looks, s.helped = -starvedPause, 0
		return
	}
	s.looks, s.since, s.helped = 0, 0, s.helped+1
	s.off = s.helped >= starvedTries
}

// holdCanaries holds canaries to the servers of a service while they are of use.
func (n *Node) holdCanaries(undo *closers, w *servers, c *config.Service, s *relay.Service) {
	w.canary = health.NewCanary(c.Servers, n.dialServer, c.Health.Interval, max(c.Health.Timeout, time.Second))
	s.Line = w.canary.Line
	s.Ready = func(server int, wake func()) bool {
		if w.canary.Ready(server, wake) {
			return true
		}
		nudge(w.used)
		return false
	}
	quit, joined := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(joined)
		n.watchCanaries(w, c, s, quit)
	}()
	undo.add("canary connections", func() error {
		close(quit)
		<-joined
		w.canary.Stop()
		return nil
	})
}

func (n *Node) watchCanaries(w *servers, c *config.Service, s *relay.Service, quit <-chan struct{}) {
	tick := time.NewTicker(canaryLook)
	defer tick.Stop()
	var starving starved
	var last time.Time // when the service last had a connection
	for {
		looks := false
		select {
		case <-quit:
			return
		case <-w.used:
		case <-tick.C:
			looks = true
		}
		active := n.getRole() == replication.RoleActive
		if s.Conns() > 0 {
			last = time.Now()
		}
		if !active || starving.off || time.Since(last) > c.Health.Interval {
			w.canary.Pause()
			continue
		}
		w.canary.Resume()
		if !looks || !starving.look(n.relay.Gauge(s)) {
			continue
		}
		w.canary.Pause()
		select {
		case <-quit:
			return
		case <-time.After(letGoFor):
		}
		if starving.tried(n.relay.Gauge(s)); starving.off {
			w.canary.Off()
			n.log.Warn("the servers of a service answer nobody while an idle connection is held to them: they seem to serve one at a time. "+
				"It is not held any more; write health: {canary: false}", "service", c.Name)
		}
	}
}
