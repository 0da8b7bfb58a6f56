package splice_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
	"lockstep/splice"
	"lockstep/tun"
)

// A gateway that splices and does nothing else, between the kernel's TCP on either side.
//
//	client -- router -- gateway -- router -- server
//
// Each router's way to its peer takes smaller packets than the way back, so that each direction has
// to find its path MTU, and hears of it from the router on the other side of the gateway.

const (
	nearMTU = 1400 // of the way to the client, bytes
	farMTU  = 1300 // of the way to the server
	table   = 100
)

// chain is the hosts in their order; between hosts[i] and hosts[i+1] is network i.
type chain struct {
	*splicer
	t     *testing.T
	hosts []*lab.Host
}

const (
	networks = 4
	gateway  = 2 // its place in the chain
)

// service is what a virtual address stands for.
type service struct {
	server netip.AddrPort
	local  netip.Addr // zero: the client's own address
}

func newChain(t *testing.T) *chain {
	l := labtest.New(t, lab.Options{})
	c := &chain{t: t}
	for i := range networks + 1 {
		h, err := l.Host(fmt.Sprintf("host%d", i))
		check(t, err)
		c.hosts = append(c.hosts, h)
		if i > 0 && i < networks {
			check(t, h.Forward())
		}
	}
	for i := range networks {
		n, err := l.Network(fmt.Sprintf("net%d", i), lab.NetOptions{})
		check(t, err)
		for side, h := range c.hosts[i : i+2] {
			_, err := h.Attach(n, []string{"right0", "left0"}[side], addr(i, side, false)+"/24", addr(i, side, true)+"/64")
			check(t, err)
		}
	}
	for i, h := range c.hosts {
		for n := range networks {
			for _, v6 := range []bool{false, true} {
				dst := fmt.Sprintf("10.0.%d.0/24", n)
				if v6 {
					dst = fmt.Sprintf("fd00:%d::/64", n)
				}
				if n < i-1 {
					check(t, h.Route(dst, addr(i-1, 0, v6)))
				} else if n > i {
					check(t, h.Route(dst, addr(i, 1, v6)))
				}
			}
		}
		for _, v6 := range []bool{false, true} {
			if i < gateway {
				check(t, h.Route(ours("vip", v6), addr(i, 1, v6)))
			} else if i > gateway {
				check(t, h.Route(ours("local", v6), addr(i-1, 0, v6)))
			}
		}
	}
	for _, v6 := range []bool{false, true} {
		narrow(t, c.hosts[1], "left0", addr(0, 0, v6), nearMTU)
		narrow(t, c.hosts[networks-1], "right0", addr(networks-1, 1, v6), farMTU)
	}
	c.splicer = newSplicer(t, c.hosts[gateway])
	return c
}

// narrow makes the way to a neighbour one for smaller packets.
func narrow(t *testing.T, h *lab.Host, dev, to string, mtu int) {
	link, err := h.Netlink().LinkByName(dev)
	check(t, err)
	ip := netip.MustParseAddr(to)
	dst := &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}
	check(t, h.Netlink().RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, MTU: mtu, MTULock: true, Scope: netlink.SCOPE_LINK}))
}

// addr is an address of network i, of its left or right host.
func addr(i, side int, v6 bool) string {
	if v6 {
		return fmt.Sprintf("fd00:%d::%d", i, side+1)
	}
	return fmt.Sprintf("10.0.%d.%d", i, side+1)
}

