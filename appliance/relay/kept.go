package relay

import (
	"sync/atomic"
	"time"

	"lockstep/appliance/adapter"
	"lockstep/replication"
)

// kept is what a connection of protection log or hot has beside its client leg: the
// request since the last checkpoint, what is known of the response that the client
// has got, and the legs to its servers.
//
// The request goes from the client's receive queue into the log, and from there to
// each server at its own pace. The response comes from one of the servers, the
// source; the others' is compared and discarded. A server that is lost is replaced by
// one that has reached the point up to which the response was released: one that runs
// beside it (hot), or one that is told the request again (log; FT-TCP's message
// logging, section 3 of the paper).
type kept struct {
	log  requestLog
	ckpt [2]uint64 // a new server starts here, by Stream
	seen verified
	ad   adapter.Adapter // follows what was released; nil: raw
	// held are response bytes from heldAt on that are in no receive queue, or may
	// vanish from it: the standby has them, and the server may have been told so.
	held   []byte
	heldAt uint64
	cuts   [][2]uint64 // checkpoints whose response the client has not acknowledged
	// plain: the log has reached its limit; nothing is kept but what some leg lacks.
	plain bool

	all        atomic.Pointer[[]*replica] // copied on change; the journal and packets read it
	source     *replica                   // whose bytes the client gets; nil: none can
	told       atomic.Uint64              // released, as the journal knows it
	refused    map[int]int                // by server: replays that it has ended too early; nil: none
	bad        uint64                     // servers that have diverged on this connection, by bit
	lostAt     time.Duration              // since when there is no source; 0: there is
	lostWhy    string
	retryAt    time.Duration // earliest next dial
	wakeDue    time.Duration // when a timer will wake it
	suspect    uint64        // one behind the offset at which a living server has ended too early
	since      time.Duration // since when a replica is ahead of the source; 0: none is
	sinceAcked uint64        // what the source's server had acknowledged of the request then
	silentFor  time.Duration // after which another one is made the source
	restored   bool          // continued from another appliance, see vouched
	askAt      time.Duration // earliest next time that its client is asked how far it is

	claim claim  // of the source that it has ended
	taken uint64 // of the request, by a server that was retired

	server replication.LegRecord // the leg that the journal knows
	start  [2]uint64             // and where it begins
	legOut atomic.Bool           // the standby may not hold that leg yet
	// Of a source that cannot be recorded yet: what it had acknowledged of the request, and
	// since when.
	lagging  *replica
	lagAcked uint64
	lagSince time.Duration
}

// permit lets ACKs to all servers cover off, of the response.
func (k *kept) permit(off uint64) {
	for _, r := range k.replicas() {
		r.permit(off)
	}
}

func newKept(c *Conn) *kept {
	k := &kept{silentFor: silentMin}
	k.seen.open = newDigest(0)
	if c.svc.NewAdapter != nil {
		k.ad = c.svc.NewAdapter()
	}
	k.all.Store(new([]*replica))
	return k
}

// adapterAt makes an adapter that goes on from a state, with the request up to seen
// from the log.
func (k *kept) adapterAt(s *Service, state []byte, seen uint64) adapter.Adapter {
	if s.NewAdapter == nil {
		return nil
	}
	ad := s.NewAdapter()
	// Without a state nothing has been released yet: it is as new.
	if len(state) > 0 || k.seen.end > 0 {
		if err := ad.Restore(state, k.log.base); err != nil {
			return nil // raw: every byte counts
		}
	}
	bufs, n := k.log.from(nil, k.log.base, int(seen-k.log.base))
	feedAdapter(ad, bufs, n)
	return ad
}

func (k *kept) replicas() []*replica { return *k.all.Load() }

// addReplica makes r one of the connection's legs: the gate holds for it as for the others.
func (c *Conn) addReplica(r *replica) {
	k := c.kept
	all := append(append([]*replica(nil), k.replicas()...), r)
	k.all.Store(&all)
	r.permit(c.streams[replication.Response].permit.Load())
	r.leg.PassAsks()
	if !c.protected.Load() && c.opened.Load() {
		r.leg.Open()
	}
}

