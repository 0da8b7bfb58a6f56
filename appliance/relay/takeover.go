package relay

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"lockstep/appliance/carry"
	"lockstep/appliance/kept"
	"lockstep/replication"
	"lockstep/stack"
)

// LostError tells of connections that a takeover could not continue.
type LostError struct {
	ByService map[string]int
	First     error // why the first of them
}

func (e *LostError) Error() string { return e.First.Error() }
func (e *LostError) Unwrap() error { return e.First }

// Lost is how many there were in all.
func (e *LostError) Lost() (n int) {
	for _, c := range e.ByService {
		n += c
	}
	return n
}

// Restore makes connections of what the standby kept, without endpoints: from
// its return on their segments are known and wake them. clockShift is added to
// every leg's TSOffset: the former active's millisecond clock less ours, with
// the margin that keeps TSval from going back (invariant 7). The connections
// must come with the busiest first. Rebuild then attaches all of them. The error is a
// *LostError.
func (r *Relay) Restore(all []replication.Continue, clockShift uint32) ([]*Conn, error) {
	r.engine.ContinueCookies(clockShift)
	conns := make([]*Conn, 0, len(all))
	var lost *LostError
	for i := range all {
		c, err := r.restoreOne(&all[i], clockShift)
		if err != nil {
			if !all[i].Finished {
				r.journal.Close(all[i].Record.ID, replication.Aborted) // it has it from the takeover
			}
			if lost == nil {
				lost = &LostError{ByService: make(map[string]int), First: err}
			}
			if !all[i].Finished {
				lost.ByService[all[i].Record.Service]++
			}
			continue
		}
		if c != nil {
			conns = append(conns, c)
		}
	}
	conns = slices.DeleteFunc(conns, func(c *Conn) bool { return c.killed.Load() != killNot }) // superseded
	if lost != nil {
		return conns, lost
	}
	return conns, nil
}

func (r *Relay) restoreOne(k *replication.Continue, shift uint32) (*Conn, error) {
	svc := r.byName[k.Record.Service]
	if svc == nil {
		return nil, fmt.Errorf("continue connection of service %q: not in this appliance's configuration", k.Record.Service)
	}
	if k.Record.Spliced {
		return r.restorePassed(svc, k)
	}
	cp, sp := carry.LegParams(k.Record.Client), carry.LegParams(k.Record.Server)
	cp.TSOffset += shift
	sp.TSOffset += shift
	req, resp := &k.Streams[replication.Request], &k.Streams[replication.Response]
	cr, sr := carry.Resume(req, resp), carry.Resume(resp, req)
	sr.PeerKnows = true
	cr.Quiet, sr.Quiet = k.Idle, k.Idle
	cr.PeerKnows = req.Held > 0 || resp.Delivered > 0
	sr.HalfWay = !cr.PeerKnows
	keep := svc.Kept || k.Record.Start != [2]uint64{}
	// More than one server has to be found for a hot connection at once.
	cr.Parked = svc.Now().Park > 0 && cr.PeerKnows && !req.Fin && !resp.Fin && !(keep && svc.Hot)
	sr.Parked = cr.Parked
	if keep {
		cr.ManySources = true
		cr.Ahead = 0 // what waits for the server is in the log, and bounded there
	}
	if over := req.FinDelivered && resp.FinDelivered; over || k.Finished {
		// Nothing is left but to answer FINs that are sent again.
		if !k.Finished {
			r.journal.Close(k.Record.ID, replication.Finished)
		}
		r.engine.Bury(cp, finalResume(req, resp))
		sr = finalResume(resp, req)
		sr.Received -= k.Record.Start[replication.Response]
		sr.Sent -= k.Record.Start[replication.Request]
		r.engine.Bury(sp, sr)
		return nil, nil
	}
	c := &Conn{ID: k.Record.ID, svc: svc, r: r, standing: standing{phase: phaseOpen, unproven: !cr.PeerKnows}, born: r.now()}
	c.flags.Opened.Store(true)
	c.stepAt.Store(int64(r.now()))
	var err error
	c.client, err = r.engine.Restore(cp, cr, c)
	if errors.Is(err, stack.ErrAddrInUse) {
		if newer := r.supersede(c, cp); newer {
			return nil, nil
		}
		c.client, err = r.engine.Restore(cp, cr, c)
	}
	if err != nil {
		return nil, fmt.Errorf("continue %s: client leg: %w", cp.Remote, err)
	}
	switch next := c.newCarrier(keep).(type) {
	case *kept.Kept:
		c.carrier, err = next, next.Restore(k, sp, c.unproven)
	case *plain:
		c.carrier, err = next, next.restore(k, sp, sr)
	}
	if err != nil {
		c.client.Drop()
		return nil, fmt.Errorf("continue %s: server leg: %w", cp.Remote, err)
	}
	c.begun.Store(true)
	c.servedBy(sp.Remote)
	c.passAsks()
	c.noteParked(c.carrier.Parked())
	r.keep(c)
	return c, nil
}

