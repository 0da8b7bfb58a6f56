package appliance

import (
	"context"
	"encoding/binary"
	"time"

	"lockstep/appliance/voter"
	"lockstep/replication"
	"lockstep/replication/arbiter"
	"lockstep/replication/link"
	"lockstep/replication/roles"
	"lockstep/tun"
)

// With a witness the two appliances and the witness decide by Raft who is active,
// in which epoch, and whether the standby may take over (replication/arbiter). What
// is decided comes in as news; this file turns it into roles, and tells the voter
// what it has to know: that the standby holds everything, that it is lost, that the
// peer's process is dead.
//
// Three things may speak only in this order. The lease comes from the voter and is
// set on its own goroutine; a claim makes an appliance active; the gates open for
// good (PeerLost) only when the voters have taken the standby out.

// quorum carries out the rules (replication/roles) in an appliance that has a
// witness. Its fields belong to the loop's goroutine.
type quorum struct {
	n     *Node
	voter *voter.Voter
	rules *roles.Rules
	ctx   context.Context // of the loop, for what it starts
	ends  chan sessionEnd

	former  arbiter.State // what the voters had decided before the present epoch
	lostAt  time.Time     // when the session was lost
	lostWhy string
	known   time.Time // since when we knew that the active is lost, when we claim
	why     string    // why we claim
	// parked is a session that came while neither side was active, or while the
	// former one is not released.
	parked *link.Session
	// handing is the hand-over under way, nil if none is.
	handing *handOver
	muted   bool // the lease was over at the last look
	// handedAt is when the voters decided the last hand-over.
	handedAt time.Time
	// refusedAt is when the standby last did not claim what it was given.
	refusedAt time.Time
}

const (
	// parkTime is how long a session may wait for a role.
	parkTime = 100 * time.Millisecond
	// handOverLimit bounds a hand-over: after it the active goes on, if it still may.
	handOverLimit = 2 * time.Second
	// drainLimit bounds how long a muted active waits for the standby to confirm what
	// is on its way. Nothing is lost if it does not: it was not acknowledged either.
	drainLimit = 100 * time.Millisecond
)

func member(node string, boot [16]byte) arbiter.Member {
	return arbiter.Member{Node: node, Boot: binary.BigEndian.Uint64(boot[:8])}
}

// quorumLoop is the only goroutine that changes the role.
func (n *Node) quorumLoop(ctx context.Context) {
	q := &quorum{n: n, voter: n.voter, ctx: ctx, ends: make(chan sessionEnd)}
	q.rules = roles.New(member(n.cfg.Node, n.bootID), q)
	sessions := make(chan *link.Session)
	n.wg.Add(1)
	go n.acceptSessions(ctx, sessions)
	defer q.Unpark()
	unpark := time.NewTicker(parkTime)
	defer unpark.Stop()
	proof := time.NewTicker(proofPauseMax)
	defer proof.Stop()
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		if d := q.rules.Next(); d != roles.Never {
			next.Reset(time.Duration(d))
		}
		select {
		case <-next.C:
			q.rules.Tick()
		case <-ctx.Done():
			// Mute first: the peer starts when it finds that we are gone.
			q.stop()
			return
		case s := <-sessions:
			if n.sess != nil {
				q.sessionLost("superseded by a new session")
			}
			q.onSession(s)
		case e := <-q.ends:
			if e.sess == n.sess {
				q.sessionLost(e.err.Error())
			}
		case <-n.silent:
			if n.sess != nil && n.journal.peerSilent() {
				q.sessionLost("heartbeats stopped")
			}
		case <-n.journal.syncChanged:
			q.rules.SyncChanged()
		case news := <-q.voter.News():
			q.onNews(&news)
		case r := <-n.switchovers:
			q.handOver(r)
		case c := <-n.front.Conflicts():
			q.conflict(c)
		case c := <-n.back.Conflicts():
			q.conflict(c)
		case <-q.drained():
			q.yield()
		case <-q.late():
			q.refused(errNotClaimed)
		case <-n.fitness.changed:
			q.consider()
		case <-proof.C:
			q.rules.Look()
		case <-unpark.C:
			q.Unpark()
			q.look()
			q.consider()
			if n.handed != nil && time.Since(q.handedAt) > handOverLimit {
				n.handedOver() // the voters have decided, though the peer does not say it yet
			}
		}
	}
}

