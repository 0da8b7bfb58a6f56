package stack

import (
	"bytes"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/splice"
)

// An outage that nothing tells of (outage.go), of connections that are passed on. Of what is in flight nothing is here, and
// it is their ends that have doubled their time-outs. So an end that says nothing, while what it does not acknowledge
// comes again, is asked at short intervals. Its answer passes to the other end as any segment does; then whoever
// has sent in vain, which is known from where the two are, has its doublings taken back (RFC 6069) and sends at once. Nothing
// is acknowledged that its receiver has not acknowledged.
//
// A segment that is lost in the outage itself was never here. So of a connection that has paused just now one end is asked
// now and then, too, within a budget: with few connections that is all of them, with many there is one
// that finds the end for the others, since whoever fell silent with it is asked when it has come back.

const (
	// muteQuick is how often an end is asked askEvery, muteSlow how often askSlowly then.
	muteQuick, muteSlow = 100, 60
	askEvery            = 100 * time.Millisecond
	askSlowly           = time.Second
	// muteMost bounds the ends that are asked at a time. Others are left to the time-outs.
	muteMost = 10000
	// outageLeast is for how long an end must have left questions unanswered for it to have been an outage: longer than a
	// round trip.
	outageLeast = 500 * time.Millisecond
	// guesses is how many questions a second, in sum, are put to ends of which nothing says that they are mute, or that
	// they are there.
	guesses = 50
	// otherEnd is by how much later the second of two ends is asked, see Spliced.Ask.
	otherEnd = 30 * time.Millisecond
)

// mute are the ends of connections that are passed on and have not answered. Its lock is a leaf.
type mute struct {
	mu   sync.Mutex
	ends map[muteKey]*muteEnd
	dues[muteKey]

	// missed are connections of which something was not taken in while we were silent, muteMost at most.
	missed map[*Spliced]struct{}

	guessed int
	second  time.Duration // in which they were counted
}

type muteKey struct {
	p    *Spliced
	side splice.Side
}

// muteEnd is one of them.
type muteEnd struct {
	since, begun time.Duration // it was heard last, or what it does not acknowledge was sent; it was asked first
	asks         int
	turn         uint32
	after        bool // asked because others have come back: an answer at once is one all the same
	heard        bool // it has spoken since
}

const (
	muteSoon    = iota // otherEnd
	muteQuickly        // askEvery
	muteSlowly         // askSlowly
)

var muteDelays = [...]time.Duration{muteSoon: otherEnd, muteQuickly: askEvery, muteSlowly: askSlowly}

// ask begins to ask an end: atOnce, or muteSoon. p.mu is held.
func (m *mute) ask(p *Spliced, side splice.Side, end muteEnd, now time.Duration, delay int) {
	if p.isAway() {
		p.takeBack() // what passes until it has spoken has no echo
	}
	k := muteKey{p, side}
	m.mu.Lock()
	defer m.mu.Unlock()
	if x := m.ends[k]; x != nil {
		x.after = x.after || end.after
		return
	}
	if len(m.ends) >= muteMost {
		return
	}
	if m.ends == nil {
		m.ends = make(map[muteKey]*muteEnd)
	}
	end.begun = now
	x := &end
	m.ends[k] = x
	p.muted[side] = true
	m.queue(k, x, delay, now)
}

// queue takes the place of what the end is queued for. mu is held.
func (m *mute) queue(k muteKey, x *muteEnd, delay int, now time.Duration) {
	x.turn++
	m.add(k, x.turn, delay, now)
}

// spoke notes that an end has said something. p.mu is held.
func (m *mute) spoke(p *Spliced, side splice.Side, now time.Duration) {
	k := muteKey{p, side}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch x := m.ends[k]; {
	case x == nil: // it was given up
		p.muted[side] = false
	case !x.heard:
		x.heard = true
		m.queue(k, x, atOnce, now)
	}
}

// miss notes that something of p was not taken in.
func (m *mute) miss(p *Spliced) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.missed == nil {
		m.missed = make(map[*Spliced]struct{})
	}
	if len(m.missed) < muteMost {
		m.missed[p] = struct{}{}
	}
}

// takeMissed tells, once, of what something was not taken in.
func (m *mute) takeMissed() map[*Spliced]struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	missed := m.missed
	m.missed = nil
	return missed
}

// guess reports whether one more question may be put that nothing has given reason for.
func (m *mute) guess(now time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now-m.second >= time.Second {
		m.second, m.guessed = now, 0
	}
	m.guessed++
	return m.guessed <= guesses
}

// due tells whose time has come: see dues.take.
func (m *mute) due(now time.Duration) (items []due[muteKey], wait time.Duration, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.take(now, func(it due[muteKey]) bool {
		x := m.ends[it.who]
		return x != nil && x.turn == it.turn
	})
}

// muteTurn asks whose time has come.
func (e *Engine) muteTurn() (n int, wait time.Duration, ok bool) {
	items, wait, ok := e.mute.due(e.now())
	for _, it := range items {
		it.who.p.askMute(it.who.side, it.turn)
	}
	return len(items), wait, ok
}

