package eval

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
	"lockstep/internal/pair"
)

// Time limits of things that take milliseconds on a quiet machine.
const (
	readyTimeout = 30 * time.Second
	// patience of clients: without a byte for so long a connection is lost.
	patience   = 20 * time.Second
	statusPoll = 5 * time.Millisecond
)

// failureTimeout in place of the default of 100 ms, but where silence is what is measured: client, servers and
// both appliances share the machine, and whoever does not get a CPU for so long has not died.
const failureTimeout = time.Second

// mode is how a service is protected, and by which path its packets go.
type mode struct {
	name       string
	port       int
	protection config.Protection
	path       config.Path
}

// The modes that are compared. direct is the same connection through the kernel's forwarding alone: no gateway.
var (
	direct   = mode{name: "no gateway", port: 81}
	passedOn = mode{"gateway", 81, config.ProtectGateway, config.PathAuto}
	ended    = mode{"gateway, path netstack", 82, config.ProtectGateway, config.PathNetstack}
	logged   = mode{"log", 83, config.ProtectLog, config.PathAuto}
	hot      = mode{"hot", 84, config.ProtectHot, config.PathAuto}

	modes = []mode{passedOn, ended, logged, hot}
)

// worldOptions say what a world is like.
type worldOptions struct {
	self, dir string
	// routed has no gateway: a of the topology forwards.
	routed bool
	// roundTrip of the sync link, beside the machine's own.
	roundTrip time.Duration
	// failure is pair.failure_timeout; 0: see failureTimeout.
	failure time.Duration
}

// world is a pair, or a router, between a client and two servers.
type world struct {
	*lab.PairLab
	options worldOptions
	pair    *pair.Pair // nil: routed
	servers []*lab.RoleProc
	dir     string
}

// newWorld builds one and brings it up. It outlives ctx: what runs in it ends in order.
func newWorld(ctx context.Context, o worldOptions) (w *world, err error) {
	dir, err := os.MkdirTemp(o.dir, "world-")
	if err != nil {
		return nil, fmt.Errorf("create directory: %w", err)
	}
	links := lab.NetOptions{Kind: lab.Kernel}
	sync := links
	if o.roundTrip > 0 {
		// A frame passes two ports on each way.
		sync = lab.NetOptions{Kind: lab.Switch, Faults: lab.Faults{Delay: o.roundTrip / 4}}
	}
	l, err := lab.Pair(context.WithoutCancel(ctx), lab.PairOptions{Front: links, Back: links, Sync: sync, Witness: !o.routed})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	w = &world{PairLab: l, options: o, dir: dir, servers: make([]*lab.RoleProc, len(l.Servers))}
	if err := w.populate(ctx); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *world) populate(ctx context.Context) (err error) {
	for i := range w.servers {
		if err := w.startServer(ctx, i); err != nil {
			return err
		}
	}
	if w.options.routed {
		return w.StandIn(w.A)
	}
	if w.pair, err = pair.New(w.PairLab, w.configuration(), pair.Options{Dir: w.dir, Self: w.options.self}); err != nil {
		return err
	}
	for _, n := range w.pair.Appliances() {
		n.Poll = statusPoll
	}
	return w.pair.Start(ctx)
}

func (w *world) configuration() *config.Config {
	var services []config.Service
	for _, m := range modes {
		s := pair.Service(fmt.Sprintf("port%d", m.port), []string{fmt.Sprintf("%s:%d", lab.VIP4, m.port)},
			[]string{fmt.Sprintf("10.20.0.11:%d", m.port), fmt.Sprintf("10.20.0.12:%d", m.port)})
		s.Protection, s.Path = m.protection, m.path
		s.Health.Interval, s.Health.Timeout = time.Second, time.Second
		services = append(services, s)
	}
	c := pair.Config("eval", services...)
	c.Pair.Heartbeat, c.Pair.FailureTimeout = 20*time.Millisecond, failureTimeout
	if w.options.failure > 0 {
		c.Pair.FailureTimeout = w.options.failure
	}
	return c
}

func (w *world) startServer(ctx context.Context, i int) (err error) {
	var args traffic.ServerArgs
	for _, m := range modes {
		args.Listen = append(args.Listen, fmt.Sprintf(":%d", m.port))
	}
	if w.servers[i], err = w.Servers[i].Go(traffic.ServerRole, args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return w.servers[i].Next(ctx, &traffic.ServerEvent{})
}

// target is what clients dial.
func (w *world) target(m mode) string {
	host := lab.VIP4
	if w.options.routed {
		host = w.ServerAddr(0, false, 0).Addr().String()
	}
	return net.JoinHostPort(host, strconv.Itoa(m.port))
}

// mend makes a world what it was when it was new: servers that were killed run again, and a pair that has changed
// its roles begins anew.
func (w *world) mend(ctx context.Context) error {
	for i, s := range w.servers {
		if s.Running() {
			continue
		}
		if err := w.startServer(ctx, i); err != nil {
			return err
		}
	}
	if w.pair == nil {
		return nil
	}
	if w.fresh(ctx) {
		return nil
	}
	for _, n := range w.pair.Appliances() {
		if n.Process() != nil {
			_ = n.Kill() // one that was killed already is what is wanted
		}
	}
	return w.pair.Start(ctx)
}

// fresh tells whether the pair is in sync, has seen no takeover, and takes every server for healthy.
func (w *world) fresh(ctx context.Context) bool {
	if w.pair.Look(ctx) != "" {
		return false
	}
	for _, n := range w.pair.Appliances() {
		s, err := n.Status(ctx)
		if err != nil || s.Takeovers > 0 {
			return false
		}
	}
	healthy := func(said []control.Status) bool {
		for _, svc := range said[0].Services {
			for _, server := range svc.Servers {
				if !server.Healthy {
					return false
				}
			}
		}
		return true
	}
	_, err := pair.Await(ctx, readyTimeout, "every server is healthy", healthy, w.pair.Active)
	return err == nil
}

func (w *world) close() error {
	if w.pair != nil {
		w.pair.End()
	}
	return errors.Join(w.PairLab.Close(), os.RemoveAll(w.dir))
}

// client starts a checking client as a process of its own.
func (w *world) client(m mode, args traffic.ClientArgs) (*lab.RoleProc, error) {
	args.Addr, args.Patience = w.target(m), patience
	return w.Client.Go(traffic.ClientRole, args)
}
