package appliance

import (
	"fmt"
	"maps"
	"time"

	"lockstep/appliance/control"
	"lockstep/appliance/kept"
	"lockstep/replication"
	"lockstep/replication/transport"
)

// takeoverReport is what is remembered of the last takeover.
type takeoverReport struct {
	At          time.Time // when the loss of the active was known
	Why         string
	Connections int           // continued
	Lost        int           // held, but not continued
	Answering   time.Duration // from At until all connections could answer and were announced
	Rebuilt     time.Duration // from At until the last leg had its endpoint
}

func (n *Node) noteTakeover(t takeoverReport) {
	n.takeMu.Lock()
	n.takeovers++
	n.last = t
	n.takeMu.Unlock()
}

// Status implements control.Provider.
func (n *Node) Status() control.Status {
	st := n.journal.stats()
	s := control.Status{
		Version: control.Version(), Node: n.cfg.Node, Pair: n.cfg.Pair.Name,
		Role: roleName(n.getRole()), Epoch: st.Epoch, Since: time.Unix(0, n.since.Load()),
		InSync: st.InSync, WhyNotInSync: st.Why,
		Snapshot:  control.Snapshot{Done: st.SnapshotDone, Total: st.SnapshotTotal},
		Lag:       control.Lag{Bytes: st.LagBytes, Batches: st.Outstanding},
		RTTMicros: int64(st.RTT / 1000),
		Drops:     n.drops(&st),
	}
	if st.OldestUnconfirmed > 0 {
		s.Lag.Micros = max(0, int64(n.journal.now()-st.OldestUnconfirmed)/1000)
	}
	n.statusPeer(&s)
	n.statusQuorum(&s)
	n.statusFitness(&s)
	n.statusSteering(&s)
	n.statusTiming(&s)
	n.statusConnections(&s, &st)
	if _, ok := n.cfg.Decides(); ok {
		s.Wrapped = &control.Wrapped{Servers: n.authority.Servers(), Lives: st.Lives, DecidedBytes: uint64(st.DecidedBytes)}
	}
	n.statusTakeovers(&s)
	n.statusLoss(&s)
	for i, svc := range n.services {
		c := control.Service{
			Name: svc.Name, Protection: string(n.cfg.Services[i].Protection), Path: string(n.cfg.Services[i].Path), Balance: string(n.cfg.Services[i].Balance),
			Connections: svc.Conns(), Spliced: svc.Passed(), Parked: svc.Parked(),
		}
		c.Terminated = max(c.Connections-c.Spliced, 0)
		c.TakenUp, c.TakeGivenUp = svc.TakenUp()
		for _, l := range svc.Listen {
			c.Listen = append(c.Listen, l.String())
		}
		var g kept.Gauge
		if svc.Kept && n.getRole() == replication.RoleActive {
			g = n.relay.Gauge(svc)
			c.Kept = n.statusKept(svc, &g)
		}
		for _, server := range svc.Pool.Status() {
			c.Servers = append(c.Servers, control.Backend{
				Addr: server.Addr.String(), Healthy: server.Up, Checked: server.Known, Why: server.Why,
				Connections: server.Conns, Weight: server.Share.Weight, Backup: server.Share.Backup,
				State: stateOf(&server), Beside: g.BesideOf(server.Number),
			})
		}
		s.Services = append(s.Services, c)
	}
	return s
}

// inShort is what a service manager shows. It takes the way of the whole status, so that who
// waits for it in vain knows that this appliance hangs.
func (n *Node) inShort() string {
	s := n.Status()
	sync := "in sync"
	if !s.InSync {
		sync = "not in sync: " + s.WhyNotInSync
	}
	return fmt.Sprintf("%s, epoch %d, %s", s.Role, s.Epoch, sync)
}

func roleName(r replication.Role) string {
	switch r {
	case replication.RoleActive:
		return control.RoleActive
	case replication.RoleStandby:
		return control.RoleStandby
	}
	return control.RoleStarting
}

