package pool

import (
	"math"
	"net/netip"

	"github.com/zeebo/xxh3"
)

// Candidate is a server that a connection could have.
type Candidate struct {
	Server int // index in Config.Servers
	Addr   netip.AddrPort
	// Weight is the server's share of what comes, beside the others'; it is above 0, and less than was
	// configured while the server starts slowly.
	Weight float64
	// Conns are the service's connections that it serves now.
	Conns int
	// Start is the virtual time at which its next connection begins, as in start-time fair queueing (Goyal, Vin, Cheng,
	// SIGCOMM 1996): a connection lasts 1/Weight, and a server that was away begins at the others' time, not where
	// it was.
	Start float64
}

// Policy chooses the server of a connection.
type Policy interface {
	// Choose returns an index into from, which is never empty: the servers that are as
	// good as each other for all that is known of their health, in the service's order,
	// which begins behind the server that the connection tried last. It is called with
	// the pool locked, so it must not call the pool, nor block, nor keep from. It is asked
	// also what it would choose, so it must not take for granted that the connection comes.
	Choose(client netip.AddrPort, from []Candidate) int
}

// First chooses the first: the servers after it are its spares.
type First struct{}

// Choose implements Policy.
func (First) Choose(netip.AddrPort, []Candidate) int { return 0 }

// RoundRobin gives each server its turn, as often as its weight says.
type RoundRobin struct{}

// Choose implements Policy.
func (RoundRobin) Choose(_ netip.AddrPort, from []Candidate) int {
	return least(from, func(c *Candidate) (float64, float64) { return c.Start + 1/c.Weight, 0 })
}

// LeastConnections chooses the server that would have the fewest connections for its weight; of equals, the one whose turn it is.
type LeastConnections struct{}

// Choose implements Policy.
func (LeastConnections) Choose(_ netip.AddrPort, from []Candidate) int {
	return least(from, func(c *Candidate) (float64, float64) { return float64(c.Conns+1) / c.Weight, c.Start + 1/c.Weight })
}

// SourceHash chooses a client's server by its address: the same one on both appliances, and after a restart. It is
// rendezvous hashing (Thaler, Ravishankar 1998), with weights (Schindelhauer, Schomaker 2005): if a server goes, only its
// own clients move, and they come back with it.
type SourceHash struct{}

// Choose implements Policy.
func (SourceHash) Choose(client netip.AddrPort, from []Candidate) int {
	var key [16 + 16 + 2]byte
	ip := client.Addr().As16()
	copy(key[:], ip[:])
	return least(from, func(c *Candidate) (float64, float64) {
		ip := c.Addr.Addr().As16()
		copy(key[16:], ip[:])
		key[32], key[33] = byte(c.Addr.Port()>>8), byte(c.Addr.Port())
		// Exponentially distributed with the rate Weight: each is the least with a probability of its share.
		uniform := (float64(xxh3.Hash(key[:])>>11) + 0.5) / (1 << 53)
		return -math.Log(uniform) / c.Weight, 0
	})
}

// least is the index of the candidate with the least figures, of equals the first.
func least(from []Candidate, figures func(c *Candidate) (first, second float64)) (best int) {
	min1, min2 := math.Inf(1), math.Inf(1)
	for i := range from {
		if a, b := figures(&from[i]); a < min1 || a == min1 && b < min2 {
			best, min1, min2 = i, a, b
		}
	}
	return best
}
