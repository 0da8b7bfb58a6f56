package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Kind of a network.
type Kind int

const (
	// Kernel is a Linux bridge: fast, faults limited to links and partitions.
	Kernel Kind = iota
	// Switch is the lab's own switch: slower, with per-port faults.
	Switch
)

// NetOptions of a network. The zero value is a bridge with MTU 1500 whose links carry MTU-sized
// frames with real checksums.
type NetOptions struct {
	Kind Kind
	// Offload leaves segmentation and checksum offloads on, so that a link carries superpackets
	// of up to 64 KiB. Off (false) is what a real network does. A Switch refuses true.
	Offload bool
	// MTU of every interface, bytes. 0 is 1500.
	MTU int
	// Faults of every new port, both directions. Only for a Switch.
	Faults Faults
}

// errNoFaults is what a Kernel network answers to frame faults.
var errNoFaults = errors.New("a kernel network cannot lose or delay frames (hint: NetOptions.Kind: lab.Switch)")

// Network is a layer-2 network. Its hub, bridge or switch, lives in a namespace of its own.
type Network struct {
	lab   *Lab
	name  string
	opts  NetOptions
	space *space
	fab   *fabric // nil for Kernel

	mu      sync.Mutex
	ports   []*Port
	bridges map[int]*netlink.Bridge // Kernel: by partition group; 0 is where all start
}

// Port is one end of a cable: the network's side of a host's interface.
type Port struct {
	net    *Network
	host   *Host
	ifname string
	link   netlink.Link // in the network's namespace
	sw     *switchPort  // nil for Kernel
}

func newNetwork(l *Lab, name string, opts NetOptions) (*Network, error) {
	if opts.MTU == 0 {
		opts.MTU = 1500
	}
	if opts.MTU < 68 || opts.MTU > 65535 {
		return nil, fmt.Errorf("network %q: MTU %d is not within 68 to 65535", name, opts.MTU)
	}
	if opts.Kind == Switch && opts.Offload {
		return nil, fmt.Errorf("network %q: a switch carries MTU-sized frames only (hint: Offload: false)", name)
	}
	if opts.Kind == Kernel && opts.Faults != (Faults{}) {
		return nil, fmt.Errorf("network %q: %w", name, errNoFaults)
	}
	if err := opts.Faults.check(); err != nil {
		return nil, fmt.Errorf("network %q: %w", name, err)
	}
	s, err := newSpace("net-" + name)
	if err != nil {
		return nil, err
	}
	n := &Network{lab: l, name: name, opts: opts, space: s, bridges: make(map[int]*netlink.Bridge)}
	// The hub itself talks to nobody.
	for _, key := range []string{"net/ipv6/conf/all/disable_ipv6", "net/ipv6/conf/default/disable_ipv6"} {
		if err := s.sysctl(key, "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
			s.close()
			return nil, fmt.Errorf("network %q: %w", name, err)
		}
	}
	if opts.Kind == Switch {
		n.fab = newFabric()
		return n, nil
	}
	if _, err := n.bridge(0); err != nil {
		s.close()
		return nil, fmt.Errorf("network %q: %w", name, err)
	}
	return n, nil
}

// Name of the network.
func (n *Network) Name() string { return n.name }

// bridge returns the bridge of a partition group, made on demand.
func (n *Network) bridge(group int) (*netlink.Bridge, error) {
	if b := n.bridges[group]; b != nil {
		return b, nil
	}
	snooping := false // without a querier it would cut off IPv6 neighbour discovery
	b := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: &snooping}
	b.Name = fmt.Sprintf("br%d", group)
	if err := n.space.nl.LinkAdd(b); err != nil {
		return nil, fmt.Errorf("create bridge: %w", err)
	}
	if err := n.space.nl.LinkSetUp(b); err != nil {
		return nil, fmt.Errorf("set bridge up: %w", err)
	}
	// A new namespace has bridge netfilter on where the kernel has it: frames would go through
	// connection tracking.
	for _, k := range []string{"iptables", "ip6tables", "arptables"} {
		err := n.space.sysctl("net/bridge/bridge-nf-call-"+k, "0")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			n.lab.log.Debug("bridge netfilter stays on", "network", n.name, "err", err)
		}
	}
	n.bridges[group] = b
	return b, nil
}

