package appliance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lockstep/replication"
)

// A hand-over is a takeover that nobody has to detect. The active falls silent, lets
// the standby confirm what is on its way, and asks the voters to let it claim.

var errNotClaimed = errors.New("the standby did not take over in time")

// handOver is one under way.
type handOver struct {
	reply   chan<- error
	begun   time.Time
	drained <-chan struct{}  // closed when what was on its way is confirmed; nil once that was seen
	late    <-chan time.Time // fires when the standby has had its time; nil before it was asked
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
func (n *Node) handedOver() {
	if n.handed != nil {
		n.handed <- nil // has room
		n.handed = nil
	}
}

// handOver begins a hand-over.
func (q *quorum) handOver(r switchRequest) {
	n := q.n
	h := &handOver{reply: r.reply, begun: time.Now()}
	if err := n.maySwitchOver(r); err != nil {
		h.done(err)
		return
	}
	if err := q.rules.HandOver(); err != nil {
		h.done(err)
		return
	}
	n.log.Info("handing over to the standby", "why", r.why)
	h.drained = n.journal.drainAsync(drainLimit)
	q.handing = h
}

// drained is closed when the hand-over under way may go on; nil if there is none.
func (q *quorum) drained() <-chan struct{} {
	if q.handing == nil {
		return nil
	}
	return q.handing.drained
}

// late fires when the standby should have claimed; nil if nothing is waited for.
func (q *quorum) late() <-chan time.Time {
	if q.handing == nil {
		return nil
	}
	return q.handing.late
}

// yield lets the standby claim.
func (q *quorum) yield() {
	h := q.handing
	h.drained, h.late = nil, time.After(handOverLimit)
	if err := q.rules.Drained(); err != nil {
		q.refused(err)
	}
}

// refused is where the standby has not claimed. The voter gives us no lease before
// it is certain that it will not.
func (q *quorum) refused(why error) {
	n, h := q.n, q.handing
	q.handing, q.refusedAt = nil, time.Now()
	q.rules.Refused()
	n.log.Warn("the standby did not take over; going on", "err", why)
	h.done(fmt.Errorf("%w; this appliance goes on as the active", why))
}
