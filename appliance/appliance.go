package appliance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/appliance/decide"
	"lockstep/appliance/metrics"
	"lockstep/appliance/relay"
	"lockstep/appliance/voter"
	"lockstep/internal/clock"
	"lockstep/internal/confine"
	"lockstep/internal/loglimit"
	"lockstep/internal/notify"
	"lockstep/replication"
	"lockstep/replication/identity"
	"lockstep/replication/link"
	"lockstep/replication/transport"
	"lockstep/stack"
	"lockstep/tun"
)

const (
	// tunName is the device; one appliance runs per network namespace.
	tunName = "lockstep0"
	// tunnelName is the tunnel to the peer, which outlives the process.
	tunnelName = "lockstep1"
	// routeTable and rulePriority are where the policy routes live; the values
	// are unlikely to be in use and say whose they are (the sync port's number).
	routeTable   = 7400
	rulePriority = 7400
	// streamUnderWay is how much of one stream may be on its way, bytes: both legs'
	// buffers, twice after a takeover.
	streamUnderWay = 16 << 20
)

// Node is a running appliance. What is in none of the groups, nodePath and nodeParts are made
// before anything runs, and stay.
type Node struct {
	cfg    *config.Config
	clock  clock.Clock // by which the role is kept and given up; all else has time.Now
	log    *slog.Logger
	bootID [16]byte

	nodePath
	nodeParts
	nodeRole
	nodeLoop
	nodeReports
	reloading reloading

	wg   sync.WaitGroup
	asks sync.WaitGroup // probes that connections asked for
}

// Run is an appliance from start to end: it returns when ctx ends, or at once
// with an error that says what could not be set up; either way everything that
// it made is gone.
func Run(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	return RunFile(ctx, cfg, File{}, log)
}

// RunWithClock is Run with a clock that may be off, for tests.
func RunWithClock(ctx context.Context, cfg *config.Config, clk clock.Clock, log *slog.Logger) error {
	return start(ctx, cfg, File{}, clk, log)
}

func start(ctx context.Context, cfg *config.Config, file File, clk clock.Clock, log *slog.Logger) error {
	limited := loglimit.New(log.Handler())
	defer limited.Close()
	log = slog.New(limited)
	configured := cfg.Networks
	cfg, err := RealNames(cfg)
	if err != nil {
		return err
	}
	if n := &cfg.Networks; n.Front.Interface != configured.Front.Interface || n.Back.Interface != configured.Back.Interface {
		log.Info("an alternative name of an interface is configured", "front", n.Front.Interface, "back", n.Back.Interface)
	}
	n := &Node{cfg: cfg, clock: clk, log: log.With("node", cfg.Node)}
	n.reloading.file, n.reloading.now = file, cfg
	n.silent, n.switchovers = make(chan struct{}, 1), make(chan switchRequest)
	n.fitness.changed, n.fitness.peer, n.fitness.services = make(chan struct{}, 1), make(chan struct{}, 1), digests(cfg)
	if _, err := rand.Read(n.bootID[:]); err != nil {
		return fmt.Errorf("draw a boot id: %w", err)
	}
	var undo closers
	defer undo.run(n.log)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	n.probing = ctx
	n.since.Store(time.Now().UnixNano()) // starting
	if err := n.build(&undo); err != nil {
		return err
	}
	if err := n.serve(&undo); err != nil {
		return err
	}
	n.engine.Run()
	n.journal.run()
	n.watchFitness(ctx, cancel)
	n.watchOrders(ctx)
	n.wg.Add(3)
	go n.watchSteering(ctx)
	go n.watchMemory(ctx)
	go n.watchOnLink(ctx)
	n.onSignal(ctx, unix.SIGUSR1, n.dump)
	if file.Load != nil {
		n.onSignal(ctx, unix.SIGHUP, n.reloadAsTold)
	}
	if err := n.confine(); err != nil {
		return err
	}
	n.log.Info("appliance started", "version", control.Version(), "tun", tunName, "mtu", n.dev.MTU())
	manager := notify.Ready(n.log, n.inShort)
	defer manager.Close()
	n.keepRole(ctx)
	if err := context.Cause(ctx); errors.Is(err, errDeviceGone) {
		return err
	}
	return nil
}

// RealNames replaces alternative names of interfaces (ip link property add dev NAME
// altname ...) by the names under which the kernel reports changes and has settings. A name that no interface has stays, and is an error.
func RealNames(cfg *config.Config) (*config.Config, error) {
	own := *cfg
	var errs []error
	for _, net := range []*config.Network{&own.Networks.Front, &own.Networks.Back.Network} {
		nic, err := tun.ReadNIC(net.Interface)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		net.Interface = nic.Name
	}
	return &own, errors.Join(errs...)
}

