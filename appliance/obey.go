package appliance

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"lockstep/internal/loglimit"
	"lockstep/replication"
	"lockstep/replication/arbiter"
	"lockstep/replication/roles"
	"lockstep/replication/wire"
)

// What the rules of the roles want done, with a witness or without: roleLoop is their
// roles.Appliance.

// self is this incarnation.
func (n *Node) self() arbiter.Member { return roles.MemberOf(n.cfg.Node, n.bootID) }

// said is what a Hello says.
func said(h *wire.Hello) roles.Said {
	return roles.Said{
		Node: h.Node, Boot: h.BootID, Role: replication.Role(h.Role), Epoch: h.Epoch, InSync: h.InSync, Holds: h.Holds,
	}
}

// Role implements roles.Appliance.
func (l *roleLoop) Role() replication.Role { return l.n.getRole() }

// Epoch implements roles.Appliance.
func (l *roleLoop) Epoch() uint64 { return l.n.journal.epoch() }

// InSync implements roles.Appliance.
func (l *roleLoop) InSync() bool { return l.n.journal.inSync() }

// Connected implements roles.Appliance.
func (l *roleLoop) Connected() bool { return l.n.sess != nil }

// CloseSession implements roles.Appliance.
func (l *roleLoop) CloseSession() bool {
	closed := l.n.closeSession()
	if closed {
		l.lostAt = time.Now()
	}
	return closed
}

// Release implements roles.Appliance.
func (l *roleLoop) Release() {
	l.n.journal.with(func(c *replication.Core, _ replication.Nanos) { c.PeerLost() })
}

// Follow implements roles.Appliance.
func (l *roleLoop) Follow(epoch uint64) {
	l.n.forgotten = nil // the active has it
	l.n.becomeStandby(epoch)
}

// Continue implements roles.Appliance.
func (l *roleLoop) Continue(epoch uint64, since roles.Nanos, why string) error {
	known := time.Now().Add(-time.Duration(l.n.journal.now() - since))
	err := l.n.takeover(epoch, known, why)
	if err != nil {
		l.n.log.Error("the connections that this standby holds cannot be continued", "err", err)
	}
	return err
}

// StartEmpty implements roles.Appliance.
func (l *roleLoop) StartEmpty(epoch uint64, why, lost string) {
	n := l.n
	if n.getRole() == replication.RoleStandby {
		n.forgotten = n.held()
	}
	n.becomeActive(epoch, why)
	if lost != "" {
		n.noteLoss(lost)
	}
	n.notHandedOver(roles.ErrNotClaimed)
}

// Mute implements roles.Appliance.
func (l *roleLoop) Mute() {
	l.n.engine.SetActive(false)
	l.n.withdraw()
}

// StepDown implements roles.Appliance.
func (l *roleLoop) StepDown(why string) {
	n := l.n
	n.forgotten = n.held()
	if n.alone != nil {
		n.alone.untie()
	}
	n.stepDown(why)
	if l.handing != nil {
		n.handed, l.handedAt, l.handing = l.handing.reply, time.Now(), nil
	}
}

// Say implements roles.Appliance.
func (l *roleLoop) Say(what roles.Event, why string) {
	log := l.n.log
	switch what {
	case roles.StandbyLost:
		log.Warn("standby lost; finding out whether it is dead", "why", why)
	case roles.StandbyRemoved:
		log.Warn("standby lost; asking the witness to go on alone", "why", why)
	case roles.StandbyLostEarly:
		log.Warn("standby lost before it was in sync", "why", why)
	case roles.GoesOnAlone:
		log.Warn("going on alone, unprotected", "why", why, "after", time.Since(l.lostAt))
	case roles.ActiveLost:
		log.Warn("active lost; finding out whether it is dead", "why", why)
	case roles.SessionEnded:
		log.Warn("session with the active lost", "why", why, "in_sync", l.InSync())
	case roles.Silent:
		log.Warn("silent: the standby may have taken over", "why", why)
	case roles.Unheard:
		log.Warn("silent: neither the witness nor the peer answers, so the standby may have taken over")
	case roles.HeardAgain:
		log.Warn("no longer silent: the quorum is back")
	case roles.StaysBack:
		log.Warn("not becoming active: somebody else holds our addresses; if it is the peer, see to the sync network and the keys", "mac", why, loglimit.Per("taken"))
	case roles.PeerStepsDown:
		log.Warn("both appliances were active; the peer steps down", "epoch", l.Epoch())
	}
}

const (
	// proofPause is the first pause between two questions to the peer's kernel; each
	// that is answered otherwise doubles it, up to proofPauseMax.
	proofPause    = time.Millisecond
	proofPauseMax = time.Second
	// proofDial is how long one may take: a host that is gone does not answer at all.
	proofDial = time.Second
)

// refuses dials a sync port of the peer until its own kernel refuses, or ctx ends: then the
// process that listened there is dead. (An appliance that ends in order falls silent before
// it stops listening.) A process that is stopped still has its connections accepted by its
// kernel, and a host that has died refuses nothing.
func (n *Node) refuses(ctx context.Context, node string) bool {
	d := net.Dialer{Timeout: proofDial, LocalAddr: &net.TCPAddr{IP: n.cfg.Self().Addr().AsSlice()}}
	for pause := proofPause; ; pause = min(2*pause, proofPauseMax) {
		conn, err := d.DialContext(ctx, "tcp", n.cfg.Pair.Members[node].String())
		switch {
		case err == nil:
			conn.Close()
		case errors.Is(err, syscall.ECONNREFUSED):
			return true
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false
		}
	}
}
