package script

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lockstep/appliance/pool"
	"lockstep/appliance/relay"
	"lockstep/replication"
	"lockstep/stack"
	"lockstep/tun"
	"lockstep/tun/tuntest"
)

// Options of a Rig.
type Options struct {
	V6            bool
	SourceGateway bool
	Window        int // bytes per leg; 0: the engine's default
	SendBuffer    int
	// MinRTO is for scripts in which a peer keeps still: netstack must not take
	// that for a loss, however slow the machine is. 0: the engine's default.
	MinRTO time.Duration
	Memory int64 // as stack.Options.Memory
	Limits replication.Limits
	// HalfOpen is how many clients in their handshake are remembered; 0: many. Cookies:
	// none, or no more than HalfOpen; the others get SYN cookies.
	HalfOpen int
	Cookies  bool
	// Light is for many connections: no copy of the bytes, no check of every
	// packet, no trace.
	Light bool
	// Raw takes the packets of the appliance in place of the scripted peers; it
	// runs on the reader's goroutine.
	Raw func(hdr, pkt []byte)
	// Foreign: packets that no peer made are injected, too; what the appliance
	// hands back to the router need not be sound.
	Foreign bool
	// Tune, if set, changes the service before it is used.
	Tune func(*relay.Service)
}

// The addresses of a rig.
var (
	vip4, vip6         = netip.MustParseAddrPort("203.0.113.10:80"), netip.MustParseAddrPort("[2001:db8:1::10]:80")
	other4             = netip.MustParseAddrPort("203.0.113.11:80") // leads to the same servers
	client4, client6   = netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:2::7")
	server4, server6   = netip.MustParseAddrPort("10.20.0.11:8080"), netip.MustParseAddrPort("[fd00:20::11]:8080")
	gateway4, gateway6 = netip.MustParseAddr("10.20.0.1"), netip.MustParseAddr("fd00:20::1")
)

// Rig is an active appliance with its standby's core, between fake peers.
type Rig struct {
	o     Options
	born  time.Time
	gen   *generation
	epoch uint64

	mu      sync.Mutex // leaf but for the pipe; guards the peers and what follows
	cond    *sync.Cond
	conns   []*Conn
	ticker  *time.Ticker
	stop    chan struct{}
	wg      sync.WaitGroup
	trace   []string
	pings   uint16 // pings sent; written by the script's goroutine
	pongs   uint16 // newest ping that was answered
	moved   bool   // a takeover has happened
	bounced int    // packets handed back to the router

	faultMu sync.Mutex // leaf
	faults  []string
}

// generation is what a takeover replaces.
type generation struct {
	engine  *stack.Engine
	relay   *relay.Relay
	journal *Journal
	dev     *monitored
	far     *tuntest.End // where the peers are
	read    atomic.Uint64
	svc     *relay.Service
	closed  bool
	wg      sync.WaitGroup
}

// Conn is one client and its server.
type Conn struct{ Client, Server *Peer }

// New builds a rig with its standby in sync.
func New(o Options) (*Rig, error) {
	r := &Rig{o: o, born: time.Now(), stop: make(chan struct{}), epoch: 1}
	r.cond = sync.NewCond(&r.mu)
	r.ticker = time.NewTicker(5 * time.Millisecond)
	r.wg.Add(1)
	go r.tickLoop()
	active, standby := replication.New(o.Limits), replication.New(o.Limits)
	err := errors.Join(active.SetRole(replication.RoleActive, 1), standby.SetRole(replication.RoleStandby, 1))
	if err != nil {
		return nil, fmt.Errorf("give the cores their roles: %w", err)
	}
	if err := r.build(active, standby); err != nil {
		return nil, err
	}
	r.gen.engine.SetActive(true)
	if !r.Wait(waitLimit, func() bool { st, _ := r.gen.journal.Standby(); return st.InSync }, nil) {
		return nil, errors.Join(errors.New("standby does not get in sync"), r.Err(), r.Close())
	}
	return r, nil
}

