package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var compareAddrs = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

func read1(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// minimal is the shortest valid file; cases change it by replacement.
const minimal = `
node: a
pair:
  name: edge
  members: {a: "10.30.0.1:7400", b: "10.30.0.2:7400"}
networks:
  front: {interface: eth0}
  back: {interface: eth1, gateway: [10.20.0.1/24]}
services:
  - name: web
    listen: ["203.0.113.10:80"]
    servers: ["10.20.0.11:80"]
`

func TestExampleHoldsTheDefaults(t *testing.T) {
	example, err := Parse(read1(t, "../../lockstep.example.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if errs := Unsupported(example); errs != nil {
		t.Errorf("the example cannot be run: %v", errs)
	}
	// The same file with everything left out that the example calls a default.
	defaults, err := Parse([]byte(minimal), nil)
	if err != nil {
		t.Fatal(err)
	}
	defaults.Networks.Back.Gateway = example.Networks.Back.Gateway
	defaults.Services[0].Listen = example.Services[0].Listen
	defaults.Services[0].Servers = example.Services[0].Servers
	if diff := cmp.Diff(example, defaults, compareAddrs, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("example (-) and defaults (+) differ:\n%s", diff)
	}
}

func TestContractLoads(t *testing.T) {
	c, err := Parse(read1(t, "testdata/contract.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Pair.Witness != netip.MustParseAddrPort("10.30.0.3:7401") || c.Pair.State != DefaultState {
		t.Errorf("witness %v, state %q", c.Pair.Witness, c.Pair.State)
	}
	if names, ok := c.Appliances(); !ok || names != [2]string{"a", "b"} {
		t.Errorf("appliances are %v", names)
	}
	// What it asks for beyond this version: each with its path.
	var got []string
	for _, e := range Unsupported(c) {
		got = append(got, e.Path)
	}
	want := []string{"services[0].listen[1]"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMissingDiffersFromInvalid(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.yaml"))
	var errs Errors
	if !errors.Is(err, errNoFile) || errors.As(err, &errs) {
		t.Errorf("missing file: %v", err)
	}
	path := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(path, []byte("node: [1"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Load(path)
	if errors.Is(err, errNoFile) || errors.Is(err, fs.ErrNotExist) || !errors.As(err, &errs) {
		t.Errorf("invalid file: %v", err)
	}
}

func TestFaults(t *testing.T) {
	cases := []struct {
		name     string
		old, new string // replacement in minimal
		want     string // path, then a part of the line
		part     string
	}{
		{"not yaml", "node: a", "node: [", "", "not a YAML mapping"},
		{"a list", minimal, "- a\n- b\n", "", "not a YAML mapping"},
		{"duplicate key", "node: a", "node: a\nnode: b", "", "already defined"},
		{"second document", "node: a", "node: a\n---\nx: 1\n", "", "more than one document"},
		{"unknown top", "node: a", "node: a\nnod: b", "nod", `did you mean "node"?`},
		{"unknown empty section", "node: a", "node: a\nnetwork: {}", "network", `did you mean "networks"?`},
		{"unknown nested", "name: edge", "name: edge\n  hartbeat: 1s", "pair.hartbeat", `did you mean "heartbeat"?`},
		{"unknown in service", "- name: web", "- name: web\n    port: 1", "services[0].port", "known here"},
		{"wrong kind of section", "name: edge", "name: edge\n  heartbeat: {a: 1}", "pair.heartbeat", "is a mapping"},
		{"number as text", "node: a", "node: 1", "node", "quotes"},
		{"bare number", "name: edge", "name: edge\n  heartbeat: 20", "pair.heartbeat", "unit"},
		{"no value", "name: edge", "name: edge\n  identity:", "pair.identity", "no value"},
		{"choice", "name: edge", "name: edge\n  commit: never", "pair.commit", "one of: sync, async"},
		{"missing node", "node: a", "", "node", "is missing"},
		{"foreign node", "node: a", "node: c", "node", "one of: a, b"},
		{"case of node", "node: a", "node: A", "node", "lower-case"},
		{"member address", "10.30.0.2:7400", "10.30.0.2", "pair.members.b", "with a port"},
		{"member port 0", "10.30.0.2:7400", "10.30.0.2:0", "pair.members.b", "has port 0"},
		{"same member", "10.30.0.2:7400", "10.30.0.1:7400", "pair.members.b", "also a's address"},
		{"three members", "b: ", `c: "10.30.0.3:1", b: `, "pair.members", "names 3"},
		{"reserved member", "b: ", `witness: `, "pair.members.witness", "not a node's name"},
		{"witness without port", "name: edge", "name: edge\n  witness: 10.30.0.3", "pair.witness", "not an IP address with a port"},
		{"witness by name", "name: edge", `name: edge
  witness: "host:7401"`, "pair.witness", "or none"},
		{"witness port 0", "name: edge", `name: edge
  witness: "10.30.0.3:0"`, "pair.witness", "has port 0"},
		{"witness at home", "name: edge", `name: edge
  witness: "10.30.0.1:7401"`, "pair.witness", "third host"},
		{"witness of one", `, b: "10.30.0.2:7400"}`, `}
  witness: "10.30.0.3:7401"`, "pair.witness", "there is one"},
		{"state", "name: edge", "name: edge\n  state: lib", "pair.state", "absolute path"},
		{"timeout", "name: edge", "name: edge\n  failure_timeout: 40ms", "pair.failure_timeout", "more than twice"},
		{"heartbeat", "name: edge", "name: edge\n  heartbeat: 1us", "pair.heartbeat", "out of range"},
		{"same interface", "eth1", "eth0", "networks.back.interface", "between two networks"},
		{"long interface", "eth1", strings.Repeat("a", 128), "networks.back.interface", "not an interface's name"},
		{"gateway without length", "10.20.0.1/24", "10.20.0.1", "networks.back.gateway[0]", "length"},
		{"gateway is a network", "10.20.0.1/24", "10.20.0.0/24", "networks.back.gateway[0]", "names a network"},
		{"no services", "services:", "services: []\nlimits:\n  memory: 1GiB\nx:", "services", "missing or empty"},
		{"service is text", "- name: web", "- web\n  - name: web", "services[0]", "want a mapping"},
		{"listen not a list", `["203.0.113.10:80"]`, `"203.0.113.10:80"`, "services[0].listen", "brackets"},
		{"listen host", "203.0.113.10:80", "example.org:80", "services[0].listen[0]", "not an IP address"},
		{"listen v6 bare", "203.0.113.10:80", "2001:db8::10", "services[0].listen[0]", "square brackets"},
		{"listen port", "203.0.113.10:80", "203.0.113.10:65536", "services[0].listen[0]", "not an IP address with a port"},
		{"listen multicast", "203.0.113.10:80", "224.0.0.1:80", "services[0].listen[0]", "no single host"},
		{"listen any", "203.0.113.10:80", "0.0.0.0:80", "services[0].listen[0]", "unspecified"},
		{"listen mapped", "203.0.113.10:80", "[::ffff:1.2.3.4]:80", "services[0].listen[0]", "IPv6 form"},
		{"gateway family", `["10.20.0.11:80"]`, `["[fd20::11]:80"]
    source: gateway`, "services[0].servers[0]", "no IPv6 address"},
		{"twice the server", `["10.20.0.11:80"]`, `["10.20.0.11:80", "10.20.0.11:80"]`, "services[0].servers[1]", "also services[0].servers[0]"},
		{"vip is gateway", "203.0.113.10:80", "10.20.0.1:80", "services[0].listen[0]", "networks.back.gateway[0]"},
		{"vip is server", "203.0.113.10:80", "10.20.0.11:81", "services[0].listen[0]", "services[0].servers[0]"},
		{"vip is member", "203.0.113.10:80", "10.30.0.2:80", "services[0].listen[0]", "pair.members.b"},
		{"server is gateway", "10.20.0.11:80", "10.20.0.1:80", "services[0].servers[0]", "networks.back.gateway[0]"},
		{"health both", "- name: web", "- name: web\n    health: {http: /, tcp: true}", "services[0].health", "both"},
		{"health neither", "- name: web", "- name: web\n    protection: log\n    health: {tcp: false}", "services[0].health", "neither"},
		{"nothing to buffer", "- name: web", "- name: web\n    path: netstack\n    slow_clients: buffer", "services[0].slow_clients", "passed on"},
		{"nothing to buffer with log", "- name: web", "- name: web\n    protection: log\n    slow_clients: buffer", "services[0].slow_clients", "passed on"},
		{"health path", "- name: web", "- name: web\n    health: {http: x}", "services[0].health.http", "path"},
		{"health timeout", "- name: web", "- name: web\n    health: {timeout: 6s}", "services[0].health.timeout", "interval"},
		{"keepalive idle", "- name: web", "- name: web\n    keepalive: {idle: 10ms}", "services[0].keepalive.idle", "0 for never"},
		{"keepalive interval", "- name: web", "- name: web\n    keepalive: {interval: 2h}", "services[0].keepalive.interval", "1s to 1h"},
		{"keepalive count", "- name: web", "- name: web\n    keepalive: {count: 0}", "services[0].keepalive.count", "1 to 100"},
		{"park after", "- name: web", "- name: web\n    park_after: 10ms", "services[0].park_after", "0 for never"},
		{"connections", "- name: web", "- name: web\n    limits: {connections: 0}", "services[0].limits.connections", "out of range"},
		{"half-open of a network", "- name: web", "- name: web\n    limits: {half_open_source: 0}", "services[0].limits.half_open_source", "out of range"},
		{"connections text", "- name: web", "- name: web\n    limits: {connections: many}", "services[0].limits.connections", "whole number"},
		{"log unit", "- name: web", "- name: web\n    limits: {log: 16MB}", "services[0].limits.log", "KiB, MiB or GiB"},
		{"idle", "- name: web", "- name: web\n    limits: {idle: 1ms}", "services[0].limits.idle", "0 for never"},
		{"ttl", "- name: web", "- name: web\n    ttl: 256", "services[0].ttl", "no TTL"},
		{"least ttl", "- name: web", "- name: web\n    min_ttl: -1", "services[0].min_ttl", "no TTL"},
		{"ingress", "networks:", "networks:\n  ingress: lax", "networks.ingress", "one of: strict"},
		{"memory", "node: a", "node: a\nlimits: {memory: 1KiB}", "limits.memory", "out of range"},
		{"control", "node: a", "node: a\ncontrol: run.sock", "control", "absolute path"},
		{"metrics", "node: a", "node: a\nmetrics: localhost", "metrics", "leave it empty"},
		{"log level", "node: a", "node: a\nlog: {level: loud}", "log.level", "one of: debug"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { testFault(t, c.old, c.new, c.want, c.part) })
	}
}

// testFault replaces old in minimal and looks for part in the line about path.
func testFault(t *testing.T, old, new, path, part string) {
	if !strings.Contains(minimal, old) {
		t.Fatalf("the case replaces %q, which is not there", old)
	}
	_, err := Parse([]byte(strings.Replace(minimal, old, new, 1)), nil)
	var errs Errors
	if !errors.As(err, &errs) {
		t.Fatalf("got %v, want Errors", err)
	}
	for _, e := range errs {
		if e.Path == path && strings.Contains(e.Error(), part) {
			return
		}
	}
	t.Errorf("no error at %q with %q in:\n%v", path, part, err)
}

func TestAllFaultsAtOnce(t *testing.T) {
	_, err := Parse([]byte(`
nod: a
pair:
  members: {a: x}
  heartbeat: 20
services:
  - name: web
    listen: ["203.0.113.10:80"]
    servers: []
  - name: web
    listen: ["203.0.113.10:80"]
    servers: ["10.20.0.11:80"]
    colour: red
`), nil)
	var errs Errors
	if !errors.As(err, &errs) {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, e := range errs {
		got[e.Path] = true
	}
	want := map[string]bool{}
	for _, p := range []string{
		"nod", "node", "pair.name", "pair.members.a", "pair.heartbeat",
		"networks.front.interface", "networks.back.interface",
		"services[0].servers", "services[1].name", "services[1].listen[0]", "services[1].colour",
	} {
		want[p] = true
	}
	if !maps.Equal(got, want) {
		t.Errorf("paths differ: %s\n%v", cmp.Diff(want, got), err)
	}
}

func TestOverlapAcrossServices(t *testing.T) {
	two := minimal + `
  - name: web2
    listen: ["203.0.113.10:443", "203.0.113.10:80"]
    servers: ["10.20.0.12:80"]
`
	_, err := Parse([]byte(two), nil)
	var errs Errors
	if !errors.As(err, &errs) || len(errs) != 1 || errs[0].Path != "services[1].listen[1]" {
		t.Errorf("got %v, want one error at services[1].listen[1]", err)
	}
}

func TestEnvironmentOverrides(t *testing.T) {
	set := map[string]string{
		"LOCKSTEP_PAIR_HEARTBEAT":                       "50ms",
		"LOCKSTEP_PAIR_FAILURE_TIMEOUT":                 "300ms",
		"LOCKSTEP_NODE":                                 "b",
		"LOCKSTEP_PAIR_MEMBERS_B":                       "10.30.0.9:7400",
		"LOCKSTEP_METRICS":                              "",
		"LOCKSTEP_LIMITS_MEMORY":                        "2GiB",
		"LOCKSTEP_LOG_LEVEL":                            "debug",
		"LOCKSTEP_NETWORKS_BACK_GATEWAY":                "10.20.0.1/24, fd20::1/64",
		"LOCKSTEP_SERVICES_WEB_SOURCE":                  "gateway",
		"LOCKSTEP_SERVICES_WEB_LIMITS_IDLE":             "0",
		"LOCKSTEP_SERVICES_WEB_LIMITS_HALF_OPEN":        "7",
		"LOCKSTEP_SERVICES_WEB_LIMITS_HALF_OPEN_SOURCE": "5",
		"LOCKSTEP_SERVICES_WEB_HEALTH_TCP":              "true",
		"LOCKSTEP_SEEDS":                                "not ours",
	}
	environ := []string{"HOME=/root"}
	for k, v := range set {
		t.Setenv(k, v)
		environ = append(environ, k+"="+v)
	}
	c, err := Parse([]byte(minimal), environ)
	if err != nil {
		t.Fatal(err)
	}
	if c.Pair.Heartbeat != 50*time.Millisecond || c.Node != "b" || c.Self().String() != "10.30.0.9:7400" ||
		c.Metrics.IsValid() || c.Limits.Memory != 2*GiB || c.Log.Level != "debug" ||
		len(c.Networks.Back.Gateway) != 2 || c.Services[0].Source != SourceGateway ||
		c.Services[0].Limits.Idle != 0 || c.Services[0].Limits.HalfOpen != 7 || c.Services[0].Limits.HalfOpenSource != 5 {
		t.Errorf("overrides are missing: %+v", c)
	}
	if name, addr, ok := c.Peer(); !ok || name != "a" || addr.String() != "10.30.0.1:7400" {
		t.Errorf("peer is %q %v %v", name, addr, ok)
	}
}

func TestEnvironmentFaults(t *testing.T) {
	for name, want := range map[string]string{
		"LOCKSTEP_PAIR_HARTBEAT":        "LOCKSTEP_PAIR_HEARTBEAT",
		"LOCKSTEP_PAIRS_NAME":           "LOCKSTEP_PAIR_NAME",
		"LOCKSTEP_SERVICES_WEBB_SOURCE": "LOCKSTEP_SERVICES_WEB_SOURCE",
	} {
		_, err := Parse([]byte(minimal), []string{name + "=x"})
		var errs Errors
		if !errors.As(err, &errs) || len(errs) != 1 || errs[0].Path != name || !strings.Contains(errs[0].Hint, want) {
			t.Errorf("%s: got %v, want a hint at %s", name, err, want)
		}
	}
	t.Setenv("LOCKSTEP_PAIR_HEARTBEAT", "soon")
	_, err := Parse([]byte(minimal), os.Environ())
	var errs Errors
	if !errors.As(err, &errs) || len(errs) != 1 || errs[0].Path != "pair.heartbeat" {
		t.Errorf("bad value: %v", err)
	}
}

func TestUnsupportedIsNotInvalid(t *testing.T) {
	c, err := Parse([]byte(strings.Replace(minimal, "name: edge", "name: edge\n  commit: async", 1)), nil)
	if err != nil {
		t.Fatal(err)
	}
	errs := Unsupported(c)
	if len(errs) != 1 || errs[0].Path != "pair.commit" || !strings.Contains(errs[0].Error(), "not in this version") {
		t.Errorf("got %v", errs)
	}
}

func TestSourceClientNeedsTheFamily(t *testing.T) {
	c, err := Parse([]byte(strings.Replace(minimal, "203.0.113.10:80", "[2001:db8::10]:80", 1)), nil)
	if err != nil {
		t.Fatal(err)
	}
	errs := Unsupported(c)
	if len(errs) != 1 || errs[0].Path != "services[0].listen[0]" || !strings.Contains(errs[0].Error(), "no server of its family") {
		t.Errorf("got %v", errs)
	}
}

func TestAlone(t *testing.T) {
	c, err := Parse([]byte(strings.Replace(minimal, `, b: "10.30.0.2:7400"`, "", 1)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, ok := c.Peer(); ok {
		t.Error("a member alone has a peer")
	}
	if w := Check(c); len(w) == 0 {
		t.Error("no warning about a missing standby")
	}
}

func TestStateIsLookedAt(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{dir: false, filepath.Join(dir, "new", "deep"): false, file: true, filepath.Join(file, "x"): true} {
		yaml := strings.Replace(minimal, "name: edge", "name: edge\n  witness: \"10.30.0.3:7401\"\n  state: "+path, 1)
		c, err := Parse([]byte(yaml), nil)
		if err != nil {
			t.Fatal(err)
		}
		warned := slices.ContainsFunc(Check(c), func(w Warning) bool { return w.Path == "pair.state" })
		if warned != want {
			t.Errorf("%s: warned %v, want %v", path, warned, want)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "12": 12, "12B": 12, "64KiB": 64 * KiB, "3 MiB": 3 * MiB, "1GiB": GiB} {
		got, err := ParseSize(text)
		if err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
		if back, err := ParseSize(got.String()); err != nil || back != got {
			t.Errorf("%v does not come back: %v, %v", got, back, err)
		}
	}
	for _, text := range []string{"", "-1", "1MB", "1.5GiB", "MiB", "9223372036854775807KiB", "1 KiB KiB"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q was read as %v", text, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal))
	for _, path := range []string{"../../lockstep.example.yaml", "testdata/contract.yaml"} {
		if data, err := os.ReadFile(path); err == nil {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data, nil)
		if (c == nil) == (err == nil) {
			t.Fatalf("configuration %v with error %v", c, err)
		}
		var errs Errors
		if err != nil && (!errors.As(err, &errs) || len(errs) == 0 || len(errs) > maxErrors) {
			t.Fatalf("not a list of 1 to %d faults: %v", maxErrors, err)
		}
	})
}

// A firewall that tracks connections is warned of, one that is not there is not.
func TestFirewallIsWarnedOf(t *testing.T) {
	for text, want := range map[string]int{"17\n": 1, "0\n": 0, "": 0} {
		path := filepath.Join(t.TempDir(), "nf_conntrack_count")
		if text != "" {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got := 0
		checkFirewall(path, func(_, hint, format string, args ...any) {
			got++
			if msg := fmt.Sprintf(format, args...); !strings.Contains(msg, "17 now") || !strings.Contains(hint, "notrack") {
				t.Errorf("%s (%s)", msg, hint)
			}
		})
		if got != want {
			t.Errorf("%q: %d warnings", text, got)
		}
	}
}
