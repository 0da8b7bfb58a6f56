package appliance

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"lockstep/appliance/config"
	"lockstep/internal/confine"
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

// CheckRoom says what is too small on this machine, and what `run` will not raise.
func CheckRoom(c *config.Config) []config.Warning {
	return roomNow(c, slices.DeleteFunc(tun.Shortages(connections(c)), func(s tun.Shortage) bool { return s.Sealed == nil }))
}

func roomNow(c *config.Config, short []tun.Shortage) []config.Warning {
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) != nil {
		lim.Max = unix.RLIM_INFINITY
	}
	return roomWarnings(c, short, lim.Max, confine.Has(unix.CAP_NET_ADMIN))
}

// roomWarnings: descriptors is how many the process may have, admin whether it has the rights that `run` needs.
func roomWarnings(c *config.Config, short []tun.Shortage, descriptors uint64, admin bool) (list []config.Warning) {
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
		w := config.Warning{Path: "services", Hint: fmt.Sprintf("`sysctl -w %s=%s` where that can be done: on the host", s.Sysctl, s.Least),
			Msg: fmt.Sprintf("%s is %s, which is too low for the clients or connections that there may be, and cannot be raised from here", s.Sysctl, s.Is)}
		if !admin && errors.Is(s.Sealed, os.ErrPermission) {
			w.Msg = fmt.Sprintf("%s is %s, which is too low for the clients or connections that there may be; not known from here whether `run` can raise it", s.Sysctl, s.Is)
			w.Hint = "check as root, or with the rights that the appliance is given (CAP_NET_ADMIN)"
		}
		list = append(list, w)
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
		n, a := 0, server.Addr().Unmap()
		near := slices.ContainsFunc(c.Networks.Back.Gateway, func(g netip.Prefix) bool { return g.Masked().Contains(a) })
		for _, g := range c.Networks.Back.Gateway { // as relay's dialFromGateway chooses
			if g.Addr().Is4() == a.Is4() && (!near || g.Masked().Contains(a)) {
				n += stack.PortsPerServer
			}
		}
		if i == 0 || n < room {
			room = n
		}
	}
	return room
}

// warnOfRoom says at the start what is too small, all the same: the kernel may refuse what can be written.
func (n *Node) warnOfRoom() {
	for _, w := range roomNow(n.cfg, tun.Shortages(connections(n.cfg))) {
		n.log.Warn("this machine has not enough room", "what", w.Msg, "hint", w.Hint)
	}
}