// build makes engine, relay and pipe around an active core.
func (r *Rig) build(active, standby *replication.Core) error {
	near, far := tuntest.PipeSize(tuntest.MTU, 1<<14)
	g := &generation{far: far, journal: newJournal(active, standby, r.violate, !r.o.Light)}
	g.dev = &monitored{End: near, rig: r, j: g.journal, check: !r.o.Light}
	svc := &relay.Service{
		Name: "web", Listen: []netip.AddrPort{vip4, other4, vip6}, Settings: relay.Settings{MaxConns: 1 << 20}, MaxHalfOpen: 1 << 16,
		SourceGateway: r.o.SourceGateway, Gateways: []netip.Prefix{netip.PrefixFrom(gateway4, 24), netip.PrefixFrom(gateway6, 64)},
	}
	if r.o.Cookies || r.o.HalfOpen > 0 {
		svc.MaxHalfOpen = r.o.HalfOpen
	}
	server := server4
	if r.o.V6 {
		server = server6
	}
	svc.Pool = pool.New(pool.Config{Servers: []netip.AddrPort{server}, AnyFamily: r.o.SourceGateway})
	if r.o.Tune != nil {
		r.o.Tune(svc)
	}
	g.svc, g.relay = svc, relay.New([]*relay.Service{svc}, g.journal)
	var err error
	g.engine, err = stack.New(stack.Options{
		Device: g.dev, Handler: g.relay, Window: r.o.Window, SendBuffer: r.o.SendBuffer, MinRTO: r.o.MinRTO, Memory: r.o.Memory,
		Addresses: []netip.Addr{vip4.Addr(), other4.Addr(), vip6.Addr(), gateway4, gateway6},
	})
	if err != nil {
		return fmt.Errorf("make engine: %w", err)
	}
	g.relay.SetEngine(g.engine)
	g.engine.SetCookieSecret([]byte("what both halves of the pair know"))
	g.relay.SetEpoch(r.epoch)
	g.journal.relay = g.relay
	g.journal.start()
	g.engine.Run()
	g.wg.Add(1)
	go r.readLoop(g)
	r.mu.Lock()
	r.gen = g
	r.mu.Unlock()
	return nil
}

// readLoop is the wire from the appliance to the peers.
func (r *Rig) readLoop(g *generation) {
	defer g.wg.Done()
	hdr, buf := make([]byte, tun.VnetHeaderLen), make([]byte, tun.MaxPacketLen)
	for {
		n, err := g.far.ReadV([][]byte{hdr, buf})
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if r.o.Raw != nil {
			r.o.Raw(hdr, buf[:n])
		} else {
			r.arrive(hdr, slices.Clone(buf[:n]))
		}
		g.read.Add(1)
	}
}

func (r *Rig) isServer(a netip.Addr) bool { return a == server4.Addr() || a == server6.Addr() }

// arrive gives a packet to the peer that it is for.
func (r *Rig) arrive(hdr, pkt []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, err := Decode(hdr, pkt)
	if err != nil {
		r.pong(pkt)
		return
	}
	if r.isServer(s.Src.Addr()) {
		// The appliance does not know the flow and leaves it to the router: so it
		// reaches the real client, who does not know it either.
		r.bounced++
		if s.Flags&RST == 0 {
			if c := r.byServer(s.Dst); c != nil {
				rst := Segment{Src: s.Dst, Dst: s.Src, Flags: RST, Seq: s.Ack, Opts: NoOpts}
				r.tracef("s: %s was handed back to the router", &s)
				c.Server.arrive(&rst)
			}
		}
		return
	}
	if r.isServer(s.Dst.Addr()) {
		c := r.byServer(s.Src)
		if l := r.last(); c == nil && s.Flags&(SYN|ACK) == SYN && l != nil && (l.Server.await || l.Server.state == peerIdle) {
			c = l // from an address or a port of the gateway's choice
		}
		if c != nil {
			c.Server.arrive(&s)
		}
		return
	}
	if p := r.replica(&s); p != nil {
		p.arrive(&s)
		return
	}
	for _, c := range r.conns {
		if c.Client.self == s.Dst && c.Client.to == s.Src {
			c.Client.arrive(&s)
			return
		}
	}
}

func (r *Rig) byServer(to netip.AddrPort) *Conn {
	for _, c := range r.conns {
		if c.Server.to == to {
			return c
		}
	}
	return nil
}

func (r *Rig) last() *Conn {
	if len(r.conns) == 0 {
		return nil
	}
	return r.conns[len(r.conns)-1]
}

// Dial makes a client at port, and the server's end for it; nothing is sent.
func (r *Rig) Dial(port uint16, clientISN, serverISN uint32) *Conn {
	vip, cl, srv := vip4, client4, server4
	if r.o.V6 {
		vip, cl, srv = vip6, client6, server6
	}
	return r.dial(port, clientISN, serverISN, cl, srv, vip)
}

// DialOther is Dial to the service's other virtual address (IPv4).
func (r *Rig) DialOther(port uint16, clientISN, serverISN uint32) *Conn {
	return r.dial(port, clientISN, serverISN, client4, server4, other4)
}

func (r *Rig) dial(port uint16, clientISN, serverISN uint32, cl netip.Addr, srv, vip netip.AddrPort) *Conn {
	c := &Conn{
		Client: &Peer{rig: r, name: "c", self: netip.AddrPortFrom(cl, port), to: vip, isn: clientISN, seed: uint32(port) * 2},
		Server: &Peer{rig: r, name: "s", server: true, self: srv, isn: serverISN, seed: uint32(port)*2 + 1},
	}
	c.Client.far, c.Server.far = c.Server, c.Client
	if !r.o.SourceGateway && vip != other4 {
		c.Server.to = c.Client.self
	}
	c.Client.reset()
	c.Server.reset()
	r.mu.Lock()
	r.conns = append(r.conns, c)
	r.mu.Unlock()
	return c
}

