package stack

import "time"

// An outage may be told by nobody: a switch in between is mute, and every link has its carrier. Both
// ends double their time-outs meanwhile, and whoever stands still waits for seconds after its end. So a
// peer that does not acknowledge what was sent again, and says nothing else, is asked at short intervals
// until it answers: with a segment that takes no room, not with the data, whose pace is netstack's. Its answer is
// the end of the outage, and what follows a silence of our own follows it too (resume.go), for all that fell
// silent with it: a peer that has asked in vain has nothing of ours in flight.

const (
	// suspectAfter is for how long a peer must have been silent, by the janitor's clock; longer ones'
	// round trips count twice.
	suspectAfter = silenceMin
	// askSilentEvery is how often the others are asked, at most.
	askSilentEvery = time.Second
	// outageProbes is how many probes a peer must have left unanswered for it to have been an outage,
	// beside what was sent, and what was sent again: a lost segment at the end of a flight is none of the others' business.
	outageProbes = 2
)

// suspect begins to ask a peer to which something is sent again. mu is held.
func (l *Leg) suspect() {
	if l.probing || !l.confirmed || l.halfWay || l.err != nil || l.state != stAttached || l.restored && !l.located {
		return
	}
	if !l.engine.Active() {
		return // the silence is ours
	}
	if l.Silent() < max(suspectAfter, 2*time.Duration(l.p.RTTMicros)*time.Microsecond) {
		return
	}
	l.probesSent, l.revives = 0, 0
	l.probing, l.suspected, l.resumed, l.unheard = true, true, true, true
	l.silentFrom = max(time.Duration(l.heardAt.Load()), l.headFirst)
	l.engine.probes.add(l, l.probeQueue(), l.engine.now())
}

// locate notes that the peer has said where it is, and whether that was the first time. mu is held.
func (l *Leg) locate() (first bool) {
	first, l.located = !l.located, true
	l.speaks()
	return first
}

// speaks notes that it has said something. mu is held.
func (l *Leg) speaks() {
	if l.unheard {
		l.unheard = false
		l.answeredAt = time.Duration(l.heardAt.Load())
	}
	if l.suspected {
		l.back()
	}
}

// back takes the first sign of life of a suspected peer: what it may lack leaves at once, and others
// that fell silent when it did are asked. mu is held.
func (l *Leg) back() {
	l.suspected = false
	e := l.engine
	e.probes.add(l, atOnce, e.now())
	if l.probesSent < outageProbes {
		return
	}
	e.probes.comeBack(l.silentFrom)
}

// comeBack notes that somebody who was silent since then has come back.
func (p *prober) comeBack(since time.Duration) {
	p.mu.Lock()
	if !p.back || since < p.backSince {
		p.back, p.backSince = true, since
	}
	p.mu.Unlock()
	p.wake()
}

// cameBack tells, once, since when whoever has come back was silent; or when it is to be called again, if it is too early.
func (p *prober) cameBack(now time.Duration) (since, again time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.back {
		return 0, 0, false
	}
	if next := p.backAt + askSilentEvery; p.backAt != 0 && now < next {
		return 0, next - now, false
	}
	p.back, p.backAt = false, now
	return p.backSince, 0, true
}

// askSilent asks the peers that were heard shortly before since or after it, and are silent now. Whoever has only answered
// such a question since is idle, and would be asked for ever.
func (e *Engine) askSilent(since time.Duration) {
	for _, l := range e.table.all() {
		if at := time.Duration(l.heardAt.Load()); at >= since-lately && l.Silent() >= suspectAfter && !l.onlyAnswered(at) {
			l.resume(since)
		}
	}
	e.askPassed(since)
}

// onlyAnswered reports whether what was heard at that time was the answer to a question.
func (l *Leg) onlyAnswered(at time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answeredAt > 0 && at <= l.answeredAt
}
