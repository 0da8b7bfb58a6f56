package tun

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// routeProtocol marks routes and rules as ours, so that a successor finds
	// what a killed process left behind. The number has no registered owner
	// (/etc/iproute2/rt_protos.d).
	routeProtocol = 76

	// Metrics in the policy table. The TUN route goes with its device when the
	// process dies; the blackhole below it stays and keeps the kernel mute.
	tunMetric       = 10
	blackholeMetric = 1 << 20

	// tunQueueLen is the TUN device's queue in packets. The default of 500
	// drops under the bursts of a few hundred busy connections; each packet
	// may hold 64 KB, so this bounds kernel memory at 512 MiB; where frames
	// come singly it holds three of the largest windows.
	tunQueueLen = 8192
)

// RouteConfig says which packets the kernel shall bring into the TUN device.
type RouteConfig struct {
	TUN, Front, Back string // interface names; all three must exist

	Table        int // routing table of our own, neither 0 nor 253 to 255
	RulePriority int // 2 to 32765, the one before is taken as well: after the local table's rule, before the main table's

	// Virtual are the addresses held by the active appliance: VIPs and the
	// floating gateway addresses. None may be configured in the kernel.
	Virtual []netip.Addr
	// Servers of services with `source: client`: their answers go to the
	// client's own address, so they are recognised by where they come from.
	Servers []netip.AddrPort
	// Gateways are the floating gateway addresses with their prefix lengths.
	// Where the kernel has no connected route for such a prefix on Back
	// (because the appliance has no address of its own there), one is added.
	Gateways []netip.Prefix
	// Tunnel leads to the other appliance of a pair, see OpenTunnel.
	Tunnel TunnelConfig

	// Connections is how many there may be, see roomSysctls.
	Connections int

	Log *slog.Logger // nil: silent
}

func (c *RouteConfig) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.TUN == "" || c.Front == "" || c.Back == "" {
		bad("interface name missing: tun %q, front %q, back %q", c.TUN, c.Front, c.Back)
	}
	if c.Table < 1 || c.Table > 1<<31-1 || c.Table >= unix.RT_TABLE_DEFAULT && c.Table <= unix.RT_TABLE_LOCAL {
		bad("table %d is not free for policy routes (1 to 2147483647, without 253 to 255)", c.Table)
	}
	if c.RulePriority < 2 || c.RulePriority > 32765 {
		bad("rule priority %d is not between 2 and 32765", c.RulePriority)
	}
	for _, a := range c.Virtual {
		if !usableUnicast(a) {
			bad("virtual address %s is not a plain unicast address", a)
		}
	}
	for _, s := range c.Servers {
		if !usableUnicast(s.Addr()) || s.Port() == 0 {
			bad("server %s is not a unicast address with a port", s)
		}
	}
	for _, p := range c.Gateways {
		if !p.IsValid() || !usableUnicast(p.Addr()) {
			bad("gateway %s is not a unicast address with a prefix length", p)
		}
	}
	return errors.Join(errs...)
}

