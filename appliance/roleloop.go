package appliance

import (
	"context"
	"time"

	"lockstep/appliance/voter"
	"lockstep/replication"
	"lockstep/replication/link"
	"lockstep/replication/roles"
	"lockstep/tun"
)

// The rules by which an appliance takes and gives up its role are in replication/roles,
// with a witness and without. This file tells them what has come, obey.go carries out
// what they want; what only one of the two sets wants is in quorum.go (with a witness)
// and lone.go (without).

// roleLoop is the only goroutine that changes the role. Its fields are its own.
type roleLoop struct {
	n     *Node
	rules roles.Rules
	ctx   context.Context // of the loop, for what it starts
	ends  chan sessionEnd
	// parked is a session that the rules have put off.
	parked *link.Session
	lostAt time.Time // when the newest session was lost

	// handing is the hand-over under way, nil if none is.
	handing *handOver
	// handedAt is when the last one was decided, declinedAt when the standby last did not
	// take what it was given.
	handedAt, declinedAt time.Time

	refused chan int           // without a witness: number of the search for proof that has found it; has room for one
	proving int                // number of the present one
	stop    context.CancelFunc // ends it
}

// settleTime is how long a starting appliance looks for its peer before it goes ahead
// alone: some dials' worth, and longer than a peer needs to notice that a predecessor of
// this process died.
const settleTime = 1500 * time.Millisecond

// keepRole takes and gives up the role until ctx ends, and then does so in order.
func (n *Node) keepRole(ctx context.Context) {
	if n.link == nil {
		n.becomeActive(1, "alone: no peer is configured")
		n.guard(ctx)
		n.endAlone()
		n.engine.SetActive(false)
		n.withdraw()
		return
	}
	l := &roleLoop{n: n, ctx: ctx, ends: make(chan sessionEnd), refused: make(chan int, 1), stop: func() {}}
	if n.voter != nil {
		l.rules = roles.NewVoted(n.self(), &quorum{l}, n.journal.now())
	} else {
		l.rules = roles.NewAlone(n.aloneConfig(), &lone{l}, n.journal.now())
	}
	sessions := make(chan *link.Session)
	n.wg.Add(1)
	go n.acceptSessions(ctx, sessions)
	l.run(ctx, sessions)
}

func (l *roleLoop) run(ctx context.Context, sessions <-chan *link.Session) {
	n := l.n
	look := time.NewTicker(lookPeriod)
	defer look.Stop()
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		l.wait(next)
		select {
		case <-ctx.Done():
			l.end()
			return
		case s := <-sessions:
			l.onSession(s)
		case e := <-l.ends:
			if e.sess == n.sess {
				l.sessionLost(e.err.Error())
			}
		case <-n.silent:
			if n.sess != nil && n.journal.peerSilent() {
				l.sessionLost("heartbeats stopped")
			}
		case <-n.journal.syncChanged:
			l.rules.SyncChanged()
		case r := <-n.switchovers:
			l.handOver(r)
		case <-l.drained():
			l.yield()
		case <-n.fitness.changed:
			l.consider()
		case <-n.rests():
			n.restoreSome()
		case <-look.C:
			l.consider()
			l.answerLate()
		case <-next.C:
		case news := <-n.news():
			l.decided(&news)
		case no := <-l.refused:
			l.proved(no)
		case c := <-n.front.Conflicts():
			l.conflict(c)
		case c := <-n.back.Conflicts():
			l.conflict(c)
		case c := <-n.front.Claims():
			l.rules.Claimed(n.journal.now(), c.MAC.String())
		case c := <-n.back.Claims():
			l.rules.Claimed(n.journal.now(), c.MAC.String())
		}
		if l.behind() {
			continue // the rules hear of all that has come before they look at the time; after a pause of ours that is much
		}
		l.rules.Tick(n.journal.now())
		l.tell()
	}
}

// wait arms the timer for what the rules have to do next.
func (l *roleLoop) wait(next *time.Timer) {
	d := lookPeriod
	if at := l.rules.Next(); at != roles.Never {
		d = min(max(time.Duration(at-l.n.journal.now()), time.Millisecond), lookPeriod)
	}
	next.Reset(d)
}

