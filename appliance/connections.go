package appliance

import (
	"cmp"
	"slices"

	"lockstep/appliance/control"
	"lockstep/appliance/relay"
)

// FindConnections implements control.Provider.
func (n *Node) FindConnections(q control.ConnectionQuery) control.ConnectionList {
	l := control.ConnectionList{Role: roleName(n.getRole()), Connections: []control.Connection{}}
	if q.Exactly.IsValid() {
		if v, ok := n.relay.Find(q.Exactly); ok {
			l.Matched, l.Connections = 1, append(l.Connections, connectionOf(v))
		}
		return l
	}
	order := func(a, b relay.View) int { return cmp.Compare(a.ID, b.ID) }
	switch q.Sort {
	case control.OrderIdle:
		order = func(a, b relay.View) int { return cmp.Or(cmp.Compare(b.Idle, a.Idle), cmp.Compare(a.ID, b.ID)) }
	case control.OrderNewest:
		order = func(a, b relay.View) int { return cmp.Compare(b.ID, a.ID) }
	}
	// Of a million those are kept that are first: whenever there are twice as many as wanted the others are left out.
	var first []relay.View
	trim := func() {
		slices.SortFunc(first, order)
		first = first[:min(len(first), q.Limit)]
	}
	l.Busy = n.relay.Views(func(v relay.View) {
		if !matches(q, v) {
			return
		}
		l.Matched++
		if first = append(first, v); len(first) >= 2*q.Limit {
			trim()
		}
	})
	trim()
	for _, v := range first {
		l.Connections = append(l.Connections, connectionOf(v))
	}
	l.Resting = n.relay.Resting()
	return l
}

func matches(q control.ConnectionQuery, v relay.View) bool {
	return (q.Service == "" || q.Service == v.Service) && (q.State == "" || q.State == v.Phase) && (q.Path == "" || q.Path == v.Path) &&
		(!q.Client.IsValid() || q.Client.Contains(v.Client.Addr()))
}

func connectionOf(v relay.View) control.Connection {
	c := control.Connection{
		ID: uint64(v.ID), Service: v.Service, Client: v.Client.String(), Listen: v.Listen.String(), State: v.Phase, Path: v.Path,
		Protected: v.Protected, AgeMicros: v.Age.Microseconds(), IdleMicros: v.Idle.Microseconds(), WaitsFor: v.WaitsFor, Text: v.Text,
	}
	if v.Server.IsValid() {
		c.Server = v.Server.String()
	}
	return c
}
