package storm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
	"lockstep/internal/pair"
)

// Three more services have servers that are processes of their own, one on each of the two servers'
// hosts, so that they can die. Connections with log and hot outlive them.
const (
	mortalPort = 83 // protection gateway
	logPort    = 84
	hotPort    = 85
)

// mayDie tells whether a service's servers are those processes.
func mayDie(port int) bool { return port >= mortalPort }

// kept tells whether a service's connections outlive their servers.
func kept(port int) bool { return port > mortalPort }

const serverDied = "its server died (protection gateway)"

// servers are the processes, by host.
type servers struct {
	storm *storm
	procs []*lab.RoleProc
}

// startServers starts one on each host.
func startServers(ctx context.Context, s *storm) (*servers, error) {
	all := &servers{storm: s, procs: make([]*lab.RoleProc, len(s.pair.Servers))}
	for i := range all.procs {
		if err := all.start(ctx, i); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// start starts the one on the i-th host, and waits until it listens.
func (a *servers) start(ctx context.Context, i int) error {
	args := traffic.ServerArgs{HTTP: true, Patience: 2 * patience}
	for _, port := range []uint16{mortalPort, logPort, hotPort} {
		for _, v6 := range []bool{false, true} {
			args.Listen = append(args.Listen, a.storm.pair.ServerAddr(i, v6, port).String())
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute) // on a busy machine
	defer cancel()
	p, err := a.storm.pair.Servers[i].Go(traffic.ServerRole, args)
	if err == nil {
		var listens traffic.ServerEvent
		err = p.Next(ctx, &listens)
	}
	if err != nil {
		return fmt.Errorf("start the server on s%d: %w", i+1, err)
	}
	a.procs[i] = p
	return nil
}

// restart starts the one on the i-th host, which was killed, again.
func (a *servers) restart(ctx context.Context, i int) error {
	<-a.procs[i].Done()
	return a.start(ctx, i)
}

// services are those of the checked load: servers see the clients' addresses, or the gateway's; and
// those whose servers die.
func (o *options) services() (all []config.Service) {
	probed := func(path string) config.Health {
		return config.Health{Interval: time.Second, Timeout: 800 * time.Millisecond, HTTP: path, TCP: path == "", Canary: true}
	}
	for _, svc := range []struct {
		name string
		port int
		set  func(*config.Service)
	}{
		{"by-client", clientPort, func(s *config.Service) { s.Source = config.SourceClient }},
		{"by-gateway", gatewayPort, func(s *config.Service) { s.Source = config.SourceGateway }},
		{"mortal", mortalPort, func(s *config.Service) { s.Health = probed("") }},
		{"log", logPort, func(s *config.Service) { s.Protection, s.Health = config.ProtectLog, probed("/") }},
		{"hot", hotPort, func(s *config.Service) { s.Protection, s.Health = config.ProtectHot, probed("/") }},
	} {
		if mayDie(svc.port) && !o.servers {
			continue
		}
		var list []string
		for i := range 2 {
			if i == 0 || mayDie(svc.port) {
				list = append(list, fmt.Sprintf("10.20.0.%d:%d", 11+i, svc.port), fmt.Sprintf("[fd20::%d]:%d", 11+i, svc.port))
			}
		}
		s := pair.Service(svc.name, []string{fmt.Sprintf("%s:%d", lab.VIP4, svc.port), fmt.Sprintf("[%s]:%d", lab.VIP6, svc.port)}, list)
		svc.set(&s)
		all = append(all, s)
	}
	if o.real {
		all = append(all, pair.Service("web", []string{fmt.Sprintf("%s:%d", lab.VIP4, webPort)}, []string{fmt.Sprintf("10.20.0.12:%d", serverPort)}))
	}
	pair.SetPath(all, config.Path(o.path))
	for i := range all {
		if o.slow != "" && all[i].Protection == config.ProtectGateway {
			all[i].SlowClients = config.SlowClients(o.slow)
		}
	}
	return all
}

// drawServer: a server's process dies, or stops; its cable is pulled; its host loses its power.
func drawServer(rng *rand.Rand, _ *options) *fault {
	i, way := rng.IntN(2), pick(rng, "kill", "kill", "freeze", "cable", "power")
	f := &fault{What: fmt.Sprintf("server s%d: %s", i+1, way), Length: length(rng)}
	plug := func(s *storm, in bool) error { return s.pair.Back.PortOf(s.pair.Servers[i]).SetLink(in) }
	dies := func(port int) string {
		if port == mortalPort {
			return serverDied
		}
		return ""
	}
	switch way {
	case "kill":
		f.stated = dies
		f.inject = func(_ context.Context, s *storm) error { return s.servers.procs[i].Kill() }
		f.heal = func(ctx context.Context, s *storm) error { return s.servers.restart(ctx, i) }
	case "freeze":
		f.inject = func(_ context.Context, s *storm) error { return s.servers.procs[i].Stop() }
		f.heal = func(_ context.Context, s *storm) error { return s.servers.procs[i].Cont() }
	case "cable":
		f.inject = func(_ context.Context, s *storm) error { return plug(s, false) }
		f.heal = func(_ context.Context, s *storm) error { return plug(s, true) }
	case "power":
		f.stated = dies
		f.inject = func(_ context.Context, s *storm) error {
			return errors.Join(plug(s, false), s.servers.procs[i].Kill())
		}
		f.heal = func(ctx context.Context, s *storm) error {
			return errors.Join(plug(s, true), s.servers.restart(ctx, i))
		}
	}
	return f
}

// toldBy is whoever tells of divergences: one process, of one of its services.
type toldBy struct {
	process *lab.Proc
	service string
}

// divergences is how many each has told of so far.
type divergences map[toldBy]uint64

// more returns what is said about services of which process tells of more than before.
func (d divergences) more(process *lab.Proc, services []control.Service) (said []string) {
	for _, svc := range services {
		by := toldBy{process, svc.Name}
		if k := svc.Kept; k != nil && k.Divergences > d[by] {
			d[by] = k.Divergences
			said = append(said, fmt.Sprintf("service %s: %d connections' servers differ", svc.Name, k.Divergences))
		}
	}
	return said
}

// diverged demands that no server was found to differ from another: all of them answer the same.
func (s *storm) diverged(ctx context.Context) {
	if s.servers == nil || s.nodes.Active == nil {
		return
	}
	st, _ := s.nodes.Active.Status(ctx)
	for _, said := range s.divergences.more(s.nodes.Active.Process(), st.Services) {
		s.find(finding{Kind: findDiverged, Detail: said + ", says " + s.nodes.Active.Name})
	}
}
