// Package roles holds the rules by which an appliance of a pair takes, keeps and gives up
// its role: when it begins a session and as what, when the gates may open for good, when
// it takes over, starts empty, hands over, steps down. There are two sets of them behind
// one interface, Rules: with a witness an appliance acts on what the voters have decided
// (Voted), without one it decides by what it knows itself (Alone).
//
// It owns: the order of these steps, and what must be remembered between them. One role
// loop in the appliance and one in the simulation drive either, so what the simulation
// has tried is what runs.
//
// It must not know: the voters' messages, connections, sockets, packets, clocks,
// logs.
package roles
