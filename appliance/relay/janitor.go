package relay

import (
	"time"

	"lockstep/replication"
)

// The janitor looks at every connection: has its time run out, is an end to be asked whether it is there? There may be
// a million, so it goes through a list, a part of it each time, and leaves out those that are passed on and
// of which nothing was to be expected when it last looked.

const (
	// janitorPeriod paces idle time-outs: each connection is looked at so often.
	janitorPeriod = time.Second
	// janitorParts is in how many parts that is done.
	janitorParts = 16
	// calmFor is for how long a connection that is passed on is not looked at if nothing is in doubt there.
	calmFor = 4 * janitorPeriod
)

// dialMax bounds how long a client's SYN waits for a server: longer than any
// client's patience (Linux gives up after 127 s).
const dialMax = 130 * time.Second

// watched is an entry of the janitor's list.
type watched struct {
	c    *Conn
	calm time.Duration // until then there is nothing to look for
}

// watch puts c into the list; mu is held.
func (r *Relay) watch(c *Conn) {
	c.place = int32(len(r.list))
	r.list = append(r.list, watched{c: c})
}

// unwatch takes it out; mu is held.
func (r *Relay) unwatch(c *Conn) {
	last := len(r.list) - 1
	r.list[c.place] = r.list[last]
	r.list[c.place].c.place = c.place
	r.list[last] = watched{}
	r.list = r.list[:last]
}

func (r *Relay) janitor() {
	defer r.wg.Done()
	t := time.NewTicker(janitorPeriod / janitorParts)
	defer t.Stop()
	var due []watched
	for turn := uint64(0); ; turn++ {
		select {
		case <-r.done:
			return
		case <-t.C:
		}
		now := r.now()
		due = r.due(due[:0], int(turn%janitorParts), now)
		for _, w := range due {
			r.tend(w, turn/janitorParts, now)
		}
		clear(due)
	}
}

// due are the connections of a part of the list that are to be looked at.
func (r *Relay) due(due []watched, part int, now time.Duration) []watched {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.list)
	for _, w := range r.list[n*part/janitorParts : n*(part+1)/janitorParts] {
		if now >= w.calm {
			due = append(due, w)
		}
	}
	return due
}

// inspects reports whether a connection that is passed on is inspected in this turn: in the first of calmFor, or when
// it comes from having been calm, since it is looked at once in that time then. An inspection gives it until the
// next one, a minute, to get on.
func inspects(id replication.ConnID, turn uint64, calm, now time.Duration) bool {
	const rounds = uint64(calmFor / janitorPeriod)
	wasCalm := calm > 0 && now-calm < janitorPeriod
	return (turn/rounds+uint64(id))%(inspectEvery/rounds) == 0 && (wasCalm || turn%rounds == 0)
}

// tend looks at one.
func (r *Relay) tend(w watched, turn uint64, now time.Duration) {
	c := w.c
	if c.isPassed() {
		if inspects(c.ID, turn, w.calm, now) {
			c.inspect()
		}
		if c.tendPassed(now) {
			r.mu.Lock()
			if int(c.place) < len(r.list) && r.list[c.place].c == c {
				r.list[c.place].calm = now + calmFor - janitorPeriod/2
			}
			r.mu.Unlock()
		}
		return
	}
	if (turn+uint64(c.ID))%inspectEvery == 0 {
		c.inspect()
	}
	c.idles(now)
	due := time.Duration(c.alive.due.Load())
	if c.flags.Paused.Load() && !r.journal.Congested() {
		r.sched.add(c, false) // it may have nothing of its own to be confirmed
	}
	if c.wanted.Load() {
		r.sched.add(c, false) // it could not be told to a standby, see adopt
	}
	if c.begun.Load() && c.carrier.Draining() || due != 0 && now >= due && c.svc.Now().Keepalive.Idle > 0 {
		r.sched.add(c, false) // has its time run out?
	}
	idle := now - max(time.Duration(c.flags.Moved.Load()), c.born)
	if (c.svc.Now().Idle > 0 && idle > c.svc.Now().Idle) || (!c.flags.Opened.Load() && now-c.born > dialMax) {
		c.kill(false)
	}
}
