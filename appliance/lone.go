package appliance

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"lockstep/internal/loglimit"
	"lockstep/replication"
	"lockstep/replication/roles"
)

// What the rules of a pair without a witness want done: lone is their
// roles.LoneAppliance.

// Role implements roles.LoneAppliance.
func (l *lone) Role() replication.Role { return l.n.getRole() }

// Epoch implements roles.LoneAppliance.
func (l *lone) Epoch() uint64 { return l.n.journal.epoch() }

// Whole implements roles.LoneAppliance.
func (l *lone) Whole() bool { return l.n.getRole() == replication.RoleStandby && l.n.journal.inSync() }

// Connected implements roles.LoneAppliance.
func (l *lone) Connected() bool { return l.n.sess != nil }

// Replaceable implements roles.LoneAppliance.
func (l *lone) Replaceable() bool { return l.n.journal.replaceable() }

// Heard implements roles.LoneAppliance.
func (l *lone) Heard() roles.Nanos { return l.n.journal.heard() }

// Confirmed implements roles.LoneAppliance.
func (l *lone) Confirmed() (at roles.Nanos, ok bool) { return l.n.journal.confirmed() }

// Lease implements roles.LoneAppliance.
func (l *lone) Lease() roles.Nanos { return l.n.alone.until() }

// CutOff implements roles.LoneAppliance.
func (l *lone) CutOff() bool {
	return l.n.fitness.cutOff(l.n.cfg.Networks.Front.Interface, l.n.cfg.Networks.Back.Interface)
}

// CloseSession implements roles.LoneAppliance.
func (l *lone) CloseSession() bool { return l.n.closeSession() }

// Release implements roles.LoneAppliance.
func (l *lone) Release() {
	l.n.journal.with(func(c *replication.Core, _ replication.Nanos) { c.PeerLost() })
}

// Follow implements roles.LoneAppliance.
func (l *lone) Follow(epoch uint64) {
	l.n.forgotten = nil // the active has it
	l.n.becomeStandby(epoch)
}

// Continue implements roles.LoneAppliance.
func (l *lone) Continue(epoch uint64, why string) error {
	err := l.n.takeover(epoch, l.known, why)
	if err != nil {
		l.n.log.Error("take over", "err", err)
	}
	return err
}

// StartEmpty implements roles.LoneAppliance.
func (l *lone) StartEmpty(epoch uint64, why string, lost bool) {
	l.n.becomeActive(epoch, why)
	if lost {
		l.n.noteLoss(why)
	}
	if l.n.handed != nil {
		l.n.handed <- errNotClaimed // has room
		l.n.handed = nil
	}
}

// Raise implements roles.LoneAppliance.
func (l *lone) Raise(epoch uint64) error {
	if err := l.n.journal.setRole(replication.RoleActive, epoch); err != nil {
		l.n.log.Error("raise the epoch", "err", err)
		return err
	}
	l.n.relay.SetEpoch(epoch)
	return nil
}

// Mute implements roles.LoneAppliance.
func (l *lone) Mute() {
	l.n.engine.SetActive(false)
	l.n.withdraw()
}

// GoOn implements roles.LoneAppliance. The gates open while nothing can leave, and what
// they have held back leaves when something can.
func (l *lone) GoOn(until roles.Nanos) {
	n := l.n
	mute := !n.engine.Active()
	n.journal.quietly(func(c *replication.Core) { c.PeerLost() })
	n.alone.untie()
	n.alone.own(until)
	n.engine.Unmute()
	n.journal.with(func(*replication.Core, replication.Nanos) {})
	if mute {
		n.announce()
	}
}

// OwnLease implements roles.LoneAppliance.
func (l *lone) OwnLease(until roles.Nanos) { l.n.alone.own(until) }

// StepDown implements roles.LoneAppliance.
func (l *lone) StepDown(why string) {
	l.n.forgotten = l.n.held()
	l.n.alone.untie()
	l.n.stepDown(why)
}

