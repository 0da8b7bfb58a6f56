package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Link is one network interface and what it gets.
type Link struct {
	Name      string           // what it is called from then on
	MAC       net.HardwareAddr // which one it is; nil: by Kernel
	Kernel    string           // the name that the kernel gave it; empty: by MAC
	Addresses []netip.Prefix   // address and length of its network
	Routes    []Route
	MTU       int // bytes; 0: as it is
}

// Route leads to a network through a neighbour of the link.
type Route struct {
	To  netip.Prefix // 0.0.0.0/0 or ::/0: the default route
	Via netip.Addr
}

// byRole are the links that need no MAC: the role's place is that of the NIC in the machine.
var byRole = map[string]string{"front": "eth0", "back": "eth1", "sync": "eth2"}

const maxLinks = 16

// What network-config (version 2, which is netplan's form) may say here.
type (
	yamlNetwork struct {
		Version   int                     `yaml:"version"`
		Renderer  string                  `yaml:"renderer,omitempty"` // of no meaning here
		Ethernets map[string]yamlEthernet `yaml:"ethernets"`
	}
	yamlEthernet struct {
		Match       *yamlMatch   `yaml:"match,omitempty"`
		SetName     string       `yaml:"set-name,omitempty"`
		Addresses   []string     `yaml:"addresses,omitempty"`
		Gateway4    string       `yaml:"gateway4,omitempty"`
		Gateway6    string       `yaml:"gateway6,omitempty"`
		Routes      []yamlRoute  `yaml:"routes,omitempty"`
		MTU         int          `yaml:"mtu,omitempty"`
		DHCP4       bool         `yaml:"dhcp4,omitempty"`
		DHCP6       bool         `yaml:"dhcp6,omitempty"`
		Nameservers *yamlIgnored `yaml:"nameservers,omitempty"` // an appliance asks no names
		Optional    bool         `yaml:"optional,omitempty"`
		AcceptRA    bool         `yaml:"accept-ra,omitempty"`
	}
	yamlMatch struct {
		MAC  string `yaml:"macaddress,omitempty"`
		Name string `yaml:"name,omitempty"`
	}
	yamlRoute struct {
		To  string `yaml:"to"`
		Via string `yaml:"via"`
	}
	yamlIgnored struct{}
)

// UnmarshalYAML takes anything.
func (*yamlIgnored) UnmarshalYAML(*yaml.Node) error { return nil }

// ParseNetwork reads a network-config of version 1 or 2. What it cannot do is an error, never
// passed over: an address that is missing shows only when it is needed.
func ParseNetwork(data []byte) ([]Link, error) {
	var outer map[string]yaml.Node
	if err := yaml.Unmarshal(data, &outer); err != nil {
		return nil, err
	}
	// cloud-init takes it with or without a key around it.
	if inner, ok := outer["network"]; ok && len(outer) == 1 {
		var err error
		if data, err = yaml.Marshal(&inner); err != nil {
			return nil, err
		}
	}
	var head struct {
		Version int `yaml:"version"`
	}
	if err := yaml.Unmarshal(data, &head); err != nil {
		return nil, err
	}
	var links []Link
	var err error
	switch head.Version {
	case 1:
		links, err = parseVersion1(data)
	case 2:
		links, err = parseVersion2(data)
	default:
		err = fmt.Errorf("version %d: only 1 and 2 are known", head.Version)
	}
	if err != nil {
		return nil, err
	}
	return links, check(links)
}

func strict(data []byte, into any) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func parseVersion2(data []byte) ([]Link, error) {
	var n yamlNetwork
	if err := strict(data, &n); err != nil {
		return nil, err
	}
	var links []Link
	for _, id := range sortedKeys(n.Ethernets) {
		l, err := n.Ethernets[id].link(id)
		if err != nil {
			return nil, fmt.Errorf("ethernets.%s: %w", clip(id), err)
		}
		links = append(links, l)
	}
	return links, nil
}

