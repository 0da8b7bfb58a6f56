package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Authority is where servers under `lockstep wrap` ask what their calls return.
type Authority struct {
	Members  map[string]netip.AddrPort `yaml:"members"`  // of both appliances, by node name; empty: nobody asks
	Identity string                    `yaml:"identity"` // directory written by `lockstep keys --servers`
}

// Decides reports whether this appliance does, and where.
func (c *Config) Decides() (at netip.AddrPort, ok bool) {
	at, ok = c.Authority.Members[c.Node]
	return at, ok
}

// WrappedService is the service one of whose servers may ask, at that host: those whose connections outlive their servers, and
// whose servers see the clients' addresses.
func (c *Config) WrappedService(host netip.Addr) *Service {
	for i := range c.Services {
		s := &c.Services[i]
		if !s.mayAsk() {
			continue
		}
		for _, a := range s.Servers {
			if a.Addr() == host {
				return s
			}
		}
	}
	return nil
}

// Hosts are those of the service's servers that have an address of that family.
func (s *Service) Hosts(v4 bool) (all []netip.Addr) {
	for _, a := range s.Servers {
		if h := a.Addr(); h.Is4() == v4 && !slices.Contains(all, h) {
			all = append(all, h)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

func (s *Service) mayAsk() bool {
	return s.Protection != ProtectGateway && s.Protocol == ProtocolRaw && s.Source == SourceClient
}

func (d *draft) decodeAuthority(s *section) {
	d.decodeMembers(s.child("members"), d.Authority.Members, "10.20.0.2:7480")
	s.text("identity", &d.Authority.Identity)
	s.done()
}

// decodeMembers reads an address and port for each node.
func (d *draft) decodeMembers(s *section, into map[string]netip.AddrPort, example string) {
	for _, name := range sortedKeys(s.m) {
		var text string
		if !s.text(name, &text) {
			continue
		}
		if addr, ok := s.d.address(join(s.path, name), text, "write an IP address and a port, such as "+example); ok {
			into[name] = addr
		}
	}
}

func (v *validator) authority() {
	const path = "authority.members"
	a, members := &v.cfg.Authority, v.cfg.Pair.Members
	if len(a.Members) == 0 || v.faulty(path) || v.faulty("pair.members") {
		return
	}
	for _, name := range sortedKeys(a.Members) {
		at, key := a.Members[name], path+"."+clip(name)
		switch own, ok := members[name]; {
		case !ok:
			v.add(key, "one of: "+strings.Join(sortedKeys(members), ", "), "%q is not in pair.members", clip(name))
		case unusable(at) != "":
			v.add(key, "an address of the appliance's own on the back network, and a port", "%v %s", at, unusable(at))
		case at == own:
			v.add(key, "another port", "%v is also pair.members.%s", at, name)
		case at == v.cfg.Metrics:
			v.add(key, "another port", "%v is also metrics", at)
		case name != v.cfg.Node && at == a.Members[v.cfg.Node]:
			v.add(key, "an address of that appliance's own", "%v is also %s.%s", at, path, v.cfg.Node)
		case v.virtual(at.Addr()):
			v.add(key, "an address of the appliance's own on the back network", "%v floats, or is a service's", at.Addr())
		}
	}
	for _, name := range sortedKeys(members) {
		if _, ok := a.Members[name]; !ok {
			v.add(path, fmt.Sprintf("write %s's address and port, too: the servers ask whichever is active", name), "names only one of two appliances")
		}
	}
	if a.Identity == "" {
		v.add("authority.identity", "the directory that `lockstep keys --servers` wrote for this node", "is empty")
	}
	if v.sharedHosts() {
		return
	}
	v.add(path, "a service with protection log or hot, protocol raw and source client, or no authority", "no service has servers that could agree")
}

// sharedHosts checks services whose servers may ask, and reports whether there are any. What a program does from its start on
// is agreed on by all hosts that it serves from: two services may have a host in common only if they have all.
func (v *validator) sharedHosts() (any bool) {
	for i := range v.cfg.Services {
		s := &v.cfg.Services[i]
		if !s.mayAsk() {
			continue
		}
		any = true
		for j := range v.cfg.Services[:i] {
			o := &v.cfg.Services[j]
			for _, v4 := range []bool{true, false} {
				a, b := s.Hosts(v4), o.Hosts(v4)
				common := slices.ContainsFunc(a, func(h netip.Addr) bool { return slices.Contains(b, h) })
				if o.mayAsk() && common && !slices.Equal(a, b) {
					v.add(fmt.Sprintf("services[%d].servers", i), "the same hosts in both, or in none, as long as servers may ask (authority)",
						"some hosts are also services[%d]'s, and some are not", j)
				}
			}
		}
	}
	return any
}

// virtual reports whether both appliances have an address in turns.
func (v *validator) virtual(a netip.Addr) bool {
	for _, g := range v.cfg.Networks.Back.Gateway {
		if g.Addr() == a {
			return true
		}
	}
	for i := range v.cfg.Services {
		for _, l := range v.cfg.Services[i].Listen {
			if l.Addr() == a {
				return true
			}
		}
	}
	return false
}