// serve opens what operators and monitoring look at.
func (n *Node) serve(undo *closers) error {
	socket, err := control.Serve(n.cfg.Control, n, n.log)
	if err != nil {
		return err
	}
	undo.add("control socket", func() error { socket.Close(); return nil })
	if err := n.startAuthority(undo); err != nil {
		return err
	}
	if !n.cfg.Metrics.IsValid() {
		return nil
	}
	scrape, err := metrics.Serve(n.cfg.Metrics, n, n.log)
	if err != nil {
		return err
	}
	undo.add("metrics", func() error { scrape.Close(); return nil })
	return nil
}

// confine gives up what only the start needed. What is left: CAP_NET_ADMIN for rules,
// routes, sysctls and links, CAP_NET_RAW for ARP, neighbour discovery and pings.
//
// Root has given up to write other users' files by then: a state directory that only
// such a root could write to is found now, not at the first promise.
func (n *Node) confine() error {
	switch err := confine.Keep(unix.CAP_NET_ADMIN, unix.CAP_NET_RAW); {
	case errors.Is(err, confine.ErrUnsupported):
		n.log.Debug("all capabilities are kept", "err", err)
	case err != nil:
		n.log.Warn("capabilities are kept that are not needed", "err", err)
	}
	if n.voter == nil {
		return nil
	}
	if err := n.voter.CheckState(); err != nil {
		return fmt.Errorf("write the state without root's rights over other users' files (hint: whose is %s? chown it): %w", n.cfg.Pair.State, err)
	}
	return nil
}

// closers ends what was made, last first.
type closers struct {
	names []string
	funcs []func() error
}

func (c *closers) add(name string, f func() error) {
	c.names, c.funcs = append(c.names, name), append(c.funcs, f)
}

func (c *closers) run(log *slog.Logger) {
	for i := len(c.funcs) - 1; i >= 0; i-- {
		if err := c.funcs[i](); err != nil && !errors.Is(err, os.ErrClosed) {
			log.Warn("shut down", "part", c.names[i], "err", err)
		}
	}
}

// build makes all parts, muted; nothing can be seen from outside yet.
func (n *Node) build(undo *closers) error {
	mtu, err := n.mtu()
	if err != nil {
		return err
	}
	queues, err := tun.OpenQueues(tunName, mtu, n.queues())
	if err != nil {
		return err
	}
	n.dev = queues[0]
	virtual := n.virtual()
	n.routes, err = tun.InstallRoutes(tun.RouteConfig{
		TUN: tunName, Front: n.cfg.Networks.Front.Interface, Back: n.cfg.Networks.Back.Interface,
		Table: routeTable, RulePriority: rulePriority, Virtual: virtual,
		Servers: n.transparentServers(), Gateways: n.cfg.Networks.Back.Gateway, Tunnel: n.tunnel(mtu),
		Connections: connections(n.cfg), Log: n.log,
	})
	if err != nil {
		_ = n.dev.Close()
		return err
	}
	undo.add("routes", n.routes.Close)
	n.warnOfRoom()
	n.startKeeper(undo)
	if err := n.startGuard(undo); err != nil {
		_ = n.dev.Close()
		return err
	}
	n.startSteering(undo, mtu)
	if n.front, err = n.announcer(n.cfg.Networks.Front.Interface, n.vips()); err != nil {
		_ = n.dev.Close()
		return err
	}
	undo.add("front announcer", n.front.Close)
	if n.back, err = n.announcer(n.cfg.Networks.Back.Interface, n.gateways()); err != nil {
		_ = n.dev.Close()
		return err
	}
	undo.add("back announcer", n.back.Close)
	if n.fitness.front, err = n.watchReach(undo, &n.cfg.Networks.Front); err == nil {
		n.fitness.back, err = n.watchReach(undo, &n.cfg.Networks.Back.Network)
	}
	if err != nil {
		_ = n.dev.Close()
		return err
	}
	restore, err := tun.EnableGRO(n.cfg.Networks.Front.Interface, n.cfg.Networks.Back.Interface)
	if err != nil {
		n.log.Info("receive offload stays off; frames are read one by one", "err", err)
	}
	undo.add("receive offload", restore)
	return n.buildCore(undo, virtual, queues[1:])
}

