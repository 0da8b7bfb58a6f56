package appliance

import (
	"net/netip"

	"lockstep/appliance/config"
	"lockstep/tun"
)

// startGuard installs the rules in the kernel's packet filter. Without nftables in the
// kernel the pair protects connections all the same; only what a service explicitly
// asks for is not promised then and done without.
func (n *Node) startGuard(undo *closers) error {
	cfg := tun.GuardConfig{
		TUN: tunName, Front: n.cfg.Networks.Front.Interface, Back: n.cfg.Networks.Back.Interface,
		Strict: n.cfg.Networks.Ingress == config.IngressStrict, Virtual: n.vips(), Log: n.log,
	}
	if n.peerName() != "" {
		cfg.Member = n.cfg.Self()
	}
	needed := false
	seen := map[netip.AddrPort]bool{}
	for _, s := range n.cfg.Services {
		needed = needed || s.TTL > 0 || s.MinTTL > 0
		for _, a := range s.Servers {
			if !seen[a] {
				seen[a] = true
				cfg.Servers = append(cfg.Servers, a)
			}
		}
		cfg.HopLimits = append(cfg.HopLimits, hopLimits(&s)...)
	}
	g, err := tun.InstallGuard(cfg)
	if err != nil {
		if needed {
			return err
		}
		n.log.Warn("packets are not refused by where they come from, and those with a TTL of 1 do not arrive", "err", err)
		return nil
	}
	n.filter = g
	if needed {
		n.fitness.filter = g.Faults()
	}
	undo.add("packet filter", g.Close)
	return nil
}

func hopLimits(s *config.Service) (list []tun.HopLimit) {
	if s.TTL == 0 && s.MinTTL == 0 {
		return nil
	}
	for _, a := range s.Listen {
		list = append(list, tun.HopLimit{Addr: a, Send: uint8(s.TTL), Least: uint8(s.MinTTL)})
	}
	for _, a := range s.Servers {
		list = append(list, tun.HopLimit{Addr: a, Send: uint8(s.TTL)})
	}
	return list
}