// GiveUp implements roles.LoneAppliance.
func (l *lone) GiveUp(why string) {
	n := l.n
	n.forgotten = n.held()
	if err := n.journal.setRole(replication.RoleNone, n.journal.epoch()); err != nil {
		n.log.Error("give up the store", "err", err)
	}
	n.setRole(replication.RoleNone)
	n.log.Warn("this standby gives up what it holds, and looks for the active", "why", why)
}

// Ask implements roles.LoneAppliance.
func (l *lone) Ask() {
	l.n.front.Ask()
	l.n.back.Ask()
}

// Say implements roles.LoneAppliance.
func (l *lone) Say(what roles.Event, why string) {
	log := l.n.log
	switch what {
	case roles.StandbyLost:
		log.Warn("standby lost; finding out whether it is dead", "why", why)
	case roles.Silent:
		log.Warn("silent: the standby may have taken over", "why", why)
	case roles.GoesOnAlone:
		log.Warn("going on alone, unprotected", "why", why)
	case roles.ActiveLost:
		log.Warn("active lost; finding out whether it is dead", "why", why)
	case roles.StaysBack:
		log.Warn("not becoming active: somebody else holds our addresses; if it is the peer, see to the sync network and the keys", "mac", why, loglimit.Per("taken"))
	case roles.PeerStepsDown:
		log.Warn("both appliances were active; the peer steps down", "epoch", l.Epoch())
	}
}

// Prove implements roles.LoneAppliance.
func (l *lone) Prove(on bool) {
	l.stop()
	l.stop = func() {}
	l.proving++
	if !on {
		return
	}
	ctx, cancel := context.WithCancel(l.ctx)
	l.stop = cancel
	l.n.wg.Add(1)
	go l.prove(ctx, l.proving)
}

const (
	// proofPause is the first pause between two questions to the peer's kernel; each
	// that is answered otherwise doubles it, up to proofPauseMax.
	proofPause    = time.Millisecond
	proofPauseMax = time.Second
	// proofDial is how long one may take: a host that is gone does not answer at all.
	proofDial = time.Second
)

// prove dials the peer's sync address until its kernel refuses. A process that is
// stopped still has its connections accepted by its kernel, and a host that has died
// refuses nothing.
func (l *lone) prove(ctx context.Context, no int) {
	n := l.n
	defer n.wg.Done()
	d := net.Dialer{Timeout: proofDial, LocalAddr: &net.TCPAddr{IP: n.cfg.Self().Addr().AsSlice()}}
	for pause := proofPause; ; pause = min(2*pause, proofPauseMax) {
		conn, err := d.DialContext(ctx, "tcp", n.cfg.Pair.Members[n.peerName()].String())
		if err == nil {
			conn.Close()
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			select {
			case l.refused <- no:
			case <-ctx.Done():
			}
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// aloneLease is what an active of a pair without a witness speaks by: the standby's
// answers while that may take over, else its own. The session's reader tells of
// answers, the role loop of all else; mu is held while the engine is told.
type aloneLease struct {
	mu    sync.Mutex
	tied  bool // to the standby's answers
	owned roles.Nanos
	bound roles.Nanos

	journal *journal
	failure time.Duration
	engine  func(until time.Time)
}

// heard is told of each frame of the peer, and before the frame leaves that makes the
// standby able to take over.
func (a *aloneLease) heard() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.journal.replaceable() {
		a.tied, a.bound = true, a.journal.leaseEnd(a.failure)
		a.tell()
	}
}

// own lets the active speak until then, unless it is tied.
func (a *aloneLease) own(until roles.Nanos) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.owned = until
	a.tell()
}

// untie is called when the core has been told that the session is over.
func (a *aloneLease) untie() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tied = false
}

func (a *aloneLease) until() roles.Nanos {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.end()
}

// end is the lease's; mu is held.
func (a *aloneLease) end() roles.Nanos {
	if a.tied {
		return a.bound
	}
	return a.owned
}

// tell tells the engine; mu is held.
func (a *aloneLease) tell() { a.engine(a.journal.start.Add(time.Duration(a.end()))) }
