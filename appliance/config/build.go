package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// topLevel are the file's sections, in its order.
var topLevel = [...]string{"node", "pair", "networks", "services", "limits", "control", "metrics", "log"}

// draft is a configuration being built: decoded, not yet validated.
type draft struct{ *Config }

// decodeConfig fills a Config with defaults and then with what the file and
// the environment say.
func decodeConfig(root *section) draft {
	d := draft{Config: Default()}
	c := d.Config
	root.text("node", &c.Node)
	d.decodePair(root.child("pair"))
	d.decodeNetworks(root.child("networks"))
	d.decodeServices(root)
	limits := root.child("limits")
	limits.size("memory", &c.Limits.Memory)
	limits.done()
	d.decodeAuthority(root.child("authority"))
	root.text("control", &c.Control)
	c.Metrics = decodeMetrics(root, DefaultMetrics)
	decodeLog(root, &c.Log)
	root.done()
	return d
}

func decodeLog(root *section, l *Log) {
	log := root.child("log")
	choice(log, "level", &l.Level, "debug", "info", "warn", "error")
	choice(log, "format", &l.Format, "text", "json")
	log.done()
}

func (d *draft) decodePair(s *section) {
	p := &d.Pair
	s.text("name", &p.Name)
	d.decodeMembers(s.child("members"), p.Members, "10.30.0.1:7400")
	var witness string
	if s.text("witness", &witness) && witness != "none" {
		p.Witness, _ = s.d.address(join(s.path, "witness"), witness, "write the witness's IP address and port, such as 10.30.0.3:7401, or none")
	}
	s.text("identity", &p.Identity)
	s.text("state", &p.State)
	s.duration("heartbeat", &p.Heartbeat)
	s.duration("failure_timeout", &p.FailureTimeout)
	p.StartEmptyAfter = max(DefaultStartEmptyAfter, startEmptyTimeouts*p.FailureTimeout)
	s.duration("start_empty_after", &p.StartEmptyAfter)
	choice(s, "commit", &p.Commit, CommitSync, CommitAsync)
	s.done()
}

func (d *draft) decodeNetworks(s *section) {
	choice(s, "ingress", &d.Networks.Ingress, IngressStrict, IngressAny)
	choice(s, "steering", &d.Networks.Steering, SteeringAuto, SteeringFlows, SteeringRules)
	front := s.child("front")
	front.text("interface", &d.Networks.Front.Interface)
	d.Networks.Front.Reach = decodeReach(front)
	front.done()
	back := s.child("back")
	back.text("interface", &d.Networks.Back.Interface)
	d.Networks.Back.Reach = decodeReach(back)
	var gateway []string
	back.texts("gateway", &gateway)
	for i, text := range gateway {
		path := fmt.Sprintf("%s[%d]", join(back.path, "gateway"), i)
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			s.d.errs.add(path, "write an address with its network's length, such as 10.20.0.1/24", "%q is not an address with a length", clip(text))
			continue
		}
		d.Networks.Back.Gateway = append(d.Networks.Back.Gateway, prefix)
	}
	back.done()
	s.done()
}

// decodeReach reads the addresses of hosts that answer pings.
func decodeReach(s *section) (all []netip.Addr) {
	var list []string
	s.texts("reach", &list)
	for i, text := range list {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" || !a.IsGlobalUnicast() {
			s.d.errs.add(fmt.Sprintf("%s[%d]", join(s.path, "reach"), i), "write the address of a host that is always there and answers pings, such as the next router", "%q is not a host's address", clip(text))
			continue
		}
		all = append(all, a.Unmap())
	}
	return all
}

func (d *draft) decodeServices(root *section) {
	root.known = append(root.known, "services")
	v := root.m["services"]
	list, ok := v.([]any)
	if !ok && v != nil {
		root.fail("services", "write each as `- name: ...`", "is %s, want a list", kindOf(v))
	}
	for i, e := range list {
		s := &section{d: root.d, path: fmt.Sprintf("services[%d]", i)}
		m, isMap := e.(map[string]any)
		if !isMap {
			root.d.errs.add(s.path, "write `- name: ...` and its keys below", "is %s, want a mapping", kindOf(e))
			continue
		}
		s.m = m
		// The name comes first: it is also the path in the environment.
		name, _ := m["name"].(string)
		s.envPath = "services." + name
		d.Services = append(d.Services, d.decodeService(s, name))
	}
}

