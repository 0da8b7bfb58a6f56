// Package roles holds the rules by which an appliance of a pair with a witness acts
// on what the voters have decided: when it begins a session and as what, when it
// tells the voters that the standby holds everything or is lost, when the gates may
// open for good, when it takes over, starts empty, hands over, steps down.
//
// It owns: the order of these steps, and what must be remembered between them. The
// appliance's role loop and the simulation drive the same rules, so what the
// simulation has tried is what runs.
//
// It must not know: the voters' messages, connections, sockets, packets, clocks,
// logs.
package roles