// ours are the networks of virtual addresses and of the gateway's own.
func ours(what string, v6 bool) string {
	return map[string]string{"viptrue": "fd01::/64", "vipfalse": "192.0.2.0/24", "localtrue": "fd02::/64", "localfalse": "192.0.3.0/24"}[fmt.Sprint(what, v6)]
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// splicer is a table around Conns, and a device.
type splicer struct {
	dev      tun.Device
	mu       sync.Mutex
	services map[netip.AddrPort]service
	conns    map[[2]netip.AddrPort]*spliced // by source and destination of what comes in, from either side
	port     uint16
	errors   [2]int // ICMP errors passed on, by who got them
	events   []splice.Event
	last     *spliced
}

type spliced struct {
	splice.Conn
	client, server [2]netip.AddrPort
}

func newSplicer(t *testing.T, h *lab.Host) *splicer {
	s := &splicer{services: map[netip.AddrPort]service{}, conns: map[[2]netip.AddrPort]*spliced{}, port: 40000}
	check(t, h.Do(func() (err error) {
		if _, err = tun.EnableGRO("left0", "right0"); err != nil {
			return err
		}
		s.dev, err = tun.Open("splice0", 1500)
		return err
	}))
	nl := h.Netlink()
	link, err := nl.LinkByName("splice0")
	check(t, err)
	check(t, nl.LinkSetUp(link))
	for _, v6 := range []bool{false, true} {
		family, all := netlink.FAMILY_V4, "0.0.0.0/0"
		if v6 {
			family, all = netlink.FAMILY_V6, "::/0"
		}
		to := func(s string) *net.IPNet {
			_, n, err := net.ParseCIDR(s)
			check(t, err)
			return n
		}
		check(t, nl.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: to(all), Table: table}))
		for i, f := range []func(*netlink.Rule){
			func(r *netlink.Rule) { r.IifName = "right0" },
			func(r *netlink.Rule) { r.IifName, r.Dst = "left0", to(ours("vip", v6)) },
			// What this kernel says itself of what it cannot pass on.
			func(r *netlink.Rule) { r.IifName, r.Dst = "lo", to(ours("vip", v6)) },
		} {
			r := netlink.NewRule()
			r.Family, r.Table, r.Priority = family, table, 1000+i
			f(r)
			check(t, nl.RuleAdd(r))
		}
	}
	done := make(chan struct{})
	go func() { defer close(done); s.run() }()
	t.Cleanup(func() { s.dev.Close(); <-done })
	return s
}

func (s *splicer) run() {
	hdr, b := make([]byte, tun.VnetHeaderLen), make([]byte, tun.MaxPacketLen)
	start := time.Now()
	for {
		n, err := s.dev.ReadV([][]byte{hdr, b})
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err == nil && n >= 40 {
			s.packet(hdr, b[:n], time.Since(start))
		}
	}
}

func (s *splicer) packet(hdr, p []byte, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q, ok := splice.ParseError(p); ok {
		s.icmp(hdr, p, &q)
		return
	}
	ipLen, proto := 20, p[9]
	var from, to netip.AddrPort
	if p[0]>>4 == 6 {
		if ipLen, proto = 40, p[6]; proto != 6 {
			return
		}
		from, to = netip.AddrPortFrom(netip.AddrFrom16([16]byte(p[8:])), port(p[40:])), netip.AddrPortFrom(netip.AddrFrom16([16]byte(p[24:])), port(p[42:]))
	} else {
		from, to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[12:])), port(p[20:])), netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[16:])), port(p[22:]))
	}
	if proto != 6 {
		return
	}
	key := [2]netip.AddrPort{from, to}
	for range 2 {
		c := s.conns[key]
		if c == nil {
			if c = s.open(from, to); c == nil {
				return
			}
		}
		side := splice.Server
		if key == c.client {
			side = splice.Client
		}
		v := c.Forward(side, hdr, p, ipLen, len(p), now)
		if v.Event == splice.EventReused {
			delete(s.conns, c.client)
			delete(s.conns, c.server)
			continue
		}
		if v.Event != splice.EventNone {
			s.events = append(s.events, v.Event)
		}
		if v.Answer {
			clear(hdr)
			p = c.Answer(side, p, ipLen, len(p), make([]byte, splice.MaxMade))
		}
		if v.Drop == splice.DropNone && p != nil {
			_ = s.dev.WriteV([][]byte{hdr, p})
		}
		return
	}
}

func port(b []byte) uint16 { return uint16(b[0])<<8 | uint16(b[1]) }