// attach makes the cable: one veth pair with each end born in its final namespace.
func (n *Network) attach(h *Host, ifname string, serial int) (*Port, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name = fmt.Sprintf("%s.%d", h.name, serial) // unique here: a host may attach twice
	veth.MTU = n.opts.MTU
	veth.HardwareAddr = labMAC(0xfe, serial)
	veth.PeerName = ifname
	veth.PeerMTU = uint32(n.opts.MTU)
	veth.PeerHardwareAddr = labMAC(0x02, serial)
	veth.PeerNamespace = netlink.NsFd(h.space.fd)
	if err := n.space.nl.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("create veth pair: %w", err)
	}
	p := &Port{net: n, host: h, ifname: ifname, link: veth}
	if err := p.bringUp(); err != nil {
		_ = n.space.nl.LinkDel(veth)
		return nil, err
	}
	n.ports = append(n.ports, p)
	return p, nil
}

func (p *Port) bringUp() error {
	n := p.net
	if !n.opts.Offload {
		// Forwarded packets carry offload state too, so both ends.
		if err := n.space.visit(func() error { return offloadsOff(p.link.Attrs().Name) }); err != nil {
			return err
		}
		if err := p.host.space.visit(func() error { return offloadsOff(p.ifname) }); err != nil {
			return err
		}
	}
	if n.opts.Kind == Kernel {
		b, err := n.bridge(0)
		if err != nil {
			return err
		}
		if err := n.space.nl.LinkSetMaster(p.link, b); err != nil {
			return fmt.Errorf("add port to bridge: %w", err)
		}
	}
	peer, err := p.host.space.nl.LinkByName(p.ifname)
	if err != nil {
		return fmt.Errorf("find interface %q: %w", p.ifname, err)
	}
	if err := p.host.space.nl.LinkSetUp(peer); err != nil {
		return fmt.Errorf("set %q up: %w", p.ifname, err)
	}
	if err := n.space.nl.LinkSetUp(p.link); err != nil {
		return fmt.Errorf("set port up: %w", err)
	}
	if n.opts.Kind == Switch {
		seed := n.lab.opts.Seed ^ uint64(p.link.Attrs().HardwareAddr[5])<<32 ^ uint64(len(n.ports))
		sw, err := n.fab.addPort(n.space, p.link, n.opts.MTU, n.opts.Faults, seed)
		if err != nil {
			return err
		}
		p.sw = sw
	}
	return nil
}

// close stops the switch and ends the namespace.
func (n *Network) close() error {
	if n.fab != nil {
		n.fab.close()
	}
	n.space.close()
	return nil
}

// Host at the other end of the cable.
func (p *Port) Host() *Host { return p.host }

// MAC is the hardware address of the host's interface.
func (p *Port) MAC() (string, error) {
	link, err := p.host.space.nl.LinkByName(p.ifname)
	if err != nil {
		return "", fmt.Errorf("host %q: find interface %q: %w", p.host.name, p.ifname, err)
	}
	return link.Attrs().HardwareAddr.String(), nil
}

// SetLink pulls (false) or plugs (true) the cable: the host's interface loses or regains its
// carrier, and frames stop at once in both directions.
func (p *Port) SetLink(up bool) error {
	var err error
	if up {
		err = p.net.space.nl.LinkSetUp(p.link)
	} else {
		err = p.net.space.nl.LinkSetDown(p.link)
	}
	if err != nil {
		return fmt.Errorf("link of %q on %q: %w", p.host.name, p.net.name, err)
	}
	if !up && p.net.fab != nil {
		p.net.fab.forget(p.sw)
	}
	return nil
}

