package script

import (
	"bytes"
	"fmt"

	"lockstep/replication"
)

// clockMargin is added to TSvals: what the estimate of the former active's clock
// may be wrong by, milliseconds.
const clockMargin = 5

// Takeover throws the active away, with all that was on its way to the standby,
// and lets the standby continue in a fresh engine. There is no standby afterwards. A connection that was parked counts
// as idle, as after the batches of others that would have told nothing of it for a while: so it is parked again, if
// the service parks at all.
func (r *Rig) Takeover() error {
	old := r.gen
	core := old.journal.next
	if core == nil {
		return fmt.Errorf("take over: nobody is left to do it")
	}
	if err := r.shutdown(); err != nil {
		return err
	}
	core.PeerLost()
	r.epoch++
	all, err := core.Takeover(r.epoch)
	if err != nil {
		return err
	}
	for i := range all {
		k := &all[i]
		if c := old.relay.Lookup(k.Record.ID); c != nil && c.Parked() && k.Streams[0].Held == k.Streams[0].Delivered && k.Streams[1].Held == k.Streams[1].Delivered {
			k.Idle = true
		}
	}
	r.mu.Lock()
	r.moved = true
	r.tracef("=== takeover of %d connections", len(all))
	for i := range all {
		r.checkHeld(&all[i])
		r.tracef("    %d: request %+v, response %+v, finished %v", all[i].Record.ID, brief(&all[i].Streams[0]), brief(&all[i].Streams[1]), all[i].Finished)
	}
	for _, c := range r.conns {
		for _, p := range []*Peer{c.Client, c.Server} {
			p.moved, p.tsMoved = true, p.tsSent
		}
		c.Server.relearn = !known(all, c) && c.Server.state != peerFinished
		if c.Server.relearn {
			c.Server.await = true
			c.Server.mayReset = true // the lost dial is reset before the new one
		}
	}
	r.mu.Unlock()
	if err := r.build(core, nil); err != nil {
		return err
	}
	g := r.gen
	g.journal.mu.Lock()
	g.journal.clock.Store(old.journal.clock.Load())
	for i := range all {
		g.journal.legsOf(&all[i].Record, true, nil)
	}
	g.journal.mu.Unlock()
	conns, err := g.relay.Restore(all, old.engine.ClockMillis()-g.engine.ClockMillis()+clockMargin)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	g.engine.SetActive(true)
	g.relay.Rebuild(conns, func() {})
	return nil
}

// Rejoin lets a fresh standby join; it is in sync some time later.
func (r *Rig) Rejoin() error {
	r.mu.Lock()
	r.tracef("=== a standby joins")
	r.mu.Unlock()
	return r.gen.journal.join(replication.New(r.o.Limits))
}

// InSync reports whether the standby could take over.
func (r *Rig) InSync() bool {
	st, ok := r.gen.journal.Standby()
	return ok && st.CanTakeOver
}

func brief(s *replication.StreamState) string {
	return fmt.Sprintf("%d..%d fin %v/%v", s.Delivered, s.Held, s.Fin, s.FinDelivered)
}

// known reports whether the standby continues c.
func known(all []replication.Continue, c *Conn) bool {
	for i := range all {
		if rec := &all[i].Record; rec.Client.Remote == c.Client.self && rec.Client.IRS == c.Client.isn {
			return true
		}
	}
	return false
}

// checkHeld compares what the standby hands out with what the peers were told and
// given. Rig.mu is held.
func (r *Rig) checkHeld(k *replication.Continue) {
	for _, c := range r.conns {
		if k.Record.Client.Remote != c.Client.self || k.Record.Client.IRS != c.Client.isn {
			continue
		}
		for i, p := range [2]*Peer{c.Client, c.Server} { // the stream's sender
			if i == 1 && k.Record.Server.ISS != p.irs {
				continue // an earlier dial
			}
			s, far := &k.Streams[i], p.far
			far.heldAt = int64(s.Held)
			if told := p.una - 1; told > int64(s.Held) {
				r.violate("%s was told that %d are safe, the standby holds %d", p.name, told, s.Held)
			}
			if s.Delivered > 0 && int64(s.Delivered) > far.acked-1 {
				r.violate("%s has acknowledged %d, the standby knows of %d", far.name, far.acked-1, s.Delivered)
			}
			b := bytes.Join(s.Bytes, nil)
			for n, v := range b {
				off := int64(s.Delivered) + int64(n)
				if off < int64(len(far.have)) && far.have[off] && far.got[off] != v && !p.freeAt(off) {
					r.violate("%s has %#x at %d, the standby %#x", far.name, far.got[off], off, v)
					return
				}
				if v != p.byte(off, false) && !((p.altAt(off) || p.freeAt(off)) && v == p.byte(off, true)) {
					r.violate("the standby holds %#x at %d, %s sent %#x", v, off, p.name, p.byte(off, false))
					return
				}
			}
			fin := 0
			if s.Fin && !s.FinDelivered {
				fin = 1
			}
			if len(b)+fin != int(s.Held-s.Delivered) || (s.Fin && p.fin != int64(s.Held)) {
				r.violate("the standby's %v stream: %d bytes in %s, %s closed at %d", replication.Stream(i), len(b), brief(s), p.name, p.fin)
			}
		}
	}
}

// checkShipped compares all bytes that ever went to the standby with those that
// the receivers got.
func (r *Rig) checkShipped() {
	j := r.gen.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		leg, ok := j.legs[flowKey{c.Client.to, c.Client.self}]
		if !ok || leg.irs != c.Client.isn {
			continue
		}
		for _, k := range j.past.shipped[leg.id] {
			far := c.Server
			if k.stream == replication.Response {
				far = c.Client
			}
			for i, v := range k.b {
				off := int(k.off) + i
				if off < len(far.have) && far.have[off] && far.got[off] != v && !far.far.freeAt(int64(off)) {
					r.violate("%s got %#x at %d, the standby %#x", far.name, far.got[off], off, v)
					return
				}
			}
		}
	}
}