// open makes a connection for a client that speaks to a service. mu is held.
func (s *splicer) open(client, vip netip.AddrPort) *spliced {
	to, ok := s.services[vip]
	if !ok {
		return nil
	}
	a := splice.Addrs{Client: client, VIP: vip, Local: client, Server: to.server}
	if to.local.IsValid() {
		s.port++
		a.Local = netip.AddrPortFrom(to.local, s.port)
	}
	c := &spliced{client: [2]netip.AddrPort{client, vip}, server: [2]netip.AddrPort{to.server, a.Local}}
	c.Init(a, 0)
	s.conns[c.client], s.conns[c.server], s.last = c, c, c
	return c
}

// icmp passes an error about one of our segments on. mu is held.
func (s *splicer) icmp(hdr, p []byte, q *splice.Quote) {
	of := func(a [16]byte, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16(a).Unmap(), port)
	}
	key := [2]netip.AddrPort{of(q.Dst, q.DstPort), of(q.Src, q.SrcPort)}
	c := s.conns[key]
	if c == nil {
		return
	}
	sender := splice.Client
	if key == c.client {
		sender = splice.Server
	}
	if v := c.ForwardError(sender, p); v.Drop == splice.DropNone {
		s.errors[sender]++
		_ = s.dev.WriteV([][]byte{hdr, p})
	}
}

// takeover makes all connections ones of which only the record is known, and asks where their ends are.
func (s *splicer) takeover() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, c := range s.conns {
		if key != c.client {
			continue
		}
		c.Restore(c.Addrs(), c.Params(), 0)
		for _, to := range []splice.Side{splice.Client, splice.Server} {
			_ = s.dev.WriteV([][]byte{make([]byte, tun.VnetHeaderLen), c.Probe(to, make([]byte, splice.MaxMade))})
		}
	}
}

// serve adds a service in front of a listener on the server's host and returns its virtual address.
func (c *chain) serve(n int, v6, own bool) (vip netip.AddrPort, ln *net.TCPListener) {
	c.t.Helper()
	ip := addr(networks-1, 1, v6)
	l, err := c.hosts[networks].Listen("tcp", net.JoinHostPort(ip, "0"))
	check(c.t, err)
	c.t.Cleanup(func() { l.Close() })
	at := netip.MustParseAddrPort(l.Addr().String())
	sv := service{server: at}
	a, own4 := fmt.Sprintf("192.0.2.%d", n), fmt.Sprintf("192.0.3.%d", n)
	if v6 {
		a, own4 = fmt.Sprintf("fd01::%d", n), fmt.Sprintf("fd02::%d", n)
	}
	if own {
		sv.local = netip.MustParseAddr(own4)
	}
	vip = netip.AddrPortFrom(netip.MustParseAddr(a), 80)
	c.mu.Lock()
	c.services[vip] = sv
	c.mu.Unlock()
	return vip, l.(*net.TCPListener)
}

// dial connects the client's host to a service; accept takes it at the server.
func (c *chain) dial(vip netip.AddrPort, d *net.Dialer) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	conn, err := c.hosts[0].Dial(ctx, d, "tcp", vip.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), conn.SetDeadline(time.Now().Add(deadline))
}

func (c *chain) pair(vip netip.AddrPort, ln *net.TCPListener, d *net.Dialer) (client, server *net.TCPConn) {
	c.t.Helper()
	client, err := c.dial(vip, d)
	check(c.t, err)
	check(c.t, ln.SetDeadline(time.Now().Add(deadline)))
	server, err = ln.AcceptTCP()
	check(c.t, err)
	check(c.t, server.SetDeadline(time.Now().Add(deadline)))
	c.t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// deadline bounds every wait; nothing is measured against it.
const deadline = 60 * time.Second

// ended waits until the newest connection is in a state.
func (c *chain) ended(want splice.State) {
	c.t.Helper()
	for end := time.Now().Add(deadline); ; time.Sleep(2 * time.Millisecond) {
		c.mu.Lock()
		is, p, q := c.last.State(), c.last.Position(splice.Client), c.last.Position(splice.Server)
		c.mu.Unlock()
		if is == want {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("it is %v, not %v:\n%+v\n%+v", is, want, p, q)
		}
	}
}
