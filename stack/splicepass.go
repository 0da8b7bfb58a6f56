package stack

import (
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/splice"
	"lockstep/tun"
)

// The way of a packet that is passed on, on the goroutine of the reader that has it: nothing is allocated, and the packet
// leaves in the buffers that it came in.

// dropOf is how package splice's reasons are counted.
func dropOf(r splice.Reason) Drop {
	switch r {
	case splice.DropOptions:
		return DropOptions
	case splice.DropSigned:
		return DropSigned
	case splice.DropStale:
		return DropStaleSegment
	case splice.DropICMP:
		return DropICMP
	}
	return DropMalformed
}

// pass takes a packet of n bytes in bufs (virtio-net header, headers and first bytes, the rest) if it belongs
// to a connection that is passed on. lone: see take.
func (e *Engine) pass(bufs [][]byte, n int, lone bool) bool {
	if e.missing.Load() == nil && e.table.nPassed.Load() == 0 || !e.Active() { // in this order: see passed
		return false
	}
	var s segment
	first := bufs[1][:min(n, len(bufs[1]))]
	if s.parse(first, n) != parsedTCP {
		return false
	}
	side := e.passed(&s.flow)
	if side.Spliced == nil {
		return false
	}
	hdr := bufs[0]
	rest := bufs[2][:n-len(first)]
	var vh tun.VnetHeader
	if vh.Decode(hdr) != nil {
		e.C.drop(DropMalformed)
		return true
	}
	if vh.Flags&(tun.FlagNeedsCsum|tun.FlagDataValid) == 0 && !s.sumOK(first, rest) {
		e.C.drop(DropChecksum)
		return true
	}
	return side.take(&s, hdr, first, rest, lone)
}

// sumOK is checksumOK of a packet in two parts.
func (s *segment) sumOK(first, rest []byte) bool {
	x := checksum.Combine(s.pseudoSum(), checksum.Checksum(first[s.ipLen:], 0))
	y := checksum.Checksum(rest, 0)
	if (len(first)-s.ipLen)%2 == 1 {
		y = y>>8 | y<<8
	}
	return checksum.Combine(x, y) == 0xffff
}

// take passes a segment on. It returns false if it is one that begins another connection, or an endpoint's. lone: reading is
// held, as it must be while a connection is taken up: what has been judged of one direction is then done with before
// anything of the other one is.
func (p splicedSide) take(s *segment, hdr, first, rest []byte, lone bool) bool {
	e := p.engine
	n := len(first) + len(rest)
	p.lockBack()
	if p.gone {
		p.mu.Unlock()
		return false
	}
	if !p.accepted && p.from == splice.Server &&
		!(p.dialled && p.conn.Serves(s.flow.local, s.flow.remote, s.flow.localPort, s.flow.remotePort)) {
		// Found in the table while the worker was leaving that server: what it says is no word of the next one's.
		p.mu.Unlock()
		e.C.drop(DropStaleSegment)
		return true
	}
	flags := s.tcp.Flags()
	if p.taken != nil && flags&(header.TCPFlagSyn|header.TCPFlagRst) == 0 {
		if lone {
			return p.drains(s, hdr, first, rest)
		}
		p.mu.Unlock()
		return p.takeAlone(s, hdr, first, rest)
	}
	v := splice.Verdict{Event: splice.EventReused}
	if !p.begunAnew(s) {
		v = p.conn.Forward(p.from, hdr, first, s.ipLen, n, e.now())
	}
	if v.Answer {
		var buf [splice.MaxMade]byte
		b := p.conn.Answer(p.from, first, s.ipLen, n, buf[:])
		p.mu.Unlock()
		if b != nil {
			p.emitMade(b)
		}
		return true
	}
	legs := p.note(v.Event)
	if v.Drop != splice.DropNone {
		p.mu.Unlock()
		dropLegs(legs)
		e.C.drop(dropOf(v.Drop))
		if v.Event != splice.EventNone {
			p.turn(v.Event)
		}
		return true
	}
	if v.Event == splice.EventReused {
		p.mu.Unlock()
		dropLegs(legs)
		p.replaced()
		return false
	}
	lastHop(first)
	p.raiseStamp(hdr, s.tcp)
	p.listen(v.Unanswered, hdr, s.tcp)
	write := p.mayWrite(flags, v.Event, hdr, first)
	rests := e.offload.to != nil && p.rests(s)
	p.mu.Unlock()
	dropLegs(legs)
	if v.Event != splice.EventNone {
		p.turn(v.Event)
	}
	if !write {
		e.C.Waited.Add(1)
		return true
	}
	e.writeParts(p.queue, hdr, first, rest)
	p.offer(s, rests) // only now: what comes behind it the other way must not overtake it
	return true
}

