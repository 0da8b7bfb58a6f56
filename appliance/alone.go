package appliance

import (
	"context"
	"time"

	"lockstep/replication"
	"lockstep/replication/link"
	"lockstep/replication/roles"
	"lockstep/tun"
)

// Without a witness (witness: none) the two appliances decide by what each of them
// knows: see replication/roles, alone.go. This file drives those rules; lone.go carries
// out what they want.

// settleTime is how long a starting appliance looks for its peer before it goes ahead
// alone: some dials' worth, and longer than a peer needs to notice that a predecessor of
// this process died.
const settleTime = 1500 * time.Millisecond

// lone carries out the rules in an appliance that has no witness. Its fields belong to
// the loop's goroutine.
type lone struct {
	n       *Node
	rules   *roles.Alone
	ctx     context.Context // of the loop, for what it starts
	ends    chan sessionEnd
	known   time.Time // since when we know what the rules act on
	refused chan int  // number of the search for proof that has found it
	proving int       // number of the present one
	stop    context.CancelFunc
}

// pairLoop is the only goroutine that changes the role.
func (n *Node) pairLoop(ctx context.Context) {
	if n.link == nil {
		n.becomeActive(1, "alone: no peer is configured")
		n.guard(ctx)
		n.engine.SetActive(false)
		n.withdraw()
		return
	}
	l := &lone{n: n, ctx: ctx, ends: make(chan sessionEnd), refused: make(chan int), stop: func() {}}
	l.rules = roles.NewAlone(n.aloneConfig(), l, n.journal.now())
	sessions := make(chan *link.Session)
	n.wg.Add(1)
	go n.acceptSessions(ctx, sessions)
	look := time.NewTicker(lookPeriod)
	defer look.Stop()
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		l.wait(next)
		l.known = time.Now()
		select {
		case <-ctx.Done():
			l.end()
			return
		case s := <-sessions:
			l.onSession(s)
		case e := <-l.ends:
			if e.sess == n.sess {
				l.rules.SessionLost(n.journal.now(), e.err.Error())
			}
		case <-n.silent:
			if n.sess != nil && n.journal.peerSilent() {
				l.rules.SessionLost(n.journal.now(), "heartbeats stopped")
			}
		case r := <-n.switchovers:
			l.handOver(r)
		case <-n.fitness.changed:
			l.consider()
		case <-look.C:
			l.consider()
		case <-next.C:
		case c := <-n.front.Conflicts():
			l.claimed(c)
		case c := <-n.back.Conflicts():
			l.claimed(c)
		case c := <-n.front.Claims():
			l.rules.Claimed(n.journal.now(), c.MAC.String())
		case c := <-n.back.Claims():
			l.rules.Claimed(n.journal.now(), c.MAC.String())
		case no := <-l.refused:
			l.proved(no)
		}
		l.catchUp()
		l.rules.Tick(n.journal.now())
		l.tell()
	}
}

func (n *Node) aloneConfig() roles.AloneConfig {
	p := &n.cfg.Pair
	return roles.AloneConfig{
		Smaller:   n.cfg.Node < n.peerName(),
		Heartbeat: roles.Nanos(p.Heartbeat), FailureTimeout: roles.Nanos(p.FailureTimeout),
		StartEmptyAfter: roles.Nanos(p.StartEmptyAfter), Settle: roles.Nanos(settleTime),
	}
}

// wait arms the timer for what the rules have to do next.
func (l *lone) wait(next *time.Timer) {
	d := lookPeriod
	if at := l.rules.Next(); at != roles.Never {
		d = min(max(time.Duration(at-l.n.journal.now()), time.Millisecond), lookPeriod)
	}
	next.Reset(d)
}

// catchUp tells the rules of what has come, before they look at the time: after a pause
// of this process much has.
func (l *lone) catchUp() {
	n := l.n
	for {
		select {
		case c := <-n.front.Conflicts():
			l.claimed(c)
		case c := <-n.back.Conflicts():
			l.claimed(c)
		case c := <-n.front.Claims():
			l.rules.Claimed(n.journal.now(), c.MAC.String())
		case c := <-n.back.Claims():
			l.rules.Claimed(n.journal.now(), c.MAC.String())
		case no := <-l.refused:
			l.proved(no)
		default:
			return
		}
	}
}

func (l *lone) proved(no int) {
	if no == l.proving {
		l.rules.Refused(l.n.journal.now())
	}
}

// claimed is told when somebody else announces one of our addresses while we hold them.
func (l *lone) claimed(c tun.Conflict) {
	l.n.claimed(c)
	l.rules.Claimed(l.n.journal.now(), c.MAC.String())
	l.n.defend(c) // if we still do
}

// onSession lets the rules decide by what we have said of ourselves, and the peer of
// itself.
func (l *lone) onSession(s *link.Session) {
	n := l.n
	l.rules.SessionLost(n.journal.now(), "superseded by a new session")
	ours := roles.LoneSaid{Role: replication.Role(s.Ours.Role), Epoch: s.Ours.Epoch, InSync: s.Ours.InSync, Holds: s.Ours.Holds, Boot: s.Ours.BootID}
	theirs := roles.LoneSaid{Role: replication.Role(s.Peer.Role), Epoch: s.Peer.Epoch, InSync: s.Peer.InSync, Holds: s.Peer.Holds, Boot: s.Peer.BootID}
	now := n.journal.now()
	if l.rules.Session(now, now-roles.Nanos(time.Since(s.SaidAt)), ours, theirs) != roles.Begin {
		s.Close()
		return
	}
	if n.beginSession(l.ctx, s, l.ends) && n.getRole() == replication.RoleStandby {
		n.handedOver()
	}
}

// consider hands over if the standby can serve and we cannot.
func (l *lone) consider() {
	if why, should := l.n.shouldHandOver(); should {
		l.handOver(switchRequest{why: why})
	}
}

// handOver falls silent, lets the standby confirm what is on its way, and tells it that
// this appliance is active no more: by ending the session, and by what it says of itself
// when the standby asks.
func (l *lone) handOver(r switchRequest) {
	n, h := l.n, &handOver{reply: r.reply}
	err := n.maySwitchOver(r)
	if err == nil {
		err = l.rules.HandOver(n.journal.now())
	}
	if err != nil {
		h.done(err)
		return
	}
	n.log.Info("handing over to the standby", "why", r.why)
	n.handing.Store(true)
	n.journal.drain(drainLimit)
	l.rules.HandedOver(n.journal.now())
	n.handed = r.reply
}

// end ends an appliance that was told to. It falls silent first: whoever finds the sync
// port closed may take it for dead. An active with a standby in sync hands over.
func (l *lone) end() {
	n := l.n
	l.stop()
	n.engine.SetActive(false)
	n.withdraw()
	if l.rules.HandOver(n.journal.now()) == nil {
		n.handing.Store(true)
		n.journal.drain(drainLimit)
		l.rules.HandedOver(n.journal.now())
	}
	// What is said of us until the port is closed.
	_ = n.journal.setRole(replication.RoleNone, n.journal.epoch())
	n.setRole(replication.RoleNone)
	n.closeSession()
}

// tell keeps what others ask for between two steps of the rules.
func (l *lone) tell() {
	l.n.handing.Store(l.rules.Handed())
	until, waits := l.rules.Waits()
	if !waits {
		until = 0
	}
	l.n.startsEmpty.Store(int64(until))
}
