package relay

// Strand puts a connection into a phase that there is not, from which no step leads on.
func Strand(c *Conn) {
	for !c.schedule.CompareAndSwap(schedIdle, schedRunning) {
	}
	c.phase = 99
	c.r.sched.leave(c, false)
}

// Inspect is what the janitor does from time to time.
func Inspect(c *Conn) { c.inspect() }