// Inject gives a packet to the appliance as the kernel would; a nil header means
// a plain packet.
func (r *Rig) Inject(hdr, pkt []byte) error {
	r.mu.Lock()
	g := r.gen
	r.mu.Unlock()
	if hdr == nil {
		hdr = make([]byte, tun.VnetHeaderLen)
	}
	if err := g.far.WriteV([][]byte{hdr, pkt}); err != nil {
		return fmt.Errorf("inject packet: %w", err)
	}
	return nil
}

// inject is Inject under mu.
func (r *Rig) inject(pkt []byte) {
	_ = r.gen.far.WriteV([][]byte{make([]byte, tun.VnetHeaderLen), pkt}) // closed: lost
}

// Engine, Relay and Journal are those of the current generation.
func (r *Rig) Engine() *stack.Engine { return r.gen.engine }
func (r *Rig) Relay() *relay.Relay   { return r.gen.relay }
func (r *Rig) Journal() *Journal     { return r.gen.journal }

// violate notes a broken invariant; Err returns the first. It may be called with
// any lock held.
func (r *Rig) violate(format string, args ...any) {
	r.faultMu.Lock()
	defer r.faultMu.Unlock()
	if len(r.faults) < 100 {
		r.faults = append(r.faults, fmt.Sprintf("%8.3f ", time.Since(r.born).Seconds())+fmt.Sprintf(format, args...))
	}
}

// tracef keeps the newest lines of what happened. mu is held.
func (r *Rig) tracef(format string, args ...any) {
	if r.o.Light {
		return
	}
	if len(r.trace) >= 600 {
		r.trace = append(r.trace[:0], r.trace[300:]...)
	}
	r.trace = append(r.trace, fmt.Sprintf("%8.3f ", time.Since(r.born).Seconds())+fmt.Sprintf(format, args...))
}

// Trace returns what happened last, line by line.
func (r *Rig) Trace() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.trace, "\n")
}

// Err returns what was violated so far.
func (r *Rig) Err() error {
	r.faultMu.Lock()
	defer r.faultMu.Unlock()
	if len(r.faults) == 0 {
		return nil
	}
	return errors.New(strings.Join(r.faults, "\n"))
}

// Close ends everything and waits for it.
func (r *Rig) Close() error {
	err := r.shutdown() // nothing, if a takeover failed after it
	close(r.stop)
	r.wg.Wait()
	r.ticker.Stop()
	return err
}

// shutdown ends the current generation as a crash does: first the sync link is
// cut, then it falls silent. What it has emitted still reaches the peers.
func (r *Rig) shutdown() error {
	g := r.gen
	if g.closed {
		return nil
	}
	g.closed = true
	g.journal.cutLink()
	g.engine.SetActive(false)
	g.journal.stop()
	g.relay.Close()
	r.checkPool(g)
	err := g.engine.Close()
	r.mu.Lock()
	for g.read.Load() < g.dev.written.Load()-g.dev.Dropped() {
		r.cond.Wait() // the reader is at it; the ticker wakes us
	}
	r.mu.Unlock()
	_ = g.far.Close()
	g.wg.Wait()
	if err != nil {
		return fmt.Errorf("close engine: %w", err)
	}
	return nil
}

// tickLoop lets waiters look at what nobody announces.
// checkPool: each connection is counted at one server at most, and none is that has ended.
func (r *Rig) checkPool(g *generation) {
	open, _, _ := g.relay.Counts()
	sum, less := 0, false
	for _, s := range g.svc.Pool.Status() {
		sum += s.Conns
		less = less || s.Conns < 0
	}
	if less || sum > open {
		r.violate("the pool counts %+v, and there are %d connections", g.svc.Pool.Status(), open)
	}
}

func (r *Rig) tickLoop() {
	defer r.wg.Done()
	for {
		select {
		case <-r.stop:
			return
		case <-r.ticker.C:
			r.cond.Broadcast()
		}
	}
}

// Wait waits until cond holds; it is called with mu held. every, if set, is
// called about ten times a second meanwhile, with mu held, too.
func (r *Rig) Wait(limit time.Duration, cond func() bool, every func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := time.Now().Add(limit)
	next := time.Now().Add(retransmitEvery)
	for !cond() {
		now := time.Now()
		if now.After(end) || r.broken() {
			return false
		}
		if every != nil && now.After(next) {
			every()
			next = now.Add(retransmitEvery)
		}
		r.cond.Wait()
	}
	return true
}

// retransmitEvery is the peers' retransmission time-out after a takeover.
const retransmitEvery = 100 * time.Millisecond

func (r *Rig) broken() bool {
	r.faultMu.Lock()
	defer r.faultMu.Unlock()
	return len(r.faults) > 0
}
