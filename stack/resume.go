package stack

import (
	"math"
	"time"
)

// An active may be silent for a while without a takeover: its lease has ended, it was in
// doubt, its network was away. What was in flight then is lost, and both ends have doubled
// their time-outs. When it speaks again, the peers with whom something was going on are
// asked where they are, as after a takeover (probe.go), what is missing is made to come
// (hurry.go), and the first segment that they may lack leaves at once. Unlike after a
// takeover no peer can be ahead of its endpoint, so none is believed that says so.

const (
	// silenceMin is the least silence after which anybody is asked: Linux's least time-out.
	silenceMin = 200 * time.Millisecond
	// lately is how long before a silence a peer must have been heard to be asked after it.
	lately = time.Second
)

// SetActive mutes (false) or unmutes the engine. A muted engine emits nothing
// and takes nothing in (invariant 4), nor does Options.Offload in its place.
func (e *Engine) SetActive(on bool) {
	e.setActive(on)
	if !on {
		e.awaitOffload() // what comes in meanwhile is held, or handed on
	}
}

func (e *Engine) setActive(on bool) {
	// Whatever is read meanwhile waits: what has come before it is older.
	e.changing.Lock()
	defer e.changing.Unlock()
	e.reading.Lock()
	defer e.reading.Unlock()
	now := int64(e.now())
	if e.active.Swap(on) == on {
		return
	}
	if on {
		e.activeAt.Store(now)
		e.treatHeld()
		e.offload.mu.Lock()
		e.offload.here = 0
		e.offload.mu.Unlock()
		e.allowOffload()
	} else {
		e.allowOffload()                             // to nobody
		(*e.cookies.keys.Load())[0].used.Store(true) // by the other half, perhaps
		e.mutedAt.Store(max(min(now, e.lease.Load()), e.activeAt.Load()))
	}
}

// Unmute is SetActive(true) of an engine whose connections nobody has continued since
// it was muted.
func (e *Engine) Unmute() {
	if e.active.Load() {
		return
	}
	e.SetActive(true)
	e.endSilence(e.now() - time.Duration(e.mutedAt.Load()))
}

// SetLease lets an active engine emit until the given point in time, a reading of
// Options.Clock: then it falls mute by itself. The check is made at each
// packet, last of all, so that a process that was stopped wakes up mute. A point
// in time, not a span: a stop between computing and setting must not lengthen it.
func (e *Engine) SetLease(until time.Time) {
	end := int64(math.MaxInt64)
	if until != Forever {
		end = int64(until.Sub(e.clock.born))
	}
	former, now := e.lease.Swap(end), int64(e.now())
	e.allowOffload()
	if now < end && e.active.Load() {
		e.endSilence(time.Duration(now - max(former, e.activeAt.Load())))
	}
}

// endSilence is called when we may speak, and could not for d; negative if we could. Who has waited for less than a
// time-out has lost nothing but what was not taken in: a process that was stopped for a second, a moment longer than its
// lease, has been silent for that moment, and has refused what the kernel had kept of the whole second.
func (e *Engine) endSilence(d time.Duration) {
	switch {
	case d >= silenceMin:
		e.Resume(d)
	case e.probes.refused.Load():
		e.resumeSince(math.MaxInt64) // nobody was heard since: whoever has lost something, or has something in flight
	}
}

// Resume makes the connections move again after a silence of that length, which has
// ended without a takeover. It returns at once.
func (e *Engine) Resume(silence time.Duration) { e.resumeSince(e.now() - silence) }

func (e *Engine) resumeSince(since time.Duration) {
	p := &e.probes
	p.mu.Lock()
	if !p.resuming || since < p.silentSince {
		p.resuming, p.silentSince = true, since
	}
	p.mu.Unlock()
	p.wake()
}

// resumed tells, once, since when we were silent.
func (p *prober) resumed() (since time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ok, p.resuming = p.resuming, false
	if ok {
		p.refused.Store(false) // what is refused from here on is seen at the next renewal
	}
	return p.silentSince, ok
}

func (e *Engine) resumeLegs(since time.Duration) {
	for _, l := range e.table.all() {
		l.resume(since)
	}
	e.askPassed(min(since, e.now()))
}

// missed notes whose packet was not taken in: it may be a request that ends a long rest.
func (e *Engine) missed(b []byte, n int) {
	var s segment
	if s.parse(b, n) != parsedTCP {
		return
	}
	if l := e.table.get(&s.flow); l != nil {
		l.missed.Store(true)
		e.probes.refused.Store(true)
		return
	}
	if p := e.table.spliced(&s.flow).Spliced; p != nil {
		e.mute.miss(p)
		e.probes.refused.Store(true)
	}
}

// resume begins to ask the peer, if something is in flight in either direction or may
// be; a client that has not completed its handshake is answered again. Idle ones are left alone: there are thousands.
func (l *Leg) resume(since time.Duration) {
	missed := l.missed.Swap(false)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == stSynAcked {
		l.synAckAt, l.synAckTries = 0, 2 // the janitor sends it again; that is no round trip
	}
	if l.state == stParked && missed { // attached asks its peer
		l.state, l.resumed, l.unheard, l.quiet = stWaiting, true, true, false
		l.probesSent, l.revives = 0, 0
		defer l.events.Wake(l)
	}
	if l.state != stAttached || !l.confirmed || l.halfWay || l.err != nil {
		return
	}
	l.headAcked()
	there := l.located || !l.restored // else what is asked since the takeover is asked on
	heard := there && time.Duration(l.heardAt.Load()) >= since-lately
	if !missed && !heard && l.head == nil && l.txNxt <= max(l.txUna, l.peerAck) {
		return
	}
	l.probesSent, l.revives = 0, 0
	if there {
		l.resumed, l.unheard = true, true
	}
	l.probing, l.suspected = true, false // what it may lack leaves now
	l.engine.probes.add(l, atOnce, l.engine.now())
}
