package appliance

import (
	"context"
	"sync"
	"time"

	"lockstep/replication"
	"lockstep/replication/roles"
)

// Without a witness (witness: none) the two appliances decide by what each of them
// knows: see replication/roles, alone.go.

// lone is the roles.LoneAppliance.
type lone struct{ *roleLoop }

var _ roles.LoneAppliance = (*lone)(nil)

func (n *Node) aloneConfig() roles.AloneConfig {
	p := &n.cfg.Pair
	return roles.AloneConfig{
		Smaller:   n.cfg.Node < n.peerName(),
		Heartbeat: roles.Nanos(p.Heartbeat), FailureTimeout: roles.Nanos(p.FailureTimeout),
		StartEmptyAfter: roles.Nanos(p.StartEmptyAfter), Settle: roles.Nanos(settleTime),
	}
}

// Replaceable implements roles.LoneAppliance.
func (l *lone) Replaceable() bool { return l.n.journal.replaceable() }

// Heard implements roles.LoneAppliance.
func (l *lone) Heard() roles.Nanos { return l.n.journal.heard() }

// Confirmed implements roles.LoneAppliance.
func (l *lone) Confirmed() (at roles.Nanos, ok bool) { return l.n.journal.confirmed() }

// Promised implements roles.LoneAppliance.
func (l *lone) Promised() replication.Promised { return l.n.journal.promised() }

// PeerPromise implements roles.LoneAppliance.
func (l *lone) PeerPromise() replication.Promise { return l.n.journal.peerPromise() }

// Lease implements roles.LoneAppliance.
func (l *lone) Lease() roles.Nanos { return l.n.alone.until() }

// CutOff implements roles.LoneAppliance.
func (l *lone) CutOff() bool {
	return l.n.fitness.cutOff(l.n.cfg.Networks.Front.Interface, l.n.cfg.Networks.Back.Interface)
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

// GoOn implements roles.LoneAppliance. The gates open while nothing can leave, and what
// they have held back leaves when something can.
func (l *lone) GoOn(until roles.Nanos) {
	n := l.n
	mute := !n.engine.Active()
	n.journal.shell.Look((*replication.Core).PeerLost)
	n.alone.untie()
	n.alone.own(until)
	n.engine.Unmute()
	n.journal.shell.Run(n.journal.now())
	if mute {
		n.announce()
	}
	l.declined(roles.ErrNotClaimed)
}

// OwnLease implements roles.LoneAppliance.
func (l *lone) OwnLease(until roles.Nanos) { l.n.alone.own(until) }

// Ask implements roles.LoneAppliance.
func (l *lone) Ask() {
	l.n.front.Ask()
	l.n.back.Ask()
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
	no := l.proving
	l.n.wg.Add(1)
	go func() {
		defer l.n.wg.Done()
		if !l.n.refuses(ctx, l.n.peerName()) {
			return
		}
		select {
		case l.refused <- no:
		case <-ctx.Done():
		}
	}()
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
	engine  func(until time.Time)
}

// heard is told of each frame of the peer, and before the frame leaves that makes the
// standby able to take over.
func (a *aloneLease) heard() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.journal.replaceable() {
		a.tied, a.bound = true, a.journal.leaseEnd()
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
