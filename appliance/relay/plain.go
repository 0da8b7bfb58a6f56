package relay

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"lockstep/appliance/carry"
	"lockstep/replication"
	"lockstep/stack"
)

// plain carries bytes between two legs: the server's end is the connection's end. The
// worker owns all but what is atomic in the streams.
type plain struct {
	c       *Conn
	server  *stack.Leg
	streams [2]stream // indexed by replication.Stream
	asked   carry.Asked
	drain   carry.Draining // one leg has ended, what it has sent goes to the other first
	secured bool           // the standby has what is left of that
	untold  atomic.Bool    // the journal does not know yet that the connection is ended here
	parked  bool
}

// serverEvents are those of the server's leg.
type serverEvents struct{ p *plain }

// Wake implements stack.Events.
func (e serverEvents) Wake(*stack.Leg) { e.p.c.Wake(nil) }

// Delivered implements stack.Events.
func (e serverEvents) Delivered(_ *stack.Leg, off uint64) {
	e.p.Deliver(replication.Request, off)
	e.p.c.r.sched.add(e.p.c, false)
}

// Dial implements carrier.
func (p *plain) Dial(i int) (err error) {
	p.server, err = p.c.r.dialServer(p.c, i, serverEvents{p})
	return err
}

// Answered implements carrier.
func (p *plain) Answered() (yes bool, err error) { return p.server.Established(), p.server.Err() }

// Begin implements carrier.
func (p *plain) Begin() (leg replication.LegRecord, logged bool) {
	p.wire()
	return carry.LegRecord(p.server.Params()), false
}

func (p *plain) wire() {
	req, resp := &p.streams[replication.Request], &p.streams[replication.Response]
	req.src, req.dst = p.c.client, p.server
	resp.src, resp.dst = p.server, p.c.client
	stack.Join(p.c.client, p.server)
}

// Attach implements carrier.
func (p *plain) Attach() {
	if p.parked {
		p.unpark()
	}
	for _, l := range [2]*stack.Leg{p.c.client, p.server} {
		if l.Waiting() {
			if err := l.Attach(); err != nil {
				p.c.abort()
				return
			}
		}
	}
}

// Complete implements carrier.
func (p *plain) Complete() { p.server.Complete() }

// Refused implements carrier.
func (p *plain) Refused() error {
	if err := p.server.Err(); err != nil && p.c.client.Err() == nil && p.nothingLeft(replication.Response) {
		return err
	}
	return nil
}

// Gone implements carrier. What a leg has said before its RST is for the other: then the
// connection goes on.
func (p *plain) Gone() bool {
	cerr, serr := p.c.client.Err(), p.server.Err()
	switch {
	case cerr == nil && serr == nil:
		return false
	case cerr == nil && !p.nothingLeft(replication.Response):
		p.secure(replication.Response)
		return false
	case serr == nil && p.RequestLeft():
		return false
	}
	return true
}

// Opens implements carrier.
func (p *plain) Opens() bool { return p.server.Established() }

// Whole implements carrier.
func (p *plain) Whole() bool { return p.c.client.Established() && p.server.Established() }

// Step implements carrier.
func (p *plain) Step() (again bool) {
	if p.c.client.Err() != nil || p.server.Err() != nil {
		return p.stepDraining()
	}
	for i := range p.streams {
		s := replication.Stream(i)
		p.trim(s)
		p.ship(s)
		if p.move(s) {
			again = true
		}
	}
	if p.finished() {
		p.finish()
		return false
	}
	return again
}

func (p *plain) finished() bool {
	for i := range p.streams {
		s := &p.streams[i]
		if !s.FinPassed || s.Stream.Delivered.Load() <= s.End {
			return false
		}
		if p.c.flags.Protected.Load() && s.Permit.Load() <= s.End {
			return false // the sender's FIN is not acknowledged yet
		}
	}
	return true
}

// finish ends a connection whose both FINs are acknowledged, by their receivers
// and to their senders.
func (p *plain) finish() {
	c := p.c
	c.phase = phaseDone
	// The packet path may not have come to telling the journal yet.
	c.tellDelivered()
	c.r.journal.Close(c.ID, replication.Finished)
	c.client.Finish()
	p.server.Finish()
	c.r.ended(c, false)
}

// Abort implements carrier.
func (p *plain) Abort() {
	if p.server.Err() == nil {
		p.server.Abort()
	} else {
		p.server.Drop()
	}
}

// Drop implements carrier.
func (p *plain) Drop() { p.server.Drop() }

// Permit implements carrier.
func (p *plain) Permit(s replication.Stream, off uint64) {
	st := &p.streams[s]
	st.src.Permit(off) // before the worker may see that this was the last
	st.Permit.Store(off)
}

// Need implements carrier.
func (p *plain) Need(s replication.Stream, from, to uint64) { p.streams[s].Need(from, to) }

// OpenGates implements carrier.
func (p *plain) OpenGates() { p.server.Open() }

// Deliver implements carrier.
func (p *plain) Deliver(s replication.Stream, off uint64) {
	// Raised first: a worker that adopts the connection has either seen it, or it is
	// seen here that the journal is to be told.
	d := &p.streams[s].Stream.Delivered
	if off > d.Load() {
		p.c.flags.Moved.Store(int64(p.c.r.now()))
	}
	carry.Raise(d, off)
	if p.c.flags.Protected.Load() && !p.untold.Load() {
		p.c.r.journal.Delivered(p.c.ID, s, off)
	}
}

// Delivered implements carrier.
func (p *plain) Delivered(s replication.Stream) uint64 { return p.streams[s].Stream.Delivered.Load() }

// PassAsks implements carrier.
func (p *plain) PassAsks() { p.server.PassAsks() }

// Pass implements carrier.
func (p *plain) Pass(client *carry.Asked) {
	client.Pass(p.c.client, p.server)
	p.asked.Pass(p.server, p.c.client)
}

// Probe implements carrier.
func (p *plain) Probe(k *carry.Keepalive, next time.Duration) time.Duration {
	return min(next, p.asked.Probe(p.server, k))
}

// RequestLeft implements carrier.
func (p *plain) RequestLeft() bool { return !p.nothingLeft(replication.Request) }

// Draining implements carrier.
func (p *plain) Draining() bool { return p.drain.On.Load() }

// Server implements carrier.
func (p *plain) Server() netip.AddrPort {
	if p.server == nil {
		return netip.AddrPort{}
	}
	return p.server.Params().Remote
}

// Text implements carrier.
func (p *plain) Text() string {
	f := func(id replication.Stream) string {
		s := &p.streams[id]
		return fmt.Sprintf("base=%d next=%d delivered=%d permit=%d fin=%v", s.Base, s.Next, p.Delivered(id), s.Permit.Load(), s.FinPassed)
	}
	return fmt.Sprintf("server{%v} request{%s} response{%s}", p.server, f(replication.Request), f(replication.Response))
}
