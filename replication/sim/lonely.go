package sim

import (
	"lockstep/replication"
	"lockstep/replication/roles"
)

// lonely is the shell of an appliance whose pair has no witness.
type lonely struct {
	*shell
	tied  bool // the standby's answers are the lease
	own   nanos
	bound nanos

	astray   bool     // see table, of what is taken over
	followed *session // in which we are the standby, or were last
	defended nanos    // when we last announced again because of a claim
	proving  int      // number of the search; even: none
}

var (
	_ roles.LoneAppliance = (*lonely)(nil)
	_ driver              = (*lonely)(nil)
)

func beginLone(s *shell) *lonely {
	l := &lonely{shell: s}
	s.driver, s.boot = l, roles.Boot{byte(s.id), byte(s.life), byte(s.life >> 8), 1}
	s.rules = roles.NewAlone(s.w.aloneConfig(s.node), l, s.now())
	return l
}

// alone is n's shell in a world without a witness.
func (n *node) alone() *lonely { return n.driver.(*lonely) }

// claimed: who speaks announces itself again, not too often.
func (l *lonely) claimed() {
	if l.speaks() && l.now() >= l.defended+1000*millis {
		l.defended = l.now()
		l.hold()
	}
}

func (l *lonely) Lease() nanos {
	if l.tied {
		return l.bound
	}
	return l.own
}

func (l *lonely) mayNotSpeak() bool { return !l.speaking || l.now() >= l.Lease() }

// look renews the lease, as the session's reader does, and before the frame leaves that
// makes the standby able to take over.
func (l *lonely) look() {
	if l.core.SaidSynced() {
		l.tied, l.bound = true, l.core.HeardUs()+replication.LeaseTime(l.core.PeerPromise().Wait)
	}
}

func (l *lonely) begun(of *session) {
	if l.core.Role() == replication.RoleActive {
		l.ten.solo, of.serves = false, l.ten
	} else {
		l.followed = of
	}
}

func (l *lonely) serveEpoch(epoch uint64) {
	l.tied, l.table.astray = false, l.astray
	l.serves(epoch)
}

func (l *lonely) Replaceable() bool                { return l.core.SaidSynced() }
func (l *lonely) Heard() nanos                     { return l.core.Heard() }
func (l *lonely) Confirmed() (nanos, bool)         { return l.core.Confirmed() }
func (l *lonely) PeerPromise() replication.Promise { return l.core.PeerPromise() }
func (l *lonely) CutOff() bool                     { return l.w.unplugged[l.id] > 0 }

// Promised: a hasty standby waits for no longer than the shortest of its promises.
func (l *lonely) Promised() replication.Promised {
	p := l.core.Promised()
	if l.w.hasty {
		p.Most = p.Least
	}
	return p
}

func (l *lonely) Release() { l.sh.With(l.now(), (*replication.Core).PeerLost) }

func (l *lonely) Continue(epoch uint64, _ nanos, why string) error {
	l.w.logf("%s takes over: %s", l.name, why)
	return l.w.continuesAlone(l, epoch, why)
}

func (l *lonely) StartEmpty(epoch uint64, why, _ string) { l.w.startsAlone(l, epoch, why) }

func (l *lonely) Raise(epoch uint64) error {
	if err := l.core.SetRole(replication.RoleActive, epoch); err != nil {
		return err
	}
	l.ten.epoch = epoch
	l.w.epoch = max(l.w.epoch, epoch)
	return nil
}

func (l *lonely) GoOn(until nanos) {
	l.w.goesOnAlone(l)
	mute := l.silent()
	l.core.PeerLost()
	l.tied, l.own, l.speaking = false, until, true
	l.sh.Run(l.now())
	if mute {
		l.announce()
	}
}

func (l *lonely) OwnLease(until nanos) { l.own = until }

func (l *lonely) StepDown(why string) {
	l.tied = false
	l.w.loneSeen.StepDown++
	had := l.table
	l.shell.StepDown(why)
	l.w.dropped(l, had)
}

func (l *lonely) GiveUp(why string) {
	l.w.logf("%s gives up its store: %s", l.name, why)
	l.w.loneSeen.GaveUp++
	if err := l.core.SetRole(replication.RoleNone, l.core.Epoch()); err != nil {
		l.w.failf("%s gives up its store: %v", l.name, err)
	}
	l.forget()
}

func (l *lonely) Ask() {
	o := l.w.other(l.node)
	for range 2 { // networks
		l.w.overLAN(l.node, o, func() {
			if o.shell.speaks() {
				l.w.overLAN(o, l.node, func() { l.node.shell.hears(o.name) }) // perhaps of its next life
			}
		})
	}
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
		switch {
		case l.proving != no:
		case l.refuses():
			l.refused = true
			l.w.loneSeen.Proved++
			l.loop(func() {})
		default:
			l.prove(no, min(2*pause, 1000*millis))
		}
	})
}
