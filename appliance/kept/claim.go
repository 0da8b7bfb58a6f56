package kept

import (
	"sync/atomic"
	"time"

	"lockstep/appliance/adapter"
)

// A FIN or RST from a server is a claim, not a fact: a killed process looks just like
// a finished one, because its kernel ends its connections. It is believed if another
// replica ends at the same byte, or an immediate health probe shows the server alive.

// claim is what is known about the end of the source's stream.
type claim struct {
	answer  *atomic.Uint32 // of the probe; nil: not asked
	release bool           // the server has reset and lives: what it had sent before counts
	meant   bool           // ... and all of that is released: it is the end
}

// inherited is how long after a takeover a server's reset may be the answer to what the
// former active did: it may have given the server up before the standby was told. A server that
// lives and means it does it again when it is told the request again.
const inherited = 10 * time.Second

// Values of claim.answer.
const (
	claimAsked uint32 = iota
	claimAlive
	claimDead
)

// judge asks for a probe and returns what it says so far. The server's end came so long ago: a
// replica's is judged when it becomes the source.
func (k *Kept) judge(server int, ago time.Duration) uint32 {
	cl := &k.claim
	if cl.answer == nil {
		a := new(atomic.Uint32)
		cl.answer = a
		if k.svc.Ask == nil {
			a.Store(claimAlive)
			return claimAlive
		}
		k.svc.counts.claims.Add(1)
		k.svc.Ask(server, ago, func(alive bool) {
			if alive {
				a.Store(claimAlive)
			} else {
				a.Store(claimDead)
			}
			k.host.Wake()
		})
	}
	return cl.answer.Load()
}

// ending deals with the FIN of the source, at the end of what it has sent.
func (k *Kept) ending(src *replica) {
	if k.seen.end > src.at {
		return
	}
	agreed, others := false, false
	for _, r := range k.replicas() {
		switch {
		case r == src || r.doubt || !r.leg.Established():
		case r.at == k.seen.end && has(r, k.seen.end):
			k.lose(src, "ended while another one goes on")
			k.wakeAt(0)
			return
		case r.at == k.seen.end && r.ended:
			agreed = true
		default:
			others = true
		}
	}
	verdict := k.ad.End()
	_, idle := k.ad.Checkpoint()
	announced := verdict == adapter.Complete && !idle // the response said that it is the last
	if agreed || announced {
		k.believe(src)
		return
	}
	if others && k.judge(src.server, src.endedAgo()) == claimAsked {
		return
	}
	switch k.judge(src.server, src.endedAgo()) {
	case claimDead:
		k.lose(src, "its process has died")
		k.wakeAt(0)
	case claimAlive:
		if verdict == adapter.Premature && k.suspicious() {
			k.lose(src, "ended in the middle of a response")
			k.wakeAt(0)
			return
		}
		k.believe(src)
	}
}

// suspicious reports whether the same thing has not been seen at this place before:
// a server that lives and ends its stream here again means it.
func (k *Kept) suspicious() bool {
	if k.suspect == k.seen.end+1 || k.plain {
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
	bufs, n, _ := src.leg.Peek(nil, int(k.seen.end-src.base), flatSize)
	if n == 0 {
		return true
	}
	k.ad = adapter.Raw{} // whatever it is, it is no message
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
	switch k.judge(r.server, 0) {
	case claimDead:
		k.pool.Refused(r.server)
		k.lose(r, err.Error())
	case claimAlive:
		k.sourceDone(r)
	}
}