// SetFaults changes what happens to frames in one direction, from now on. Frames already delayed
// keep their time.
func (p *Port) SetFaults(d Direction, f Faults) error {
	if p.sw == nil {
		return fmt.Errorf("network %q: %w", p.net.name, errNoFaults)
	}
	if err := f.check(); err != nil {
		return fmt.Errorf("network %q: %w", p.net.name, err)
	}
	p.sw.conduit(d).set(f)
	return nil
}

// SetFilter installs a function that sees every frame in one direction and lets it pass by
// returning true; nil removes it. It must be quick, must not keep or change the frame, and may
// be called from several goroutines.
func (p *Port) SetFilter(d Direction, f func(frame []byte) bool) error {
	if p.sw == nil {
		return fmt.Errorf("network %q: %w", p.net.name, errNoFaults)
	}
	p.sw.conduit(d).setFilter(f)
	return nil
}

// Counters of one direction of a switch port; zero on a Kernel network.
func (p *Port) Counters(d Direction) FrameCounters {
	if p.sw == nil {
		return FrameCounters{}
	}
	return p.sw.conduit(d).counters()
}

// SetFaults changes both directions of every port.
func (n *Network) SetFaults(f Faults) error {
	for _, p := range n.attached() {
		for _, d := range []Direction{FromHost, ToHost} {
			if err := p.SetFaults(d, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// attached returns the ports in the order of their creation.
func (n *Network) attached() []*Port {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]*Port(nil), n.ports...)
}

// PortOf returns the first port of a host on this network, nil if it has none.
func (n *Network) PortOf(h *Host) *Port {
	for _, p := range n.attached() {
		if p.host == h {
			return p
		}
	}
	return nil
}

// Partition splits the network silently: links stay up, but only hosts of the same group hear
// each other. Hosts named in no group form one together.
func (n *Network) Partition(groups ...[]*Host) error {
	of := make(map[*Host]int)
	for i, g := range groups {
		for _, h := range g {
			of[h] = i + 1
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.ports {
		group := of[p.host]
		if n.fab != nil {
			n.fab.regroup(p.sw, group)
			continue
		}
		b, err := n.bridge(group)
		if err != nil {
			return fmt.Errorf("partition %q: %w", n.name, err)
		}
		if err := n.space.nl.LinkSetMaster(p.link, b); err != nil {
			return fmt.Errorf("partition %q: move %q: %w", n.name, p.host.name, err)
		}
	}
	return nil
}

// Heal ends a partition.
func (n *Network) Heal() error { return n.Partition() }

// labMAC makes unicast addresses; first is 0x02 (locally administered) for hosts, 0xfe for hubs.
func labMAC(first byte, serial int) net.HardwareAddr {
	return net.HardwareAddr{first, 0x1a, 0xb0, 0, byte(serial >> 8), byte(serial)}
}

// offloadsOff makes an interface carry MTU-sized frames with checksums filled in. Called inside
// the namespace.
func offloadsOff(ifname string) error {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("open ethtool: %w", err)
	}
	defer e.Close()
	have, err := e.Features(ifname)
	if err != nil {
		return fmt.Errorf("read offloads of %q: %w", ifname, err)
	}
	change := make(map[string]bool)
	for _, f := range []string{
		"tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-tcp-ecn-segmentation",
		"tx-tcp-mangleid-segmentation", "tx-udp-segmentation", "tx-sctp-segmentation",
		"tx-gso-list", "tx-generic-segmentation", "tx-scatter-gather", "tx-scatter-gather-fraglist",
		"tx-checksum-ip-generic", "tx-checksum-sctp",
		"rx-gro", "rx-gro-list", "rx-udp-gro-forwarding",
	} {
		if on, known := have[f]; known && on {
			change[f] = false
		}
	}
	if len(change) == 0 {
		return nil
	}
	if err := e.Change(ifname, change); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("turn offloads of %q off: %w", ifname, err)
	}
	return nil
}