// askMute puts the next question to an end, or does what follows its answer.
func (p *Spliced) askMute(side splice.Side, turn uint32) {
	e := p.engine
	p.lockBack()
	now := e.now()
	end, ok := e.mute.next(p, side, turn, now)
	var made [][]byte
	var held []byte
	switch {
	case !ok:
	case end.heard:
		p.muted[side] = false
		outage := end.asks >= outageProbes && now-end.begun >= outageLeast
		if outage && !end.after && p.opened.Load() {
			e.probes.comeBack(end.since) // a server that has answered a SYN at last may have been busy
		}
		if outage || end.after {
			made = p.hasten()
		}
	case p.opened.Load():
		made = [][]byte{p.conn.Probe(side, make([]byte, splice.MaxMade))}
	case !end.after && !e.mute.guess(now): // a client that is not there, or a server that is busy, is not pressed
	case side == splice.Server && p.dialled && !p.answered.Load() && !p.refused.Load():
		made = [][]byte{p.conn.MakeSYN(make([]byte, splice.MaxMade))}
	case side == splice.Client && p.accepted:
		held = bytes.Clone(p.held)
	}
	p.mu.Unlock()
	for _, b := range made {
		p.emitMade(b)
	}
	e.emitHeld(p.queue, held)
	if len(made) > 0 || len(held) > 0 {
		e.C.Probes.Add(1)
	}
}

// next takes what an end is queued for: it has spoken, or it is to be asked once more. p.mu is held.
func (m *mute) next(p *Spliced, side splice.Side, turn uint32, now time.Duration) (end muteEnd, ok bool) {
	k := muteKey{p, side}
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.ends[k]
	if x == nil || x.turn != turn {
		return end, false
	}
	switch {
	case p.gone || p.taken != nil || p.Ended() != NotEnded || !p.engine.Active():
		p.muted[side] = false
		delete(m.ends, k)
		return end, false
	case x.heard:
		delete(m.ends, k)
	case x.asks < muteQuick:
		m.queue(k, x, muteQuickly, now)
	case x.asks < muteQuick+muteSlow && p.opened.Load():
		m.queue(k, x, muteSlowly, now)
	default: // given up until it speaks
		delete(m.ends, k)
		return end, false
	}
	x.asks++
	return *x, true
}

// hasten makes what takes back the time-outs of an end that has sent what the other one lacks. mu is held.
func (p *Spliced) hasten() (made [][]byte) {
	if !p.opened.Load() {
		return nil
	}
	for from := range splice.Side(2) {
		if !p.conn.Lacks(from.Other()) {
			continue
		}
		made = append(made, p.conn.Repeat(from, make([]byte, splice.MaxMade)))
		b := p.conn.Unreachable(from, make([]byte, splice.MaxError))
		for range reverts {
			made = append(made, b)
		}
	}
	return made
}

// listen notes that an end has spoken, and that what it says has been said before without an answer. mu is held.
func (p splicedSide) listen(unanswered bool, hdr []byte, tcp header.TCP) {
	if p.muted != [2]bool{} {
		p.dropEcho(hdr, tcp)
	}
	if p.muted[p.from] {
		p.engine.mute.spoke(p.Spliced, p.from, p.engine.now())
	}
	if unanswered {
		p.suspect(p.from.Other(), p.engine.now())
	}
}

// suspect begins to ask an end that has not answered what passes again. mu is held.
func (p *Spliced) suspect(side splice.Side, now time.Duration) {
	if p.muted[side] || p.taken != nil || p.Ended() != NotEnded || !p.engine.Active() {
		return
	}
	p.engine.mute.ask(p, side, muteEnd{since: max(p.conn.HeardFrom(side), p.conn.Moved())}, now, atOnce)
}

// dropEcho takes the echo from a segment that may be the first after an outage. What it acknowledges may have been
// acknowledged before, in vain; whoever has sent it again would take the echo, which is from before, for a round trip as long as
// the outage, and its time-out for seconds (seen of Linux: the rest of the flight left 1 to 5 s later). Zero is no
// echo. mu is held.
func (p *Spliced) dropEcho(hdr []byte, tcp header.TCP) {
	if ts, _, ok := locateOptions([]byte(tcp[header.TCPMinimumSize:])); ok && ts >= 0 {
		f := fields{tcp: tcp, sums: hdr[0]&1 == 0}
		f.put(header.TCPMinimumSize+ts+6, be(0))
	}
}

// paused asks an end of a connection that has just paused: what it has said last may be lost. mu is held.
func (p *Spliced) paused(now time.Duration) {
	if p.taken != nil || p.Ended() != NotEnded || now-p.conn.Moved() > pausedLately {
		return
	}
	for side := range splice.Side(2) {
		if !p.muted[side] && now-p.conn.HeardFrom(side) >= splice.Silence && p.engine.Active() && p.engine.mute.guess(now) {
			p.engine.mute.ask(p, side, muteEnd{since: p.conn.HeardFrom(side)}, now, atOnce+int(side))
		}
	}
}

// pausedLately is how long ago a connection may have moved to have paused: as often as it is looked at.
const pausedLately = 1200 * time.Millisecond

// askPassed asks the ends of connections that moved shortly before since or after it, and are silent now; those in the
// middle of their handshakes, too, and those of which something was not taken in: it may have been sent again after seconds,
// and is again after twice as many.
func (e *Engine) askPassed(since time.Duration) {
	now, missed := e.now(), e.mute.takeMissed()
	e.table.eachSpliced(func(p *Spliced) {
		p.lockSeen()
		defer p.mu.Unlock()
		_, missed := missed[p]
		if p.gone || p.taken != nil || p.Ended() != NotEnded || p.opened.Load() && p.conn.Moved() < since-lately && !missed {
			return
		}
		for side := range splice.Side(2) {
			if now-p.conn.HeardFrom(side) >= splice.Silence {
				e.mute.ask(p, side, muteEnd{since: p.conn.HeardFrom(side), after: true}, now, atOnce+int(side))
			}
		}
	})
}
