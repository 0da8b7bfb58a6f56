package settings

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lockstep/images/volume"
)

var compare = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

func route(to, via string) Route { return Route{netip.MustParsePrefix(to), netip.MustParseAddr(via)} }

func TestParseNetwork(t *testing.T) {
	mac := net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}
	for _, c := range []struct {
		name, text string
		want       []Link
	}{
		{"roles by place", `
version: 2
ethernets:
  front: {addresses: [203.0.113.2/24, "2001:db8::2/64"], gateway4: 203.0.113.1, gateway6: "2001:db8::1", mtu: 9000}
  back: {addresses: [10.20.0.2/24]}
  sync: {addresses: [10.30.0.1/24]}
`, []Link{
			{Name: "back", Kernel: "eth1", Addresses: prefixes("10.20.0.2/24")},
			{Name: "front", Kernel: "eth0", Addresses: prefixes("203.0.113.2/24", "2001:db8::2/64"),
				Routes: []Route{route("0.0.0.0/0", "203.0.113.1"), route("::/0", "2001:db8::1")}, MTU: 9000},
			{Name: "sync", Kernel: "eth2", Addresses: prefixes("10.30.0.1/24")},
		}},
		{"by MAC, inside network:, what does not matter", `
network:
  version: 2
  renderer: networkd
  ethernets:
    id0:
      match: {macaddress: "52:54:00:01:02:03"}
      set-name: front
      addresses: [203.0.113.2/24]
      nameservers: {addresses: [192.0.2.53], search: [example.com]}
      routes: [{to: 192.0.2.77/24, via: 203.0.113.9}, {to: default, via: "2001:db8::1"}]
`, []Link{{Name: "front", MAC: mac, Addresses: prefixes("203.0.113.2/24"),
			Routes: []Route{route("192.0.2.0/24", "203.0.113.9"), route("::/0", "2001:db8::1")}}}},
		{"by name", "version: 2\nethernets: {sync: {match: {name: eth7}}, eth3: {}}\n",
			[]Link{{Name: "eth3", Kernel: "eth3"}, {Name: "sync", Kernel: "eth7"}}},
		{"version 1, as Proxmox writes it", `
version: 1
config:
    - type: physical
      name: eth0
      mac_address: '52:54:00:01:02:03'
      subnets:
      - type: static
        address: '203.0.113.2'
        netmask: '255.255.255.0'
        gateway: '203.0.113.1'
      - type: static6
        address: '2001:db8::2/64'
        gateway: '2001:db8::1'
    - type: nameserver
      address:
      - '192.0.2.53'
      search:
      - 'example.com'
`, []Link{{Name: "eth0", MAC: mac, Addresses: prefixes("203.0.113.2/24", "2001:db8::2/64"),
			Routes: []Route{route("0.0.0.0/0", "203.0.113.1"), route("::/0", "2001:db8::1")}}}},
	} {
		got, err := ParseNetwork([]byte(c.text))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if diff := cmp.Diff(got, c.want, compare); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
		// What is written is read as the same.
		data, err := FormatNetwork(got)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseNetwork(data)
		if err != nil {
			t.Errorf("%s: written as\n%s: %v", c.name, data, err)
			continue
		}
		if diff := cmp.Diff(again, got, compare); diff != "" {
			t.Errorf("%s: written as\n%s: %s", c.name, data, diff)
		}
	}
}