// usableUnicast: scoped addresses are refused, since rules and routes of ours
// carry no zone.
func usableUnicast(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// Routes is what InstallRoutes made; Close takes it away again.
type Routes struct {
	cfg RouteConfig
	log *slog.Logger
	nl  *netlink.Handle

	tunIndex int
	cancel   context.CancelFunc // ends watch
	wg       sync.WaitGroup
	faults   chan []string // cap 1, the newest
	gone     chan struct{} // closed when the TUN device was deleted
	upkeep   upkeep        // of watch's goroutine
	defaults defaults      // the same, but for changed

	mu      sync.Mutex // guards what follows, and the use of nl
	desired desired
	repairs Repairs
	closed  bool
}

// InstallRoutes sets the TUN link up and makes the kernel route the protected
// segments into it and everything else as a plain router. What a killed
// predecessor left in the same table is removed first. On an error nothing of
// it stays.
//
// Virtual addresses never become kernel addresses: a kernel that owns one
// answers for it with RST, ICMP and ARP after our process was killed. Instead
// a rule sends them to a table whose last entry is a blackhole.
func InstallRoutes(cfg RouteConfig) (*Routes, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("install routes: %w", err)
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("install routes: open netlink socket: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Routes{cfg: cfg, log: log, nl: nl, cancel: cancel, faults: make(chan []string, 1), gone: make(chan struct{})}
	if err := r.install(); err != nil {
		return nil, errors.Join(fmt.Errorf("install routes: %w", err), r.Close())
	}
	if err := r.watchKernel(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("install routes: %w", err), r.Close())
	}
	return r, nil
}

func (r *Routes) install() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	tun, err := r.link(r.cfg.TUN)
	if err != nil {
		return err
	}
	back, err := r.link(r.cfg.Back)
	if err != nil {
		return err
	}
	if _, err := r.link(r.cfg.Front); err != nil {
		return err
	}
	if err := r.refuseKernelAddresses(); err != nil {
		return err
	}
	r.shutTunnel() // a killed predecessor's
	// Leftovers go before the checks for strangers, which would take them for such.
	if err := r.removeLeftovers(back.Attrs().Index); err != nil {
		return err
	}
	v6 := haveIPv6()
	if !v6 && r.wants6() {
		return errors.New("IPv6 addresses are configured but this kernel has IPv6 off (boot option ipv6.disable=1?)")
	}
	r.tunIndex = tun.Attrs().Index
	if err := r.want(v6); err != nil {
		return err
	}
	if err := r.setupTUN(tun); err != nil {
		return err
	}
	d := &r.desired
	if err := d.sysctls.begin(func(w *wantedSysctl) bool { return !w.stays }); err != nil {
		return err
	}
	for i := range d.routes {
		if err := r.nl.RouteAdd(d.routes[i].Route); err != nil {
			return fmt.Errorf("add route %s to table %d: %w", d.routes[i].Dst, r.cfg.Table, err)
		}
	}
	if err := r.addPrefixes(back.Attrs().Index); err != nil {
		return err
	}
	for _, rule := range d.rules {
		if err := r.nl.RuleAdd(rule); err != nil {
			return fmt.Errorf("add %v: %w", rule, err)
		}
	}
	return nil
}

func (r *Routes) wants6() bool {
	for _, a := range r.cfg.Virtual {
		if a.Unmap().Is6() {
			return true
		}
	}
	for _, s := range r.cfg.Servers {
		if s.Addr().Unmap().Is6() {
			return true
		}
	}
	return false
}

func (r *Routes) link(name string) (netlink.Link, error) {
	l, err := r.nl.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find interface %q: %w", name, err)
	}
	return l, nil
}

// refuseKernelAddresses: the local table comes before every rule, so a virtual
// address configured in the kernel would never reach the TUN device.
func (r *Routes) refuseKernelAddresses() error {
	found, err := r.kernelAddresses()
	if err == nil && len(found) > 0 {
		err = errors.New(found[0].fault)
	}
	return err
}

// kernelAddress is a virtual address that was configured on an interface.
type kernelAddress struct {
	addr  netip.Addr
	index int
	fault string // in words
}

// kernelAddresses tells which virtual addresses the kernel has taken for its own.
func (r *Routes) kernelAddresses() ([]kernelAddress, error) {
	addrs, err := r.nl.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var found []kernelAddress
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		for _, v := range r.cfg.Virtual {
			if ip.Unmap() == v.Unmap() {
				name := fmt.Sprint(a.LinkIndex)
				if l, err := r.nl.LinkByIndex(a.LinkIndex); err == nil {
					name = l.Attrs().Name
				}
				found = append(found, kernelAddress{v.Unmap(), a.LinkIndex, fmt.Sprintf(
					"virtual address %s is configured on interface %s of this host; remove it there (ip address del %s dev %s), the gateway holds it itself",
					v, name, a.IPNet, name)})
				break
			}
		}
	}
	return found, nil
}

// dummyAddr is the IPv4 dummy address (RFC 7600, section 4.8). On an interface
// without any IPv4 address Linux makes loose reverse path filtering a strict
// one, and clients' addresses never route back through the TUN device. Scope
// host keeps it from being chosen as a source; it goes with the device.
func dummyAddr() netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 0, 8}) }

// setupTUN brings the link up without letting the kernel talk on it.
func (r *Routes) setupTUN(tun netlink.Link) error {
	if err := r.nl.LinkSetTxQLen(tun, tunQueueLen); err != nil {
		return fmt.Errorf("set queue length of %q: %w", r.cfg.TUN, err)
	}
	if err := r.desired.sysctls.begin(func(w *wantedSysctl) bool { return w.stays }); err != nil {
		return err
	}
	if tun.Attrs().NumTxQueues > 1 {
		// The device has queues of its own. Before its own the kernel would put one for each of the 256 that the
		// device could have, of tunQueueLen each: 50 MB. Should it not do without, they are there.
		none := &netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: tun.Attrs().Index, Parent: netlink.HANDLE_ROOT}, QdiscType: "noqueue"}
		if err := r.nl.QdiscReplace(none); err != nil {
			r.log.Debug("the kernel's own queues stay", "device", r.cfg.TUN, "err", err)
		}
	}
	if err := r.nl.LinkSetUp(tun); err != nil {
		return fmt.Errorf("set link %q up: %w", r.cfg.TUN, err)
	}
	return r.addDummy(tun)
}

