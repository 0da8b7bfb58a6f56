package sim

import (
	"lockstep/replication"
	"lockstep/replication/roles"
)

// lonely is an appliance's role loop in a world without a witness: the rules of
// replication/roles for such a pair, which run in a real appliance, too, and what they
// act on. It is the node's roles.LoneAppliance.
type lonely struct {
	*node
	rules    *roles.Alone
	speaking bool // what the engine is told by SetActive
	tied     bool // the standby's answers are the lease
	own      nanos
	bound    nanos

	ten      *tenure  // our newest time as the active
	astray   bool     // see table, of what is taken over
	followed *session // in which we are the standby, or were last
	claims   []string
	defended nanos // when we last announced again because of a claim
	refused  bool  // the peer's kernel has refused, in the present search
	proving  int   // number of the search; even: none
	watches  int   // number of the look that counts
}

var (
	_ roles.LoneAppliance = (*lonely)(nil)
	_ driver              = (*lonely)(nil)
)

// beginLone is a new incarnation's.
func (n *node) beginLone() {
	n.boot()
	l := &lonely{node: n}
	n.driver, n.linked = l, nil
	l.rules = roles.NewAlone(n.w.aloneConfig(n), l, n.now())
	l.watch()
}

// loop does something in the role loop, which then does what is due.
func (l *lonely) loop(do func()) {
	l.later(l.w.between(0, l.w.loop), func() {
		do()
		l.turn()
	})
}

// turn is the end of each turn of the role loop: first what has come, then the time.
func (l *lonely) turn() {
	for len(l.claims) > 0 {
		who := l.claims[0]
		l.claims = l.claims[1:]
		l.rules.Claimed(l.now(), who)
		if l.speaks() && l.now() >= l.defended+1000*millis {
			l.defended = l.now()
			l.hold()
		}
	}
	if l.refused {
		l.refused = false
		l.rules.Refused(l.now())
	}
	l.rules.Tick(l.now())
	l.pump()
	l.watch()
}

// watch arranges the next look.
func (l *lonely) watch() {
	d := 100 * millis
	if at := l.rules.Next(); at != roles.Never {
		d = min(max(at-l.now(), millis), d)
	}
	l.watches++
	no := l.watches
	l.later(d+l.w.between(0, l.w.loop), func() {
		if l.watches == no {
			l.turn()
		}
	})
}

func (l *lonely) lease() nanos {
	if l.tied {
		return l.bound
	}
	return l.own
}

func (l *lonely) speaks() bool {
	return !l.silent() && l.core.Role() == replication.RoleActive
}

func (l *lonely) mayNotSpeak() bool { return !l.speaking || l.now() >= l.lease() }

// look renews the lease, as the session's reader does, and before the frame leaves that
// makes the standby able to take over.
func (l *lonely) look() {
	if l.core.SaidSynced() {
		l.tied, l.bound = true, l.core.HeardUs()+replication.LeaseTime(l.w.failure)
	}
}

func (l *lonely) sessionLost(of *session) {
	l.loop(func() {
		if l.session == of && of != nil {
			l.w.logf("%s loses its session, %s", l.name, l.rules.Stage())
			l.rules.SessionLost(l.now(), "lost")
		}
	})
}

func (l *lonely) leave(*session) {}

func (l *lonely) said() said {
	s := said{Said: roles.Said{Node: l.name, Role: l.core.Role(), Epoch: l.core.Epoch(), InSync: l.core.InSync()}}
	if l.rules.Handed() {
		s.Role, s.InSync = replication.RoleNone, true
	}
	s.at = l.now()
	s.Boot = roles.Boot{byte(l.id), byte(l.life), byte(l.life >> 8), 1}
	if s.Role == replication.RoleActive {
		s.Holds = uint64(l.core.Stats().Connections)
	}
	return s
}

// meet is a new session at the role loop.
func (l *lonely) meet(of *session, ours, theirs said) {
	if of.ended(l.node) || l.linked != of {
		return
	}
	l.rules.SessionLost(l.now(), "superseded")
	was := l.rules.Stage()
	if l.rules.Session(l.now(), ours.at, ours.Said, theirs.Said) != roles.Begin {
		l.w.loneSeen.Refused++
		of.close(l.node)
		return
	}
	l.w.logf("%s begins a session, was %s, is %v in %d", l.name, was, l.core.Role(), l.core.Epoch())
	if err := l.core.PeerJoined(l.now(), l.w.plan.version); err != nil {
		l.w.failf("%s begins a session: %v", l.name, err)
	}
	if l.core.Role() == replication.RoleActive {
		l.ten.solo, of.serves = false, l.ten
	} else {
		l.followed = of
	}
	l.core.SetClock(l.now(), l.clock())
	l.session = of
	of.read(l.node)
}

// switchover is asked for by the operator, or because the networks here are down.
func (l *lonely) switchover() {
	if l.rules.HandOver(l.now()) != nil {
		return
	}
	l.w.logf("%s hands over", l.name)
	l.w.loneSeen.HandOver++
	begun := l.now()
	var drain func()
	drain = func() {
		if !l.core.Drained() && l.now() < begun+100*millis {
			l.later(millis, drain)
			return
		}
		if l.core.Role() == replication.RoleActive {
			l.call("hand over", l.rules.Drained(l.now()))
			l.turn()
		}
	}
	drain()
}

