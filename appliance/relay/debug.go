package relay

import (
	"fmt"
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
	var busy []*Conn
	r.Each(func(c *Conn) {
		if limit--; limit < 0 {
			return
		}
		if s, ok := c.describe(); ok {
			say(s)
		} else {
			busy = append(busy, c)
		}
	})
	for end := time.Now().Add(describeWait); len(busy) > 0 && time.Now().Before(end); {
		time.Sleep(describeAgain)
		left := busy[:0]
		for _, c := range busy {
			if s, ok := c.describe(); ok {
				say(s)
			} else {
				left = append(left, c)
			}
		}
		busy = left
	}
	for _, c := range busy {
		state := "waits for its turn"
		if s := c.schedule.Load(); s == schedRunning || s == schedAgain {
			state = "is being run"
		}
		say(fmt.Sprintf("conn %d %s for more than %v; last step %v ago", c.ID, state, describeWait, r.ago(time.Duration(c.stepAt.Load()))))
	}
}

// describe reads a connection in its worker's place; ok is false while a worker has it
// or is about to.
func (c *Conn) describe() (s string, ok bool) {
	if !c.schedule.CompareAndSwap(schedIdle, schedRunning) {
		return "", false
	}
	s = c.text()
	c.r.sched.leave(c, false)
	return s, true
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
