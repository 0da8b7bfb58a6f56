package appliance

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"lockstep/appliance/control"
	"lockstep/replication"
)

// lossReport is what is remembered of a start without connections, when somebody held
// some.
type lossReport struct {
	At    time.Time
	Why   string
	Known map[string]int // connections that this appliance knew of before, by service; nil: of none
}

// held counts the connections that this appliance has, or holds for its active, by
// service.
func (n *Node) held() map[string]int {
	if n.getRole() == replication.RoleStandby {
		return n.journal.heldServices()
	}
	m := map[string]int{}
	for _, s := range n.services {
		if c := s.Conns(); c > 0 {
			m[s.Name] = c
		}
	}
	return m
}

// noteLoss tells that this appliance starts without the connections that somebody held.
func (n *Node) noteLoss(why string) {
	r := lossReport{At: time.Now(), Why: why, Known: n.forgotten}
	n.takeMu.Lock()
	n.lost = &r
	n.takeMu.Unlock()
	n.log.Warn("started without connections: those that the former active had are lost", "why", why, "known", r.known())
}

// known says in words how many were lost, as far as this appliance knows.
func (r *lossReport) known() string {
	if r.Known == nil {
		return "how many is not known: this appliance has seen none of them"
	}
	total, parts := 0, []string{}
	for _, name := range slices.Sorted(maps.Keys(r.Known)) {
		total += r.Known[name]
		parts = append(parts, fmt.Sprintf("%d of %s", r.Known[name], name))
	}
	text := fmt.Sprintf("%d when this appliance last knew", total)
	if total > 0 {
		text += " (" + strings.Join(parts, ", ") + ")"
	}
	return text
}

func (n *Node) statusLoss(s *control.Status) {
	n.takeMu.Lock()
	defer n.takeMu.Unlock()
	if r := n.lost; r != nil {
		s.LastLoss = &control.Loss{At: r.At, Why: r.Why, Services: r.Known, Text: r.known()}
		for _, c := range r.Known {
			s.LastLoss.Connections += c
		}
	}
	if at := n.startsEmpty.Load(); at > 0 && !s.InSync {
		left := max(0, time.Duration(at)-time.Duration(n.journal.now())).Round(100 * time.Millisecond)
		s.WhyNotInSync = fmt.Sprintf("no role yet: looking for whoever may hold connections; starts without them in %v (pair.start_empty_after)", left)
	}
}