func (n *Node) buildCore(undo *closers, virtual []netip.Addr, queues []tun.Device) error {
	lim := replication.Limits{
		Heartbeat:      replication.Nanos(n.cfg.Pair.Heartbeat),
		FailureTimeout: replication.Nanos(n.cfg.Pair.FailureTimeout),
	}
	for _, s := range n.cfg.Services {
		lim.MaxConns += s.Limits.Connections       // who is let in is protected
		if s.Protection != config.ProtectGateway { // beside what is under way, the log
			lim.MaxHeldPerStream = max(lim.MaxHeldPerStream, streamUnderWay+uint64(s.Limits.Log))
		}
	}
	n.journal = newJournal(lim, n.clock, func() uint32 { return n.engine.ClockMillis() })
	if !n.cfg.Pair.Witness.IsValid() {
		n.alone = &aloneLease{journal: n.journal, engine: func(t time.Time) { n.engine.SetLease(t) }}
		n.journal.onHeard, n.journal.onSynced = n.alone.heard, n.alone.heard
	}
	n.journal.onSilent = func() { nudge(n.silent) }
	n.watchTiming()
	n.journal.onPeerFitness = func() { nudge(n.fitness.peer) }
	n.journal.onPeerOrders = func() { nudge(n.orders.peer) }
	n.loadOrders(undo)
	n.services = n.makeServices()
	n.relay = relay.New(n.services, n.journal)
	n.relay.OnStuck(func(text string, ended bool) {
		n.log.Error("a connection waits for nothing that can come (a defect of Lockstep: please report this line)", "reset", ended, "connection", text)
	})
	n.journal.relay = n.relay
	n.authority = decide.New(asked{n}, ledger{n.journal})
	n.journal.onDecided = n.authority.Decided
	var err error
	n.engine, err = stack.New(stack.Options{
		Queues: queues,
		Device: n.dev, Handler: n.relay, Addresses: virtual, Memory: payloadLimit(n.cfg.Limits.Memory), Clock: n.clock, Notice: n.notice, OnLink: n.onLink.has, Onward: n.onward, Offload: n.offload(),
		OnPressure: func(a netip.AddrPort) {
			n.log.Warn("many clients do not finish their handshake (a SYN flood?): others get SYN cookies (services[].limits.half_open)", "address", a)
		},
		OnFlood: func(addrs []netip.AddrPort) {
			if n.filter != nil {
				n.filter.Press(addrs)
			}
		},
	})
	if err != nil {
		n.relay.Close()
		_ = n.dev.Close()
		return err
	}
	n.relay.SetEngine(n.engine)
	n.onLink.engine.Store(n.engine)
	n.watchServers(undo)
	// Last made, first ended: the engine falls silent, then the workers end, then what
	// they have asked about servers.
	undo.add("questions about servers", func() error { n.asks.Wait(); return nil })
	undo.add("relay", func() error { n.relay.Close(); return nil })
	undo.add("stack", n.engine.Close)
	undo.add("journal", func() error { n.journal.close(); n.wg.Wait(); return nil })
	if err := n.tapErrors(undo); err != nil {
		return err
	}
	return n.startLink(undo)
}

func (n *Node) startLink(undo *closers) error {
	peer := n.peerName()
	if peer == "" {
		return nil
	}
	id, err := identity.Load(n.cfg.Pair.Identity)
	if err != nil {
		return err
	}
	port, err := transport.Listen(transport.PortConfig{Listen: n.cfg.Self(), Log: n.log})
	if err != nil {
		return fmt.Errorf("%w (pair.members.%s must be an address of this machine)", err, n.cfg.Node)
	}
	// Last closed of what hears the others: whoever finds the port closed may take us
	// for dead, and by then we are mute (see refuses).
	undo.add("sync port", func() error { port.Close(); return nil })
	n.link, err = link.Start(link.Config{
		Node: n.cfg.Node, Pair: n.cfg.Pair.Name, Listen: n.cfg.Self(), Port: port,
		Peer: peer, PeerAddr: n.cfg.Pair.Members[peer], Identity: id, Hello: n.hello, Log: n.log,
		UserTimeout: n.userTimeout(),
	})
	if err != nil {
		return fmt.Errorf("start the sync link: %w", err)
	}
	undo.add("sync link", func() error { n.link.Close(); return nil })
	if !n.cfg.Pair.Witness.IsValid() {
		return nil
	}
	return n.startVoter(undo, id, port)
}

// userTimeout is when the kernel gives up the session's connection: after the peer's silence has
// ended the session by the heartbeats, which is what the lease goes by. To a standby without a
// witness a session that ends earlier is one that was closed, which waits for no lease.
func (n *Node) userTimeout() time.Duration {
	return max(3*time.Second, 2*n.cfg.Pair.FailureTimeout)
}

