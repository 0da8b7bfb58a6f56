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

// Taking says that a connection is being taken up, and keeps the workers from it until done is called.
func Taking(c *Conn) (done func()) {
	for !c.schedule.CompareAndSwap(schedIdle, schedRunning) {
	}
	c.takingSince.Store(1)
	return func() {
		c.takingSince.Store(0)
		c.r.sched.leave(c, false)
	}
}

// Want asks for a connection to be taken up.
func Want(c *Conn) {
	c.want.Store(true)
	c.r.sched.add(c, false)
}

// TendPassed is what the janitor does for one that is passed on; it reports whether that ends it.
func TendPassed(c *Conn) (killed bool) {
	c.tendPassed(c.r.now())
	return c.killed.Load() != killNot
}

// IsTaking reports whether a connection is being taken up.
func IsTaking(c *Conn) bool { return c.takingSince.Load() != 0 }

// RestLeft is how many connections a takeover has not made yet.
func RestLeft(r *Relay) int { return r.Resting() }

// HoldRest lets nobody make one of them until it is released.
func HoldRest(r *Relay) (release func()) {
	t := r.resting.Load()
	t.mu.Lock()
	return t.mu.Unlock
}

// Inspects is whether the janitor inspects a connection that is passed on.
var Inspects = inspects

// Idles is what the janitor does for a connection that has been idle for so long; nothing of the bulk queue is run
// before release is called.
func Idles(c *Conn, since time.Duration) (release func()) {
	s := c.r.sched
	s.mu.Lock()
	s.bulkBusy = true
	s.mu.Unlock()
	c.idles(c.r.now() + since)
	return s.bulkDone
}
