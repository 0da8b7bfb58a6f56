package appliance

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

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
		cfg.Member, cfg.TunnelPort = n.cfg.Self(), n.tunnel(0).Port
	}
	needed := hopLimited(n.cfg) >= 0
	seen := map[netip.AddrPort]bool{}
	for _, s := range n.cfg.Services {
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

// hopLimited is the first service that the packet filter must be there for; -1: none.
func hopLimited(c *config.Config) int {
	return slices.IndexFunc(c.Services, func(s config.Service) bool { return s.TTL > 0 || s.MinTTL > 0 })
}

// CheckFilter says in advance what startGuard would find on this machine: what is in the
// packet filter's way, if anything is.
func CheckFilter(c *config.Config) []config.Warning { return filterWarnings(c, tun.AskFilter()) }

func filterWarnings(c *config.Config, err error) []config.Warning {
	const hint = "`modprobe nf_tables`, or a kernel with CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET, CONFIG_NFT_FIB_INET and CONFIG_NFT_LIMIT"
	i := hopLimited(c)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, tun.ErrNoFloodFilter):
		return []config.Warning{{Msg: "a flood of SYNs will not be dropped where it arrives, but answered with cookies, which costs more: " + err.Error(), Hint: "`modprobe nft_limit`, or a kernel with CONFIG_NFT_LIMIT"}}
	case errors.Is(err, os.ErrPermission):
		return []config.Warning{{Msg: "whether the kernel has a packet filter (nf_tables) is not known", Hint: "check as the user that runs the appliance, who needs CAP_NET_ADMIN"}}
	case i >= 0:
		return []config.Warning{{Path: fmt.Sprintf("services[%d].ttl", i), Hint: hint, Msg: fmt.Sprintf("ttl and min_ttl need the kernel's packet filter, `run` will not start: %v", err)}}
	}
	return []config.Warning{{Path: "networks.ingress", Hint: hint,
		Msg: fmt.Sprintf("packets will not be refused by where they come from, and those with a TTL of 1 will not arrive: %v", err)}}
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
