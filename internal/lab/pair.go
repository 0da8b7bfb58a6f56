package lab

import (
	"context"
	"fmt"
	"net/netip"
)

// Addresses of the standard topology (PairLab).
const (
	FrontNet4 = "203.0.113.0/24"
	FrontNet6 = "2001:db8::/64"
	BackNet4  = "10.20.0.0/24"
	BackNet6  = "fd20::/64"
	SyncNet4  = "10.30.0.0/24"
	Witness4  = "10.30.0.3"

	VIP4    = "203.0.113.10"
	VIP6    = "2001:db8::10"
	Client4 = "203.0.113.100"
	Client6 = "2001:db8::100"

	// The floating back gateway, default route of the servers. Nobody holds it until an
	// appliance does.
	BackGateway4 = "10.20.0.1"
	BackGateway6 = "fd20::1"
)

// Interface names of an appliance in the standard topology.
const (
	FrontIf = "eth0"
	BackIf  = "eth1"
	SyncIf  = "eth2"
)

// PairOptions of the standard topology.
type PairOptions struct {
	Options
	Front, Back, Sync NetOptions
	// Witness adds a third host, w, to the sync network.
	Witness bool
	// Servers on the back network: s1 (10.20.0.11, fd20::11) and so on. 0 is two; at most 50.
	Servers int
}

// PairLab is the standard topology:
//
//	                         front 203.0.113.0/24 2001:db8::/64
//	client .100 ::100 ---+------------+------------+   VIP .10 ::10 (held by nobody yet)
//	                     |            |
//	                 eth0 .2 ::2  eth0 .3 ::3
//	                  [a]  eth2 ---- eth2  [b]          sync 10.30.0.0/24: .1, .2; [w] .3
//	                 eth1 .2 ::2  eth1 .3 ::3
//	                     |            |
//	          ----+------+------------+---+----         back 10.20.0.0/24 fd20::/64
//	              |                       |             floating gateway .1 ::1
//	             s1 .11 ::11             s2 .12 ::12    (held by nobody yet)
type PairLab struct {
	*Lab
	Front, Back, Sync *Network
	Client            *Host
	A, B              *Host
	W                 *Host // the witness's, nil unless asked for
	Servers           []*Host
}

// Pair builds the standard topology.
func Pair(ctx context.Context, opts PairOptions) (*PairLab, error) {
	if opts.Servers == 0 {
		opts.Servers = 2
	}
	if opts.Servers < 0 || opts.Servers > 50 {
		return nil, fmt.Errorf("pair topology: %d servers are not within 1 to 50", opts.Servers)
	}
	l, err := New(ctx, opts.Options)
	if err != nil {
		return nil, err
	}
	p := &PairLab{Lab: l}
	if err := p.build(opts); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("pair topology: %w", err)
	}
	return p, nil
}

func (p *PairLab) build(opts PairOptions) (err error) {
	for _, n := range []struct {
		name string
		opts NetOptions
		net  **Network
	}{{"front", opts.Front, &p.Front}, {"back", opts.Back, &p.Back}, {"sync", opts.Sync, &p.Sync}} {
		if *n.net, err = p.Network(n.name, n.opts); err != nil {
			return err
		}
	}
	if p.Client, err = p.host("client", cable{p.Front, FrontIf, []string{Client4 + "/24", Client6 + "/64"}}); err != nil {
		return err
	}
	for i, h := range []struct {
		name string
		host **Host
	}{{"a", &p.A}, {"b", &p.B}} {
		if *h.host, err = p.host(h.name,
			cable{p.Front, FrontIf, []string{fmt.Sprintf("203.0.113.%d/24", i+2), fmt.Sprintf("2001:db8::%d/64", i+2)}},
			cable{p.Back, BackIf, []string{fmt.Sprintf("10.20.0.%d/24", i+2), fmt.Sprintf("fd20::%d/64", i+2)}},
			cable{p.Sync, SyncIf, []string{fmt.Sprintf("10.30.0.%d/24", i+1)}},
		); err != nil {
			return err
		}
	}
	if opts.Witness {
		if p.W, err = p.host("w", cable{p.Sync, FrontIf, []string{Witness4 + "/24"}}); err != nil {
			return err
		}
	}
	for i := range opts.Servers {
		h, err := p.host(fmt.Sprintf("s%d", i+1),
			cable{p.Back, FrontIf, []string{fmt.Sprintf("10.20.0.%d/24", i+11), fmt.Sprintf("fd20::%d/64", i+11)}})
		if err != nil {
			return err
		}
		for _, gw := range []string{BackGateway4, BackGateway6} {
			if err := h.Route("default", gw); err != nil {
				return err
			}
		}
		p.Servers = append(p.Servers, h)
	}
	return nil
}

// cable is one attachment of a host.
type cable struct {
	net    *Network
	ifname string
	addrs  []string
}

func (p *PairLab) host(name string, cables ...cable) (*Host, error) {
	h, err := p.Host(name)
	if err != nil {
		return nil, err
	}
	for _, c := range cables {
		if _, err := h.Attach(c.net, c.ifname, c.addrs...); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// ServerAddr is the address of the i-th server (0 is s1).
func (p *PairLab) ServerAddr(i int, v6 bool, port uint16) netip.AddrPort {
	if v6 {
		return netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("fd20::%d", i+11)), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 20, 0, byte(i + 11)}), port)
}

// Appliance returns a or b by name, nil otherwise.
func (p *PairLab) Appliance(name string) *Host {
	switch name {
	case p.A.Name():
		return p.A
	case p.B.Name():
		return p.B
	}
	return nil
}

// StandIn makes one appliance a plain router that holds the virtual addresses itself, for
// baselines and for tests of the lab: clients reach servers through the kernel alone. The client
// gets a route to the back network through the VIP.
func (p *PairLab) StandIn(h *Host) error {
	if err := h.Forward(); err != nil {
		return err
	}
	for _, a := range []struct{ ifname, cidr string }{
		{FrontIf, VIP4 + "/24"}, {FrontIf, VIP6 + "/64"},
		{BackIf, BackGateway4 + "/24"}, {BackIf, BackGateway6 + "/64"},
	} {
		if err := h.AddAddr(a.ifname, a.cidr); err != nil {
			return err
		}
	}
	if err := p.Client.Route(BackNet4, VIP4); err != nil {
		return err
	}
	return p.Client.Route(BackNet6, VIP6)
}
