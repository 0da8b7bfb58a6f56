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
	left  int
}

// For so long after a network's return the kernel is made to ask at once.
const (
	askNeighboursEvery = 100 * time.Millisecond
	askNeighboursTimes = 20
)

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

// askNeighbours makes the kernel ask, when there is a packet for them, for the neighbours
// that it has not found.
func (n *Node) askNeighbours() {
	c := &n.fitness.comeback
	if c.left == 0 || n.getRole() != replication.RoleActive {
		return
	}
	c.left--
	if err := tun.ForgetUnresolved(n.cfg.Networks.Front.Interface, n.cfg.Networks.Back.Interface); err != nil {
		n.log.Warn("a network is back; the kernel may take a second to ask for its neighbours again", "err", err)
		c.left = 0
	}
	if c.timer == nil {
		c.timer = time.NewTimer(askNeighboursEvery)
		return
	}
	c.timer.Reset(askNeighboursEvery)
}

// networkBack makes the connections move again, if the fault that is no more was a
// network's, and we have stayed active: what was sent meanwhile is lost.
func (n *Node) networkBack(source string, away time.Duration) {
	switch source {
	case faultsOfFront, faultsOfBack:
	case faultsOfHosts + n.cfg.Networks.Front.Interface, faultsOfHosts + n.cfg.Networks.Back.Interface:
		away += reachPeriods * n.cfg.Pair.FailureTimeout // so long nobody had answered by then
	default:
		return
	}
	if n.getRole() != replication.RoleActive {
		return
	}
	n.fitness.comeback.left = askNeighboursTimes
	n.askNeighbours()
	n.engine.Resume(away)
}
