package appliance

import (
	"context"
	"time"

	"lockstep/internal/loglimit"
	"lockstep/replication"
	"lockstep/replication/link"
	"lockstep/replication/wire"
	"lockstep/stack"
	"lockstep/tun"
)

// Without an arbiter (witness: none) the pair decides as follows. The first
// appliance up is the active; one that finds an active joins it as the standby;
// a standby that is in sync takes over when the sync session ends or its
// heartbeats stop. If the sync network alone fails, both are active then: that is
// what a witness is for. Roles and epochs enter the core as inputs, so that an
// arbiter can decide them instead.

// startWait is how long a starting appliance looks for its peer before it goes
// ahead alone: some dials' worth, and longer than a peer needs to notice that a
// predecessor of this process died.
const startWait = 1500 * time.Millisecond

// pairLoop is the only goroutine that changes the role.
func (n *Node) pairLoop(ctx context.Context) {
	if n.link == nil {
		n.startActive(1, "alone: no peer is configured")
		n.guard(ctx)
		n.engine.SetActive(false)
		n.withdraw()
		return
	}
	sessions := make(chan *link.Session)
	ends := make(chan sessionEnd)
	n.wg.Add(1)
	go n.acceptSessions(ctx, sessions)
	n.watchLinks(ctx)
	start := time.NewTimer(startWait)
	defer start.Stop()
	look := time.NewTicker(lookPeriod)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			// Mute first: with the session the gates open, and the peer starts.
			n.engine.SetActive(false)
			n.withdraw()
			n.endSession()
			return
		case <-start.C:
			if n.getRole() == replication.RoleNone && !n.deposed {
				n.startUnlessTaken(ctx)
			}
		case s := <-sessions:
			if n.sess != nil {
				n.sessionLost(ctx, "superseded by a new session")
			}
			n.onSession(ctx, s, ends)
		case e := <-ends:
			if e.sess == n.sess {
				n.sessionLost(ctx, e.err.Error())
			}
		case c := <-n.front.Conflicts():
			n.conflict(c)
		case c := <-n.back.Conflicts():
			n.conflict(c)
		case r := <-n.switchovers:
			n.handOverAlone(r)
		case e, ok := <-n.fitness.events:
			n.onLink(e, ok)
			n.considerAlone()
		case reached := <-n.fitness.front:
			n.onReach(n.cfg.Networks.Front.Interface, reached)
			n.considerAlone()
		case reached := <-n.fitness.back:
			n.onReach(n.cfg.Networks.Back.Interface, reached)
			n.considerAlone()
		case <-look.C:
			n.considerAlone()
			continue
		case <-n.silent:
			if n.sess != nil && n.journal.peerSilent() {
				n.sessionLost(ctx, "heartbeats stopped")
			}
		}
		if n.getRole() == replication.RoleNone && n.sess == nil {
			start.Reset(startWait)
		}
	}
}

// conflictWindow is how long after the loss of the session somebody else's
// announcement is taken for the peer's takeover: longer than any peer needs to
// notice the loss (failure_timeout is at most a minute, seconds are usual). An
// announcement is not authenticated, so the window is short.
const conflictWindow = 10 * time.Second

// conflict is told when somebody else announces one of our addresses. If the
// session with the peer was just lost, that is the peer, which has taken over
// because the sync network failed: it is the newer active. This one falls silent,
// and stays so until the peer is reached again, because it can not know whether
// the peer still lives. (A frame of the peer from before is impossible: only an
// active announces, and then there was a session or no peer.)
func (n *Node) conflict(c tun.Conflict) {
	n.claimed(c)
	n.claimedAt = time.Now()
	n.yieldToPeer()
	n.defend(c)
}

// yieldToPeer steps down if the session was lost and an address of ours was
// claimed, whichever came first, both a moment ago.
func (n *Node) yieldToPeer() {
	if n.getRole() == replication.RoleActive && n.sess == nil &&
		time.Since(n.lostAt) < conflictWindow && time.Since(n.claimedAt) < conflictWindow {
		n.deposed = true
		n.stepDown("the peer announced our addresses while the sync session was lost")
	}
}

