package appliance

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"lockstep/appliance/adapter"
	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/appliance/health"
	"lockstep/appliance/kept"
	"lockstep/appliance/orders"
	"lockstep/appliance/pool"
	"lockstep/appliance/relay"
	"lockstep/internal/loglimit"
	"lockstep/stack"
)

// The servers of the services: whether they live, and what became of connections
// that outlived one.

// servers is what a service's servers are watched with.
type servers struct {
	prober *health.Prober // nil: not probed
	canary *health.Canary // of services whose connections outlive their servers; nil: none
	used   chan struct{}  // cap 1: a server has accepted a client's connection
	mu     sync.Mutex     // leaf
	last   control.Kept   // its fields that tell of the last failover
}

// policies are the values of `balance`.
var policies = map[config.Balance]pool.Policy{
	config.BalanceFirst: pool.First{}, config.BalanceTurn: pool.RoundRobin{}, config.BalanceLeast: pool.LeastConnections{}, config.BalanceHash: pool.SourceHash{},
}

// poolConfig is what the pool of a service is made with, and changed to while it runs: what the file says, and what was ordered since.
func poolConfig(c *config.Service, all []orders.Order) pool.Config {
	p := pool.Config{
		Servers: c.Servers, AnyFamily: c.Source == config.SourceGateway, Retry: c.Health.Interval,
		Policy: policies[c.Balance], Shares: orders.Shares(c, all), SlowStart: c.SlowStart,
	}
	if c.Protection != config.ProtectGateway {
		p.Most = 64 // package kept has a bit for each
	}
	return p
}

// makeServices turns the configuration's services into the relay's.
func (n *Node) makeServices() []*relay.Service {
	var all []*relay.Service
	n.servers = make([]*servers, len(n.cfg.Services))
	for i := range n.cfg.Services {
		c := &n.cfg.Services[i]
		s := &relay.Service{
			Name: c.Name, Listen: c.Listen,
			Pool:          pool.New(poolConfig(c, n.orders.list)),
			SourceGateway: c.Source == config.SourceGateway, Gateways: n.cfg.Networks.Back.Gateway,
			Settings: settings(c), MaxHalfOpen: c.Limits.HalfOpen, MaxSource: c.Limits.HalfOpenSource,
			Pass:   c.Path == config.PathAuto,
			TakeUp: c.SlowClients == config.SlowBuffer,
		}
		s.OnNoPort = func(server netip.AddrPort) {
			n.log.Warn("no port is left for one more connection with a server: clients are turned away (another address in networks.back.gateway gives as many again)",
				"service", s.Name, "server", server, "ports", stack.PortsPerServer, loglimit.Per(s.Name))
		}
		n.servers[i] = &servers{used: make(chan struct{}, 1)}
		if c.Protection != config.ProtectGateway {
			n.keep(s, c, n.servers[i])
		}
		all = append(all, s)
	}
	return all
}

// keep makes the connections of a service outlive their server.
func (n *Node) keep(s *relay.Service, c *config.Service, w *servers) {
	s.Kept, s.Hot = true, c.Protection == config.ProtectHot
	s.ReleaseFirst = s.Hot && c.Release == config.ReleaseFirst
	s.LogLimit, s.Patience = uint64(c.Limits.Log), c.Patience
	if c.Protocol == config.ProtocolHTTP {
		mask, err := adapter.NewMask(adapter.DefaultMask())
		if err != nil {
			panic(err) // a list of our own, which the adapter's tests make, too
		}
		s.NewAdapter = func() adapter.Adapter { return adapter.NewHTTP(mask) }
	}
	s.Ask = func(server int, line uint64, done func(kept.Fate)) {
		n.asks.Add(1)
		go func() {
			defer n.asks.Done()
			done(w.fate(n.probing, server, line))
		}()
	}
	s.OnLoss = func(l kept.Loss) { n.lostServer(s, w, l) }
	s.OnDivergence = func(d kept.Divergence) { n.serverDiverged(s, w, &d) }
}

// fate is what has become of the process that a connection was to. That somebody answers
// comes first: of a process that is being killed it may be its canaries that end last.
func (w *servers) fate(ctx context.Context, server int, line uint64) kept.Fate {
	if w.prober.Now(ctx, server) != nil {
		return kept.Dead
	}
	if w.canary == nil {
		return kept.Unproven
	}
	switch w.canary.Fate(ctx, server, line) {
	case health.Alive:
		return kept.Alive
	case health.Dead:
		return kept.Dead
	}
	return kept.Unproven
}

// lostServer remembers the last failover for the status, and logs each for who debugs.
func (n *Node) lostServer(s *relay.Service, w *servers, l kept.Loss) {
	addr := s.Pool.Addr(l.Server)
	if l.Replaced {
		w.mu.Lock()
		w.last.LastFailover = fmt.Sprintf("%s goes on for connection %d after %v (%s)", addr, l.Conn, l.Took.Round(100*time.Microsecond), l.Why)
		w.last.LastServer, w.last.LastAt, w.last.LastMicros = addr.String(), time.Now(), l.Took.Microseconds()
		w.mu.Unlock()
		n.log.Debug("a server goes on", "service", s.Name, "server", addr, "connection", l.Conn, "took", l.Took, "why", l.Why)
		return
	}
	n.log.Debug("server lost", "service", s.Name, "server", addr, "connection", l.Conn, "source", l.Source, "why", l.Why)
}

