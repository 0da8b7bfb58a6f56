// Package voter runs one of the three voters that decide a pair's roles: it is the
// shell around the pure arbiter core. Appliances and the witness use it alike.
//
// It owns: the goroutine that drives the core, its clock, the courier between the
// voters, and the file with what the voter must not forget. It must not know what
// an appliance does with the decisions.
//
// The clock is the process's (package clock), which goes on while the process is stopped. A
// process that was stopped finds long silence and, waiting in its sockets, the
// messages that would have ended it. So after a late look at the clock the core is
// told of the messages first and of the time only then (pace).
package voter
