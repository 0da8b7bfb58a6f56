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
	var l *stack.Leg
	err := r.dialFrom(c, i, func(local, remote netip.AddrPort) (err error) {
		l, err = r.engine.Dial(stack.Params{Remote: remote, Local: local}, c.unproven, ev)
		return err
	})
	return l, err
}

// dialFrom finds the address from which dial reaches the i-th server; its port may be 0.
func (r *Relay) dialFrom(c *Conn, i int, dial func(local, remote netip.AddrPort) error) (err error) {
	svc, remote := c.svc, c.svc.Pool.Addr(i)
	_, client := c.ends()
	if svc.SourceGateway || svc.onBack(client.Addr()) {
		err = r.dialFromGateway(svc, remote, dial)
	} else if err = dial(client, remote); err != nil {
		// Two virtual addresses, one server, one client port: the pair of
		// addresses is taken. Another port of the same client keeps the two
		// connections apart.
		err = dial(netip.AddrPortFrom(client.Addr(), 0), remote)
	}
	if errors.Is(err, stack.ErrNoPort) {
		r.engine.C.CountNoPort()
		if svc.OnNoPort != nil {
			svc.OnNoPort(remote)
		}
	}
	if err != nil {
		return fmt.Errorf("dial server %s: %w", remote, err)
	}
	return nil
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
func (r *Relay) dialFromGateway(svc *Service, remote netip.AddrPort, dial func(local, remote netip.AddrPort) error) (err error) {
	near := svc.onBack(remote.Addr())
	err = stack.ErrUnreachable
	for _, g := range svc.Gateways {
		if g.Addr().Is4() != remote.Addr().Is4() || near && !g.Masked().Contains(remote.Addr()) {
			continue
		}
		if err = dial(netip.AddrPortFrom(g.Addr(), 0), remote); !errors.Is(err, stack.ErrNoPort) {
			return err
		}
	}
	return err
}