func TestParseNetworkRefuses(t *testing.T) {
	two := func(link string) string { return "version: 2\nethernets: {front: {" + link + "}}\n" }
	for name, c := range map[string]struct{ text, part string }{
		"not YAML":       {"{", "yaml"},
		"no version":     {"ethernets: {}", "version 0"},
		"version":        {"version: 3", "version 3"},
		"unknown key":    {"version: 2\nbonds: {}\n", "bonds"},
		"unknown of one": {two("dhcp-identifier: mac"), "dhcp-identifier"},
		"dhcp":           {two("dhcp4: true"), "static"},
		"no link":        {"version: 2\n", "0 links"},
		"address":        {two("addresses: [10.0.0.1]"), "with a length"},
		"broadcast":      {two("addresses: [255.255.255.255/32]"), "with a length"},
		"gateway":        {two("gateway4: router"), "not an address"},
		"route":          {two("routes: [{to: there, via: 10.0.0.1}]"), "neither default"},
		"families":       {two("routes: [{to: 10.1.0.0/16, via: \"fd00::1\"}]"), "another family"},
		"match":          {two("match: {macaddress: \"52:54:00:01:02:03\", name: eth0}"), "either"},
		"MAC":            {two("match: {macaddress: \"52:54\"}"), "not a MAC"},
		"name":           {two("set-name: ../x"), "not an interface's name"},
		"lo":             {two("set-name: lo"), "not an interface's name"},
		"MTU":            {two("mtu: 100"), "MTU"},
		"two names":      {"version: 2\nethernets: {a: {set-name: x}, b: {set-name: x}}\n", "called x"},
		"one interface":  {"version: 2\nethernets: {a: {match: {name: eth0}}, front: {}}\n", "same interface"},
		"one address":    {"version: 2\nethernets: {a: {addresses: [10.0.0.1/8]}, b: {addresses: [10.0.0.1/24]}}\n", "on both"},
		"v1 bond":        {"version: 1\nconfig: [{type: bond}]\n", "bond"},
		"v1 dhcp":        {"version: 1\nconfig: [{type: physical, name: e, subnets: [{type: dhcp4}]}]\n", "static"},
		"v1 no mask":     {"version: 1\nconfig: [{type: physical, name: e, subnets: [{type: static, address: 10.0.0.1}]}]\n", "netmask"},
		"v1 bad mask":    {"version: 1\nconfig: [{type: physical, name: e, subnets: [{type: static, address: 10.0.0.1, netmask: 255.0.255.0}]}]\n", "one row"},
	} {
		if links, err := ParseNetwork([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%s: %v, %v, want %q", name, links, err, c.part)
		}
	}
}

func files(pairs ...string) volume.Tree {
	t := volume.Tree{}
	for i := 0; i < len(pairs); i += 2 {
		t[pairs[i]] = []byte(pairs[i+1])
	}
	return t
}

// Each part comes whole from the first source that has it.
func TestMergePrecedence(t *testing.T) {
	fwCfg := Source{"fw_cfg", files("keys/node.key", "1")}
	cidata := Source{"cidata", files("network-config", "2", "meta-data", "2", "keys/node.key", "2", "keys/peers/b.crt", "2")}
	esp := Source{"esp", files("lockstep.yaml", "3", "network-config", "3", "keys/node.crt", "3")}
	got, origin := merge([]Source{fwCfg, cidata, esp})
	want := files("lockstep.yaml", "3", "network-config", "2", "meta-data", "2", "keys/node.key", "1")
	if diff := cmp.Diff(got, want); diff != "" {
		t.Error(diff)
	}
	if got := strings.Join(origin, "; "); got != "configuration from esp; network, host name from cidata; keys from fw_cfg" {
		t.Errorf("origin: %s", got)
	}
	// A witness's configuration before an appliance's behind it: the first source's kind counts.
	got, _ = merge([]Source{{"x", files("witness.yaml", "1")}, {"y", files("lockstep.yaml", "2")}})
	if diff := cmp.Diff(got, files("witness.yaml", "1")); diff != "" {
		t.Error(diff)
	}
}

func TestParse(t *testing.T) {
	const network = "version: 2\nethernets: {front: {addresses: [10.0.0.1/8]}}\n"
	m, err := Parse([]Source{{"cidata", files("lockstep.yaml", "node: a", "network-config", network, "meta-data", "instance-id: 1\nlocal-hostname: edge-a\n",
		"keys/node.key", "k", "keys/peers/b.crt", "c")}})
	if err != nil {
		t.Fatal(err)
	}
	if m.Hostname != "edge-a" || m.Witness || string(m.Config) != "node: a" || len(m.Links) != 1 {
		t.Errorf("machine is %+v", m)
	}
	if diff := cmp.Diff(m.Keys, files("node.key", "k", "peers/b.crt", "c")); diff != "" {
		t.Error(diff)
	}
	if m, err = Parse([]Source{{"x", files("witness.yaml", "w", "network-config", network)}}); err != nil || !m.Witness || string(m.Config) != "w" {
		t.Errorf("a witness: %+v, %v", m, err)
	}
	if _, err := Parse(nil); !errors.Is(err, errNone) {
		t.Errorf("nothing: %v", err)
	}
	for name, c := range map[string]struct {
		files volume.Tree
		part  string
	}{
		"both":       {files("lockstep.yaml", "", "witness.yaml", ""), "remove one"},
		"no network": {files("lockstep.yaml", ""), "no network-config"},
		"host name":  {files("lockstep.yaml", "", "network-config", network, "meta-data", "local-hostname: a b\n"), "not a host name"},
		"meta-data":  {files("lockstep.yaml", "", "network-config", network, "meta-data", "{"), "meta-data: yaml"},
		"network":    {files("lockstep.yaml", "", "network-config", "version: 7"), "network-config: version 7"},
	} {
		if _, err := Parse([]Source{{"x", c.files}}); err == nil || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%s: %v, want %q", name, err, c.part)
		}
	}
}

func FuzzParseNetwork(f *testing.F) {
	f.Add([]byte("version: 2\nethernets: {front: {addresses: [10.0.0.1/8], routes: [{to: default, via: 10.0.0.2}]}}\n"))
	f.Add([]byte("version: 1\nconfig: [{type: physical, name: e, subnets: [{type: static, address: 10.0.0.1, netmask: 255.0.0.0}]}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		links, err := ParseNetwork(data)
		if err != nil {
			return
		}
		text, err := FormatNetwork(links)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseNetwork(text)
		if err != nil || len(again) != len(links) {
			t.Fatalf("%+v is written as\n%s\nwhich reads as %+v, %v", links, text, again, err)
		}
	})
}
