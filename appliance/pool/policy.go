package pool

import "net/netip"

// Candidate is a server that a connection could have.
type Candidate struct {
	Server int // index in Config.Servers
	Addr   netip.AddrPort
}

// Policy chooses the server of a connection.
type Policy interface {
	// Choose returns an index into from, which is never empty: the servers that are as
	// good as each other for all that is known of their health, in the service's order,
	// which begins behind the server that the connection tried last. It is called with
	// the pool locked, so it must not call the pool, nor block, nor keep from.
	Choose(client netip.AddrPort, from []Candidate) int
}

// First chooses the first: the servers after it are its spares.
type First struct{}

// Choose implements Policy.
func (First) Choose(netip.AddrPort, []Candidate) int { return 0 }
