// Package pool knows the servers of one service: which of them live, and which one is
// next.
//
// It owns: what is known of each server, from clients' connections (Accepted, Refused)
// and from health checks (Checked); the rule by which a server is passed over; the order
// in which a connection tries servers, be it a client's first dial or another server for
// one that has died (Next); the policy that chooses among those that could be had
// (Policy). Everybody who asks whether a server lives asks here: the relay, the status,
// the metrics.
//
// It must not know: legs, connections, roles, how a server is probed, or what is done
// with a connection whose server is down.
//
// A balancing policy is a type that implements Policy, and its name in the
// configuration. What a policy has to know of a server (its weight, how many connections it
// has) goes into Candidate. The pool counts connections by what it is
// told (Next with Take, Take, Left).
package pool