// takeAlone is take by one reader at a time.
func (p splicedSide) takeAlone(s *segment, hdr, first, rest []byte) bool {
	p.engine.reading.Lock()
	defer p.engine.reading.Unlock()
	return p.take(s, hdr, first, rest, true)
}

// mayWrite decides whether a segment leaves. mu is held.
func (p splicedSide) mayWrite(flags header.TCPFlags, ev splice.Event, hdr, first []byte) bool {
	const handshake = header.TCPFlagSyn | header.TCPFlagRst
	if p.accepted && p.from == splice.Server && flags&handshake == header.TCPFlagSyn && !p.opened.Load() {
		p.held = append(append([]byte(nil), hdr...), first...) // whoever writes the one before may still be at it
	}
	if p.accepted || p.from == splice.Client || flags&handshake == 0 {
		return p.accepted || p.dialled
	}
	// The answer to the SYN. The worker decides whether the client gets it. Anything else is of a
	// connection before this one, which the server still has: a challenge ACK (RFC 5961, 4), which the
	// client answers by the RST that ends it (RFC 9293, 3.10.7.3), or data, to the same effect.
	if flags&header.TCPFlagSyn != 0 || ev == splice.EventRefused { // a RST that is none of this SYN's takes no SYN-ACK's place
		p.held = append(append(p.held[:0], hdr...), first...)
	}
	return false
}

// emitMade writes what is made in an end's name, by the queue of what is passed on: by another one the kernel would bring the
// flow's next packets to another reader.
func (p *Spliced) emitMade(b []byte) { p.engine.emitMadeBy(p.queue, b) }

// writeParts writes a packet that lies in several parts.
func (e *Engine) writeParts(queue uint8, hdr []byte, parts ...[]byte) {
	vec := vectors.Get().(*vector)
	vec.queue = queue
	vec.bufs = append(vec.bufs[:0], hdr)
	n := 0
	for _, b := range parts {
		if n += len(b); len(b) > 0 {
			vec.bufs = append(vec.bufs, b)
		}
	}
	e.write(vec, n)
}

// queueOf spreads clients over the device's queues.
func (e *Engine) queueOf(client netip.AddrPort) uint8 {
	a := client.Addr().As16()
	x := uint32(client.Port()) ^ uint32(a[15])<<8 ^ uint32(a[14])
	return uint8(x * 0x9e3779b1 >> 16 % uint32(len(e.queues))) // 2^32 by the golden ratio (Knuth, 6.4)
}

// begunAnew reports whether a segment is a client's that begins another connection in place of one that has ended.
// Package splice sees that, but for a tombstone that another appliance has seen end. mu is held.
func (p splicedSide) begunAnew(s *segment) bool {
	const kind = header.TCPFlagSyn | header.TCPFlagAck | header.TCPFlagRst
	return p.from == splice.Client && p.Ended() != NotEnded && p.conn.State() < splice.Closed && s.tcp.Flags()&kind == header.TCPFlagSyn &&
		s.tcp.SequenceNumber() != p.conn.Params().ISN[splice.Client]
}

// emitHeld writes what was held, if there is anything.
func (e *Engine) emitHeld(queue uint8, b []byte) {
	if len(b) == 0 {
		return
	}
	v := vectors.Get().(*vector)
	v.queue = queue
	copy(v.hdr[:], b)
	v.bufs = append(v.bufs[:0], v.hdr[:], b[tun.VnetHeaderLen:])
	e.write(v, len(b)-tun.VnetHeaderLen)
}

// lastHop lets a packet leave that could go no further: its sender, who lets it take one hop as BGP speakers
// do, takes the appliance for the peer. It gets what a packet of netstack's has.
func lastHop(b []byte) {
	if b[0]>>4 == 6 {
		if ip := header.IPv6(b); ip.HopLimit() <= 1 {
			ip.SetHopLimit(64)
		}
		return
	}
	if ip := header.IPv4(b); ip.TTL() <= 1 {
		ip.SetTTL(64)
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
	}
}

// note takes down what a packet means. mu is held: a server that is dialled next inherits nothing. It returns legs that
// are to be dropped then.
func (p *Spliced) note(ev splice.Event) (legs []*Leg) {
	switch ev {
	case splice.EventSYN:
		p.asked.Add(1)
	case splice.EventSYNACK:
		p.answered.Store(true)
		p.refused.Store(false) // it has thought better of it
	case splice.EventRefused:
		p.refused.Store(true)
	case splice.EventOpened:
		p.opened.Store(true)
		p.held = nil
	case splice.EventEnded:
		how := EndedInOrder
		if p.conn.State() == splice.Reset {
			how = EndedByReset
		}
		p.ended.Store(uint32(how))
		legs = p.letGo()
	case splice.EventRevived:
		p.ended.Store(uint32(NotEnded))
	case splice.EventReused:
		legs = p.letGo()
	}
	return legs
}