// serverDiverged tells what a server has sent that is not what the client has, once per
// server and minute in the log; the status has the newest. One that has only ended short is no such
// server: it may have been killed.
func (n *Node) serverDiverged(s *relay.Service, w *servers, d *kept.Divergence) {
	addr := s.Pool.Addr(d.Server)
	level, msg := slog.LevelWarn, "a server's output differs from what the client has got"
	switch {
	case d.Short:
		level, msg = slog.LevelInfo, "a server that was told a request again has ended before it was where the client is"
	case d.Ended != "":
		msg = "a server that was told a request again does not follow to where the client is"
	}
	if !d.Short {
		w.mu.Lock()
		w.last.LastDivergence = fmt.Sprintf("%s, connection %d: %s", addr, d.Conn, d)
		w.last.DivergedAt = time.Now()
		w.mu.Unlock()
	}
	n.log.Log(context.Background(), level, msg, "service", s.Name, "server", addr, "connection", d.Conn, "offset", d.Offset, "exact", d.Exact,
		"client_has", d.Client, "server_sent", d.Sent, "ended", d.Ended, loglimit.Per(s.Name+" "+addr.String()))
}

// watchServers makes the health checks of all services.
func (n *Node) watchServers(undo *closers) {
	for i, w := range n.servers {
		c, s := &n.cfg.Services[i], n.services[i]
		if c.Health.Off() || !asks(c) {
			continue
		}
		w.prober = health.New(health.Config{Servers: c.Servers, Health: c.Health, Probed: s.Pool.Checked, Wanted: wanted(c, s)}, n.dialServer, func(server int, up bool, why string) {
			if up {
				n.log.Info("server is healthy", "service", c.Name, "server", c.Servers[server])
			} else {
				n.log.Warn("server fails its health check", "service", c.Name, "server", c.Servers[server], "why", why)
			}
		})
		w.prober.Pause()
		w.prober.Start()
		undo.add("health checks", func() error { w.prober.Stop(); return nil })
		s.Pool.Watched(pool.Watch{
			Doubt: w.prober.Doubt,
			Alive: func(server int) { w.prober.Passed(server); nudge(w.used) },
		})
		if s.Kept && c.Health.Canary {
			n.holdCanaries(undo, w, c, s)
		}
	}
}

// asks reports whether the servers of a service are asked at all: something depends on
// the answer, or the operator has named what is to be asked.
func asks(c *config.Service) bool {
	return c.Protection != config.ProtectGateway || c.Health.HTTP != "" || choice(c)
}

// wanted returns what says whether anything depends just now on how the servers are: for
// connections that outlive their server, whether there are any.
func wanted(c *config.Service, s *relay.Service) func() bool {
	if c.Health.HTTP != "" || choice(c) {
		return nil
	}
	return func() bool { return s.Conns() > 0 }
}

// choice reports whether a client can be served by more than one server.
func choice(c *config.Service) bool {
	families := map[bool]int{}
	for _, a := range c.Servers {
		families[a.Addr().Is6() && c.Source == config.SourceClient]++
	}
	return families[false] > 1 || families[true] > 1
}

// probeServers begins or ends the health checks: only the active asks.
func (n *Node) probeServers(on bool) {
	for _, w := range n.servers {
		switch {
		case w.prober == nil:
		case on:
			w.prober.Resume()
		default:
			w.prober.Pause()
		}
		nudge(w.used)
	}
}

// dialServer connects to a server from an address of this machine.
func (n *Node) dialServer(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", a.String())
}

// statusKept sums up what a service's connections have.
func (n *Node) statusKept(s *relay.Service, g *kept.Gauge) *control.Kept {
	c := s.Counts()
	k := &control.Kept{
		Lost: c.Lost, Failovers: c.Failovers, Replays: c.Replays, Switched: c.Switched, Claims: c.Claims,
		Compared: c.Compared, Divergences: c.Diverged, Unverified: c.Unverified, GivenUp: c.GivenUp,
		LogFull: c.LogFull, TooSlow: c.TooSlow, Refused: c.Refused,
	}
	k.Connections, k.LogBytes, k.Replicas, k.InStep = g.Connections, g.LogBytes, g.Replicas, g.InStep
	k.LagBytes, k.Orphans = g.Lag, g.Orphans
	for i := range n.services {
		if n.services[i] == s {
			w := n.servers[i]
			w.mu.Lock()
			k.LastFailover, k.LastServer = w.last.LastFailover, w.last.LastServer
			k.LastAt, k.LastMicros = w.last.LastAt, w.last.LastMicros
			k.LastDivergence, k.DivergedAt = w.last.LastDivergence, w.last.DivergedAt
			w.mu.Unlock()
		}
	}
	return k
}
