package kept

import (
	"sync/atomic"
	"time"

	"lockstep/appliance/adapter"
	"lockstep/replication"
)

// A FIN or RST from a server is a claim, not a fact: a killed process looks just like
// a finished one, because its kernel ends its connections. It is believed if another
// replica ends at the same byte, if the response said so, or if the process that the leg
// is to has shown after the end that it lives. Which process that is says the line that it
// was dialled in, or in which it has acknowledged something; that a server answers is no
// proof, since another process may have its port by then. Without a line nothing can be
// proved: then an end is believed where the request, told again, ends at the same byte.

// claim is what is known about the end of the source's stream.
type claim struct {
	answer  *atomic.Uint32 // a Fate; 0: asked, nil: not asked
	release bool           // the server has reset and lives: what it had sent before counts
	meant   bool           // ... and all of that is released: it is the end
	told    bool           // by the former active, who has believed it
	since   time.Duration  // a standby that joins has waited for the answer; 0: none does
	settled time.Duration  // when an end between two messages may be judged; 0: none was seen
}

// endSettles is how long an end between two messages waits before it is judged. The processes of a
// server that share a listener are killed one after the other: the canaries' process may answer for
// some milliseconds after the client's has gone, on a busy machine for longer. Nobody waits for such
// an end as long as the client may still send, and a request that comes meanwhile is told to another server.
var endSettles = 300 * time.Millisecond

// inherited is how long after a takeover a server's reset may be the answer to what the
// former active did: it may have given the server up before the standby was told. A server that
// lives and means it does it again when it is told the request again.
const inherited = 10 * time.Second

// claimAsked is claim.answer before there is one.
const claimAsked Fate = 0

// judge asks what has become of the process of a leg that has ended, and returns what is known
// so far.
func (k *Kept) judge(r *replica) Fate {
	cl := &k.claim
	if cl.answer == nil {
		a := new(atomic.Uint32)
		cl.answer = a
		if k.svc.Ask == nil {
			a.Store(uint32(Alive))
			return Alive
		}
		k.svc.counts.claims.Add(1)
		k.svc.Ask(r.server, r.line, func(f Fate) {
			a.Store(uint32(f))
			k.host.Wake()
		})
	}
	return Fate(cl.answer.Load())
}

// line names the process that a leg dialled now is to.
func (k *Kept) line(server int) uint64 {
	if k.svc.Line == nil {
		return 0
	}
	return k.svc.Line(server)
}

// follow finds out whether r's process is the one of a line that has begun after r was
// dialled: it is if it takes something that was told it after that. A kernel resets a
// connection on which data arrives when its process has ended (RFC 9293, 3.6.1); a FIN it
// may acknowledge.
func (k *Kept) follow(r *replica) {
	now := k.line(r.server)
	switch {
	case now == 0 || now == r.line:
	case now != r.nextLine:
		r.nextLine, r.nextFrom = now, r.written
	case min(r.acked.Load(), k.log.end) > r.nextFrom:
		r.line = now
	}
}

// ending deals with the FIN of the source, at the end of what it has sent.
func (k *Kept) ending(src *replica) {
	if k.seen.end > src.at {
		return
	}
	agreed := false
	for _, r := range k.replicas() {
		switch {
		case r == src || r.doubt || !r.leg.Established():
		case r.at == k.seen.end && has(r, k.seen.end):
			k.lose(src, "ended while another one goes on")
			k.wakeAt(0)
			return
		case r.at == k.seen.end && r.ended:
			agreed = true
		}
	}
	verdict := k.ad.End()
	_, idle := k.ad.Checkpoint()
	announced := verdict == adapter.Complete && !idle // the response said that it is the last
	if agreed || announced {
		k.believe(src)
		return
	}
	if verdict == adapter.Complete && idle && !k.streams[replication.Request].FinPassed && k.settling() {
		return
	}
	switch k.judge(src) {
	case Dead:
		k.lose(src, "its process has died")
		k.wakeAt(0)
	case Unproven:
		if !k.safe() {
			return
		}
		if k.suspicious() {
			k.lose(src, unproven)
			k.wakeAt(0)
			return
		}
		k.believe(src)
	case Alive:
		if verdict == adapter.Premature && !k.safe() {
			return
		}
		if verdict == adapter.Premature && k.suspicious() {
			k.lose(src, "ended in the middle of a response")
			k.wakeAt(0)
			return
		}
		k.believe(src)
	}
}

