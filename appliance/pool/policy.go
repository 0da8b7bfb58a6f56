package pool

import (
	"math"
	"net/netip"

	"github.com/zeebo/xxh3"
)

// Candidate is a server that a connection could have.
type Candidate struct {
	Server int // as Pool.Addr counts
	Addr   netip.AddrPort
	// Place is where it stands among those that could be had: the service's order, which begins behind the server that
	// the connection tried last.
	Place int
	// Weight is the server's share of what comes, beside the others'; it is above 0, and less than was
	// configured while the server starts slowly.
	Weight float64
	// Conns are the service's connections that it serves now.
	Conns int
}

// Policy chooses the server of a connection among those that are as good as each other for all that is known of their
// health: the one with the least figure; of equals the one whose turn it is, as often as its weight says.
type Policy interface {
	// Figure is called with the pool locked, so it must not call the pool, nor block, nor keep c. It is asked
	// also what it would say, so it must not take for granted that the connection comes.
	Figure(client netip.AddrPort, c *Candidate) float64
}

// First chooses the first: the servers after it are its spares.
type First struct{}

// Figure implements Policy.
func (First) Figure(_ netip.AddrPort, c *Candidate) float64 { return float64(c.Place) }

// RoundRobin gives each server its turn, as often as its weight says.
type RoundRobin struct{}

// Figure implements Policy.
func (RoundRobin) Figure(netip.AddrPort, *Candidate) float64 { return 0 }

// LeastConnections chooses the server that would have the fewest connections for its weight.
type LeastConnections struct{}

// Figure implements Policy.
func (LeastConnections) Figure(_ netip.AddrPort, c *Candidate) float64 {
	return float64(c.Conns+1) / c.Weight
}

// SourceHash chooses a client's server by its address: the same one on both appliances, and after a restart. It is
// rendezvous hashing (Thaler, Ravishankar 1998), with weights (Schindelhauer, Schomaker 2005): if a server goes, only its
// own clients move, and they come back with it.
type SourceHash struct{}

// Figure implements Policy.
func (SourceHash) Figure(client netip.AddrPort, c *Candidate) float64 {
	var key [16 + 16 + 2]byte
	from, to := client.Addr().As16(), c.Addr.Addr().As16()
	copy(key[:], from[:])
	copy(key[16:], to[:])
	key[32], key[33] = byte(c.Addr.Port()>>8), byte(c.Addr.Port())
	// Exponentially distributed with the rate Weight: each is the least with a probability of its share.
	uniform := (float64(xxh3.Hash(key[:])>>11) + 0.5) / (1 << 53)
	return -math.Log(uniform) / c.Weight
}
