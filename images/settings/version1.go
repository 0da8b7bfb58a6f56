package settings

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// What network-config of version 1 may say here: it is what Proxmox writes.
type (
	yamlVersion1 struct {
		Version int         `yaml:"version"`
		Config  []yamlItem1 `yaml:"config"`
	}
	yamlItem1 struct {
		Type    string        `yaml:"type"`
		Name    string        `yaml:"name"`
		MAC     string        `yaml:"mac_address"`
		MTU     int           `yaml:"mtu"`
		Subnets []yamlSubnet1 `yaml:"subnets"`
		// Of a name server.
		Address yamlIgnored `yaml:"address"`
		Search  yamlIgnored `yaml:"search"`
	}
	yamlSubnet1 struct {
		Type    string `yaml:"type"`
		Address string `yaml:"address"`
		Netmask string `yaml:"netmask"`
		Gateway string `yaml:"gateway"`
	}
)

func parseVersion1(data []byte) ([]Link, error) {
	var n yamlVersion1
	if err := strict(data, &n); err != nil {
		return nil, err
	}
	var links []Link
	for i, item := range n.Config {
		switch item.Type {
		case "nameserver": // an appliance asks no names
			continue
		case "physical":
		default:
			return nil, fmt.Errorf("config[%d]: type %q is not known here: only physical and nameserver are", i, clip(item.Type))
		}
		l, err := item.link()
		if err != nil {
			return nil, fmt.Errorf("config[%d]: %w", i, err)
		}
		links = append(links, l)
	}
	return links, nil
}

func (item yamlItem1) link() (Link, error) {
	l := Link{Name: item.Name, Kernel: item.Name, MTU: item.MTU}
	if item.MAC != "" {
		mac, err := net.ParseMAC(item.MAC)
		if err != nil || len(mac) != 6 {
			return l, fmt.Errorf("mac_address: %q is not a MAC address", clip(item.MAC))
		}
		l.MAC, l.Kernel = mac, ""
	}
	for _, s := range item.Subnets {
		if !slices.Contains([]string{"static", "static6"}, s.Type) {
			return l, fmt.Errorf("subnets: type %q: addresses are static here", clip(s.Type))
		}
		address := s.Address
		if !strings.Contains(address, "/") {
			length, err := maskLength(s.Netmask)
			if err != nil {
				return l, err
			}
			address = fmt.Sprintf("%s/%d", address, length)
		}
		if err := l.address(address); err != nil {
			return l, err
		}
		if s.Gateway != "" {
			if err := l.route("default", s.Gateway); err != nil {
				return l, err
			}
		}
	}
	return l, nil
}

// maskLength is the length of an IPv4 netmask.
func maskLength(mask string) (int, error) {
	a, err := netip.ParseAddr(mask)
	if err != nil || !a.Is4() {
		return 0, fmt.Errorf("netmask: %q is none, and the address has no length", clip(mask))
	}
	ones, bits := net.IPMask(a.AsSlice()).Size()
	if bits == 0 {
		return 0, errors.New("netmask: its ones are not in one row")
	}
	return ones, nil
}