func (n *Node) statusPeer(s *control.Status) {
	if n.link == nil {
		s.WhyNotInSync = "configured alone: no peer"
		return
	}
	name := n.peerName()
	ls := n.link.Stats()
	s.Peer = control.Peer{Name: name, Address: n.cfg.Pair.Members[name].String(), Connected: ls.Connected}
	if !ls.Connected {
		s.Peer.Why = "not reached"
		if ls.LastRefusal != "" {
			s.Peer.Why = ls.LastRefusal
		}
	}
	if !s.InSync && s.WhyNotInSync == "" {
		s.WhyNotInSync = "no standby"
	}
}

// statusQuorum says what the voters have agreed on. With a witness, in sync means
// that it knows, too: before that the standby could not take over.
func (n *Node) statusQuorum(s *control.Status) {
	if n.voter == nil {
		return
	}
	v := n.voter.Stats()
	st := v.News.State
	q := &control.Quorum{
		Leader: v.News.Leader, Heard: v.News.Quorum, Active: st.Active.Node, Standby: st.Standby.Node, Epoch: st.Epoch,
		Silent: s.Role == control.RoleActive && n.engine.LeaseOver(),
	}
	for _, voter := range v.Courier.Voters {
		if _, appliance := n.cfg.Pair.Members[voter.Peer.Node]; !appliance {
			q.Witness = q.Witness || voter.Connected
		}
	}
	s.Quorum = q
	switch {
	case q.Silent:
		s.InSync, s.WhyNotInSync = false, "silent: neither the witness nor the peer answers, so the lease is over"
	case s.Role == control.RoleStarting && !st.Active.None():
		s.WhyNotInSync = fmt.Sprintf("no role yet: %s may hold connections, and is waited for (pair.start_empty_after)", st.Active.Node)
	case s.InSync && st.Standby.None():
		s.InSync, s.WhyNotInSync = false, "the witness has not agreed yet that the standby may take over"
	}
}

func (n *Node) statusConnections(s *control.Status, st *replication.Stats) {
	open, _, _ := n.relay.Counts()
	s.Memory = control.Memory{BufferedBytes: memoryOf(n.engine.Buffered()), Limit: uint64(n.cfg.Limits.Memory)}
	s.Connections = control.Connections{
		Open: open, Protected: st.Protected, Unprotected: st.Unprotected,
		HalfOpen: n.engine.HalfOpen(), Tombstones: n.engine.Tombstones(),
		CookiesSent: n.engine.C.CookiesSent.Load(), CookiesAccepted: n.engine.C.CookiesAccepted.Load(),
		HandedOn: n.engine.C.HandedOn.Load(), Held: n.engine.C.Held.Load(),
	}
	if n.getRole() == replication.RoleStandby {
		s.Connections.Open, s.Connections.Tombstones = st.Connections, st.Tombstones
		s.Memory.BufferedBytes = st.HeldBytes
	}
}

func (n *Node) statusTakeovers(s *control.Status) {
	n.takeMu.Lock()
	defer n.takeMu.Unlock()
	s.Takeovers = uint64(n.takeovers)
	if n.takeovers > 0 {
		s.LastTakeover = &control.Takeover{
			At: n.last.At, Why: n.last.Why, Connections: n.last.Connections, Legs: 2 * n.last.Connections,
			Lost: n.last.Lost, DurationMicros: n.last.Rebuilt.Microseconds(),
		}
	}
}

// drops merges the reasons of all parts; zero counts are left out.
func (n *Node) drops(st *replication.Stats) map[string]uint64 {
	m := n.engine.C.Drops()
	for r := replication.Reason(0); r < replication.NumReasons; r++ {
		if c := st.Drops[r]; c > 0 {
			m["sync-"+r.String()] = c
		}
	}
	if c := n.relay.Stuck(); c > 0 {
		m["stuck"] = c
	}
	if n.filter != nil {
		maps.Copy(m, n.filter.Refused())
	}
	if n.link != nil {
		for reason, c := range n.link.Stats().Refused {
			// When both have dialled at once one of the two is closed: as it should be.
			if reason != string(transport.RefusedDuplicate) {
				m["sync-refused-"+reason] = c
			}
		}
	}
	return m
}
