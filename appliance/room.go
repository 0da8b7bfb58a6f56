package appliance

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"lockstep/appliance/config"
	"lockstep/stack"
	"lockstep/tun"
)

// What this machine must have room for, beside memory, if there are as many connections as the services let in.

// descriptorsSpare are those of an appliance without servers: devices, sockets to the peer and the witness, settings of
// the kernel that are kept open, the control socket's and the metrics' connections. A connection has none.
const descriptorsSpare = 256

// descriptorsEach are a server's: two probes may overlap.
const descriptorsEach = 2

// connections is how many there may be at a time.
func connections(c *config.Config) (n int) {
	for i := range c.Services {
		n += c.Services[i].Limits.Connections
	}
	return n
}

// CheckRoom says what is too small on this machine.
func CheckRoom(c *config.Config) []config.Warning {
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) != nil {
		lim.Max = unix.RLIM_INFINITY
	}
	return roomWarnings(c, tun.Shortages(connections(c)), lim.Max)
}

// roomWarnings: descriptors is how many the process may have.
func roomWarnings(c *config.Config, short []tun.Shortage, descriptors uint64) (list []config.Warning) {
	servers := 0
	for i := range c.Services {
		s := &c.Services[i]
		servers += len(s.Servers)
		// The default is no wish.
		if room := portRoom(c, s); s.Source == config.SourceGateway && s.Limits.Connections > max(room, config.DefaultConnections) {
			list = append(list, config.Warning{Path: fmt.Sprintf("services[%d].limits.connections", i),
				Msg:  fmt.Sprintf("with `source: gateway` there are ports for %d connections to one server, not for %d", room, s.Limits.Connections),
				Hint: "more addresses in networks.back.gateway, or `source: client`"})
		}
	}
	for _, s := range short {
		list = append(list, config.Warning{Path: "services", Hint: fmt.Sprintf("`sysctl -w %s=%s` where that can be done: on the host", s.Sysctl, s.Least),
			Msg: fmt.Sprintf("%s is %s, which is too low for the clients or connections that there may be, and cannot be raised from here", s.Sysctl, s.Is)})
	}
	if need := uint64(descriptorsSpare + descriptorsEach*servers); descriptors < need {
		list = append(list, config.Warning{Path: "services", Hint: fmt.Sprintf("`ulimit -Hn %d`, or LimitNOFILE in the unit", need),
			Msg: fmt.Sprintf("a process may have %d descriptors here, with %d servers it may need %d", descriptors, servers, need)})
	}
	return list
}

// portRoom is how many connections there can be to one server of the service, the one with the fewest.
func portRoom(c *config.Config, s *config.Service) (room int) {
	for i, server := range s.Servers {
		n := 0
		for _, g := range c.Networks.Back.Gateway {
			if inNetwork(g, server.Addr()) {
				n += stack.PortsPerServer
			}
		}
		if i == 0 || n < room {
			room = n
		}
	}
	return room
}

func inNetwork(g netip.Prefix, a netip.Addr) bool { return g.Masked().Contains(a.Unmap()) }

// warnOfRoom says at the start what `lockstep check` would.
func (n *Node) warnOfRoom() {
	for _, w := range CheckRoom(n.cfg) {
		n.log.Warn("this machine has not enough room", "what", w.Msg, "hint", w.Hint)
	}
}
