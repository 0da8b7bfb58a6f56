// Package health asks servers whether they live.
//
// It owns: the probes (probe.go), when they are made, and what is known of each server
// of one service from them (prober.go); idle connections that show whether a server's process
// is still the one that it was (canary.go, line.go, answers.go).
//
// It must not know: connections of clients, roles, what is done with a server that is
// down, or how a server is reached: the dialler is given. While the appliance is mute
// it is paused, and then it sends nothing.
//
// What a probe can tell: that the process behind the address answers (http), or that
// there is one (tcp). A process that is stopped (SIGSTOP) or hangs still has its
// listener served by its kernel: only http sees that. A server of several processes
// that share a listener lives as long as one of them; that one of them was killed is
// not seen by any probe.
package health