func (l *lonely) Role() replication.Role { return l.core.Role() }
func (l *lonely) Epoch() uint64          { return l.core.Epoch() }
func (l *lonely) InSync() bool           { return l.core.InSync() }
func (l *lonely) whole() bool            { return l.core.Role() == replication.RoleStandby && l.core.InSync() }
func (l *lonely) Connected() bool        { return l.session != nil }
func (l *lonely) Replaceable() bool      { return l.core.SaidSynced() }
func (l *lonely) Heard() nanos           { return l.core.Heard() }

func (l *lonely) Confirmed() (nanos, bool) { return l.core.Confirmed() }
func (l *lonely) Lease() nanos             { return l.lease() }
func (l *lonely) CutOff() bool             { return l.w.unplugged[l.id] > 0 }

func (l *lonely) CloseSession() bool {
	of := l.session
	if of == nil {
		return false
	}
	if st := l.core.Stats(); st.SnapshotTotal > 0 && !st.CanTakeOver {
		l.w.seen.SnapshotCut++
	}
	l.session = nil
	of.close(l.node)
	return true
}

func (l *lonely) Release() { l.core.PeerLost() }

func (l *lonely) Follow(epoch uint64) {
	if err := l.core.SetRole(replication.RoleStandby, epoch); err != nil {
		l.w.failf("%s follows epoch %d: %v", l.name, epoch, err)
	}
	l.forget()
}

func (l *lonely) Continue(epoch uint64, _ nanos, why string) error {
	l.w.logf("%s takes over: %s", l.name, why)
	return l.w.continuesAlone(l, epoch)
}

func (l *lonely) StartEmpty(epoch uint64, why, _ string) {
	l.w.startsAlone(l, epoch, why)
}

func (l *lonely) Raise(epoch uint64) error {
	if err := l.core.SetRole(replication.RoleActive, epoch); err != nil {
		return err
	}
	l.ten.epoch = epoch
	l.w.epoch = max(l.w.epoch, epoch)
	return nil
}

func (l *lonely) Mute() { l.speaking = false }

func (l *lonely) GoOn(until nanos) {
	l.w.goesOnAlone(l)
	mute := l.silent()
	l.core.PeerLost()
	l.tied, l.own, l.speaking = false, until, true
	l.pump()
	if mute {
		l.announce()
	}
}

func (l *lonely) OwnLease(until nanos) { l.own = until }

func (l *lonely) StepDown(why string) {
	l.w.logf("%s steps down: %s", l.name, why)
	l.speaking, l.tied = false, false
	l.w.loneSeen.StepDown++
	for _, g := range l.ordered {
		g.dropped = g.dropped || !l.core.Protected(g.id)
	}
	l.table.closed = true
	if err := l.core.SetRole(replication.RoleNone, l.core.Epoch()); err != nil {
		l.w.failf("%s steps down: %v", l.name, err)
	}
	l.w.dropped(l)
	l.forget()
}

func (l *lonely) GiveUp(why string) {
	l.w.logf("%s gives up its store: %s", l.name, why)
	l.w.loneSeen.GaveUp++
	if err := l.core.SetRole(replication.RoleNone, l.core.Epoch()); err != nil {
		l.w.failf("%s gives up its store: %v", l.name, err)
	}
	l.forget()
}

// serveEpoch lets the connections of epoch speak.
func (l *lonely) serveEpoch(epoch uint64) {
	l.tied, l.speaking, l.table.astray = false, true, l.astray
	l.ten = &tenure{node: l.node, life: l.life, epoch: epoch, table: l.table}
	l.w.tenure = l.ten
	l.w.epoch = max(l.w.epoch, epoch)
	l.announce()
}

func (l *lonely) Say(roles.Event, string) {}

func (l *lonely) Ask() {
	o := l.w.other(l.node)
	for range 2 { // networks
		l.w.overLAN(l.node, o, func() {
			if other := o.driver.(*lonely); other.speaks() {
				l.w.overLAN(o, l.node, func() { l.hears(o.name) })
			}
		})
	}
}

// announce claims the virtual addresses, several times; only who may speak does.
func (l *lonely) announce() {
	for _, d := range []nanos{0, 10 * millis, 50 * millis, 200 * millis, 500 * millis, 1000 * millis} {
		l.serve(d, func() {
			if l.speaks() {
				l.hold()
			}
		})
	}
}

// hold is one announcement.
func (l *lonely) hold() {
	if l.w.unplugged[l.id] == 0 {
		l.w.vip = l.node
	}
	o := l.w.other(l.node)
	for range 2 {
		l.w.overLAN(l.node, o, func() { o.driver.(*lonely).hears(l.name) })
	}
}

// hears somebody claim our addresses.
func (l *lonely) hears(who string) {
	l.claims = append(l.claims, who)
	l.loop(func() {})
}

// Prove asks the peer's kernel, first often, then once a second.
func (l *lonely) Prove(on bool) {
	l.proving++
	l.refused = false
	if on {
		l.prove(l.proving, millis)
	}
}

func (l *lonely) prove(no int, pause nanos) {
	l.later(pause, func() {
		if l.proving != no {
			return
		}
		o := l.w.other(l.node)
		if !o.alive && !o.dark && !l.w.blocked(l.machine, o.machine) && !l.w.blocked(o.machine, l.machine) {
			l.refused = true
			l.w.loneSeen.Proved++
			l.loop(func() {})
			return
		}
		l.prove(no, min(2*pause, 1000*millis))
	})
}
