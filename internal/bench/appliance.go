package bench

import (
	"context"
	"fmt"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/pair"
)

const (
	pairName   = "bench"
	statusPoll = 10 * time.Millisecond
	endGrace   = 3 * time.Second // from SIGTERM to SIGKILL
)

// failureTimeout of the pairs that are not cut, in place of the default of 100 ms. A process that is killed closes
// its session, so silence plays no part in any figure here; but where client, server and both
// appliances compete for two CPUs, an appliance may well not get one for 100 ms.
const failureTimeout = time.Second

// parkAfter in place of the default of 10 s: the memory of idle connections counts once they are parked.
const parkAfter = time.Second

// applianceGateway is Lockstep, alone or as a pair.
type applianceGateway struct {
	self       string
	path       config.Path       // empty: the default
	protection config.Protection // of the services that all gateways have; empty: the default
	alone      bool
	setting    setting // zero: see failureTimeout
	kept       bool    // with services whose connections outlive a server
	crowd      int     // see bedOptions
	pair       *pair.Pair
	nodes      []*pair.Node // the active first
}

func (g *applianceGateway) start(ctx context.Context, b *bed) (err error) {
	if g.pair, err = pair.New(b.PairLab, g.configuration(), pair.Options{Dir: b.dir, Self: g.self}); err != nil {
		return err
	}
	g.nodes = g.pair.Appliances()
	for _, n := range g.nodes {
		n.Poll = statusPoll
	}
	return g.restart(ctx)
}

func (g *applianceGateway) configuration() *config.Config {
	var services []config.Service
	for _, port := range []int{checkedPort, leanPort} {
		s := pair.Service(fmt.Sprintf("port%d", port), []string{fmt.Sprintf("%s:%d", lab.VIP4, port)}, []string{fmt.Sprintf("10.20.0.11:%d", port)})
		if g.protection != "" && g.protection != s.Protection {
			outlive(&s, g.protection, port)
		}
		services = append(services, s)
	}
	if g.kept {
		services = append(services, keptServicesConfig()...)
	}
	if g.crowd > 0 {
		services = append(services, crowdService(g.crowd))
	}
	pair.SetPath(services, g.path)
	for i := range services {
		services[i].ParkAfter = parkAfter
	}
	c := pair.Config(pairName, services...)
	if g.alone {
		delete(c.Pair.Members, "b")
	}
	s := g.setting.orDefault()
	c.Pair.Heartbeat, c.Pair.FailureTimeout = s.heartbeat, s.failure
	return c
}

func (s setting) orDefault() setting {
	if s.failure == 0 {
		s.heartbeat, s.failure = 20*time.Millisecond, failureTimeout
	}
	return s
}

// restart gives every node a new process: afterwards the first is active and the other is in
// sync with it. The witness stays.
func (g *applianceGateway) restart(ctx context.Context) error {
	for _, n := range g.nodes {
		if n.Process() != nil {
			_ = n.Kill() // one that was killed already is what we want
		}
	}
	err := g.pair.Start(ctx)
	if g.pair.Active != nil { // who is elected first is open
		g.nodes = []*pair.Node{g.pair.Active, g.pair.Standby}
	}
	return err
}

// await polls until cond holds for what the nodes say.
func (g *applianceGateway) await(ctx context.Context, what string, cond func([]control.Status) bool, nodes ...*pair.Node) error {
	_, err := pair.Await(ctx, readyTimeout, what, cond, nodes...)
	return err
}

// situation is what the nodes say of themselves, for error messages.
func (g *applianceGateway) situation() string {
	for _, n := range g.nodes {
		if p := n.Process(); p != nil && p.Running() {
			_, _ = n.Status(context.Background()) // to be told
		}
	}
	return pair.Situation(g.nodes...)
}

func (g *applianceGateway) processes() (all []*lab.Proc) {
	for _, n := range g.nodes {
		if p := n.Process(); p != nil {
			all = append(all, p)
		}
	}
	return all
}

// check tells whether the roles are still those that restart left.
func (g *applianceGateway) check(ctx context.Context) error {
	for i, n := range g.nodes {
		s, err := n.Status(ctx)
		if err != nil {
			return err
		}
		want := control.RoleActive
		if i > 0 {
			want = control.RoleStandby
		}
		if s.Role != want || s.Takeovers > 0 || i > 0 && !s.InSync {
			return fmt.Errorf("the pair changed by itself: %s is %s after %d takeovers, in sync: %v %s",
				n.Name, s.Role, s.Takeovers, s.InSync, s.WhyNotInSync)
		}
	}
	return nil
}

func (g *applianceGateway) close() {
	if g.pair != nil {
		g.pair.End()
	}
}