func (k *kept) remove(r *replica) {
	var all []*replica
	for _, x := range k.replicas() {
		if x != r {
			all = append(all, x)
		}
	}
	k.all.Store(&all)
	if k.source == r {
		k.source = nil
	}
}

// stepKept is stepOpen of a kept connection.
func (c *Conn) stepKept() (again bool) {
	k := c.kept
	c.attachKept()
	if c.phase != phaseOpen {
		return false
	}
	if c.client.Err() != nil {
		c.stepClientGone()
		return false
	}
	c.prove()
	if c.rebuild.Load() != nil && c.client.Established() && (k.source == nil || k.source.leg.Established()) {
		c.rebuilt()
	}
	again = c.takeRequest()
	for _, r := range k.replicas() {
		r.feed(k)
	}
	c.dismiss()
	if c.phase == phaseDone {
		return false
	}
	if k.source == nil && c.streams[replication.Response].finPassed {
		c.stepServed()
		return false
	}
	before := k.source
	c.elect()
	if c.phase == phaseDone {
		return false
	}
	if k.source != before {
		again = true // what waited for the former one need not any more
	}
	if c.releaseResponse() {
		again = true
	}
	if c.phase == phaseDone {
		return false
	}
	c.record()
	c.checkpoint()
	c.shipKept()
	c.trimKept()
	if c.finishedKept() {
		c.finishKept()
		return false
	}
	c.recruit()
	c.measure()
	return again && c.phase == phaseOpen
}

// attachKept builds endpoints where a takeover left legs without.
func (c *Conn) attachKept() {
	if c.client.Waiting() {
		if err := c.client.Attach(); err != nil {
			c.abort()
			return
		}
	}
	for _, r := range c.kept.replicas() {
		if r.leg.Waiting() {
			if err := r.leg.Attach(); err != nil {
				c.lose(r, "the leg cannot be continued")
			}
		}
	}
}

// logAhead is how far the log may be ahead of the server whose bytes the client
// gets, bytes: beyond it the client's window closes, as if it spoke to the server.
const logAhead = 1 << 20

// takeRequest moves request bytes from the client's receive queue into the log.
func (c *Conn) takeRequest() (again bool) {
	if c.streams[replication.Request].finPassed || !c.client.Established() {
		return false
	}
	if c.protected.Load() && c.r.journal.Congested() {
		c.paused.Store(true)
		return false
	}
	room := c.requestRoom()
	return room > 0 && c.takeSome(room) == room
}

// requestRoom is how much of the request the log may take now.
func (c *Conn) requestRoom() int {
	k := c.kept
	room := uint64(logAhead)
	written := k.log.base
	if k.source != nil {
		written = k.source.written
	}
	if ahead := k.log.end - min(written, k.log.end); ahead < room {
		room -= ahead
	} else {
		return 0
	}
	if k.source == nil && !k.plain && k.log.size()+room > c.svc.LogLimit {
		return 0 // without a server the log must not be given up
	}
	return int(room)
}

// takeSome takes up to limit bytes, and tells how many.
func (c *Conn) takeSome(limit int) (n int) {
	k, s := c.kept, &c.streams[replication.Request]
	bufs := c.r.buffers()
	defer func() { c.r.release(bufs) }()
	var eof bool
	bufs, n, eof = c.client.Peek(bufs, int(s.next-s.base), limit)
	if n == 0 && !eof {
		return 0
	}
	c.movedAt.Store(int64(c.r.now()))
	c.tell(replication.Request, s, bufs, n, eof)
	k.log.append(bufs)
	if k.ad != nil {
		feedAdapter(k.ad, bufs, n)
	}
	s.next += uint64(n)
	if eof {
		s.finPassed, s.end = true, s.next
		if k.ad != nil {
			k.ad.RequestEnd()
		}
	}
	if !k.plain && k.log.size() > c.svc.LogLimit {
		c.unlog()
	}
	return n
}

// unlog gives up the log: the connection no longer survives its server's end, or
// only with the replicas that run already.
func (c *Conn) unlog() {
	k := c.kept
	k.plain = true
	k.cuts = nil
	c.svc.counts.logFull.Add(1)
	if c.protected.Load() {
		c.r.journal.Unlog(c.ID)
	}
}