// stop ends an appliance that was told to. An active with a standby in sync hands
// over first, which costs its clients less than a crash.
func (q *quorum) stop() {
	n := q.n
	n.engine.SetActive(false)
	n.withdraw()
	state, peer := q.rules.State(), q.rules.Peer()
	if n.getRole() == replication.RoleActive && n.sess != nil && state.Standby == peer {
		n.journal.drain(drainLimit)
		deadline := time.After(handOverLimit / 4)
		for done := q.voter.Yield(peer.Node) != nil; !done; {
			select {
			case news := <-q.voter.News():
				done = news.State.Active != state.Active
			case <-deadline:
				done = true
			}
		}
	}
	if n.closeSession() {
		n.journal.with(func(c *replication.Core, _ replication.Nanos) { c.PeerLost() })
	}
}

// onSession decides what a new session is good for, from what both have said of
// themselves and from what the voters have decided.
func (q *quorum) onSession(s *link.Session) {
	ours := roles.Said{Role: replication.Role(s.Ours.Role), Epoch: s.Ours.Epoch, InSync: s.Ours.InSync}
	theirs := roles.Said{Role: replication.Role(s.Peer.Role), Epoch: s.Peer.Epoch, InSync: s.Peer.InSync}
	switch q.rules.Session(ours, theirs, member(s.Peer.Node, s.Peer.BootID)) {
	case roles.Stale:
		s.Close()
	case roles.Park:
		q.Unpark()
		q.parked = s
	case roles.Begin:
		q.n.beginSession(q.ctx, s, q.ends)
		if theirs.Role == replication.RoleActive {
			q.n.handedOver()
		}
	}
}

// sessionLost tells the rules that the session is over, and the log why.
func (q *quorum) sessionLost(why string) {
	n := q.n
	q.lostAt, q.lostWhy = time.Now(), why
	if !q.rules.SessionLost() {
		return
	}
	switch {
	case q.rules.Releasing():
		n.log.Warn("standby lost; asking the witness to go on alone", "why", why)
	case n.getRole() == replication.RoleActive:
		n.log.Warn("standby lost before it was in sync", "why", why)
	case n.getRole() == replication.RoleStandby:
		n.log.Warn("session with the active lost", "why", why, "in_sync", n.journal.inSync())
	}
}

// onNews acts on what the voters have decided.
func (q *quorum) onNews(news *voter.News) {
	q.known, q.why = time.Now(), "the active was silent"
	switch {
	case q.n.sess != nil:
		q.why = "the active handed over, or lost the witness"
	case !q.lostAt.IsZero() && time.Since(q.lostAt) < time.Minute:
		q.known, q.why = q.lostAt, q.lostWhy
	}
	releasing := q.rules.Releasing()
	if was := q.rules.State(); was.Epoch != news.State.Epoch {
		q.former = was
	}
	q.rules.Decided(news.State, news.Claimed, news.Solo)
	if releasing && !q.rules.Releasing() && q.n.getRole() == replication.RoleActive {
		q.n.log.Warn("going on alone, unprotected", "why", q.lostWhy, "after", time.Since(q.lostAt))
	}
	if q.handing != nil && !q.rules.Handing() {
		q.n.handed, q.handedAt, q.handing = q.handing.reply, time.Now(), nil
	}
}

// consider hands over if the standby can serve and we cannot.
func (q *quorum) consider() {
	if why, should := q.n.shouldHandOver(); should && !q.rules.Handing() && time.Since(q.refusedAt) > time.Second {
		q.handOver(switchRequest{why: why})
	}
}

// look notes when the lease has run out and when it is back.
func (q *quorum) look() {
	n := q.n
	over := n.getRole() == replication.RoleActive && !q.rules.Handing() && n.engine.LeaseOver()
	if over == q.muted {
		return
	}
	q.muted = over
	if over {
		n.log.Warn("silent: neither the witness nor the peer answers, so the standby may have taken over")
		return
	}
	if n.getRole() == replication.RoleActive {
		n.announce() // neighbours may have lost us meanwhile
		n.log.Warn("no longer silent: the quorum is back")
	}
}

// conflict is told when somebody else announces one of our addresses. The voters know
// who is active, so it is never a reason to give way.
func (q *quorum) conflict(c tun.Conflict) {
	q.n.claimed(c)
	q.n.defend(c)
}
