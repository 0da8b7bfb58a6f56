// Package sim runs two replication cores against each other in a world made of one
// random seed: a sync link with delay, jitter, cuts at any byte and flipped bits;
// clients and servers with a toy TCP over a network that loses, repeats and
// reorders; crashes, restarts, takeovers.
//
// Some of the connections are passed on, not ended, as a service with `path: auto` has them.
//
// It owns: that world, a gate and a relay that do what the shell asks for, an arbiter
// and an observer; replication/shell and replication/roles are driven as in the product. The observer sees what leaves the
// appliances (ACKs, SYN-ACKs, bytes) and what the peers have, and checks the rule
// and the invariants from there; only for the rule itself does it look into the
// standby's store, as the witness of what is held.
//
// It must not know: real time, sockets, goroutines.
//
// Everything that happens is an event at a virtual time, executed one after the
// other; one generator decides everything. Equal seeds give equal traces, which the
// tests verify by running each seed twice.
package sim
