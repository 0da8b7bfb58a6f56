package replication

import "fmt"

// StreamState is where a stream stands when its connection is continued.
type StreamState struct {
	// Delivered (D) is what the receiver has acknowledged, as far as we know; it may
	// have acknowledged more.
	Delivered uint64
	// Held (C) is what the sender may have been told is safe, at least Delivered. The
	// sender's leg goes on from here: it still has every byte from Held on.
	Held uint64
	// Bytes are those from Delivered to Held, the FIN not among them. They belong to
	// the caller.
	Bytes [][]byte
	// Fin: the byte before Held is the FIN. FinDelivered: the byte before Delivered is.
	Fin, FinDelivered bool
}

// Continue is one connection that the standby takes over.
type Continue struct {
	Record  Record
	Streams [2]StreamState // by Stream
	// Log is nil unless Record.Logged. A finished connection has none.
	Log *Log
	// Finished: both streams were acknowledged to their ends; only a retransmitted
	// FIN may still have to be answered. It does not count as a connection.
	Finished bool
	// Idle: no bytes are held and nothing was said of it in the newest batches.
	Idle bool
}

// Takeover makes the standby the active in a newer epoch and hands out everything
// it holds: connections with bytes or recent traffic first, by recency, then idle
// ones, then finished ones. All but the latter are in the active's table, as
// unprotected.
//
// It refuses if the store may lack something (invariant 5), or while the session
// is up (then PeerLost first: the old active's frames are not wanted any more).
func (c *Core) Takeover(epoch uint64) ([]Continue, error) {
	if err := c.mayTakeOver(epoch); err != nil {
		return nil, err
	}
	live := make([]*kept, 0, c.sb.lru.n)
	for k := c.sb.lru.first; k != nil; k = k.at.next {
		live = append(live, k)
	}
	return c.takeOver(epoch, live), nil
}

// mayTakeOver says why not, if not.
func (c *Core) mayTakeOver(epoch uint64) error {
	var err error
	switch {
	case c.role != RoleStandby:
		err = ErrRole
	case c.joined:
		err = ErrSession
	case epoch <= c.epoch:
		c.drops[StaleEpoch]++
		err = ErrStaleEpoch
	case !c.sb.inSync:
		err = ErrNotInSync
	}
	if err != nil {
		why := ""
		if c.sb.why != "" {
			why = " (" + c.sb.why + ")"
		}
		return fmt.Errorf("take over in epoch %d as %v in %d%s: %w", epoch, c.role, c.epoch, why, err)
	}
	return nil
}

// takeOver hands out connections that live, and all tombstones.
func (c *Core) takeOver(epoch uint64, lives []*kept) []Continue {
	s := &c.sb
	all := make([]Continue, 0, len(lives)+s.tombs.n)
	for _, idle := range [2]bool{false, true} {
		for _, k := range lives {
			if s.idle(k) == idle {
				r := k.hand()
				r.Idle = idle
				all = append(all, r)
			}
		}
	}
	live := len(all)
	for k := s.tombs.first; k != nil; k = k.at.next {
		all = append(all, k.hand())
	}
	c.role, c.epoch = RoleActive, epoch
	c.act.init(&c.lim)
	c.act.lives = s.lives.continued()
	for i := range all[:live] {
		c.act.addUnprotected(all[i].Record.ID)
	}
	c.sb.init(&c.lim)
	return all
}

func (s *standby) idle(k *kept) bool {
	req, resp := k.stream(Request), k.stream(Response)
	return req.pending()+resp.pending() == 0 && k.touched+recentBatches <= s.applied
}

// hand empties k, but for what Takeover's second walk looks at.
func (k *kept) hand() Continue {
	r := Continue{Record: k.record(), Finished: k.dead}
	for i := range r.Streams {
		t := k.stream(Stream(i))
		var b [][]byte
		if k.moving != nil {
			b = k.moving[i].hand()
		}
		if Stream(i) == Request && k.logged() {
			r.Log = k.handLog(b, t.base)
			b = cutFront(b, t.deliveredData()-t.base)
		}
		r.Streams[i] = StreamState{
			Delivered: t.delivered, Held: t.end, Bytes: b,
			Fin: t.fin, FinDelivered: t.finDelivered,
		}
	}
	return r
}

// Stored returns what the standby holds of a stream: see StreamState. For tests and
// diagnosis.
func (c *Core) Stored(id ConnID, s Stream) (delivered, held uint64, ok bool) {
	k := c.sb.conns[id]
	if k == nil {
		return 0, 0, false
	}
	t := k.stream(s & 1)
	return t.delivered, t.end, true
}

// HeldServices counts, on a standby, the connections of its store by service.
func (c *Core) HeldServices() map[string]int {
	m := map[string]int{}
	for k := c.sb.lru.first; k != nil; k = k.at.next {
		m[k.service]++
	}
	return m
}
