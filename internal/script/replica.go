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

// Differs says that at the offsets from to to (1 is the first) servers other than p may send the other
// pattern: there Got says what has come.
func (p *Peer) Differs(from, to int64) {
	p.rig.mu.Lock()
	p.free = [2]int64{from - 1, to - 1}
	p.rig.mu.Unlock()
}

func (p *Peer) freeAt(off int64) bool { return p.free[0] <= off && off < p.free[1] }

// Got counts what has come to p where its peers may differ: of its own peer, and of others.
func (p *Peer) Got() (own, others int) {
	p.rig.mu.Lock()
	defer p.rig.mu.Unlock()
	for off := p.far.free[0]; off < p.far.free[1] && off < int64(len(p.have)); off++ {
		switch {
		case !p.have[off]:
		case p.got[off] == p.far.byte(off, false):
			own++
		default:
			others++
		}
	}
	return own, others
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