// turn tells the worker what was noted.
func (p *Spliced) turn(ev splice.Event) {
	switch ev {
	case splice.EventOpened:
		p.engine.splicedHalfOpenDone(p)
		p.engine.Heard(p.Addrs().Client.Addr())
	case splice.EventRevived:
		p.listener().Revived()
		return
	}
	p.listener().Turned()
}

// replaced makes room for a client's new connection from the same port.
func (p *Spliced) replaced() {
	p.mu.Lock()
	opening := p.conn.State() == splice.Opening
	p.mu.Unlock()
	if opening {
		p.hangUp()
	}
	p.ended.CompareAndSwap(uint32(NotEnded), uint32(EndedReplaced))
	p.Drop()
	p.listener().Turned()
}

// passWhole is pass for a packet that was put together. The kernel fragments it again where it must.
func (e *Engine) passWhole(s *segment, b []byte) bool {
	side := e.passed(&s.flow)
	if side.Spliced == nil {
		return false
	}
	if !s.sumOK(b, nil) {
		e.C.drop(DropChecksum)
		return true
	}
	var hdr [tun.VnetHeaderLen]byte
	return side.take(s, hdr[:], b, nil, true)
}

// splicedError takes an ICMP error about a segment that was passed on, and reports whether it is one.
func (e *Engine) splicedError(f *flow, b []byte) bool {
	side := e.passed(f)
	if side.Spliced == nil {
		return false
	}
	if !icmpChecksumOK(b) {
		e.C.drop(DropChecksum)
		return true
	}
	side.lockSeen()
	v := side.conn.ForwardError(side.from.Other(), b)
	side.note(v.Event)
	side.mu.Unlock()
	switch {
	case v.Drop != splice.DropNone:
		e.C.drop(dropOf(v.Drop))
	case v.Event == splice.EventRefused:
		side.turn(v.Event) // another server is tried; the client hears of none
	default:
		side.emitMade(b)
	}
	return true
}

func (e *Engine) splicedHalfOpenBegins(p *Spliced, vip, client netip.AddrPort) {
	e.mu.Lock()
	if ln := e.listeners[vip]; ln != nil {
		p.half = true
		ln.splicing[p] = struct{}{}
		ln.sources[sourceOf(client.Addr())]++
	}
	e.mu.Unlock()
}

func (e *Engine) splicedHalfOpenDone(p *Spliced) {
	a := p.Addrs()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !p.half {
		return
	}
	p.half = false
	if ln := e.listeners[a.VIP]; ln != nil {
		delete(ln.splicing, p)
		ln.sourceDone(a.Client.Addr())
	}
}

// burySpliced keeps a connection that has ended for a while. At the limit one of the others gives way.
func (e *Engine) burySpliced(p *Spliced) {
	var old *Spliced
	e.mu.Lock()
	if len(e.passedBy) >= tombstoneMax {
		for old = range e.passedBy {
			delete(e.passedBy, old)
			break
		}
	}
	e.passedBy[p] = struct{}{}
	p.buried = e.now()
	e.mu.Unlock()
	if old != nil {
		old.Drop()
	}
}

// passedSweep is how often tombstones are looked at: there may be very many.
const passedSweep = time.Second

// buriedPass is a tombstone and since when it is one.
type buriedPass struct {
	*Spliced
	at time.Duration
}

// sweepSpliced gives up handshakes and forgets tombstones.
func (e *Engine) sweepSpliced(now time.Duration) {
	var half []*Spliced
	var dead []buriedPass
	e.mu.Lock()
	for _, ln := range e.listeners {
		for p := range ln.splicing {
			half = append(half, p)
		}
	}
	if now-e.passedAt >= passedSweep {
		e.passedAt = now
		for p := range e.passedBy {
			dead = append(dead, buriedPass{p, p.buried})
		}
	}
	e.mu.Unlock()
	for _, p := range half {
		p.mu.Lock()
		late := now-p.conn.HeardFrom(splice.Client) >= splicedHalfOpen
		p.mu.Unlock()
		if late && p.ended.CompareAndSwap(uint32(NotEnded), uint32(EndedUnproven)) {
			p.listener().Turned()
		}
	}
	for _, d := range dead {
		p := d.Spliced
		p.mu.Lock()
		// One that another appliance has seen end is open for all that is known here.
		over := p.gone || p.conn.Over(now) || p.conn.State() < splice.Closed && now-max(d.at, p.conn.Heard()) >= tombstoneLife
		to, ask := p.conn.Ask(now)
		var buf [splice.MaxMade]byte
		var b []byte
		if ask && !over {
			b = p.conn.Probe(to, buf[:])
		}
		p.mu.Unlock()
		if over {
			e.mu.Lock()
			delete(e.passedBy, p)
			e.mu.Unlock()
			p.Drop()
		} else if b != nil {
			p.emitMade(b)
		}
	}
}