// safe reports whether the standby knows how far the client is. Until then a server that may live is
// not given up: if this appliance died, nobody else could show what the client has (see vouched).
func (k *Kept) safe() bool {
	s := &k.streams[replication.Response]
	to := k.seen.end
	if s.FinPassed {
		to = s.End + 1
	}
	return !k.flags.Protected.Load() || s.Permit.Load() >= to
}

// settling reports whether an end between two messages has come only just now.
func (k *Kept) settling() bool {
	cl, now := &k.claim, k.host.Now()
	if cl.settled == 0 {
		cl.settled = now + endSettles
	}
	k.wakeAt(cl.settled)
	return now < cl.settled
}

// unproven is why a server is lost whose end may be a process's death.
const unproven = "ended, and nothing shows that its process lives"

// suspicious reports whether the same thing has not been seen at this place before:
// a server that ends its stream here again means it.
func (k *Kept) suspicious() bool {
	if k.suspect == k.seen.end+1 || k.plain || k.claim.told {
		return false
	}
	k.suspect = k.seen.end + 1
	return true
}

// believe passes the end on.
func (k *Kept) believe(src *replica) {
	if k.releaseRest(src) {
		k.endResponse()
	}
}

// releaseRest releases what the adapter has kept back of a last head. It reports false if
// the client's leg does not take all of it.
func (k *Kept) releaseRest(src *replica) bool {
	if raw(k.ad) {
		return true
	}
	bufs, n, _ := k.peekResponse(src, nil) // some of it may be in no receive queue, but held
	if n == 0 {
		return true
	}
	k.ad = adapter.Raw{} // whatever it is, it is no message
	if !k.settled(src) {
		src = nil // it is a former source's
	}
	_, full := k.releaseFresh(src, bufs, n)
	k.tellReleased(false)
	return !full
}

// sourceFailed deals with a RST of the source, or its silence.
func (k *Kept) sourceFailed(r *replica, err error) {
	if k.streams[1].FinPassed {
		k.sourceDone(r) // the response is whole, but the request can not be delivered
		return
	}
	for _, x := range k.replicas() {
		if x != r && !x.doubt && x.leg.Established() && x.leg.Err() == nil {
			k.lose(r, err.Error())
			return
		}
	}
	if k.plain && !k.svc.Hot {
		k.sourceDone(r)
		return
	}
	if k.restored && r.born == k.restoredAt && !k.plain && k.host.Now()-k.restoredAt < inherited {
		k.lose(r, "reset after the takeover")
		k.wakeAt(0)
		return
	}
	switch k.judge(r) {
	case Dead:
		k.pool.Refused(r.server)
		k.lose(r, err.Error())
	case Unproven:
		k.resetUnproven(r)
	case Alive:
		k.sourceDone(r)
	}
}

// resetUnproven deals with the RST of a source that nothing is known of. What had come before
// it counts in any case; where that ends it is believed the second time.
func (k *Kept) resetUnproven(r *replica) {
	if !k.claim.meant {
		if k.barred(r) {
			return
		}
		k.claim.release = true
		for k.releaseResponse() {
		}
		switch {
		case k.source != r || k.over || k.barred(r) || k.streams[1].Next < k.seen.end:
			return // it has changed, or the client does not take it yet
		case k.suspicious():
			k.lose(r, unproven)
			k.wakeAt(0)
			return
		}
	}
	k.sourceDone(r)
}
