package kept

import (
	"lockstep/appliance/carry"
	"lockstep/replication"
)

// logAhead is how far the log may be ahead of the server whose bytes the client
// gets, bytes: beyond it the client's window closes, as if it spoke to the server.
const logAhead = 1 << 20

// takeRequest moves request bytes from the client's receive queue into the log.
func (k *Kept) takeRequest() (again bool) {
	if k.streams[replication.Request].FinPassed || !k.client.Established() {
		return false
	}
	if k.flags.Protected.Load() && k.journal.Congested() {
		k.flags.Paused.Store(true)
		return false
	}
	room := k.requestRoom()
	return room > 0 && k.takeSome(room) == room
}

// requestRoom is how much of the request the log may take now.
func (k *Kept) requestRoom() int {
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
	if k.source == nil && !k.plain && k.log.size()+room > k.svc.LogLimit {
		return 0 // without a server the log must not be given up
	}
	return int(room)
}

// takeSome takes up to limit bytes, and tells how many.
func (k *Kept) takeSome(limit int) (n int) {
	s := &k.streams[replication.Request]
	bufs := carry.Buffers()
	defer func() { carry.Release(bufs) }()
	var eof bool
	bufs, n, eof = k.client.Peek(bufs, int(s.Next-s.Base), limit)
	if n == 0 && !eof {
		return 0
	}
	k.flags.Moved.Store(int64(k.host.Now()))
	if k.flags.Protected.Load() {
		s.Tell(k.journal, k.id, replication.Request, bufs, n, eof)
	}
	k.turn()
	k.log.append(bufs)
	feed(k.ad, bufs, n)
	s.Next += uint64(n)
	if eof {
		s.FinPassed, s.End = true, s.Next
		k.ad.RequestEnd()
	}
	if !k.plain && k.log.size() > k.svc.LogLimit {
		k.unlog()
	}
	return n
}

// unlog gives up the log: the connection no longer survives its server's end, or
// only with the replicas that run already.
func (k *Kept) unlog() {
	k.plain = true
	k.cuts = nil
	k.svc.counts.logFull.Add(1)
	if k.flags.Protected.Load() {
		k.journal.Unlog(k.id)
	}
}

// Unlogged is called by the journal: it has given up the log by itself.
func (k *Kept) Unlogged() { k.unlogged.Store(true) }

// trim lets go of what nobody needs: request bytes in the log, those in the
// client's receive queue that are safe in the log and with the standby.
func (k *Kept) trim() {
	s := &k.streams[replication.Request]
	if k.unlogged.Swap(false) && !k.plain {
		k.plain, k.cuts = true, nil
		k.svc.counts.logFull.Add(1)
	}
	to := s.Next
	if k.flags.Protected.Load() {
		to = min(to, s.Permit.Load())
	}
	if to > s.Base {
		k.client.Discard(int(to - s.Base))
		s.Base = to
	}
	keep := k.ckpt[replication.Request]
	if k.plain {
		keep = k.log.end
		if k.source != nil {
			keep = min(keep, k.source.acked.Load(), s.Delivered.Load())
		} else {
			keep = k.log.base
		}
	}
	from := k.ckpt[replication.Response]
	for _, r := range k.replicas() {
		k.discard(r)
		behind := len(k.seen.marks) - k.seen.markAfter(r.at)
		if r != k.source && (k.log.end-min(r.written, k.log.end) > k.svc.LogLimit || behind > maxMarks) {
			k.lose(r, "too slow")
			k.svc.counts.tooSlow.Add(1)
			continue
		}
		keep = min(keep, r.written)
		from = min(from, r.at)
	}
	k.log.drop(keep)
	k.turns.Forget(k.log.base)
	if k.plain && len(k.replicas()) < 2 && (k.source == nil || k.source.at >= k.seen.end) {
		from = k.seen.end
	}
	k.seen.forget(from)
}

// discard frees the bytes in r's receive queue that are compared and of which the
// client has acknowledged what was released of them, and the standby knows. The rest
// may still have to be shipped.
func (k *Kept) discard(r *replica) {
	s := &r.k.streams[replication.Response]
	to := min(r.at, s.Delivered.Load(), s.Next)
	if r.k.flags.Protected.Load() {
		to = min(to, s.Permit.Load())
	}
	if to > r.base {
		r.leg.Discard(int(to - r.base))
		r.base = to
	}
	k.stashed(to) // lets go
	if d := s.Delivered.Load(); k.restored && r.recorded.Load() && len(k.held) > 0 {
		r.leg.SetAhead(r.base - min(d, r.base))
	}
}
