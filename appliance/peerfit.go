package appliance

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"lockstep/appliance/control"
	"lockstep/replication"
	"lockstep/replication/wire"
)

// What the peer has said of its fitness, and what follows for "in sync": a takeover now
// would work.

// peerFitness is the peer's side of a session.
type peerFitness struct {
	said  wire.Fitness
	known bool // it has said something; an older one never does
	owed  bool // it has not yet, but will
	// lacking is what a takeover would lose because the two are configured differently.
	lacking []string
	// harmless are further differences, by which a takeover loses nothing.
	harmless []string
}

func (j *journal) peerFitness() (p peerFitness) {
	j.shell.Look(func(c *replication.Core) {
		p.said, p.known = c.PeerFitness()
		p.owed = c.FitnessOwed()
	})
	return p
}

func (n *Node) peerFitness() peerFitness {
	p := n.journal.peerFitness()
	switch {
	case !p.known:
	case n.getRole() == replication.RoleStandby:
		p.lacking, p.harmless = compare(p.said.Services, n.fitness.services)
	default:
		p.lacking, p.harmless = compare(n.fitness.services, p.said.Services)
	}
	return p
}

// onPeerFitness logs what has changed of the peer's fitness; of watchFitness's
// goroutine.
func (n *Node) onPeerFitness() {
	p := n.peerFitness()
	old := n.fitness.logged
	for _, fault := range p.said.Faults {
		if !slices.Contains(old, fault) {
			n.log.Warn("the peer cannot serve", "fault", fault)
		}
	}
	for _, what := range p.lacking {
		if !slices.Contains(old, what) {
			n.log.Warn("the two appliances are configured differently: a takeover would lose connections", "what", what)
		}
	}
	for _, what := range p.harmless {
		if !slices.Contains(old, what) {
			n.log.Warn("the two appliances are configured differently: what begins after a takeover is served otherwise", "what", what)
		}
	}
	now := slices.Concat(p.said.Faults, p.lacking, p.harmless)
	for _, what := range old {
		if !slices.Contains(now, what) {
			n.log.Info("what the peer lacked or had otherwise is over", "what", what)
		}
	}
	n.fitness.logged = now
	nudge(n.fitness.changed)
}

// takeoverWorks says why a takeover now would not work, if it would not: the side that
// is the standby cannot serve, or would not know what it took over.
func (n *Node) takeoverWorks() error {
	p := n.peerFitness()
	if n.getRole() == replication.RoleStandby {
		if faults := n.fitness.reasons(); len(faults) > 0 {
			return fmt.Errorf("this standby could not serve: %s", strings.Join(faults, "; "))
		}
	} else {
		switch {
		case len(p.said.Faults) > 0:
			return fmt.Errorf("the standby could not serve: %s", strings.Join(p.said.Faults, "; "))
		case !n.journal.peerFit(): // an older one, which does not say why
			return errors.New("the standby could not serve: one of its networks is down")
		}
	}
	switch {
	case p.owed:
		return errors.New("the peer has not said yet whether it could serve")
	case len(p.lacking) > 0:
		return fmt.Errorf("the two are configured differently: %s", strings.Join(p.lacking, "; "))
	}
	return nil
}

// statusFitness corrects in_sync for what the core does not know.
func (n *Node) statusFitness(s *control.Status) {
	p := n.peerFitness()
	s.Fitness = control.Fitness{
		Faults: n.fitness.reasons(), PeerFaults: p.said.Faults, PeerKnown: p.known, Differences: p.lacking,
		HarmlessDifferences: p.harmless, Repairs: n.routes.Repairs(),
	}
	if !s.InSync {
		return
	}
	switch err := n.takeoverWorks(); {
	case err != nil:
		s.InSync, s.WhyNotInSync = false, err.Error()
	case s.Role == control.RoleActive && len(s.Fitness.Faults) > 0:
		// A takeover would work, but it has not happened.
		s.InSync, s.WhyNotInSync = false, "this appliance cannot serve: "+strings.Join(s.Fitness.Faults, "; ")
	}
}
