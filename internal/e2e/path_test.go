package e2e

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lockstep/appliance/config"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

// farServices have their servers behind a router of the back network (s2).
func farServices() []config.Service {
	return []config.Service{service("far", []string{"203.0.113.10:81", "[2001:db8::10]:81"}, []string{"10.21.0.31:80", "[fd21::31]:80"})}
}

// must is for the many steps of laying a network.
func (p *pair) must(errs ...error) {
	p.t.Helper()
	for _, err := range errs {
		if err != nil {
			p.t.Fatal(err)
		}
	}
}

// behind puts a host of its own behind a host that becomes a router, on a network of that name.
func (p *pair) behind(router *lab.Host, name, net4, net6 string) *lab.Host {
	p.t.Helper()
	n, err := p.Network(name, lab.NetOptions{})
	p.must(err)
	h, err := p.Host(name)
	p.must(err)
	_, err = router.Attach(n, name, net4+".1/24", net6+"::1/64")
	p.must(err, router.Forward())
	_, err = h.Attach(n, "eth0", net4+".31/24", net6+"::31/64")
	p.must(err, h.Route("default", net4+".1"), h.Route("default", net6+"::1"))
	return h
}

// narrow makes the route to a network one that takes mtu bytes, and nothing makes the
// host believe that it takes more.
func (p *pair) narrow(h *lab.Host, ifname, dst string, mtu int) {
	p.t.Helper()
	link, err := h.Netlink().LinkByName(ifname)
	p.must(err)
	_, net, err := net.ParseCIDR(dst)
	p.must(err)
	r := &netlink.Route{Dst: net, LinkIndex: link.Attrs().Index, MTU: mtu, MTULock: true}
	if net.IP.To4() != nil {
		r.Scope = netlink.SCOPE_LINK
	}
	p.must(h.Netlink().RouteReplace(r))
}

func (p *pair) setMTU(h *lab.Host, ifname string, mtu int) {
	p.t.Helper()
	link, err := h.Netlink().LinkByName(ifname)
	p.must(err)
	p.must(h.Netlink().LinkSetMTU(link, mtu))
}

// Paths that are narrower than the networks that the appliances are attached to: beyond a router on
// the servers' side, at the appliance's own NIC, and beyond a router on the clients' side.
func TestNarrowPaths(t *testing.T) {
	p := start(t, options{alone: true, extra: farServices(), serve: func(p *pair) {
		far := p.behind(p.Servers[1], "far", "10.21.0", "fd21")
		p.narrow(p.Servers[1], "far", "10.21.0.0/24", 1400)
		p.narrow(p.Servers[1], "far", "fd21::/64", 1400)
		p.must(p.A.Route("10.21.0.0/24", "10.20.0.12"), p.A.Route("fd21::/64", "fd20::12"))
		for _, network := range []string{"tcp4", "tcp6"} {
			ln, err := far.Listen(network, ":80")
			p.must(err)
			go p.server.Serve(ln)
		}
	}})
	upload := traffic.Upload(1 << 20)
	both := func(port string) {
		t.Helper()
		four, six := p.run(p.client(lab.VIP4+port), upload), p.run(p.client("["+lab.VIP6+"]"+port), upload)
		four()
		six()
	}
	both(":81")

	// A client that lets its packets take one hop only, as BGP speakers do, gets there:
	// whom it speaks to is the appliance.
	for addr, network := range map[string]string{port4: "tcp4", port6: "tcp6"} {
		c := p.client(addr)
		c.Dial = func(ctx context.Context) (net.Conn, error) {
			return p.Client.Dial(ctx, &net.Dialer{Control: oneHop}, network, addr)
		}
		p.run(c, upload)()
	}

	p.setMTU(p.A, lab.BackIf, 1300)
	for _, h := range p.Servers { // what is larger does not get through its NIC inwards either
		p.setMTU(h, lab.FrontIf, 1300)
	}
	both(":81")
	both(":80")

	// IPv4 only: no link may be as narrow as that for IPv6.
	near := p.behind(p.Client, "near", "10.11.0", "fd11")
	p.narrow(p.Client, "near", "10.11.0.0/24", 400)
	p.must(p.A.Route("10.11.0.0/24", lab.Client4))
	c := p.client(port4)
	c.Dial = func(ctx context.Context) (net.Conn, error) { return near.DialContext(ctx, "tcp", port4) }
	c.Patience = 20 * time.Second
	p.run(c, traffic.Download(1<<20))()
	// The way there is as narrow: the client lets that router fragment.
	p.narrow(p.Client, lab.FrontIf, "203.0.113.0/24", 400)
	p.run(c, upload)()
}

// oneHop makes a socket's packets die at the first router.
func oneHop(network, _ string, c syscall.RawConn) (err error) {
	level, name := unix.IPPROTO_IP, unix.IP_TTL
	if network == "tcp6" {
		level, name = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	}
	if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, 1) }); cerr != nil {
		return cerr
	}
	return err
}