func (d *draft) decodeService(s *section, name string) Service {
	svc := DefaultService(name)
	svc.Health.TCP = false // until it is known that no other probe is named
	s.known = append(s.known, "name")
	if v, ok := s.m["name"]; ok && name == "" {
		s.fail("name", "write a short name such as web", "is %s, want text", describe(v))
	}
	svc.Listen = d.addresses(s, "listen", "write an IP address and a port, such as 203.0.113.10:80 or \"[2001:db8::10]:80\"")
	d.servers(s, &svc)
	choice(s, "balance", &svc.Balance, BalanceFirst, BalanceTurn, BalanceLeast, BalanceHash)
	s.duration("slow_start", &svc.SlowStart)
	choice(s, "protection", &svc.Protection, ProtectGateway, ProtectLog, ProtectHot)
	choice(s, "protocol", &svc.Protocol, ProtocolRaw, ProtocolHTTP)
	choice(s, "release", &svc.Release, ReleasePrimary, ReleaseFirst)
	choice(s, "source", &svc.Source, SourceClient, SourceGateway)
	choice(s, "path", &svc.Path, PathAuto, PathNetstack)
	choice(s, "slow_clients", &svc.SlowClients, SlowWait, SlowBuffer)
	s.count("ttl", &svc.TTL)
	s.count("min_ttl", &svc.MinTTL)
	s.duration("patience", &svc.Patience)
	health := s.child("health")
	health.duration("interval", &svc.Health.Interval)
	health.duration("timeout", &svc.Health.Timeout)
	health.text("http", &svc.Health.HTTP)
	health.flag("tcp", &svc.Health.TCP)
	health.flag("canary", &svc.Health.Canary)
	if svc.Health.HTTP == "" && health.m["tcp"] == nil {
		svc.Health.TCP = true // neither is named: a connection that opens is healthy
	}
	health.done()
	alive := s.child("keepalive")
	alive.duration("idle", &svc.Keepalive.Idle)
	alive.duration("interval", &svc.Keepalive.Interval)
	alive.count("count", &svc.Keepalive.Count)
	alive.done()
	s.duration("park_after", &svc.ParkAfter)
	limits := s.child("limits")
	limits.count("connections", &svc.Limits.Connections)
	limits.size("log", &svc.Limits.Log)
	limits.duration("idle", &svc.Limits.Idle)
	limits.count("half_open", &svc.Limits.HalfOpen)
	limits.count("half_open_source", &svc.Limits.HalfOpenSource)
	limits.done()
	s.done()
	return svc
}

func decodeMetrics(root *section, text string) (addr netip.AddrPort) {
	// `metrics:` with nothing after it is how one writes "empty: off" in YAML.
	if v, ok := root.m["metrics"]; ok && v == nil {
		root.m["metrics"] = ""
	}
	root.text("metrics", &text)
	if text != "" {
		addr, _ = root.d.address("metrics", text, "write an IP address and a port, such as 127.0.0.1:9464, or leave it empty")
	}
	return addr
}

func (d *draft) addresses(s *section, key, hint string) []netip.AddrPort {
	var list []string
	s.texts(key, &list)
	var out []netip.AddrPort
	for i, text := range list {
		if addr, ok := s.d.address(fmt.Sprintf("%s[%d]", join(s.path, key), i), text, hint); ok {
			out = append(out, addr)
		}
	}
	return out
}

// address reads an address and port; a faulty one is not valid.
func (d *decoder) address(path, text, hint string) (netip.AddrPort, bool) {
	addr, err := netip.ParseAddrPort(text)
	if err != nil {
		if strings.Count(text, ":") > 1 && !strings.HasPrefix(text, "[") {
			hint = "put an IPv6 address in square brackets and the whole in quotes"
		}
		d.errs.add(path, hint, "%q is not an IP address with a port", clip(text))
		return netip.AddrPort{}, false
	}
	return addr, true
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