// behind reports whether news, proof or claims wait that the rules have not heard of.
func (l *roleLoop) behind() bool {
	n := l.n
	return len(n.news())+len(l.refused)+len(n.front.Conflicts())+len(n.back.Conflicts())+len(n.front.Claims())+len(n.back.Claims()) > 0
}

// news is the voters'; nil without a witness.
func (n *Node) news() <-chan voter.News {
	if n.voter == nil {
		return nil
	}
	return n.voter.News()
}

func (l *roleLoop) decided(news *voter.News) {
	l.rules.Decided(l.n.journal.now(), roles.Decision{State: news.State, Claim: news.Claimed, Solo: news.Solo})
}

func (l *roleLoop) proved(no int) {
	if no == l.proving {
		l.rules.Refused(l.n.journal.now())
	}
}

// conflict is told when somebody else announces one of our addresses while we hold them.
func (l *roleLoop) conflict(c tun.Conflict) {
	l.n.claimed(c)
	l.rules.Claimed(l.n.journal.now(), c.MAC.String())
	l.n.defend(c) // if we still do
}

// sessionLost tells the rules that the session is over, and why.
func (l *roleLoop) sessionLost(why string) {
	l.rules.SessionLost(l.n.journal.now(), why)
}

// onSession lets the rules decide by what we have said of ourselves, and the peer of
// itself.
func (l *roleLoop) onSession(s *link.Session) {
	n := l.n
	l.sessionLost("superseded by a new session")
	now := n.journal.now()
	switch l.rules.Session(now, now-roles.Nanos(time.Since(s.SaidAt)), said(&s.Ours), said(&s.Peer)) {
	case roles.Stale:
		s.Close()
	case roles.Park:
		l.unpark()
		l.parked = s
	case roles.Begin:
		if n.beginSession(l.ctx, s, l.ends) && n.getRole() == replication.RoleStandby {
			n.handedOver()
		}
	}
}

// unpark closes the session that was put off; the two dial again and say what they are
// then.
func (l *roleLoop) unpark() {
	if l.parked != nil {
		l.parked.Close()
		l.parked = nil
	}
}

// tell keeps what others ask for between two steps of the rules.
func (l *roleLoop) tell() {
	l.n.handing.Store(l.rules.Handed())
	until, waits := l.rules.Waits()
	if !waits {
		until = 0
	}
	l.n.startsEmpty.Store(int64(until))
}

// end ends an appliance that was told to. It falls silent first: whoever finds the sync
// port closed may take it for dead. An active with a standby in sync hands over, which
// costs its clients less than a crash; one without resets its connections before.
func (l *roleLoop) end() {
	n := l.n
	l.stop()
	l.unpark()
	if l.handing == nil {
		n.endAlone()
	}
	n.engine.PassHere(passHereTime)
	n.engine.HandOn(handOnTime)
	n.engine.SetActive(false)
	n.withdraw()
	if l.handing != nil || l.rules.HandOver(n.journal.now()) == nil {
		n.handing.Store(l.rules.Handed())
		n.journal.drain(drainLimit)
		if l.rules.Drained(n.journal.now()) == nil {
			l.awaitSuccessor()
		}
	}
	closed := n.closeSession()
	if n.voter == nil {
		// What is said of us until the port is closed.
		_ = n.journal.setRole(replication.RoleNone, n.journal.epoch())
		n.setRole(replication.RoleNone)
	} else if closed {
		n.journal.with(func(c *replication.Core, _ replication.Nanos) { c.PeerLost() })
	}
}

// awaitSuccessor waits for the voters to decide the hand-over.
func (l *roleLoop) awaitSuccessor() {
	if l.n.voter == nil {
		return
	}
	deadline := time.After(time.Duration(roles.HandOverLimit) / 4)
	for self := l.n.self(); ; {
		select {
		case news := <-l.n.news():
			if news.State.Active != self {
				return
			}
		case <-deadline:
			return
		}
	}
}
