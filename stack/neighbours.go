package stack

import (
	"net/netip"
	"sync"
	"time"
)

// Whoever is answered on a network of our own costs the kernel a neighbour entry, and for
// three seconds of resolving one that it cannot give up. SYNs with forged sources of that network
// would fill the table (1024 entries on Linux, for all interfaces together), and established
// connections would lose theirs and get no other: they stood still for as long as their senders'
// time-outs had doubled to (RFC 6583 has the same of routers). So strangers on our own networks are
// answered a few a second. Whoever has asked for a virtual address by ARP or ND, as each
// host must before it can send, or has completed a handshake, is no stranger.
const (
	strangersEach  = 50      // a second
	strangersBurst = 100     // after a quiet time
	acquaintances  = 1 << 12 // of each kind, in each of two generations
)

// neighbours tells which clients on our own networks may be answered.
type neighbours struct {
	onLink func(netip.Addr) bool // nil: nobody is

	mu     sync.Mutex  // leaf
	proven generations // have asked for us, or completed a handshake
	tried  generations // strangers that have been answered
	tokens float64
	at     time.Duration
}

// generations is a set that forgets the oldest.
type generations struct{ now, before map[netip.Addr]struct{} }

func (g *generations) has(a netip.Addr) bool {
	_, young := g.now[a]
	_, old := g.before[a]
	return young || old
}

func (g *generations) add(a netip.Addr) {
	if _, ok := g.now[a]; ok {
		return
	}
	if g.now == nil || len(g.now) >= acquaintances {
		g.now, g.before = make(map[netip.Addr]struct{}), g.now
	}
	g.now[a] = struct{}{}
}

// Heard tells that a host of our own networks has asked for a virtual address: it is there.
func (e *Engine) Heard(a netip.Addr) {
	n := &e.neighbours
	if a = a.Unmap(); n.onLink == nil || !n.onLink(a) {
		return
	}
	n.mu.Lock()
	n.proven.add(a)
	n.mu.Unlock()
}

// mayMeet tells whether a client that has no connection may be answered.
func (e *Engine) mayMeet(a netip.Addr) bool {
	n := &e.neighbours
	if n.onLink == nil || !n.onLink(a) {
		return true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proven.has(a) || n.tried.has(a) {
		return true
	}
	now := e.now()
	n.tokens = min(n.tokens+strangersEach*(now-n.at).Seconds(), strangersBurst)
	n.at = now
	if n.tokens < 1 {
		return false
	}
	n.tokens--
	n.tried.add(a)
	return true
}
