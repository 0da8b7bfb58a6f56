package relay

import (
	"time"

	"lockstep/stack"
)

// Strand puts a connection into a phase that there is not, from which no step leads on.
func Strand(c *Conn) {
	for !c.schedule.CompareAndSwap(schedIdle, schedRunning) {
	}
	c.phase = 99
	c.r.sched.leave(c, false)
}

// Inspect is what the janitor does from time to time.
func Inspect(c *Conn) { c.inspect() }

// Passed is what has a connection's packets that is passed on.
func Passed(c *Conn) *stack.Spliced { return c.passed }

// AskUnheard is what the janitor does for a connection that was restored so long ago.
func AskUnheard(c *Conn, ago time.Duration) { c.askUnheard(ago) }

// Made is how many connections are in the table, without those that a takeover has not made yet.
func Made(r *Relay) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.conns)
}

// Rename gives a service another name.
func Rename(r *Relay, from, to string) {
	r.byName[to] = r.byName[from]
	delete(r.byName, from)
}
