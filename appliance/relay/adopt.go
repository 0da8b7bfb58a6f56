package relay

import (
	"lockstep/appliance/carry"
	"lockstep/replication"
)

// A standby has joined, and the journal wants the connections that run already. Only
// the worker may read a connection's receive queues, so each is adopted in its own
// turn, whatever it is doing: in its handshake (nothing has arrived yet), half-closed,
// with its endpoints still to be built after a takeover (what is held is in the
// stash). The order is: close the gates, so that no more is acknowledged; let
// deliveries go to the journal; take the picture; hand it over.

// Adopt is called by the journal: it wants this connection.
func (c *Conn) Adopt() {
	c.wanted.Store(true)
	c.r.sched.add(c, false)
}

// adopt answers. A connection that the journal does not know, or knows to have ended,
// was not asked for; one that is protected was asked for by a session before.
func (c *Conn) adopt() {
	if !c.recorded() || c.flags.Protected.Load() {
		return
	}
	if c.isPassed() {
		c.adoptPassed()
		return
	}
	gates, ok := c.carrier.CloseGates()
	if !ok {
		c.wanted.Store(true) // a later step asks again
		return
	}
	c.flags.Protected.Store(true)
	p, ok := c.carrier.Picture(gates)
	if !ok {
		// An endpoint has failed under our hands and dropped what it had, which ends
		// the connection with the next event; or its FIN was acknowledged meanwhile.
		// Not at once: it is tried again with the next event, or when the janitor comes by.
		c.openGates()
		c.wanted.Store(true)
		return
	}
	r := replication.Record{
		ID: c.ID, Service: c.svc.Name, Logged: p.Logged, Start: p.Start,
		Client: carry.LegRecord(c.client.Params()), Server: p.Server,
	}
	if err := c.r.journal.Adopt(c, r, p.Pos, p.Log); err != nil {
		c.Unprotect() // counted by the journal
		return
	}
	c.carrier.Adopted(&p)
	c.tellDelivered() // what was delivered meanwhile
}

// tellDelivered tells the journal how far both streams are delivered, again.
func (c *Conn) tellDelivered() {
	if !c.flags.Protected.Load() {
		return
	}
	for s := range replication.Stream(2) {
		if d := c.carrier.Delivered(s); d > 0 {
			c.carrier.Deliver(s, d)
		}
	}
}

// CloseGates implements carrier.
func (p *plain) CloseGates() (g carry.Gates, ok bool) {
	p.secured = false
	g.Acked[replication.Request], g.Fin[replication.Request] = p.c.client.CloseGate()
	g.Acked[replication.Response], g.Fin[replication.Response] = p.server.CloseGate()
	return g, true
}

// Picture implements carrier.
func (p *plain) Picture(g carry.Gates) (pic carry.Picture, ok bool) {
	pic.Server = carry.LegRecord(p.server.Params())
	var bufs [][]byte
	for s := range replication.Stream(2) {
		if bufs, ok = p.position(s, &pic.Pos[s], bufs, g.Acked[s], g.Fin[s]); !ok {
			break
		}
	}
	return pic, ok
}

// Adopted implements carrier.
func (p *plain) Adopted(pic *carry.Picture) {
	for i := range p.streams {
		s, pos := &p.streams[i], &pic.Pos[i]
		s.Shipped, s.FinShipped = pos.Received, pos.Fin
		if pos.Fin && replication.Stream(i) == replication.Request {
			s.Shipped-- // of requests it counts data only
		}
	}
}

// position says where a stream stands whose gate was closed at acked; fin: that
// includes the FIN. It appends to bufs the bytes that pos refers to. ok is false if not
// all that was acknowledged is there.
func (p *plain) position(id replication.Stream, pos *replication.StreamPos, bufs [][]byte, acked uint64, fin bool) (_ [][]byte, ok bool) {
	s := &p.streams[id]
	s.Permit.Store(0)
	s.NeedTo.Store(0)
	pos.Acked = acked
	if fin {
		acked--
	}
	end := max(s.Next, acked) // of the data that is here
	pos.Received, pos.Fin = end, s.FinPassed || fin
	if pos.Fin {
		pos.Received++
	}
	delivered := s.Delivered.Load()
	if s.FinPassed && delivered > s.End {
		pos.Delivered = s.End + 1
		return bufs, pos.Delivered == pos.Received
	}
	pos.Delivered = min(delivered, s.Next)
	to := end
	if id == replication.Response {
		to = max(acked, pos.Delivered) // from there on the server still has it
	}
	first := len(bufs)
	from := pos.Delivered
	if from < s.Base {
		if to < s.Base || from+uint64(s.stashLen) < s.Base {
			return bufs, false
		}
		left, _ := carry.After(s.stash, int(from-(s.Base-uint64(s.stashLen))))
		bufs = append(bufs, left...)
		from = s.Base
	}
	if n := 0; to > from {
		if bufs, n, _ = s.src.Peek(bufs, int(from-s.Base), int(to-from)); uint64(n) != to-from {
			return bufs, false
		}
	}
	pos.Bytes = bufs[first:]
	return bufs, true
}
