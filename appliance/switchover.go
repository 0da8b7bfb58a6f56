package appliance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lockstep/replication"
	"lockstep/replication/roles"
)

// A hand-over is a takeover that nobody has to detect. The active falls silent, lets
// the standby confirm what is on its way, and lets it take over: with a witness it asks
// the voters to let it claim, without one it says that it is active no more, and goes on if
// nobody has taken over.

// drainLimit bounds how long a muted active waits for the standby to confirm what is on
// its way. Nothing is lost if it does not: it was not acknowledged either.
const drainLimit = 100 * time.Millisecond

// handOnTime is for how long an active that hands over gives what still arrives here to the
// standby: longer than the neighbours take to know that one.
const handOnTime = time.Second

// passHereTime is for how long one that is about to fall silent has nothing passed on in its place (networks.steering: flows).
const passHereTime = time.Second

// handOver is one under way.
type handOver struct {
	reply   chan<- error    // nil: nobody waits
	drained <-chan struct{} // closed when what was on its way is confirmed; nil once that was seen
}

func (h *handOver) done(err error) {
	if h.reply != nil {
		h.reply <- err // has room
	}
}

// switchRequest asks the role loop for a hand-over.
type switchRequest struct {
	why   string
	reply chan<- error // capacity 1, or nil
}

// Switchover implements control.Provider: it hands over to the standby and returns
// when that is active.
func (n *Node) Switchover(ctx context.Context) error {
	reply := make(chan error, 1)
	select {
	case n.switchovers <- switchRequest{why: "asked for by the operator", reply: reply}:
	case <-ctx.Done():
		return fmt.Errorf("ask for a switchover: %w", ctx.Err())
	}
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for the standby to become active: %w", ctx.Err())
	}
}

// mayHandOver says why not, if not.
func (n *Node) mayHandOver() error {
	switch {
	case n.getRole() != replication.RoleActive:
		return fmt.Errorf("this appliance is %s, not active: ask the active one", roleName(n.getRole()))
	case n.sess == nil:
		return errors.New("no standby is connected")
	case !n.journal.inSync():
		return errors.New("the standby is not in sync: a switchover would lose connections (see `lockstep status`)")
	}
	return nil
}

// maySwitchOver is mayHandOver for an operator, who can wait until all is well.
func (n *Node) maySwitchOver(r switchRequest) error {
	err := n.mayHandOver()
	if err == nil && r.reply != nil {
		if err = n.takeoverWorks(); err != nil {
			err = fmt.Errorf("a switchover would lose connections: %w (stopping this appliance hands over all the same)", err)
		}
	}
	return err
}

// handedOver tells who asked for a hand-over that the peer says it is active, so that
// they find it so when they look.
func (n *Node) handedOver() { n.notHandedOver(nil) }

// notHandedOver tells them that it is not.
func (n *Node) notHandedOver(err error) {
	if n.handed != nil {
		n.handed <- err // has room
		n.handed = nil
	}
}

// consider hands over if the standby can serve and we cannot.
func (l *roleLoop) consider() {
	if why, should := l.n.shouldHandOver(); should && l.handing == nil && time.Since(l.declinedAt) > time.Second {
		l.handOver(switchRequest{why: why})
	}
}

// handOver begins a hand-over.
func (l *roleLoop) handOver(r switchRequest) {
	n, h := l.n, &handOver{reply: r.reply}
	err := n.maySwitchOver(r)
	if err == nil {
		n.engine.PassHere(passHereTime)
		n.engine.HandOn(handOnTime)
		err = l.rules.HandOver(n.journal.now())
	}
	if err != nil {
		h.done(err)
		return
	}
	n.log.Info("handing over to the standby", "why", r.why)
	h.drained = n.journal.drainAsync(drainLimit)
	l.handing = h
}

// drained is closed when the hand-over under way may go on; nil if there is none.
func (l *roleLoop) drained() <-chan struct{} {
	if l.handing == nil {
		return nil
	}
	return l.handing.drained
}

// yield lets the standby take over.
func (l *roleLoop) yield() {
	now := l.n.journal.now()
	l.handing.drained = nil
	if err := l.rules.Drained(now); err != nil {
		l.rules.Declined(now, err)
	}
}

// declined tells whoever asked for the hand-over under way, if one is, that it has come to
// nothing.
func (l *roleLoop) declined(why error) {
	if h := l.handing; h != nil {
		l.handing, l.declinedAt = nil, time.Now()
		h.done(fmt.Errorf("%w; this appliance goes on as the active", why))
	}
}

// answerLate answers who asked for a hand-over that the voters have decided, though the
// peer does not say it yet.
func (l *roleLoop) answerLate() {
	if n := l.n; n.voter != nil && time.Since(l.handedAt) > time.Duration(roles.HandOverLimit) {
		n.handedOver()
	}
}