func (e yamlEthernet) link(id string) (Link, error) {
	l := Link{Name: id, Kernel: id, MTU: e.MTU}
	if role, ok := byRole[id]; ok {
		l.Kernel = role
	}
	if e.DHCP4 || e.DHCP6 || e.AcceptRA {
		return l, errors.New("addresses are static here: no dhcp4, dhcp6, accept-ra")
	}
	if m := e.Match; m != nil {
		switch {
		case (m.MAC == "") == (m.Name == ""):
			return l, errors.New("match: give either macaddress or name")
		case m.Name != "":
			l.Kernel = m.Name
		default:
			mac, err := net.ParseMAC(m.MAC)
			if err != nil || len(mac) != 6 {
				return l, fmt.Errorf("match.macaddress: %q is not a MAC address", clip(m.MAC))
			}
			l.MAC, l.Kernel = mac, ""
		}
	}
	if e.SetName != "" {
		l.Name = e.SetName
	}
	for _, text := range e.Addresses {
		if err := l.address(text); err != nil {
			return l, err
		}
	}
	routes := slices.Clone(e.Routes)
	for _, gw := range []string{e.Gateway4, e.Gateway6} {
		if gw != "" {
			routes = append(routes, yamlRoute{"default", gw})
		}
	}
	for _, r := range routes {
		if err := l.route(r.To, r.Via); err != nil {
			return l, err
		}
	}
	return l, nil
}

// address adds an address with its network's length.
func (l *Link) address(text string) error {
	p, err := netip.ParsePrefix(text)
	if err != nil || !p.Addr().IsGlobalUnicast() && !p.Addr().IsLinkLocalUnicast() {
		return fmt.Errorf("addresses: %q is not a host's address with a length, such as 10.20.0.2/24", clip(text))
	}
	l.Addresses = append(l.Addresses, p)
	return nil
}

func (l *Link) route(to, via string) error {
	gw, err := netip.ParseAddr(via)
	if err != nil || gw.Zone() != "" || gw.IsUnspecified() || gw.IsMulticast() {
		return fmt.Errorf("routes: via %q is not an address", clip(via))
	}
	r := Route{Via: gw.Unmap()}
	if to == "default" {
		r.To = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if gw.Is6() {
			r.To = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	} else if r.To, err = netip.ParsePrefix(to); err != nil {
		return fmt.Errorf("routes: to %q is neither default nor a network such as 192.0.2.0/24", clip(to))
	}
	r.To = r.To.Masked()
	if r.To.Addr().Is4() != r.Via.Is4() {
		return fmt.Errorf("routes: %v is not reached through %v, which is of another family", r.To, r.Via)
	}
	l.Routes = append(l.Routes, r)
	return nil
}

// check looks at all links together.
func check(links []Link) error {
	if len(links) == 0 || len(links) > maxLinks {
		return fmt.Errorf("%d links, want 1 to %d", len(links), maxLinks)
	}
	names, from, addresses := map[string]bool{}, map[string]string{}, map[netip.Addr]string{}
	for _, l := range links {
		if !ifname(l.Name) {
			return fmt.Errorf("%q is not an interface's name (1 to 15 letters, digits, dots and hyphens)", clip(l.Name))
		}
		if names[l.Name] {
			return fmt.Errorf("two links are called %s", l.Name)
		}
		names[l.Name] = true
		which := l.Kernel + l.MAC.String()
		if other := from[which]; other != "" {
			return fmt.Errorf("%s and %s are the same interface, %s", other, l.Name, which)
		}
		from[which] = l.Name
		if l.MTU != 0 && (l.MTU < 576 || l.MTU > 65535) {
			return fmt.Errorf("%s: an MTU of %d is not within 576 to 65535", l.Name, l.MTU)
		}
		for _, a := range l.Addresses {
			if other := addresses[a.Addr()]; other != "" {
				return fmt.Errorf("%v is on both %s and %s", a.Addr(), other, l.Name)
			}
			addresses[a.Addr()] = l.Name
		}
	}
	return nil
}

// ifname reports whether the kernel takes it and nothing in /sys could be meant by it.
func ifname(name string) bool {
	return name != "" && len(name) <= 15 && name != "lo" && name[0] != '.' && name[0] != '-' &&
		strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789.-_") == ""
}

// FormatNetwork writes links as a network-config of version 2.
func FormatNetwork(links []Link) ([]byte, error) {
	n := yamlNetwork{Version: 2, Ethernets: map[string]yamlEthernet{}}
	for _, l := range links {
		e := yamlEthernet{MTU: l.MTU}
		switch {
		case l.MAC != nil:
			e.Match, e.SetName = &yamlMatch{MAC: l.MAC.String()}, l.Name
		case l.Kernel != l.Name && l.Kernel != byRole[l.Name]:
			e.Match, e.SetName = &yamlMatch{Name: l.Kernel}, l.Name
		}
		for _, a := range l.Addresses {
			e.Addresses = append(e.Addresses, a.String())
		}
		for _, r := range l.Routes {
			e.Routes = append(e.Routes, yamlRoute{r.To.String(), r.Via.String()})
		}
		n.Ethernets[l.Name] = e
	}
	return yaml.Marshal(n)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Has reports whether the link has the address.
func (l Link) Has(a netip.Addr) bool {
	return slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Addr() == a })
}
