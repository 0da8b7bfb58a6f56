package relay

import (
	"fmt"
	"slices"
	"time"
)

const (
	// describeWait bounds how long connections that are being run, or wait for their
	// turn, are waited for, all together.
	describeWait = time.Second
	// describeAgain is the pause between two looks.
	describeAgain = 5 * time.Millisecond
)

// Describe says of up to limit connections how they stand: what support asks for when
// one does not move. Nothing is woken or moved by it, so that a fault stays to be seen.
// A connection whose worker does not let go of it in a while is said to be so.
func (r *Relay) Describe(limit int, say func(string)) {
	for _, c := range r.eachAtRest(limit, describeWait, func(c *Conn) { say(c.text()) }) {
		state := "waits for its turn"
		if s := c.schedule.Load(); s == schedRunning || s == schedAgain {
			state = "is being run"
		}
		say(fmt.Sprintf("conn %d %s for more than %v; last step %v ago", c.ID, state, describeWait, r.ago(time.Duration(c.stepAt.Load()))))
	}
}

// eachAtRest calls f for up to limit connections in their workers' place, which reads them and moves nothing. It returns
// those that a worker had, or was about to have, for as long as wait, all together.
func (r *Relay) eachAtRest(limit int, wait time.Duration, f func(*Conn)) (busy []*Conn) {
	r.Each(func(c *Conn) {
		if limit--; limit >= 0 && !c.atRest(f) {
			busy = append(busy, c)
		}
	})
	for end := time.Now().Add(wait); len(busy) > 0 && time.Now().Before(end); {
		time.Sleep(describeAgain)
		busy = slices.DeleteFunc(busy, func(c *Conn) bool { return c.atRest(f) })
	}
	return busy
}

// atRest calls f in the worker's place; it returns false, and has not, while a worker has the connection or is about to.
func (c *Conn) atRest(f func(*Conn)) bool {
	if !c.schedule.CompareAndSwap(schedIdle, schedRunning) {
		return false
	}
	f(c)
	c.r.sched.leave(c, false)
	return true
}

// ago is how long ago t was, for people.
func (r *Relay) ago(t time.Duration) time.Duration { return (r.now() - t).Round(time.Millisecond) }

// text describes a connection. Only who runs it may call it.
func (c *Conn) text() string {
	if c.isPassed() {
		return c.passedText()
	}
	s := fmt.Sprintf("conn %d waits_for=%q phase=%d last_step=%v_ago client{%v}",
		c.ID, c.waitsFor(), c.phase, c.r.ago(time.Duration(c.stepAt.Load())), c.client)
	if c.carrier != nil {
		s += " " + c.carrier.Text()
	}
	return s
}