// keep puts a connection that is continued into the table.
func (r *Relay) keep(c *Conn) {
	_, client := c.ends()
	r.mu.Lock()
	r.enter(c, client)
	r.mu.Unlock()
	c.svc.conns.Add(1)
}

// supersede ends the one of two connections that are restored whose client has begun anew since. newer: that
// is c itself, whose client's leg would be p.
func (r *Relay) supersede(c *Conn, p stack.Params) (newer bool) {
	switch other := r.sameClient(p); {
	case other == nil:
	case other.ID > c.ID:
		r.journal.Close(c.ID, replication.Aborted)
		return true
	default:
		other.supersede()
	}
	return false
}

// sameClient finds the connection whose client has this address, port and destination. Two may
// be continued: a client that begins anew from the same port ends its former connection, of whose end
// the former active had not told yet when it died.
func (r *Relay) sameClient(p stack.Params) *Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		if vip, client := c.ends(); client == p.Remote && vip == p.Local {
			return c
		}
	}
	return nil
}

// supersede ends a connection that is being restored and whose client has begun anew. Its server
// is told when it speaks (stack/lost.go).
func (c *Conn) supersede() {
	if c.isPassed() {
		c.passed.Drop()
	} else {
		c.client.Drop()
		c.carrier.Drop()
	}
	c.kill(true)
}

// finalResume is resume for a leg whose two FINs are acknowledged.
func finalResume(rx, tx *replication.StreamState) stack.Resume {
	return stack.Resume{Received: rx.Held, Sent: tx.Held, PeerKnows: true}
}

// restore makes the server's leg and the streams go on.
func (p *plain) restore(rec *replication.Continue, server stack.Params, r stack.Resume) (err error) {
	if p.server, err = p.c.r.engine.Restore(server, r, serverEvents{p}); err != nil {
		return err
	}
	for i := range p.streams {
		p.streams[i].restore(&rec.Streams[i])
	}
	p.wire()
	p.parked = true
	p.unpark() // unless both are
	return nil
}

func (s *stream) restore(k *replication.StreamState) {
	s.Base = carry.DataEnd(k)
	s.Next = min(k.Delivered, s.Base)
	s.Shipped = s.Base
	s.Delivered.Store(s.Next)
	s.stash = k.Bytes
	s.stashLen = int(s.Base - s.Next)
}

// Rebuild attaches endpoints to restored connections; done is called when the
// last has its two. Those whose peers speak meanwhile go first.
func (r *Relay) Rebuild(conns []*Conn, done func()) {
	// Who is passed on has none, and who is superseded by one of the rest needs none.
	conns = slices.DeleteFunc(conns, func(c *Conn) bool { return c.isPassed() || c.killed.Load() != killNot })
	conns = slices.DeleteFunc(conns, r.stayParked)
	if len(conns) == 0 {
		done()
		return
	}
	left := &rebuilding{done: done}
	left.n.Store(int64(len(conns)))
	for _, c := range conns {
		c.rebuild.Store(left)
	}
	for _, c := range conns {
		c.bulk.Store(true)
		r.sched.add(c, true)
	}
}

// rebuilding counts the connections of a takeover that lack an endpoint.
type rebuilding struct {
	n    atomic.Int64
	done func()
}

// rebuilt is called by the worker that finds both endpoints in place, or the
// connection at its end.
func (c *Conn) rebuilt() {
	if left := c.rebuild.Swap(nil); left != nil && left.n.Add(-1) == 0 {
		left.done()
	}
}
