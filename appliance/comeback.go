package appliance

import (
	"time"

	"lockstep/replication"
	"lockstep/tun"
)

// comeback is what follows the return of a network. The kernel has asked it for its
// neighbours in vain, and would ask again a second later only. What it asks at the very
// first may be lost, too: a switch's port needs a moment.
type comeback struct {
	timer *time.Timer
	back  map[string]*backNetwork // by interface
}

type backNetwork struct {
	since time.Time
	asked int // times
}

// askNeighbours is when, after a network's return, the kernel is made to ask, and for whom: for
// those for whom it has waited so long. Not more often: whoever sends to somebody that it is
// made to forget gets an error, and some neighbours take their time to answer.
var askNeighbours = []struct{ after, waited time.Duration }{
	{0, 0},
	{200 * time.Millisecond, 150 * time.Millisecond},
	{600 * time.Millisecond, 300 * time.Millisecond},
}

// begins takes the return of a network.
func (c *comeback) begins(name string, now time.Time) {
	if c.back == nil {
		c.back = map[string]*backNetwork{}
	}
	c.back[name] = &backNetwork{since: now}
}

// next takes the interfaces on which the kernel is to be made to ask now, and for how long it
// must have waited for an answer; and when there is more to do, if there is.
func (c *comeback) next(now time.Time) (ask map[string]time.Duration, again time.Time) {
	ask = map[string]time.Duration{}
	for name, b := range c.back {
		if step := askNeighbours[b.asked]; now.Sub(b.since) >= step.after {
			ask[name] = step.waited
			b.asked++
		}
		if b.asked == len(askNeighbours) {
			delete(c.back, name)
			continue
		}
		if at := b.since.Add(askNeighbours[b.asked].after); again.IsZero() || at.Before(again) {
			again = at
		}
	}
	return ask, again
}

func (c *comeback) due() <-chan time.Time {
	if c.timer == nil {
		return nil
	}
	return c.timer.C
}

func (c *comeback) stop() {
	if c.timer != nil {
		c.timer.Stop()
	}
}

// askAgain makes the kernel ask, when there is a packet for them, for the neighbours that it
// has not found.
func (n *Node) askAgain() {
	c := &n.fitness.comeback
	if n.getRole() != replication.RoleActive {
		clear(c.back)
		return
	}
	now := time.Now()
	ask, again := c.next(now)
	for name, waited := range ask {
		if err := tun.ForgetUnresolved(name, waited); err != nil {
			n.log.Warn("a network is back; the kernel may take a second to ask for its neighbours again", "err", err)
		}
	}
	switch {
	case again.IsZero():
	case c.timer == nil:
		c.timer = time.NewTimer(again.Sub(now))
	default:
		c.timer.Reset(again.Sub(now))
	}
}

// networkBack makes the connections move again, if the fault that is no more was a
// network's, and we have stayed active: what was sent meanwhile is lost.
func (n *Node) networkBack(source string, away time.Duration) {
	name := ""
	for _, back := range []struct{ faults, name string }{
		{faultsOfFront, n.cfg.Networks.Front.Interface},
		{faultsOfBack, n.cfg.Networks.Back.Interface},
	} {
		switch source {
		case back.faults:
			name = back.name
		case faultsOfHosts + back.name:
			name = back.name
			away += reachPeriods * n.cfg.Pair.FailureTimeout // so long nobody had answered by then
		}
	}
	if name == "" || n.getRole() != replication.RoleActive {
		return
	}
	n.fitness.comeback.begins(name, time.Now())
	n.askAgain()
	n.engine.Resume(away)
}
