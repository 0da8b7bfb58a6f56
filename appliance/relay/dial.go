package relay

import (
	"errors"
	"fmt"
	"net/netip"

	"lockstep/stack"
)

// dialServer opens a leg to the i-th server, from the client's address or from one of
// our own.
func (r *Relay) dialServer(c *Conn, i int, ev stack.Events) (*stack.Leg, error) {
	svc, remote, client := c.svc, c.svc.Pool.Addr(i), c.client.Params().Remote
	var l *stack.Leg
	var err error
	if svc.SourceGateway || svc.onBack(client.Addr()) {
		l, err = r.dialFromGateway(svc, remote, c.unproven, ev)
	} else {
		p := stack.Params{Remote: remote, Local: client}
		if l, err = r.engine.Dial(p, c.unproven, ev); err != nil {
			// Two virtual addresses, one server, one client port: the pair of
			// addresses is taken. Another port of the same client keeps the two
			// connections apart.
			p.Local = netip.AddrPortFrom(client.Addr(), 0)
			l, err = r.engine.Dial(p, c.unproven, ev)
		}
	}
	if errors.Is(err, stack.ErrNoPort) {
		r.engine.C.CountNoPort()
		if svc.OnNoPort != nil {
			svc.OnNoPort(remote)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("dial server %s: %w", remote, err)
	}
	return l, nil
}

// onBack reports whether a client is a host of the back network. The servers would answer
// it without us, as it has an address that they reach directly; one may be that server.
func (s *Service) onBack(client netip.Addr) bool {
	for _, g := range s.Gateways {
		if g.Masked().Contains(client) {
			return true
		}
	}
	return false
}

// dialFromGateway dials from our addresses in turn, until one has a port left: from those
// in the server's own network, if there are any, since to the others it may have no way.
func (r *Relay) dialFromGateway(svc *Service, remote netip.AddrPort, halfWay bool, ev stack.Events) (l *stack.Leg, err error) {
	near := svc.onBack(remote.Addr())
	err = stack.ErrUnreachable
	for _, g := range svc.Gateways {
		if g.Addr().Is4() != remote.Addr().Is4() || near && !g.Masked().Contains(remote.Addr()) {
			continue
		}
		p := stack.Params{Remote: remote, Local: netip.AddrPortFrom(g.Addr(), 0)}
		if l, err = r.engine.Dial(p, halfWay, ev); !errors.Is(err, stack.ErrNoPort) {
			return l, err
		}
	}
	return nil, err
}
