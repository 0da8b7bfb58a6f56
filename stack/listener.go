package stack

import (
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// listener is a protected service's address, with the clients that are in their
// handshake.
type listener struct {
	max, maxSource int
	halfOpen       map[*Leg]struct{}
	sources        map[netip.Prefix]int // of halfOpen, by the client's network
	// cookiesUntil: until then a client may answer a cookie that was sent to it.
	cookiesUntil time.Duration
	// Cookies, and answers to cookies, since the last look of flooded; whether it saw some before.
	asked, answered int
	looked          bool
	// passes reports whether a client's new connection is passed on; nil: none is. splicing are those
	// of them that are in their handshake, which count as halfOpen do.
	passes   func(client netip.AddrPort) bool
	splicing map[*Spliced]struct{}
}

// floodRate is how many cookies that nobody answers, within floodLook, are a flood, if they
// are more than those that somebody answers. Less than the packet filter lets through under one
// (tun.Guard.Press), so that it is seen to last. A crowd of clients that are there answers as
// many as it gets, a round trip later: the first look at cookies says nothing.
const (
	floodRate = 1000
	floodLook = time.Second
)

// flooded tells which addresses are flooded with SYNs: where most of what nobody has
// answered since the last look went.
func (e *Engine) flooded() (addrs []netip.AddrPort) {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := 0
	for _, ln := range e.listeners {
		all += max(0, ln.asked-ln.answered)
	}
	for addr, ln := range e.listeners {
		unanswered := ln.asked - ln.answered
		if all >= floodRate && unanswered*len(e.listeners) >= all && unanswered > ln.answered && ln.looked {
			addrs = append(addrs, addr)
		}
		ln.looked = ln.asked > 0
		ln.asked, ln.answered = 0, 0
	}
	return addrs
}

// inHandshake counts clients.
func (ln *listener) inHandshake() int { return len(ln.halfOpen) + len(ln.splicing) }

// Networks that count as one source: what one attacker commonly has at hand.
const (
	sourceBits4 = 24
	sourceBits6 = 64
)

func sourceOf(a netip.Addr) netip.Prefix {
	bits := sourceBits6
	if a.Is4() {
		bits = sourceBits4
	}
	p, _ := a.Prefix(bits) // a client's address has no zone, and more bits
	return p
}

// Listen makes addr a protected service's address. Of at most maxHalfOpen clients in
// their handshake something is remembered, and of at most maxSource in one network;
// the others get a SYN cookie.
func (e *Engine) Listen(addr netip.AddrPort, maxHalfOpen, maxSource int) {
	e.mu.Lock()
	e.listeners[addr] = &listener{
		max: maxHalfOpen, maxSource: maxSource,
		halfOpen: make(map[*Leg]struct{}), splicing: make(map[*Spliced]struct{}), sources: make(map[netip.Prefix]int),
	}
	e.mu.Unlock()
}

// HalfOpen counts clients in their handshake.
func (e *Engine) HalfOpen() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, ln := range e.listeners {
		n += ln.inHandshake()
	}
	return n
}

// incoming takes the SYN of a client to a listening address.
func (e *Engine) incoming(s *segment) {
	remote := addrPort(s.flow.remote, s.flow.remotePort)
	if nobody(remote.Addr()) || e.owned[s.flow.remote] {
		e.C.drop(DropUnknownFlow)
		return
	}
	addr := addrPort(s.flow.local, s.flow.localPort)
	e.mu.Lock()
	ln := e.listeners[addr]
	full := ln.inHandshake() >= ln.max || ln.sources[sourceOf(remote.Addr())] >= ln.maxSource
	first := false
	if full {
		now := e.now()
		first = now >= ln.cookiesUntil
		ln.cookiesUntil = now + 2*cookiePeriod
		ln.asked++
	}
	e.mu.Unlock()
	if full {
		e.sendCookie(s, first)
		return
	}
	if ln.passes != nil && ln.passes(remote) {
		e.incomingSpliced(s)
		return
	}
	l, ok := e.newHalfOpen(s)
	if !ok {
		return
	}
	if !e.table.add(l) {
		e.C.drop(DropStaleSegment)
		return
	}
	e.halfOpenBegins(l)
	e.handler.Incoming(l)
}

func (e *Engine) listening(s *segment) bool {
	addr := addrPort(s.flow.local, s.flow.localPort)
	e.mu.Lock()
	_, ok := e.listeners[addr]
	e.mu.Unlock()
	return ok
}

// answersCookie takes a segment of no known connection, if it is what a client says
// that has got a cookie.
func (e *Engine) answersCookie(s *segment, pkt *stack.PacketBuffer) bool {
	const kind = header.TCPFlagSyn | header.TCPFlagRst | header.TCPFlagAck
	if s.tcp.Flags()&kind != header.TCPFlagAck {
		return false
	}
	addr := addrPort(s.flow.local, s.flow.localPort)
	e.mu.Lock()
	ln := e.listeners[addr]
	maybe := ln != nil && e.now() < ln.cookiesUntil
	e.mu.Unlock()
	if !maybe {
		return false
	}
	l := e.fromCookie(s)
	if l == nil {
		if e.overtaken(s) {
			e.C.drop(DropEarly)
			return true
		}
		e.C.drop(DropCookie)
		return false
	}
	if !e.table.add(l) {
		return false // the reader is the only one who opens clients' legs
	}
	e.C.CookiesAccepted.Add(1)
	e.mu.Lock()
	ln.answered++
	e.mu.Unlock()
	l.wait(pkt)
	e.handler.Incoming(l)
	return true
}

// halfOpenBegins counts a leg among the handshakes.
func (e *Engine) halfOpenBegins(l *Leg) {
	e.mu.Lock()
	if ln := e.listeners[l.p.Local]; ln != nil {
		ln.halfOpen[l] = struct{}{}
		ln.sources[sourceOf(l.p.Remote.Addr())]++
	}
	e.mu.Unlock()
}

func (e *Engine) halfOpenDone(l *Leg) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ln := e.listeners[l.p.Local]
	if ln == nil {
		return
	}
	if _, was := ln.halfOpen[l]; !was {
		return
	}
	delete(ln.halfOpen, l)
	ln.sourceDone(l.p.Remote.Addr())
}

// sourceDone counts a client of a handshake less.
func (ln *listener) sourceDone(client netip.Addr) {
	src := sourceOf(client)
	if ln.sources[src]--; ln.sources[src] == 0 {
		delete(ln.sources, src)
	}
}