func (r *Routes) addDummy(tun netlink.Link) error {
	addr := &netlink.Addr{IPNet: hostNet(dummyAddr()), Scope: int(netlink.SCOPE_HOST)}
	if err := r.nl.AddrReplace(tun, addr); err != nil {
		return fmt.Errorf("add address %s to %q: %w", addr.IPNet, r.cfg.TUN, err)
	}
	return nil
}

// addPrefixes makes the servers' networks reachable where the kernel has no route for
// an address of its own in them.
func (r *Routes) addPrefixes(backIndex int) error {
	for i := range r.desired.prefixes {
		w := &r.desired.prefixes[i]
		family := netlink.FAMILY_V4
		if len(w.Dst.IP) != net.IPv4len {
			family = netlink.FAMILY_V6
		}
		have, err := r.nl.RouteListFiltered(family,
			&netlink.Route{Table: unix.RT_TABLE_MAIN, LinkIndex: backIndex},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("list routes of %q: %w", r.cfg.Back, err)
		}
		if connected(have, w.Dst) {
			continue
		}
		w.LinkIndex = backIndex
		err = r.nl.RouteAdd(w.Route)
		if err != nil && !errors.Is(err, unix.EEXIST) { // two gateways in one prefix, or an interrupted dump
			return fmt.Errorf("add route %s dev %s (is the link up?): %w", w.Dst, r.cfg.Back, err)
		}
		w.ours = err == nil
	}
	return nil
}

// connected: some route without a next hop covers dst.
func connected(have []netlink.Route, dst *net.IPNet) bool {
	ones, bits := dst.Mask.Size()
	for _, h := range have {
		if h.Dst == nil || len(h.Gw) > 0 || h.Via != nil {
			continue
		}
		hones, hbits := h.Dst.Mask.Size()
		if hbits == bits && hones > 0 && hones <= ones && h.Dst.Contains(dst.IP) {
			return true
		}
	}
	return false
}

// Close removes rules and routes and restores the sysctls it changed, as far
// as nobody else changed them since. It may be called twice.
func (r *Routes) Close() error {
	r.cancel()
	r.wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	var errs []error
	for _, rule := range slices.Backward(r.desired.rules) {
		if err := r.nl.RuleDel(rule); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("delete %v: %w", rule, err))
		}
	}
	for _, rt := range slices.Backward(r.ownRoutes()) {
		if err := r.nl.RouteDel(rt); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("delete route %s in table %d: %w", rt.Dst, rt.Table, err))
		}
	}
	if tun, err := r.nl.LinkByName(r.cfg.TUN); err == nil {
		// As far as it was set; the device normally goes next anyway.
		_ = r.nl.AddrDel(tun, &netlink.Addr{IPNet: hostNet(dummyAddr())})
	}
	r.shutTunnel()
	errs = append(errs, r.desired.sysctls.restore())
	r.nl.Close()
	return errors.Join(errs...)
}

// ownRoutes are those that we have added.
func (r *Routes) ownRoutes() []*netlink.Route {
	var list []*netlink.Route
	for i := range r.desired.routes {
		list = append(list, r.desired.routes[i].Route)
	}
	for i := range r.desired.prefixes {
		if r.desired.prefixes[i].ours {
			list = append(list, r.desired.prefixes[i].Route)
		}
	}
	return list
}

// gone: what shall be removed is not there any more. Routes vanish with their
// device (ESRCH, ENODEV), rules only by someone's hand (ENOENT).
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV)
}

func defaultPrefixes(v6 bool) []*net.IPNet {
	out := []*net.IPNet{ipNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0))}
	if v6 {
		out = append(out, ipNet(netip.PrefixFrom(netip.IPv6Unspecified(), 0)))
	}
	return out
}

func ipNet(p netip.Prefix) *net.IPNet {
	a := p.Addr()
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(p.Bits(), a.BitLen())}
}

// hostNet is the one-address prefix of a.
func hostNet(a netip.Addr) *net.IPNet {
	a = a.Unmap()
	return ipNet(netip.PrefixFrom(a, a.BitLen()))
}

// linkScope: IPv6 routes have no scope, and the kernel reports universe.
func linkScope(dst *net.IPNet) netlink.Scope {
	if len(dst.IP) == net.IPv4len {
		return netlink.SCOPE_LINK
	}
	return netlink.SCOPE_UNIVERSE
}
