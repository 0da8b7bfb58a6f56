package tun

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// When the process dies, its kernel lives on, and so does the network: for the milliseconds until
// the other appliance has taken over and is known to the neighbours, packets go on arriving here.
// With the TUN device its routes are gone, and what is next in the policy table is a route into a
// tunnel to the other appliance (VXLAN, RFC 7348), which is the kernel's and outlives the process.
// There a rule takes whatever comes out of the tunnel to the TUN device, or to nowhere: it is never
// sent back, whoever is dead.
//
// A tunnel and not just a route: it carries IPv6 over IPv4 and the reverse, a server's segments
// cannot be mistaken for others, it works where the members share a network with clients or have
// routers between them, and an appliance that knows nothing of it drops what comes.

const (
	// tunnelMetric lies between the TUN route's and the blackhole's.
	tunnelMetric = 1 << 10
	// tunnelTable, added to the policy table's number, is what comes out of the tunnel is routed by.
	tunnelTable = 1
)

// tunnelNext are the next hop's addresses, of which nobody else hears: each end has a permanent
// neighbour entry for them. They are the AFTR's of RFC 6333, which is no host's, and a link-local one.
var tunnelNext = [2]netip.Addr{netip.AddrFrom4([4]byte{192, 0, 0, 1}), netip.MustParseAddr("fe80::1")}

// TunnelConfig are the two ends of the tunnel.
type TunnelConfig struct {
	Name          string // of the interface; empty: there is no tunnel
	Local, Remote netip.Addr
	Port          uint16 // UDP, of both ends
	MTU           int    // of what is carried; what is longer than the way between the two is fragmented
}

// tunnelMAC is the address of an end: the other end knows it without asking.
func tunnelMAC(of, peer netip.Addr) net.HardwareAddr {
	last := byte(1)
	if of.Compare(peer) > 0 {
		last = 2
	}
	return net.HardwareAddr{0x02, 'L', 'S', 0, 0, last} // locally administered
}

// OpenTunnel makes the tunnel, or makes it anew with another number, which both ends must have in common.
// k, if there is one, is told.
func (r *Routes) OpenTunnel(number uint32, k *Keeper) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.cfg.Tunnel.Name == "" {
		return nil
	}
	r.shutTunnel()
	c := &r.cfg.Tunnel
	index, err := r.openTunnel(number & (1<<24 - 1))
	if err != nil {
		r.shutTunnel()
		return fmt.Errorf("open the tunnel %s to the peer: %w", c.Name, err)
	}
	if k == nil {
		return nil
	}
	if err := k.tunnel(index, tunnelMAC(c.Local, c.Remote), tunnelMAC(c.Remote, c.Local)); err != nil {
		return fmt.Errorf("tell the process that keeps the TUN device of the tunnel: %w", err)
	}
	return nil
}

func (r *Routes) openTunnel(number uint32) (index int, err error) {
	c := &r.cfg.Tunnel
	la := netlink.NewLinkAttrs()
	la.Name, la.MTU, la.HardwareAddr, la.TxQLen = c.Name, c.MTU, tunnelMAC(c.Local, c.Remote), tunQueueLen
	if err := r.nl.LinkAdd(&netlink.Vxlan{
		LinkAttrs: la, VxlanId: int(number), SrcAddr: c.Local.AsSlice(), Group: c.Remote.AsSlice(), Port: int(c.Port), UDPCSum: true,
	}); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTSUP) {
			err = fmt.Errorf("%w (has the kernel VXLAN? modprobe vxlan)", err)
		}
		return 0, err
	}
	link, err := r.link(c.Name)
	if err != nil {
		return 0, err
	}
	v6 := haveIPv6()
	for _, w := range append(quietSysctls(c.Name, v6), forwards(c.Name, v6)...) {
		if err := w.begin(); err != nil {
			return 0, err
		}
		if w.file != nil {
			w.file.Close() // it goes with the device
		}
	}
	if err := r.nl.LinkSetUp(link); err != nil {
		return 0, fmt.Errorf("set it up: %w", err)
	}
	addr := &netlink.Addr{IPNet: hostNet(dummyAddr()), Scope: int(netlink.SCOPE_HOST)}
	if err := r.nl.AddrReplace(link, addr); err != nil {
		return 0, fmt.Errorf("add address %s: %w", addr.IPNet, err)
	}
	for i, dst := range defaultPrefixes(v6) {
		next := tunnelNext[i]
		if err := r.nl.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, IP: next.AsSlice(), HardwareAddr: tunnelMAC(c.Remote, c.Local), State: netlink.NUD_PERMANENT,
		}); err != nil {
			return 0, fmt.Errorf("add neighbour %s: %w", next, err)
		}
		w := wantedRoute{toTunnel: true, Route: &netlink.Route{
			Dst: dst, Table: r.cfg.Table, LinkIndex: link.Attrs().Index, Gw: next.AsSlice(), Flags: int(netlink.FLAG_ONLINK),
			Priority: tunnelMetric, Protocol: routeProtocol,
		}}
		if err := r.nl.RouteAdd(w.Route); err != nil {
			return 0, fmt.Errorf("add route via %s to table %d: %w", next, r.cfg.Table, err)
		}
		r.desired.routes = append(r.desired.routes, w)
	}
	return link.Attrs().Index, nil
}

func forwards(name string, v6 bool) []*wantedSysctl {
	list := []*wantedSysctl{{key: ifaceKey("ipv4", name, "forwarding"), value: "1", stays: true}}
	if v6 {
		list = append(list, &wantedSysctl{key: ifaceKey("ipv6", name, "forwarding"), value: "1", stays: true})
	}
	return list
}

// shutTunnel removes the device, and with it its routes; it may be a killed predecessor's.
func (r *Routes) shutTunnel() {
	r.desired.routes = slices.DeleteFunc(r.desired.routes, func(w wantedRoute) bool { return w.toTunnel })
	if r.cfg.Tunnel.Name == "" {
		return
	}
	if link, err := r.nl.LinkByName(r.cfg.Tunnel.Name); err == nil {
		_ = r.nl.LinkDel(link) // in use by somebody else: making ours will fail, and say so
	}
}

// tunnelRoutes fill the table for what comes out of the tunnel.
func (r *Routes) tunnelRoutes(v6 bool) []wantedRoute {
	if r.cfg.Tunnel.Name == "" {
		return nil
	}
	list := r.tableRoutes(v6)
	for i := range list {
		list[i].Table += tunnelTable
	}
	return list
}

// tunnelRules are others' of ours once more, for what comes out of the tunnel, and come before them. They name the
// addresses because the kernel looks for the way back to a sender (rp_filter) by the rules of the interface that
// its packet is to leave by, which is the tunnel when it is handed on.
func (r *Routes) tunnelRules(like []*netlink.Rule) []*netlink.Rule {
	if r.cfg.Tunnel.Name == "" {
		return nil
	}
	var list []*netlink.Rule
	for _, l := range like {
		rule := *l
		rule.IifName, rule.Table, rule.Priority = r.cfg.Tunnel.Name, r.cfg.Table+tunnelTable, r.cfg.RulePriority-1
		list = append(list, &rule)
	}
	return list
}

// ownTable reports whether a routing table is one of ours.
func (r *Routes) ownTable(n int) bool {
	return n == r.cfg.Table || r.cfg.Tunnel.Name != "" && n == r.cfg.Table+tunnelTable
}
