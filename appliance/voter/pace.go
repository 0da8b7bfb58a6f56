package voter

import (
	"time"

	"lockstep/replication"
)

// pace keeps this process's own stalls (no CPU, a stopped process or VM) from
// looking like the others' silence: after a stall the silence is long, but their
// messages are waiting to be read. So the core is not told the time again until
// some looks in a row came on time and found no message waiting. A machine that is
// never on time is told it after a while all the same: it must not wait for ever.
type pace struct {
	late   replication.Nanos // a look that comes later than this is a stall's sign
	hold   replication.Nanos // the core is kept without the time for so long at most
	due    replication.Nanos // when the next look should be
	looks  int               // still to come before the next tick; 0: no stall
	since  replication.Nanos // when the stall was seen
	stalls uint64
}

const (
	catchUpLooks = 4
	catchUpPause = replication.Nanos(time.Millisecond)
	leastLate    = replication.Nanos(5 * time.Millisecond)
)

// newPace returns a pace for a voter whose time-outs are of the given length: what
// is late by a small part of it does no harm.
func newPace(now, timeout replication.Nanos) pace {
	return pace{late: max(leastLate, timeout/8), hold: timeout / 4, due: now}
}

// woke is told each time the voter gets to run; timer: because it was to look at
// the clock; waiting: messages are there. It says whether to tell the core the time.
func (p *pace) woke(now replication.Nanos, timer, waiting bool) bool {
	stalled := p.stall(now)
	if !timer {
		return false
	}
	switch {
	case stalled:
	case waiting && p.looks > 0:
		p.looks = catchUpLooks
	case p.looks > 0:
		p.looks--
	}
	if p.looks > 0 && now-p.since < p.hold {
		p.due = now + catchUpPause
		return false
	}
	p.looks, p.due = 0, now // next will say when
	return true
}

// next says when to look again, if the core has something to do at want. A long
// write to the disk is a stall too.
func (p *pace) next(now, want replication.Nanos) replication.Nanos {
	p.stall(now)
	if p.looks == 0 {
		p.due = want
	}
	return p.due
}

// stall notes whether we are later than we should be.
func (p *pace) stall(now replication.Nanos) bool {
	if now-p.due <= p.late {
		return false
	}
	if p.looks == 0 {
		p.stalls++
		p.since = now
	}
	p.looks, p.due = catchUpLooks, now+catchUpPause
	return true
}
