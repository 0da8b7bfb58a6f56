package witness

import "lockstep/appliance/voter"

// watch logs what the pair decides, each change once. Voters that come and go are
// logged by the voter's courier.
func (p *pair) watch(quit <-chan struct{}) {
	var old voter.News
	for {
		select {
		case <-quit:
			return
		case n := <-p.voter.News():
			p.note(&old, &n)
			old = n
		}
	}
}

func (p *pair) note(old, n *voter.News) {
	if n.Joined && !old.Joined {
		p.log.Info("takes part in the votes of the pair")
	}
	switch a, b := &old.State, &n.State; {
	case b.Epoch != a.Epoch:
		p.log.Info("an appliance is active", "active", b.Active.Node, "epoch", b.Epoch, "standby", standby(n))
	case a.Standby == b.Standby:
	case b.Standby.None():
		p.log.Warn("the active goes on alone", "active", b.Active.Node, "epoch", b.Epoch, "was_standby", a.Standby.Node)
	default:
		p.log.Info("the standby is in sync", "active", b.Active.Node, "epoch", b.Epoch, "standby", b.Standby.Node)
	}
	switch {
	case n.Quorum && !old.Quorum:
		p.log.Info("in touch with the pair")
	case !n.Quorum && old.Quorum:
		p.log.Warn("no appliance of the pair is heard")
	}
}

func standby(n *voter.News) string {
	if n.State.Standby.None() {
		return "none"
	}
	return n.State.Standby.Node
}
