package relay

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
func (c *Conn) judge(server int, ago time.Duration) uint32 {
	cl := &c.kept.claim
	if cl.answer == nil {
		a := new(atomic.Uint32)
		cl.answer = a
		if c.svc.Ask == nil {
			a.Store(claimAlive)
			return claimAlive
		}
		c.svc.counts.claims.Add(1)
		c.svc.Ask(server, ago, func(alive bool) {
			if alive {
				a.Store(claimAlive)
			} else {
				a.Store(claimDead)
			}
			c.r.sched.add(c, false)
		})
	}
	return cl.answer.Load()
}

// ending deals with the FIN of the source, at the end of what it has sent.
func (c *Conn) ending(src *replica) {
	k := c.kept
	if k.seen.end > src.at {
		return
	}
	agreed, others := false, false
	for _, r := range k.replicas() {
		switch {
		case r == src || r.doubt || !r.leg.Established():
		case r.at == k.seen.end && has(r, k.seen.end):
			c.lose(src, "ended while another one goes on")
			c.wakeAt(0)
			return
		case r.at == k.seen.end && r.ended:
			agreed = true
		default:
			others = true
		}
	}
	verdict, announced := adapter.Unknown, false
	if k.ad != nil {
		verdict = k.ad.End()
		_, idle := k.ad.Checkpoint()
		announced = verdict == adapter.Complete && !idle // the response said that it is the last
	}
	if agreed || announced {
		c.believe(src)
		return
	}
	if others && c.judge(src.server, src.endedAgo()) == claimAsked {
		return
	}
	switch c.judge(src.server, src.endedAgo()) {
	case claimDead:
		c.lose(src, "its process has died")
		c.wakeAt(0)
	case claimAlive:
		if verdict == adapter.Premature && c.suspicious() {
			c.lose(src, "ended in the middle of a response")
			c.wakeAt(0)
			return
		}
		c.believe(src)
	}
}

// suspicious reports whether the same thing has not been seen at this place before:
// a server that lives and ends its stream here again means it.
func (c *Conn) suspicious() bool {
	k := c.kept
	if k.suspect == k.seen.end+1 || k.plain {
		return false
	}
	k.suspect = k.seen.end + 1
	return true
}

// believe passes the end on.
func (c *Conn) believe(src *replica) {
	if c.releaseRest(src) {
		c.endResponse()
	}
}

// releaseRest releases what the adapter has kept back of a last head. It reports false if
// the client's leg does not take all of it.
func (c *Conn) releaseRest(src *replica) bool {
	k := c.kept
	if k.ad == nil {
		return true
	}
	bufs, n, _ := src.leg.Peek(nil, int(k.seen.end-src.base), flatSize)
	if n == 0 {
		return true
	}
	k.ad = nil // whatever it is, it is no message
	_, full := c.releaseFresh(src, bufs, n)
	c.tellReleased(false)
	return !full
}

// sourceFailed deals with a RST of the source, or its silence.
func (c *Conn) sourceFailed(r *replica, err error) {
	k := c.kept
	if c.streams[1].finPassed {
		c.sourceDone(r) // the response is whole, but the request can not be delivered
		return
	}
	for _, x := range k.replicas() {
		if x != r && !x.doubt && x.leg.Established() && x.leg.Err() == nil {
			c.lose(r, err.Error())
			return
		}
	}
	if k.plain && !c.svc.Hot {
		c.sourceDone(r)
		return
	}
	if c.restored && r.born == c.born && !k.plain && c.r.now()-c.born < inherited {
		c.lose(r, "reset after the takeover")
		c.wakeAt(0)
		return
	}
	switch c.judge(r.server, 0) {
	case claimDead:
		c.svc.Pool.Refused(r.server)
		c.lose(r, err.Error())
	case claimAlive:
		c.sourceDone(r)
	}
}