// onSession decides the roles of a new session from what both said of themselves.
func (n *Node) onSession(ctx context.Context, s *link.Session, ends chan<- sessionEnd) {
	role, mine := n.getRole(), n.journal.epoch()
	if s.Ours.Role != wire.RoleState(role) || s.Ours.Epoch != mine {
		// Our role changed while we shook hands: the peer decided on old news.
		s.Close()
		return
	}
	epoch := max(mine, s.Peer.Epoch)
	smaller := n.cfg.Node < s.Peer.Node
	switch {
	case role == replication.RoleActive && s.Peer.Role == wire.RoleActive:
		if s.Peer.Epoch < mine || s.Peer.Epoch == mine && smaller {
			// The peer sees the same and steps down; it comes again as a standby.
			n.log.Warn("both appliances were active; the peer steps down", "peer_epoch", s.Peer.Epoch, "epoch", mine)
			s.Close()
			return
		}
		n.stepDown("both appliances were active and the peer's epoch is newer")
		s.Close()
		return
	case role == replication.RoleActive:
		// The peer becomes our standby, in an epoch that neither has passed.
		if epoch > mine {
			if err := n.journal.setRole(replication.RoleActive, epoch); err != nil {
				n.log.Error("raise the epoch", "err", err)
				s.Close()
				return
			}
			n.relay.SetEpoch(epoch)
		}
	case s.Peer.Role == wire.RoleActive:
		n.becomeStandby(epoch)
	case smaller:
		n.startActive(epoch+1, "started together with the peer; the smaller name goes first")
	default:
		n.becomeStandby(epoch + 1)
	}
	if n.beginSession(ctx, s, ends) {
		n.deposed = false
		n.renewLease()
		if n.getRole() == replication.RoleStandby {
			n.handedOver()
		}
	}
}

// sessionLost is where an active goes on alone and a standby takes over.
func (n *Node) sessionLost(ctx context.Context, why string) {
	known := time.Now()
	able := n.journal.stats().CanTakeOver
	if n.getRole() == replication.RoleActive && !n.engine.LeaseOver() {
		n.engine.SetLease(stack.Forever) // alone, from here on
	}
	n.endSession()
	switch n.getRole() {
	case replication.RoleActive:
		n.lostAt = known
		if n.engine.LeaseOver() {
			n.doubt(ctx, why)
			return
		}
		n.log.Warn("standby lost; going on alone, unprotected", "why", why)
		n.yieldToPeer()
	case replication.RoleStandby:
		if !able {
			n.log.Warn("active lost before this standby was in sync", "why", why)
			n.setRole(replication.RoleNone)
			return
		}
		n.engine.SetLease(stack.Forever)
		if err := n.takeover(n.journal.epoch()+1, known, why); err != nil {
			n.log.Error("take over", "err", err)
			n.setRole(replication.RoleNone)
		}
	}
}

// probeWait is how long an appliance listens for somebody else who holds its
// addresses.
const probeWait = 300 * time.Millisecond

// taken asks both networks whether somebody holds our addresses: a peer that lives
// although the sync network or its keys do not let us reach it. An appliance that
// knows nothing must not announce itself over one that has connections.
func (n *Node) taken(ctx context.Context) bool {
	type answer struct {
		c  tun.Conflict
		ok bool
	}
	answers := make(chan answer, 2)
	for _, a := range []*tun.Announcer{n.front, n.back} {
		go func() {
			c, ok := a.Probe(ctx, probeWait)
			answers <- answer{c, ok}
		}()
	}
	found := false
	for range 2 {
		if a := <-answers; a.ok && !found {
			found = true
			n.log.Info("somebody else holds our addresses", "address", a.c.Addr, "mac", a.c.MAC.String(), "interface", a.c.Interface,
				loglimit.Per(a.c.MAC.String()))
		}
	}
	return found
}

// renewLease lets an active that has a standby speak until that standby could take
// over because of silence (invariant 4): a process that was frozen for longer finds
// itself mute when it wakes. One that was never told that it holds everything will
// not take over, and must not silence us by being slow.
func (n *Node) renewLease() {
	if n.getRole() == replication.RoleActive && n.journal.replaceable() {
		n.engine.SetLease(n.journal.leaseEnd(n.cfg.Pair.FailureTimeout))
	}
}

// startUnlessTaken becomes active if nobody answers for the addresses.
func (n *Node) startUnlessTaken(ctx context.Context) {
	if !n.taken(ctx) {
		n.startActive(n.journal.epoch()+1, "no peer found")
		return
	}
	n.log.Warn("not becoming active: somebody else holds our addresses; if it is the peer, see to the sync network and the keys",
		loglimit.Per("taken"))
}

// startActive starts without connections, and without a standby that could end the
// lease.
func (n *Node) startActive(epoch uint64, why string) {
	n.engine.SetLease(stack.Forever)
	n.becomeActive(epoch, why)
}

// doubt is where an active is whose lease has ended: the standby may have taken
// over. It stays mute until it knows that nobody else holds the addresses.
func (n *Node) doubt(ctx context.Context, why string) {
	n.log.Warn("silent: the standby may have taken over", "why", why)
	n.withdraw()
	if n.taken(ctx) {
		n.deposed = true
		n.stepDown("the peer has taken over")
		n.engine.SetLease(stack.Forever)
		return
	}
	n.engine.SetLease(stack.Forever)
	n.announce()
	n.log.Warn("nobody has taken over; going on alone, unprotected")
}
