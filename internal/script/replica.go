package script

import "net/netip"

// Replica makes another server of c, at addr, which nothing was dialled to yet. Its
// bytes are those of c.Server, unless it is made to send the other pattern: those
// must not reach the client. It must have no leg before a takeover: the monitor knows
// one server of a connection.
func (r *Rig) Replica(c *Conn, addr netip.AddrPort, isn uint32) *Conn {
	p := &Peer{rig: r, name: "s" + addr.Addr().String(), server: true, self: addr, to: c.Client.self, isn: isn, seed: c.Server.seed, far: c.Client}
	p.reset()
	r.mu.Lock()
	c.Client.also = append(c.Client.also, p)
	r.mu.Unlock()
	return &Conn{Client: c.Client, Server: p}
}

// replica is the one that a packet of the appliance is for. mu is held.
func (r *Rig) replica(s *Segment) *Peer {
	for _, c := range r.conns {
		for _, p := range c.Client.also {
			if p.self == s.Dst && p.to == s.Src {
				return p
			}
		}
	}
	return nil
}

// farSent is how far the stream that comes to p was sent, by whoever got furthest.
func (p *Peer) farSent() int64 {
	nxt := p.far.nxt
	for _, x := range p.also {
		nxt = max(nxt, x.nxt)
	}
	return nxt
}

// Away makes all that is sent to p get lost, or (false) ends that.
func (p *Peer) Away(away bool) {
	p.rig.mu.Lock()
	p.away = away
	p.rig.mu.Unlock()
}
