package config

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var compareText = cmp.Options{
	compareAddrs,
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

// What is written is what is read, whatever a key says: every value here differs from its default.
func TestYAMLIsReadAsWritten(t *testing.T) {
	files := map[string]string{
		"minimal":  minimal,
		"example":  string(read1(t, "../../lockstep.example.yaml")),
		"contract": string(read1(t, "testdata/contract.yaml")),
		"all keys": `
node: 1-a
pair:
  name: "12"
  members: {1-a: "10.30.0.1:7400", "true": "[fd30::2]:7400"}
  witness: 10.30.0.3:7401
  state: "/var/lib/with: colon"
  identity: '/etc/with "quotes"'
  heartbeat: 1500us
  failure_timeout: 1m
  start_empty_after: 11m
  commit: async
networks:
  ingress: any
  front: {interface: eth0, reach: [203.0.113.1, "2001:db8::1"]}
  back: {interface: eth1, gateway: [10.20.0.1/24, "fd20::1/64"], reach: [10.20.0.11]}
services:
  - {name: "80", listen: ["203.0.113.10:80", "[2001:db8::10]:80"], servers: ["10.20.0.11:80", "[fd20::11]:80"], protection: hot, protocol: http,
     release: first, source: gateway, path: auto, ttl: 255, min_ttl: 254, patience: 1m30s, health: {interval: 2s, timeout: 1s, http: /healthz, canary: false},
     keepalive: {idle: 0, interval: 1s, count: 3}, park_after: 3s, limits: {connections: 7, log: 4097B, idle: 0, half_open: 0, half_open_source: 1}}
  - {name: unasked, listen: ["203.0.113.10:81"], servers: ["10.20.0.11:81"], health: {tcp: false}}
  - {name: shared, listen: ["203.0.113.10:82"], servers: ["10.20.0.11:82", {address: "10.20.0.12:82", weight: 256}, {address: "10.20.0.13:82", backup: true}],
     balance: source_hash, slow_start: 1h}
limits: {memory: 3GiB}
control: /run/a b.sock
metrics: ""
log: {level: debug, format: json}
`,
	}
	for name, file := range files {
		want, err := Parse([]byte(file), nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		text, err := want.YAML()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := Parse(text, nil)
		if err != nil {
			t.Errorf("%s: its YAML is wrong: %v\n%s", name, err, text)
		} else if diff := cmp.Diff(want, got, compareText); diff != "" {
			t.Errorf("%s: its YAML is another configuration:\n%s", name, diff)
		}
	}
}

func TestWitnessYAMLIsReadAsWritten(t *testing.T) {
	want := DefaultWitness()
	want.Listen, want.Identities = netip.MustParseAddrPort("[fd30::3]:7401"), []string{"/etc/a b", "/etc/12"}
	want.Heartbeat, want.FailureTimeout, want.Log.Level = time.Millisecond, 3*time.Millisecond, "debug"
	want.Metrics = netip.MustParseAddrPort("127.0.0.1:9465")
	text, err := want.YAML()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseWitness(text, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if diff := cmp.Diff(want, got, compareText); diff != "" {
		t.Error(diff)
	}
}

// A configuration begun with Default has what a file that says nothing has.
func TestDefaultIsWhatNothingMeans(t *testing.T) {
	c := Default()
	c.Node, c.Pair.Name = "a", "edge"
	c.Pair.Members["a"], c.Pair.Members["b"] = netip.MustParseAddrPort("10.30.0.1:7400"), netip.MustParseAddrPort("10.30.0.2:7400")
	c.Networks.Front.Interface, c.Networks.Back.Interface = "eth0", "eth1"
	c.Networks.Back.Gateway = []netip.Prefix{netip.MustParsePrefix("10.20.0.1/24")}
	svc := DefaultService("web")
	svc.Listen, svc.Servers = []netip.AddrPort{netip.MustParseAddrPort("203.0.113.10:80")}, []netip.AddrPort{netip.MustParseAddrPort("10.20.0.11:80")}
	c.Services = []Service{svc}
	text, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(text, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	want, err := Parse([]byte(minimal), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, compareText); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(string(text), "witness: none") {
		t.Errorf("nothing says that there is no witness:\n%s", text)
	}
}
