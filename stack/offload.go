package stack

import (
	"math"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/splice"
)

// A connection that is passed on may have its plain segments passed on by somebody else, the kernel, past the device. Who has it
// is one of two at a time. The connection is offered when it rests, so that nothing of it overtakes what is still in the
// device's queue; it is taken back by whatever changes it, above all by a segment that comes here all the same; and whoever
// only looks reads first what has been seen there. All of that under Spliced.mu.

// Offload passes plain segments (splice.Offloaded) on in the engine's place. Its methods are quick.
type Offload interface {
	// Enter takes a connection.
	Enter(o *splice.Offloaded) (OffloadedFlow, error)
	// Now is a clock that runs as the engine's does, but reads differently.
	Now() (time.Duration, error)
	// Allow lets it pass on until a time of Now's. It passes nothing on before it has been called.
	Allow(until time.Duration) error
	// Wait returns when nothing is on its way out any more of what was passed on before Allow(0). It may take some 10 ms.
	Wait() error
}

// OffloadedFlow is one connection that was entered.
type OffloadedFlow interface {
	// Read fills in what has been seen.
	Read(o *splice.Offloaded) error
	// Leave gives the connection back, which is passed on no further, and fills in all that has been seen. With an error only the
	// former is so.
	Leave(o *splice.Offloaded) error
}

const (
	// offloadAfter is how often a connection must have rested before it is offered: one that carries a request or two
	// does not earn what it costs.
	offloadAfter = 3
	// offloadMost is for how long connections are passed on if nobody says so again, who is asked to at each of the janitor's rounds: so
	// does a process that hangs not go on for ever.
	offloadMost = time.Second
	// offloadIdle is after how long without a byte a connection gives its place to others.
	offloadIdle = 10 * time.Second
	// A connection that comes back soon after it was offered is not offered for a while, twice as long each time.
	offloadAgain, offloadAgainMost = 20 * time.Millisecond, 10 * time.Second
	offloadSoon                    = time.Second
)

// offloading is what the engine has of it.
type offloading struct {
	to Offload // nil: nobody; set by New

	mu      sync.Mutex    // a leaf: saying until when is one step with looking whether
	entered bool          // a connection, ever
	moving  uint64        // counts what may have been passed on
	still   uint64        // what it was when nothing was on its way out
	here    time.Duration // until when nothing is passed on there, see PassHere
	broken  bool          // Wait or Allow has failed: nothing is offered any more
}

// splicedHands is who else has, or gets, a connection: legs, the other path.
type splicedHands struct {
	splicedTaking
	offered *offered // nil: it was never given away
}

// splicedNotes are small things, in one word with others.
type splicedNotes struct {
	owes   [2]bool
	muted  [2]bool // of each side: it is asked whether it is there, or has been in vain, see mute
	rested uint8   // see offloadAfter
}

// offered is what a connection has of it that was given away, or would have been; Spliced.mu.
type offered struct {
	flow  OffloadedFlow    // nil: it is here
	since time.Duration    // it is away
	seen  splice.Offloaded // there
	again time.Duration    // not offered before
	pause time.Duration    // how long that was the last time
}

// isAway reports whether somebody else has it. mu is held.
func (p *Spliced) isAway() bool { return p.offered != nil && p.offered.flow != nil }

// lockSeen is mu.Lock for who looks at where the ends are.
func (p *Spliced) lockSeen() {
	p.mu.Lock()
	if p.isAway() {
		a := p.offered
		if a.flow.Read(&a.seen) != nil {
			p.takeBack()
			return
		}
		p.conn.Reclaim(&a.seen, p.engine.now())
	}
}

// lockBack is mu.Lock for who changes something, or ends it.
func (p *Spliced) lockBack() {
	p.mu.Lock()
	if p.isAway() {
		p.takeBack()
	}
}

// takeBack makes it the engine's alone. mu is held.
func (p *Spliced) takeBack() {
	a, now := p.offered, p.engine.now()
	p.rested = 0
	p.engine.C.TakenBack.Add(1)
	a.pause = min(max(2*a.pause, offloadAgain), offloadAgainMost)
	if now-a.since >= offloadSoon {
		a.pause = offloadAgain
	}
	if a.flow.Leave(&a.seen) != nil {
		p.conn.Mislaid()
		a.pause = offloadAgainMost
	} else {
		p.conn.Reclaim(&a.seen, now)
	}
	a.flow, a.again = nil, now+a.pause
}

// rests reports whether nothing of it is under way but the segment s, whose sender had no more to say (PSH). What is said
// without waiting for an answer may yet be in the device's queue, and be overtaken. mu is held.
func (p splicedSide) rests(s *segment) bool {
	return s.tcp.Flags()&header.TCPFlagPsh != 0 && !p.isAway() && p.accepted && !p.gone && p.taken == nil && !p.floors && p.muted == [2]bool{} &&
		p.Ended() == NotEnded && p.conn.Alone(p.from, uint32(s.payload))
}

// offer gives a connection away that has rested, if it still does, and has been seen to often enough.
func (p splicedSide) offer(s *segment, rested bool) {
	if !rested {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.engine.now()
	if !p.rests(s) {
		return
	}
	if p.rested = min(p.rested+1, offloadAfter); p.rested < offloadAfter || p.offered != nil && now < p.offered.again || !p.engine.offload.offers() {
		return
	}
	if p.offered == nil {
		p.offered = new(offered)
	}
	a := p.offered
	if !p.conn.Offload(&a.seen) {
		return
	}
	flow, err := p.engine.offload.to.Enter(&a.seen)
	if err != nil {
		a.again = now + offloadAgainMost
		return
	}
	a.flow, a.since = flow, now
	p.engine.C.Offloaded.Add(1)
}

// offers reports whether connections are given away at all, and notes that one is.
func (o *offloading) offers() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.broken {
		return false
	}
	o.entered = true
	o.moving++
	return true
}

// allowOffload says until when connections that are away are passed on: as long as the engine may speak, and not for long.
func (e *Engine) allowOffload() {
	o := &e.offload
	if o.to == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	// That clock first: a stop between the two readings must not lengthen the lease.
	then, err := o.to.Now()
	left := offloadMost
	if until := e.lease.Load(); until != math.MaxInt64 {
		left = min(left, time.Duration(until)-e.now())
	}
	until := then + left
	if left <= 0 || !e.active.Load() || e.now() < o.here || o.broken || err != nil {
		until = 0
	}
	if until > 0 && o.entered {
		o.moving++
	}
	if o.to.Allow(until) != nil {
		o.broken = true
	}
}

// awaitOffload returns when nothing is on its way out there any more; nothing is allowed.
func (e *Engine) awaitOffload() {
	o := &e.offload
	o.mu.Lock()
	n, wait := o.moving, o.moving != o.still
	o.mu.Unlock()
	if !wait {
		return
	}
	err := o.to.Wait() // not with the lock held: leases go on being said
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		o.broken = true // what was allowed is over all the same
		return
	}
	o.still = n
}

// PassHere makes the engine pass everything on itself for so long: SetActive(false) need not wait then for what is under way elsewhere.
func (e *Engine) PassHere(d time.Duration) {
	e.offload.mu.Lock()
	e.offload.here = e.now() + d
	e.offload.mu.Unlock()
	e.allowOffload()
	e.awaitOffload()
}
