package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is one machine of the lab: a set of namespaces with interfaces, addresses and routes.
type Host struct {
	lab   *Lab
	name  string
	space *space
	ports map[string]*Port // by interface name; guarded by lab.mu
}

// Name is the host's name and its hostname (UTS).
func (h *Host) Name() string { return h.name }

// defaults makes a host behave the same whatever the machine's settings are: a new namespace
// inherits some of the IPv4 ones, and IPv6 would spend seconds on duplicate address detection.
func (h *Host) defaults() error {
	required := [][2]string{
		{"net/ipv4/conf/all/rp_filter", "0"},
		{"net/ipv4/conf/default/rp_filter", "0"},
		{"net/ipv4/ip_forward", "0"},
		{"net/ipv4/tcp_no_metrics_save", "1"}, // what one connection learnt must not shape the next
	}
	optional := [][2]string{ // absent where the kernel has no IPv6
		{"net/ipv6/conf/all/disable_ipv6", "0"},
		{"net/ipv6/conf/default/disable_ipv6", "0"},
		{"net/ipv6/conf/default/accept_dad", "0"},
		{"net/ipv6/conf/all/accept_dad", "0"},
		{"net/ipv6/conf/default/dad_transmits", "0"},
		{"net/ipv6/conf/default/accept_ra", "0"},
		{"net/ipv6/conf/default/autoconf", "0"},
		{"net/ipv6/conf/default/router_solicitations", "0"},
		{"net/ipv6/conf/all/forwarding", "0"},
	}
	for _, kv := range required {
		if err := h.space.sysctl(kv[0], kv[1]); err != nil {
			return fmt.Errorf("host %q: %w", h.name, err)
		}
	}
	for _, kv := range optional {
		if err := h.space.sysctl(kv[0], kv[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("host %q: %w", h.name, err)
		}
	}
	return nil
}

// Attach connects the host to a network through a new interface and gives it the addresses
// (CIDR notation). IPv6 addresses are usable at once (no duplicate address detection).
func (h *Host) Attach(n *Network, ifname string, addrs ...string) (*Port, error) {
	if len(ifname) == 0 || len(ifname) > unix.IFNAMSIZ-1 {
		return nil, fmt.Errorf("attach %q to %q: bad interface name %q", h.name, n.name, ifname)
	}
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	if h.lab.closed {
		return nil, fmt.Errorf("attach %q to %q: lab: %w", h.name, n.name, os.ErrClosed)
	}
	if _, ok := h.ports[ifname]; ok {
		return nil, fmt.Errorf("attach %q to %q: interface %q exists", h.name, n.name, ifname)
	}
	h.lab.links++
	p, err := n.attach(h, ifname, h.lab.links)
	if err != nil {
		return nil, fmt.Errorf("attach %q to %q: %w", h.name, n.name, err)
	}
	h.ports[ifname] = p
	for _, a := range addrs {
		if err := h.AddAddr(ifname, a); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Port returns the port behind an interface, nil if there is none.
func (h *Host) Port(ifname string) *Port {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	return h.ports[ifname]
}

// AddAddr gives an interface an address in CIDR notation.
func (h *Host) AddAddr(ifname, cidr string) error { return h.addr(ifname, cidr, true) }

// DelAddr takes an address away.
func (h *Host) DelAddr(ifname, cidr string) error { return h.addr(ifname, cidr, false) }

func (h *Host) addr(ifname, cidr string, add bool) error {
	link, err := h.space.nl.LinkByName(ifname)
	if err != nil {
		return fmt.Errorf("host %q: find interface %q: %w", h.name, ifname, err)
	}
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		return fmt.Errorf("host %q: address %q: %w", h.name, cidr, err)
	}
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	if add {
		err = h.space.nl.AddrAdd(link, a)
	} else {
		err = h.space.nl.AddrDel(link, a)
	}
	if err != nil {
		return fmt.Errorf("host %q: address %s on %q: %w", h.name, cidr, ifname, err)
	}
	return nil
}

// Route adds a route: dst in CIDR notation or "default" with via of either family, through a
// gateway or, with via a plain interface name, on link.
func (h *Host) Route(dst, via string) error {
	r := &netlink.Route{}
	gw, gwErr := netip.ParseAddr(via)
	if gwErr == nil {
		r.Gw = gw.AsSlice()
	} else {
		link, err := h.space.nl.LinkByName(via)
		if err != nil {
			return fmt.Errorf("host %q: route to %s: %q is neither an address nor an interface: %w", h.name, dst, via, err)
		}
		r.LinkIndex = link.Attrs().Index
		r.Scope = netlink.SCOPE_LINK
	}
	switch {
	case dst != "default":
		p, err := netip.ParsePrefix(dst)
		if err != nil {
			return fmt.Errorf("host %q: route to %q: %w", h.name, dst, err)
		}
		p = p.Masked()
		r.Dst = &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
	case gwErr == nil && gw.Is6():
		r.Dst = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	default:
		r.Dst = &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	if err := h.space.nl.RouteAdd(r); err != nil {
		return fmt.Errorf("host %q: route to %s via %s: %w", h.name, dst, via, err)
	}
	return nil
}

// Forward makes the host a router of both families.
func (h *Host) Forward() error {
	if err := h.Sysctl("net/ipv4/ip_forward", "1"); err != nil {
		return err
	}
	err := h.Sysctl("net/ipv6/conf/all/forwarding", "1")
	if errors.Is(err, os.ErrNotExist) {
		return nil // no IPv6 in this kernel
	}
	return err
}

// Sysctl sets a value below /proc/sys as the host sees it: "net.ipv4.tcp_timestamps", "0". Use
// slashes where a part contains a dot.
func (h *Host) Sysctl(key, value string) error {
	if err := h.space.sysctl(key, value); err != nil {
		return fmt.Errorf("host %q: %w", h.name, err)
	}
	return nil
}

// ReadSysctl returns a value below /proc/sys as the host sees it.
func (h *Host) ReadSysctl(key string) (string, error) {
	v, err := h.space.readSysctl(key)
	if err != nil {
		return "", fmt.Errorf("host %q: %w", h.name, err)
	}
	return v, nil
}

// Do runs fn on an OS thread that is in the host's network namespace, and returns its error.
// Sockets opened by fn belong to the host for as long as they live. Goroutines started by fn are
// NOT in the namespace: dial and listen in fn itself, with literal addresses. Calls may run in
// parallel and last as long as they like.
func (h *Host) Do(fn func() error) error { return h.space.visit(fn) }

// DialContext connects from inside the host; address must be a literal one. It has the type
// that http.Transport and others want.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return h.Dial(ctx, &net.Dialer{}, network, address)
}

// Dial is DialContext with a dialer of the caller's (local address, socket options).
func (h *Host) Dial(ctx context.Context, d *net.Dialer, network, address string) (conn net.Conn, err error) {
	err = h.Do(func() error {
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen opens a listener inside the host.
func (h *Host) Listen(network, address string) (ln net.Listener, err error) {
	err = h.Do(func() error {
		lc := net.ListenConfig{}
		ln, err = lc.Listen(context.Background(), network, address)
		return err
	})
	return ln, err
}

// Netlink is a route netlink handle inside the host, for what has no method here. It ends with
// the lab.
func (h *Host) Netlink() *netlink.Handle { return h.space.nl }

// NamespaceFD is the descriptor of the host's network namespace; the lab owns it.
func (h *Host) NamespaceFD() int { return h.space.fd }
