package stack

import (
	"math/rand/v2"
	"net/netip"
	"sync"
)

// Ports of our own for legs to servers. Only the whole of two addresses and two ports
// must be unique, so each server has all ports of each of our addresses. None of them is
// a kernel's: it does not have the address.
const (
	firstPort = 1024 // below it servers may see a privileged user (rlogin, NFS)
	lastPort  = 65535
	// PortsPerServer is how many legs one of our addresses can have to one server.
	PortsPerServer = lastPort - firstPort + 1
	// portTries is for ports of an address that is a client's: two virtual addresses lead
	// to one server, and the client uses one port for both.
	portTries = 64
)

// ports are those in use. Finding one, or that there is none, takes the same short time
// however many are taken.
type ports struct {
	mu sync.Mutex // leaf
	of map[portKey]*portPool
}

type portKey struct {
	local  netip.Addr
	remote netip.AddrPort
}

// portPool has the ports of one address towards one server. Those that were never used
// come first, then those whose leg has ended, the oldest first: the server may still
// remember that connection, and so may we, as a tombstone.
type portPool struct {
	used  [(lastPort + 1) / 64]uint64
	fresh int    // never handed out
	next  uint16 // the first of them
	ended []uint16
	head  int // of ended
}

func (p *portPool) taken(port uint16) bool { return p.used[port/64]&(1<<(port%64)) != 0 }

// pool finds or makes the pool for a leg. mu is held.
func (k *ports) pool(p *Params) *portPool {
	key := portKey{p.Local.Addr(), p.Remote}
	pool := k.of[key]
	if pool == nil {
		pool = &portPool{fresh: PortsPerServer, next: uint16(firstPort + rand.IntN(PortsPerServer))}
		k.of[key] = pool
	}
	return pool
}

// take returns a port that no leg has; ok is false if there is none.
func (k *ports) take(of *Params) (port uint16, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.pool(of)
	for p.fresh > 0 {
		port = p.next
		p.fresh--
		if p.next++; p.next == 0 { // after the last
			p.next = firstPort
		}
		if !p.taken(port) {
			p.mark(port)
			return port, true
		}
	}
	for p.head < len(p.ended) {
		port = p.ended[p.head]
		p.head++
		if p.head == len(p.ended) {
			p.ended, p.head = p.ended[:0], 0
		} else if p.head > PortsPerServer {
			p.ended, p.head = append(p.ended[:0], p.ended[p.head:]...), 0
		}
		if !p.taken(port) {
			p.mark(port)
			return port, true
		}
	}
	return 0, false
}

func (p *portPool) mark(port uint16) { p.used[port/64] |= 1 << (port % 64) }

// claim marks the port of a leg that another appliance has dialled.
func (k *ports) claim(of *Params) {
	k.mu.Lock()
	k.pool(of).mark(of.Local.Port())
	k.mu.Unlock()
}

// give takes back the port of a leg that has ended.
func (k *ports) give(of *Params) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.pool(of)
	if port := of.Local.Port(); p.taken(port) {
		p.used[port/64] &^= 1 << (port % 64)
		p.ended = append(p.ended, port)
	}
}

// ownPort reports whether a server is talked to from an address of ours.
func (e *Engine) ownPort(local netip.AddrPort) bool {
	if !e.owned[local.Addr().As16()] || local.Port() < firstPort {
		return false
	}
	e.mu.Lock()
	_, client := e.listeners[local]
	e.mu.Unlock()
	return !client
}

// takePort finds a port for p.Local, unless that has one, for which put can take the flow. own: it is one of
// ours, to be given back.
func (e *Engine) takePort(p *Params, put func() bool) (own bool, err error) {
	if p.Local.Port() != 0 {
		if !put() {
			return false, ErrAddrInUse
		}
		return false, nil
	}
	local := p.Local.Addr()
	if !e.owned[local.As16()] {
		for range portTries {
			p.Local = netip.AddrPortFrom(local, uint16(firstPort+rand.IntN(PortsPerServer)))
			if put() {
				return false, nil
			}
		}
		return false, ErrNoPort
	}
	for range portTries { // once, unless somebody has the port of whom the pool does not know
		port, ok := e.ports.take(p)
		if !ok {
			return false, ErrNoPort
		}
		p.Local = netip.AddrPortFrom(local, port)
		if put() {
			return true, nil
		}
		e.ports.give(p)
	}
	return false, ErrNoPort
}
