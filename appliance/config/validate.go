package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Bounds of the numbers in the file, each wide enough for any sane use and
// narrow enough to catch a slip of the unit.
const (
	minHeartbeat      = time.Millisecond
	maxHeartbeat      = 10 * time.Second
	maxFailureTimeout = time.Minute
	maxConnections    = 10_000_000
	maxHalfOpen       = 1 << 20
	minMemory         = 16 * MiB // below it a single fast connection starves
	maxSocketPath     = 107      // sun_path less its NUL, unix(7)
	maxInterface      = 127      // of an alternative name: ALTIFNAMSIZ less its NUL
	maxServices       = 1024
)

// nameHint describes validName to the operator.
const nameHint = "1 to 63 lower-case letters, digits and dashes, beginning with a letter or digit"

// validName holds node, pair and service names: they become file names,
// metric labels and parts of environment variables, and travel in records
// whose name field holds 63 bytes.
func validName(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// validate adds every broken rule to errs. It is pure: what depends on the
// machine is Check's. A rule about a key that could not be read is passed over.
func (d draft) validate(errs *Errors) {
	v := &validator{errs: errs, cfg: d.Config}
	v.pair()
	v.networks()
	v.services()
	v.overlaps()
	v.authority()
	v.rest()
}

type validator struct {
	errs *Errors
	cfg  *Config
}

func (v *validator) add(path, hint, format string, args ...any) {
	v.errs.add(path, hint, format, args...)
}

// faulty says whether path or something within it was already refused.
func (v *validator) faulty(path string) bool {
	return slices.ContainsFunc(*v.errs, func(e FieldError) bool {
		return e.Path == path || strings.HasPrefix(e.Path, path+".") || strings.HasPrefix(e.Path, path+"[")
	})
}

// name checks a required name and reports whether it holds.
func (v *validator) name(path, value string) bool {
	switch {
	case v.faulty(path):
		return false
	case value == "":
		v.add(path, nameHint, "is missing")
		return false
	case !validName(value):
		v.add(path, nameHint, "%q is not a name", clip(value))
		return false
	}
	return true
}

func (v *validator) pair() {
	p := &v.cfg.Pair
	nodeOK := v.name("node", v.cfg.Node)
	v.name("pair.name", p.Name)
	v.members(nodeOK)
	if p.Witness.IsValid() {
		v.witness()
	}
	v.state("pair.state", p.State)
	if p.Identity == "" {
		v.add("pair.identity", "the directory that `lockstep keys` wrote for this node", "is empty")
	}
	v.timing("pair.", p.Heartbeat, p.FailureTimeout)
	v.startEmpty()
}

const (
	// startEmptyTimeouts is how many failure time-outs start_empty_after has at least: an
	// active that has fallen silent asks for some of them who has taken over.
	startEmptyTimeouts = 10
	minStartEmpty      = time.Second
	maxStartEmpty      = 24 * time.Hour
)

func (v *validator) startEmpty() {
	p, key := &v.cfg.Pair, "pair.start_empty_after"
	if v.faulty(key) || v.faulty("pair.failure_timeout") {
		return
	}
	least := max(minStartEmpty, startEmptyTimeouts*p.FailureTimeout)
	if p.StartEmptyAfter < least || p.StartEmptyAfter > maxStartEmpty {
		v.add(key, fmt.Sprintf("%v (%d times failure_timeout, and a second) to %v", least, startEmptyTimeouts, maxStartEmpty),
			"%v is out of range", p.StartEmptyAfter)
	}
}

// timing checks heartbeat and failure_timeout, whose paths begin with prefix.
func (v *validator) timing(prefix string, heartbeat, failure time.Duration) {
	beat, fail := prefix+"heartbeat", prefix+"failure_timeout"
	if !v.faulty(beat) && (heartbeat < minHeartbeat || heartbeat > maxHeartbeat) {
		v.add(beat, fmt.Sprintf("%v to %v", minHeartbeat, maxHeartbeat), "%v is out of range", heartbeat)
	}
	if v.faulty(beat) || v.faulty(fail) {
		return
	}
	if failure <= 2*heartbeat || failure > maxFailureTimeout {
		v.add(fail, fmt.Sprintf("more than twice %s (%v), so that one late heartbeat is no failure, and at most %v", beat, heartbeat, maxFailureTimeout),
			"%v is out of range", failure)
	}
}

func (v *validator) members(nodeOK bool) {
	m := v.cfg.Pair.Members
	if v.faulty("pair.members") {
		return
	}
	if len(m) == 0 || len(m) > 2 {
		v.add("pair.members", "write both appliances, such as {a: 10.30.0.1:7400, b: 10.30.0.2:7400}", "names %d appliances, want two", len(m))
		return
	}
	names := sortedKeys(m)
	for _, name := range names {
		path := "pair.members." + clip(name)
		if !validName(name) || name == "witness" || name == "none" {
			v.add(path, nameHint+"; not `witness` or `none`", "%q is not a node's name", clip(name))
		}
		if msg := unusable(m[name]); msg != "" {
			v.add(path, "the appliance's own address and a port on the sync network", "%v %s", m[name], msg)
		}
	}
	if len(names) == 2 && m[names[0]] == m[names[1]] {
		v.add("pair.members."+names[1], "each appliance has its own address", "%v is also %s's address", m[names[1]], names[0])
	}
	if _, ok := m[v.cfg.Node]; nodeOK && !ok {
		v.add("node", "one of: "+strings.Join(names, ", "), "%q is not in pair.members", v.cfg.Node)
	}
}

func (v *validator) witness() {
	const path = "pair.witness"
	w := v.cfg.Pair.Witness
	if msg := unusable(w); msg != "" {
		v.add(path, "the witness's address and a port from 1 to 65535, or none", "%v %s", w, msg)
		return
	}
	for _, name := range sortedKeys(v.cfg.Pair.Members) {
		if v.cfg.Pair.Members[name].Addr() == w.Addr() {
			v.add(path, "the witness must stand on a third host, or it falls with an appliance", "%v is %s's own address", w.Addr(), name)
		}
	}
	if !v.faulty("pair.members") && len(v.cfg.Pair.Members) == 1 {
		v.add(path, "add the second appliance to pair.members, or write none", "a witness helps two appliances to decide, and there is one")
	}
}

// state checks a state directory.
func (v *validator) state(path, dir string) {
	if !v.faulty(path) && !filepath.IsAbs(dir) {
		v.add(path, "an absolute path, such as "+DefaultState, "%q is not a directory's path", clip(dir))
	}
}

func (v *validator) networks() {
	n := &v.cfg.Networks
	v.iface("networks.front.interface", n.Front.Interface)
	v.iface("networks.back.interface", n.Back.Interface)
	if n.Front.Interface != "" && n.Front.Interface == n.Back.Interface {
		v.add("networks.back.interface", "the gateway stands between two networks", "%q is also networks.front.interface", n.Front.Interface)
	}
	if v.faulty("networks.back.gateway") {
		return
	}
	const hint = "write the floating address and the network's length, such as 10.20.0.1/24"
	for i, g := range n.Back.Gateway {
		path := fmt.Sprintf("networks.back.gateway[%d]", i)
		if msg := unusable(netip.AddrPortFrom(g.Addr(), 1)); msg != "" {
			v.add(path, hint, "%v %s", g, msg)
			continue
		}
		if g.Bits() == 0 || (g.Addr() == g.Masked().Addr() && g.Bits() < g.Addr().BitLen()-1) {
			v.add(path, hint, "%v names a network, not an address in it", g)
		}
		for j, other := range n.Back.Gateway[:i] {
			if other.Addr() == g.Addr() {
				v.add(path, "remove one", "%v is also networks.back.gateway[%d]", g.Addr(), j)
			}
		}
	}
}

func (v *validator) iface(path, name string) {
	switch {
	case v.faulty(path):
	case name == "":
		v.add(path, "an interface's name, such as eth0", "is missing")
	case len(name) > maxInterface || strings.ContainsAny(name, "/ \t\n:%") || name == "." || name == "..":
		v.add(path, fmt.Sprintf("at most %d characters, no spaces, slashes or colons", maxInterface), "%q is not an interface's name", clip(name))
	}
}

func (v *validator) services() {
	services := v.cfg.Services
	if len(services) == 0 && !v.faulty("services") {
		v.add("services", "write at least one `- name: ...` with listen and servers", "is missing or empty")
	}
	if len(services) > maxServices {
		v.add("services", "", "names %d services, at most %d", len(services), maxServices)
	}
	byName := map[string]int{}
	for i := range services {
		s := &services[i]
		path := fmt.Sprintf("services[%d]", i)
		if v.name(path+".name", s.Name) {
			if first, taken := byName[s.Name]; taken {
				v.add(path+".name", "names are unique", "%q is also services[%d]", s.Name, first)
			} else {
				byName[s.Name] = i
			}
		}
		v.listen(path, s)
		v.servers(path, s)
		v.balance(path, s)
		v.families(path, s)
		v.health(path+".health", &s.Health)
		v.keepalive(path+".keepalive", &s.Keepalive)
		if p := path + ".park_after"; !v.faulty(p) && s.ParkAfter != 0 && (s.ParkAfter < time.Second || s.ParkAfter > 120*time.Hour) {
			v.add(p, "1s to 120h; 0 for never", "%v is out of range", s.ParkAfter)
		}
		v.keeping(path, s)
		v.hops(path+".ttl", s.TTL)
		v.hops(path+".min_ttl", s.MinTTL)
		v.serviceLimits(path+".limits", &s.Limits)
	}
}

func (v *validator) hops(path string, n int) {
	if !v.faulty(path) && (n < 0 || n > 255) {
		v.add(path, "1 to 255, or leave it out", "%d is no TTL", n)
	}
}

func (v *validator) listen(path string, s *Service) {
	path += ".listen"
	if v.faulty(path) {
		return
	}
	if len(s.Listen) == 0 {
		v.add(path, "at least one virtual address, such as [203.0.113.10:80]", "is missing or empty")
	}
	for i, a := range s.Listen {
		if msg := unusable(a); msg != "" {
			v.add(fmt.Sprintf("%s[%d]", path, i), "a virtual address and a port from 1 to 65535", "%v %s", a, msg)
		}
	}
}

func (v *validator) servers(path string, s *Service) {
	path += ".servers"
	if v.faulty(path) {
		return
	}
	if len(s.Servers) == 0 {
		v.add(path, "at least one server, such as [10.20.0.11:80]", "is missing or empty")
	}
	for i, a := range s.Servers {
		p := fmt.Sprintf("%s[%d]", path, i)
		if msg := unusable(a); msg != "" {
			v.add(p, "a server's address and a port from 1 to 65535", "%v %s", a, msg)
		}
		if j := slices.Index(s.Servers, a); j < i {
			v.add(p, "remove one", "%v is also %s[%d]", a, path, j)
		}
	}
}

// families checks that source: gateway has an address to dial each server
// from. (Whether source: client can serve every listening family is
// Unsupported's question.)
func (v *validator) families(path string, s *Service) {
	if s.Source != SourceGateway || v.faulty(path+".servers") || v.faulty("networks.back.gateway") {
		return
	}
	for i, a := range s.Servers {
		if !slices.ContainsFunc(v.cfg.Networks.Back.Gateway, func(g netip.Prefix) bool { return g.Addr().Is4() == a.Addr().Is4() }) {
			v.add(fmt.Sprintf("%s.servers[%d]", path, i), "add one to networks.back.gateway: source: gateway dials from it",
				"%v cannot be dialled: the gateway has no %s address", a, family(a.Addr()))
		}
	}
}

// maxServers of a service whose connections outlive their server.
const maxServers = 32

// keeping checks what only protection log and hot need.
func (v *validator) keeping(path string, s *Service) {
	if p := path + ".patience"; !v.faulty(p) && (s.Patience < 100*time.Millisecond || s.Patience > time.Hour) {
		v.add(p, "100ms to 1h", "%v is out of range", s.Patience)
	}
	if s.Protection != ProtectGateway && len(s.Servers) > maxServers {
		v.add(path+".servers", "", "names %d servers, at most %d with protection %s", len(s.Servers), maxServers, s.Protection)
	}
	if s.Protection != ProtectGateway && s.Health.Off() && !v.faulty(path+".health") {
		v.add(path+".health", "write http: /path or tcp: true", "has neither http nor tcp, but with protection %s a server's end is judged by its health check", s.Protection)
	}
	if s.SlowClients == SlowBuffer && (s.Path == PathNetstack || s.Protection != ProtectGateway) {
		v.add(path+".slow_clients", "write path: auto and protection: gateway, or leave it out", "buffer is for connections that are passed on, and this service has none")
	}
	if s.Protection == ProtectHot && len(s.Servers) == 1 {
		v.add(path+".servers", "name a second one, or write protection: log", "protection hot needs two servers or more")
	}
}

func (v *validator) health(path string, h *Health) {
	if v.faulty(path) {
		return
	}
	if h.Interval < time.Millisecond || h.Interval > time.Hour {
		v.add(path+".interval", "1ms to 1h", "%v is out of range", h.Interval)
	}
	if h.Timeout < time.Millisecond || h.Timeout > h.Interval {
		v.add(path+".timeout", fmt.Sprintf("1ms to the interval (%v)", h.Interval), "%v is out of range", h.Timeout)
	}
	switch {
	case h.HTTP != "" && h.TCP:
		v.add(path, "remove one", "has both http and tcp")
	case h.HTTP != "" && (h.HTTP[0] != '/' || strings.ContainsAny(h.HTTP, " \r\n\t") || len(h.HTTP) > 1024):
		v.add(path+".http", "a path without spaces, such as /healthz", "%q is not a path", clip(h.HTTP))
	}
}

func (v *validator) keepalive(path string, k *Keepalive) {
	if v.faulty(path) {
		return
	}
	if k.Idle != 0 && (k.Idle < time.Second || k.Idle > 120*time.Hour) {
		v.add(path+".idle", "1s to 120h; 0 for never", "%v is out of range", k.Idle)
	}
	if k.Interval < time.Second || k.Interval > time.Hour {
		v.add(path+".interval", "1s to 1h", "%v is out of range", k.Interval)
	}
	if k.Count < 1 || k.Count > 100 {
		v.add(path+".count", "1 to 100", "%d is out of range", k.Count)
	}
}

func (v *validator) serviceLimits(path string, l *ServiceLimits) {
	check := func(key string, value, low, high int) {
		if p := path + "." + key; !v.faulty(p) && (value < low || value > high) {
			v.add(p, fmt.Sprintf("%d to %d", low, high), "%d is out of range", value)
		}
	}
	check("connections", l.Connections, 1, maxConnections)
	check("half_open", l.HalfOpen, 0, maxHalfOpen)
	check("half_open_source", l.HalfOpenSource, 1, maxHalfOpen)
	if l.Idle < 0 || (l.Idle > 0 && l.Idle < time.Second) {
		v.add(path+".idle", "1s or more; 0 for never", "%v is out of range", l.Idle)
	}
	if l.Log < 4*KiB || l.Log > 64*GiB {
		v.add(path+".log", "4KiB to 64GiB", "%v is out of range", l.Log)
	}
}

// overlaps checks that no address is claimed for two uses.
func (v *validator) overlaps() {
	taken := map[netip.AddrPort]string{}
	fixed := map[netip.Addr]string{}
	for i, g := range v.cfg.Networks.Back.Gateway {
		fixed[g.Addr()] = fmt.Sprintf("networks.back.gateway[%d]", i)
	}
	for _, name := range sortedKeys(v.cfg.Pair.Members) {
		fixed[v.cfg.Pair.Members[name].Addr()] = "pair.members." + name
	}
	if w := v.cfg.Pair.Witness; w.IsValid() {
		fixed[w.Addr()] = "pair.witness"
	}
	for i, s := range v.cfg.Services {
		for j, a := range s.Servers {
			path := fmt.Sprintf("services[%d].servers[%d]", i, j)
			if owner, ok := fixed[a.Addr()]; ok && !strings.HasPrefix(owner, "services") {
				v.add(path, "a server has an address of its own", "%v is also %s", a.Addr(), owner)
			}
		}
	}
	for i, s := range v.cfg.Services {
		for j, a := range s.Servers {
			if _, ok := fixed[a.Addr()]; !ok {
				fixed[a.Addr()] = fmt.Sprintf("services[%d].servers[%d]", i, j)
			}
		}
	}
	for i, s := range v.cfg.Services {
		for j, a := range s.Listen {
			path := fmt.Sprintf("services[%d].listen[%d]", i, j)
			if owner, ok := fixed[a.Addr()]; ok {
				v.add(path, "a virtual address is used for nothing else", "%v is also %s", a.Addr(), owner)
			}
			if owner, ok := taken[a]; ok {
				v.add(path, "each address and port belongs to one service", "%v is also %s", a, owner)
			} else {
				taken[a] = path
			}
		}
	}
}

func (v *validator) rest() {
	if m := v.cfg.Limits.Memory; !v.faulty("limits.memory") && (m < minMemory || m > 1024*GiB) {
		v.add("limits.memory", fmt.Sprintf("%v to %v", minMemory, 1024*GiB), "%v is out of range", m)
	}
	if c := v.cfg.Control; !v.faulty("control") && (!filepath.IsAbs(c) || len(c) > maxSocketPath) {
		v.add("control", fmt.Sprintf("an absolute path of at most %d bytes, such as %s", maxSocketPath, DefaultControl), "%q is not a socket's path", clip(c))
	}
	if m := v.cfg.Metrics; m.IsValid() && m.Port() == 0 {
		v.add("metrics", "a port from 1 to 65535, or leave it empty", "%v has no port", m)
	}
}

// unusable says why no packet can be addressed to a; empty: it can.
func unusable(a netip.AddrPort) string {
	ip := a.Addr()
	switch {
	case a.Port() == 0:
		return "has port 0"
	case ip.Zone() != "":
		return "has a zone"
	case ip.Is4In6():
		return "is an IPv4 address in IPv6 form"
	case ip.IsUnspecified():
		return "is the unspecified address"
	case ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "is no single host's address"
	}
	return ""
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}