// startVoter joins the peer and the witness in deciding. From here on the engine
// speaks only while the voter gives it a lease.
func (n *Node) startVoter(undo *closers, id *identity.Identity, port *transport.Port) error {
	names, _ := n.cfg.Appliances()
	witness, err := id.Witness(names)
	if err != nil {
		return err
	}
	addrs := map[string]netip.AddrPort{witness: n.cfg.Pair.Witness}
	for name, a := range n.cfg.Pair.Members {
		addrs[name] = a
	}
	n.engine.SetLease(time.Time{})
	n.lease = &lease{engine: n.engine.SetLease}
	n.voter, err = voter.Start(voter.Config{
		Identity: id, Boot: n.self().Boot, Appliances: names, Witness: witness,
		Addrs: addrs, Local: n.cfg.Self().Addr(), Port: port,
		Heartbeat: n.cfg.Pair.Heartbeat, FailureTimeout: n.cfg.Pair.FailureTimeout, Patience: n.cfg.Pair.StartEmptyAfter, Clock: n.clock,
		State: voter.StatePath(n.cfg.Pair.State, n.cfg.Pair.Name), OnLease: n.lease.grant, Log: n.log,
	})
	if err != nil {
		return fmt.Errorf("start voting with the witness: %w", err)
	}
	n.journal.onBear = func(bear replication.Nanos) { n.voter.SetPatience(time.Duration(bear)) }
	undo.add("voter", func() error { n.voter.Close(); return nil })
	return nil
}

func (n *Node) peerName() string {
	for name := range n.cfg.Pair.Members {
		if name != n.cfg.Node {
			return name
		}
	}
	return ""
}

// mtu is what fits both networks: segments are sized for the smaller one, so the
// kernel never has to complain about ours.
func (n *Node) mtu() (int, error) {
	front, err := tun.ReadNIC(n.cfg.Networks.Front.Interface)
	if err != nil {
		return 0, err
	}
	back, err := tun.ReadNIC(n.cfg.Networks.Back.Interface)
	if err != nil {
		return 0, err
	}
	return min(front.MTU, back.MTU), nil
}

// maxQueues bounds the TUN device's queues: a reader's buffers are 66 KiB, its queue holds tunQueueLen packets.
const maxQueues = 8

// queues is how many the TUN device has: what is passed on is passed on by one reader for each CPU, beginning to end; what
// is ended has workers.
func (n *Node) queues() int {
	if slices.ContainsFunc(n.cfg.Services, func(s config.Service) bool {
		return s.Path == config.PathAuto && s.Protection == config.ProtectGateway
	}) {
		return min(runtime.GOMAXPROCS(0), maxQueues)
	}
	return 1
}

func (n *Node) announcer(iface string, addrs []netip.Addr) (*tun.Announcer, error) {
	return tun.NewAnnouncer(tun.AnnouncerConfig{
		Interface: iface, Addrs: addrs, Log: n.log,
		May: func() bool { return n.engine != nil && n.engine.Active() }, Heard: n.onLink.heard,
	})
}

func (n *Node) vips() []netip.Addr {
	var all []netip.Addr
	seen := map[netip.Addr]bool{}
	for _, s := range n.cfg.Services {
		for _, l := range s.Listen {
			if !seen[l.Addr()] {
				seen[l.Addr()] = true
				all = append(all, l.Addr())
			}
		}
	}
	return all
}

func (n *Node) gateways() []netip.Addr {
	var all []netip.Addr
	for _, p := range n.cfg.Networks.Back.Gateway {
		all = append(all, p.Addr())
	}
	return all
}

func (n *Node) virtual() []netip.Addr { return append(n.vips(), n.gateways()...) }

// tapErrors lets the engine hear what routers on the back network say to clients of
// segments that are the engine's.
func (n *Node) tapErrors(undo *closers) error {
	servers := n.transparentServers()
	if len(servers) == 0 {
		return nil
	}
	v6 := slices.ContainsFunc(servers, func(s netip.AddrPort) bool { return s.Addr().Unmap().Is6() })
	tap, err := tun.TapErrors(n.cfg.Networks.Back.Interface, v6, n.engine.ReceiveError, n.log)
	if err != nil {
		return err
	}
	undo.add("ICMP errors", tap.Close)
	return nil
}

// transparentServers are those that answer to the clients' own addresses.
func (n *Node) transparentServers() []netip.AddrPort {
	var all []netip.AddrPort
	seen := map[netip.AddrPort]bool{}
	for _, s := range n.cfg.Services {
		if s.Source != config.SourceClient {
			continue
		}
		for _, a := range s.Servers {
			if !seen[a] {
				seen[a] = true
				all = append(all, a)
			}
		}
	}
	return all
}
