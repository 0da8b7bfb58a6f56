package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"lockstep/appliance/control"
)

// manyServices is how many are shown of more than that; the others are summed up.
const manyServices = 10

// rows writes one fact per line.
type rows func(name, format string, args ...any)

// renderServices writes a line per service, and beneath it what is wrong. Of many it writes few: first
// those with which something is wrong, then those with which something was.
func renderServices(s *control.Status, c palette, row rows, all bool) {
	type entry struct {
		svc       *control.Service
		now, past []string
	}
	var entries []entry
	for i := range s.Services {
		svc := &s.Services[i]
		entries = append(entries, entry{svc, troubles(s, svc, c), past(svc, c)})
	}
	left := 0
	if !all && len(entries) > manyServices {
		slices.SortStableFunc(entries, func(a, b entry) int {
			return cmp.Or(order(len(a.now) == 0, len(b.now) == 0), order(len(a.past) == 0, len(b.past) == 0))
		})
		var of sum
		for _, e := range entries {
			of.add(e.svc, len(e.now) > 0)
		}
		row("services", "%s", of.text(s.Role, c))
		entries, left = entries[:manyServices], len(entries)-manyServices
	}
	for _, e := range entries {
		row("service", "%s", renderService(s, e.svc, c))
		for _, t := range append(e.now, e.past...) {
			row("", "  %s", t)
		}
		if e.svc.Kept != nil {
			renderKept(e.svc.Kept, row, all)
		}
	}
	if left > 0 {
		row("", "and %d more (--all shows them)", left)
	}
}

// order puts false before true.
func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// sum is of many services.
type sum struct{ well, troubled, conns int }

func (n *sum) add(svc *control.Service, trouble bool) {
	n.conns += svc.Connections
	if trouble {
		n.troubled++
	} else {
		n.well++
	}
}

func (n *sum) text(role string, c palette) string {
	troubled := c.good("nothing is wrong with any")
	switch {
	case role != control.RoleActive:
		troubled = c.faint("their servers are asked by the active")
	case n.troubled > 0:
		troubled = c.bad(fmt.Sprintf("something is wrong with %d", n.troubled))
	}
	return fmt.Sprintf("%d, %s, %s", n.well+n.troubled, plural(n.conns, "connection"), troubled)
}

// renderService sums a service up in a line.
func renderService(s *control.Status, svc *control.Service, c palette) string {
	addrs, shares := make([]string, len(svc.Servers)), make([]string, len(svc.Servers))
	healthy, checked := 0, false
	for i, server := range svc.Servers {
		addrs[i], shares[i] = server.Addr, strconv.Itoa(server.Connections)
		checked = checked || server.Checked || !server.Healthy
		if server.Healthy {
			healthy++
		}
	}
	text := fmt.Sprintf("%s  %s -> %s  %s, %s", c.strong(svc.Name), endpoints(svc.Listen), endpoints(addrs), svc.Protection,
		plural(svc.Connections, "connection"))
	if svc.Spliced > 0 {
		text += fmt.Sprintf(" (%d passed on)", svc.Spliced)
	}
	if svc.Parked > 0 {
		text += fmt.Sprintf(" (%d parked)", svc.Parked)
	}
	if svc.Balance != "" && svc.Balance != "first" && len(svc.Servers) > 1 {
		text += ", " + svc.Balance + " " + strings.Join(shares, ":")
	}
	if s.Role != control.RoleActive {
		return text // only the active asks the servers
	}
	if !checked {
		return text + c.faint(", servers not asked: nothing depends on it now")
	}
	health := fmt.Sprintf("%d of %d servers healthy", healthy, len(svc.Servers))
	switch {
	case healthy == len(svc.Servers):
		health = c.good(strings.TrimPrefix(health, "1 of 1 servers "))
	case healthy == 0:
		health = c.bad(health)
	default:
		health = c.warn(health)
	}
	if k := svc.Kept; k != nil && k.Replicas > 0 {
		health += fmt.Sprintf(", %d of %d replicas in step", k.InStep, k.Replicas)
	}
	return text + ", " + health
}

// troubles says what is wrong with a service now.
func troubles(s *control.Status, svc *control.Service, c palette) (all []string) {
	for _, server := range svc.Servers {
		if !server.Healthy && s.Role == control.RoleActive {
			all = append(all, fmt.Sprintf("%s %s: %s", server.Addr, c.bad("down"), server.Why))
		}
	}
	for _, server := range svc.Servers {
		if server.State != "" && server.State != control.ServerReady {
			all = append(all, fmt.Sprintf("%s %s, %s left", server.Addr, c.warn(server.State), plural(server.Connections+server.Beside, "connection")))
		}
	}
	k := svc.Kept
	if k == nil {
		return all
	}
	if k.InStep < k.Replicas {
		all = append(all, c.warn(fmt.Sprintf("%s not in step, the slowest %s behind", plural(k.Replicas-k.InStep, "replica"), bytesText(k.LagBytes))))
	}
	if k.Orphans > 0 {
		all = append(all, c.bad(plural(k.Orphans, "connection")+" without a server"))
	}
	return all
}

// past says what went wrong with a service since the start, and cost a connection or its protection.
func past(svc *control.Service, c palette) (all []string) {
	k := svc.Kept
	if k == nil {
		return nil
	}
	if k.Divergences+k.Unverified+k.GivenUp > 0 {
		all = append(all, c.bad(fmt.Sprintf("divergences %d, unverified %d, given up %d", k.Divergences, k.Unverified, k.GivenUp)))
	}
	if k.Refused > 0 {
		all = append(all, c.warn(fmt.Sprintf("replays that a server has ended too early %d", k.Refused)))
	}
	if k.LastDivergence != "" {
		all = append(all, k.LastDivergence)
	}
	if k.LogFull+k.TooSlow > 0 {
		all = append(all, c.warn(fmt.Sprintf("log full %d, too slow %d", k.LogFull, k.TooSlow)))
	}
	return all
}

// renderKept tells what became of connections that outlive their servers.
func renderKept(k *control.Kept, row rows, all bool) {
	if all || k.Lost > 0 {
		row("", "  servers lost %d, failovers %d, replays %d; digests compared %d; log %s", k.Lost, k.Failovers, k.Replays, k.Compared, bytesText(k.LogBytes))
	}
	if k.LastFailover != "" {
		row("", "  %s", k.LastFailover)
	}
}

// manyEndpoints is how many addresses of a service are written out.
const manyEndpoints = 3

// endpoints writes each address once, with all its ports.
func endpoints(list []string) string {
	var addrs []string
	ports := map[string][]string{}
	for _, e := range list {
		addr, port := e, ""
		if a, err := netip.ParseAddrPort(e); err == nil {
			addr, port = a.Addr().String(), strconv.Itoa(int(a.Port()))
			if a.Addr().Is6() {
				addr = "[" + addr + "]"
			}
		}
		if !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
		ports[addr] = append(ports[addr], port)
	}
	var parts []string
	for i, a := range addrs {
		if i == manyEndpoints {
			parts = append(parts, fmt.Sprintf("and %d more", len(addrs)-i))
			break
		}
		text := a + ":" + strings.Join(ports[a][:min(len(ports[a]), 2*manyEndpoints)], ",")
		if len(ports[a]) > 2*manyEndpoints {
			text += ",..."
		}
		parts = append(parts, strings.TrimSuffix(text, ":"))
	}
	return strings.Join(parts, " ")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func batches(n int) string {
	if n == 1 {
		return "1 batch"
	}
	return fmt.Sprintf("%d batches", n)
}