// Unlogged is called by the journal: it has given up the log by itself.
func (c *Conn) Unlogged() {
	c.unlogged.Store(true)
	c.r.sched.add(c, false)
}

// trimKept lets go of what nobody needs: request bytes in the log, those in the
// client's receive queue that are safe in the log and with the standby.
func (c *Conn) trimKept() {
	k, s := c.kept, &c.streams[replication.Request]
	if c.unlogged.Swap(false) && !k.plain {
		k.plain, k.cuts = true, nil
		c.svc.counts.logFull.Add(1)
	}
	to := s.next
	if c.protected.Load() {
		to = min(to, s.permit.Load())
	}
	if to > s.base {
		c.client.Discard(int(to - s.base))
		s.base = to
	}
	keep := k.ckpt[replication.Request]
	if k.plain {
		keep = k.log.end
		if k.source != nil {
			keep = min(keep, k.source.acked.Load(), s.delivered.Load())
		} else {
			keep = k.log.base
		}
	}
	from := k.ckpt[replication.Response]
	for _, r := range k.replicas() {
		k.discard(r)
		behind := len(k.seen.marks) - k.seen.markAfter(r.at)
		if r != k.source && (k.log.end-min(r.written, k.log.end) > c.svc.LogLimit || behind > maxMarks) {
			c.lose(r, "too slow")
			c.svc.counts.tooSlow.Add(1)
			continue
		}
		keep = min(keep, r.written)
		from = min(from, r.at)
	}
	k.log.drop(keep)
	if k.plain && len(k.replicas()) < 2 {
		from = k.seen.end
	}
	k.seen.forget(from)
}

// discard frees the bytes in r's receive queue that are compared and of which the
// client has acknowledged what was released of them, and the standby knows. The rest
// may still have to be shipped.
func (k *kept) discard(r *replica) {
	s := &r.c.streams[replication.Response]
	to := min(r.at, s.delivered.Load(), s.next)
	if r.c.protected.Load() {
		to = min(to, s.permit.Load())
	}
	if to > r.base {
		r.leg.Discard(int(to - r.base))
		r.base = to
	}
	if d := s.delivered.Load(); k.restored && r.recorded.Load() && len(k.held) > 0 {
		r.leg.SetAhead(r.base - min(d, r.base))
	}
}

// shipKept is ship: what the journal asked for is in the source's receive queue. As
// long as there is no source it has to wait. What the client has not got yet is also
// kept here: the server may forget it now, and its next one has to agree with it.
func (c *Conn) shipKept() {
	k, s := c.kept, &c.streams[replication.Response]
	from, to := s.needFrom.Load(), s.needTo.Load()
	if to == 0 || !c.protected.Load() || k.source == nil {
		return
	}
	s.needTo.Store(0)
	fin := s.finPassed && to > s.end
	if fin {
		to = s.end
	}
	if from < k.source.base {
		return // delivered meanwhile, or the standby was given it at the takeover
	}
	bufs := c.r.buffers()
	var n int
	if to > from {
		bufs, n, _ = k.source.leg.Peek(bufs, int(from-k.source.base), int(to-from))
	}
	k.hold(from, bufs, s.next)
	c.r.journal.Data(c.ID, replication.Response, from, bufs, fin && from+uint64(n) == s.end)
	c.r.release(bufs)
}

// hold copies what lies behind next of the bytes from off on.
func (k *kept) hold(off uint64, bufs [][]byte, next uint64) {
	end := k.heldAt + uint64(len(k.held))
	if len(k.held) == 0 {
		k.heldAt, end = max(off, next), max(off, next)
	}
	for _, b := range bufs {
		if to := off + uint64(len(b)); to > end && off <= end {
			k.held = append(k.held, b[end-off:]...)
			end = to
		}
		off += uint64(len(b))
	}
}

// holds returns the held bytes from off on, and lets go of those before.
func (k *kept) holds(off uint64) []byte {
	if len(k.held) == 0 || off < k.heldAt {
		return nil
	}
	if gone := off - k.heldAt; gone < uint64(len(k.held)) {
		k.held, k.heldAt = k.held[gone:], off
		return k.held
	}
	k.held = nil
	return nil
}
