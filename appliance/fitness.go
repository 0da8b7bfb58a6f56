package appliance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"lockstep/appliance/config"
	"lockstep/replication"
	"lockstep/tun"
)

// An appliance is fit while both its networks are up: the carrier is there, and one of
// the hosts that should always answer does (networks.*.reach). An active that is not,
// hands over to a standby that is: its clients or its servers cannot reach it, but
// nothing has died that anybody else could notice.

// fitness is of the role loop.
type fitness struct {
	events      <-chan tun.LinkEvent
	front, back <-chan bool // whether hosts are reached; nil: nobody is asked
	down        []string    // what is not as it should be, in words
}

// reachPeriods is how many pings in a row must go unanswered.
const reachPeriods = 3

// watchLinks begins to follow the two networks' interfaces.
func (n *Node) watchLinks(ctx context.Context) {
	names := []string{n.cfg.Networks.Front.Interface, n.cfg.Networks.Back.Interface}
	events, err := tun.WatchLinks(ctx, names)
	if err != nil {
		n.log.Warn("links are not watched: a cable that is pulled does not cause a hand-over", "err", err)
		return
	}
	n.fitness.events = events
}

// watchReach begins to ask the hosts of a network; the result is nil if there are none.
func (n *Node) watchReach(undo *closers, net *config.Network) (<-chan bool, error) {
	if len(net.Reach) == 0 {
		return nil, nil
	}
	period := n.cfg.Pair.FailureTimeout
	r, err := tun.WatchReach(tun.ReachConfig{Interface: net.Interface, Targets: net.Reach, Period: period, Timeout: reachPeriods * period})
	if err != nil {
		return nil, err
	}
	undo.add("reach", func() error { r.Close(); return nil })
	return r.Events(), nil
}

// onReach notes whether the hosts behind an interface answer.
func (n *Node) onReach(iface string, reached bool) {
	n.note("nobody answers on "+iface, reached)
}

// onLink notes a change. It reports whether an active should hand over.
func (n *Node) onLink(e tun.LinkEvent, ok bool) {
	if !ok {
		n.fitness.events = nil
		return
	}
	n.note(e.Name+" has no carrier", e.Exists && e.Carrier)
}

// cutOff reports that neither network works here.
func (f *fitness) cutOff(front, back string) bool {
	bad := func(name string) bool {
		return slices.ContainsFunc(f.down, func(fault string) bool {
			return strings.HasPrefix(fault, name+" ") || strings.HasSuffix(fault, " "+name)
		})
	}
	return bad(front) && bad(back)
}

// note adds a fault or takes it back, and tells the peer.
func (n *Node) note(fault string, mended bool) {
	f := &n.fitness
	i := slices.Index(f.down, fault)
	switch {
	case mended && i >= 0:
		f.down = slices.Delete(f.down, i, i+1)
		n.log.Info("network is back", "fault", fault)
	case !mended && i < 0:
		f.down = append(f.down, fault)
		n.log.Warn("network is down", "fault", fault)
	default:
		return
	}
	fit := len(f.down) == 0
	n.journal.with(func(c *replication.Core, _ replication.Nanos) { c.SetFit(fit) })
}

// lookPeriod is how often an active that is not fit looks whether its standby is.
const lookPeriod = 100 * time.Millisecond

// shouldHandOver tells why an active should hand over, if it should.
func (n *Node) shouldHandOver() (why string, should bool) {
	if len(n.fitness.down) == 0 || n.mayHandOver() != nil || !n.journal.peerFit() {
		return "", false
	}
	return fmt.Sprintf("%s here, all is well at the standby", strings.Join(n.fitness.down, ", ")), true
}
