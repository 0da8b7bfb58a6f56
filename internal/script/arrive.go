package script

// arrive takes a segment from the appliance. Rig.mu is held.
func (p *Peer) arrive(s *Segment) {
	if p.away {
		p.rig.tracef("%s  (lost) %s", p.name, s)
		return
	}
	p.rig.tracef("%s< %s", p.name, s)
	switch {
	case s.Flags&RST != 0:
		p.arriveReset(s)
		return
	case s.Flags&SYN != 0:
		p.arriveSYN(s)
		return
	case p.state == peerIdle || p.state == peerDead:
		p.logSegment(s)
		p.answerReset(s)
		return
	}
	if p.rcv > 0 && !p.isAsked(s) {
		p.checkOptions(s)
	}
	p.logSegment(s)
	if p.state == peerFinished {
		if !p.finLead {
			p.answerReset(s) // LAST-ACK is over, nobody is here
		} else if s.seqLen() > 0 || p.theirs(s.Seq) < p.acked {
			p.ack() // TIME-WAIT
		}
		return
	}
	if !p.arriveAck(s) {
		return
	}
	p.arriveData(s)
	p.settleEnd()
}

// isAsked reports whether the appliance, which remembers nothing of a connection that is
// over, asks whether we do. Of a connection that lives it is not to be asked.
func (p *Peer) isAsked(s *Segment) bool { return p.state == peerFinished && s.asks() }

// theirs makes a number of the appliance's relative.
func (p *Peer) theirs(seq uint32) int64 {
	return p.rcv + int64(int32(seq-p.irs-uint32(p.rcv)))
}

// ours makes an acknowledgement relative.
func (p *Peer) ours(ack uint32) int64 {
	return p.una + int64(int32(ack-p.isn-uint32(p.una)))
}

func (p *Peer) logSegment(s *Segment) {
	e := seen{flags: s.Flags, seq: p.theirs(s.Seq), n: len(s.Payload), win: s.Win}
	if s.Flags&ACK != 0 {
		e.ack = p.ours(s.Ack)
	}
	for _, r := range s.Opts.SACK {
		e.sack = append(e.sack, [2]int64{p.ours(r[0]), p.ours(r[1])})
	}
	p.log = append(p.log, e)
	p.rig.cond.Broadcast()
}

// arriveReset follows RFC 5961, section 3.2.
func (p *Peer) arriveReset(s *Segment) {
	p.logSegment(s)
	switch {
	case p.state == peerIdle || p.state == peerDead || p.state == peerFinished:
		return
	case p.state == peerOpening && !p.server:
		if s.Flags&ACK == 0 || s.Ack != p.isn+uint32(p.nxt) {
			return
		}
	default:
		switch seq := p.theirs(s.Seq); {
		case seq != p.rcv && seq >= p.rcv && seq < p.maxEdge:
			p.ack()
			return
		case seq != p.rcv:
			return
		}
	}
	if !p.mayReset {
		p.rig.violate("%s: unexpected reset %s; %v", p.name, s, p)
	}
	p.resets++
	p.state = peerDead
	if p.server && p.relearn {
		p.state = peerIdle // the dial of the former active; it will come anew
	}
}

// arriveSYN takes a dial, or the answer to ours.
func (p *Peer) arriveSYN(s *Segment) {
	if len(s.Payload) > 0 || s.Flags&FIN != 0 {
		p.rig.violate("%s: SYN with data or FIN: %s", p.name, s)
	}
	if p.server != (s.Flags&ACK == 0) {
		p.rig.violate("%s: not the SYN that was expected here: %s", p.name, s)
		return
	}
	if p.server {
		p.arriveDial(s)
		return
	}
	switch {
	case p.state == peerDead, p.state == peerIdle:
		p.logSegment(s)
		p.answerReset(s)
		return
	case s.Ack != p.isn+1 && p.rcv == 0:
		p.logSegment(s)
		p.answerReset(s) // of an earlier attempt
		return
	case s.Ack != p.isn+1:
		p.rig.violate("c: SYN-ACK of %d, ISN is %d", s.Ack, p.isn)
		return
	case p.rcv == 0:
		p.learn(s)
		p.una = max(p.una, 1)
	default:
		if s.Seq != p.irs {
			p.rig.violate("c: SYN-ACK with another ISN: %d, was %d", s.Seq, p.irs)
			return
		}
		if !sameOffer(&s.Opts, &p.their) {
			p.rig.violate("c: SYN-ACK with other options: %+v, were %+v", s.Opts, p.their)
		}
	}
	p.checkTS(s)
	p.logSegment(s)
	if p.state == peerOpening { // else nothing but the challenge comes of it
		p.window(1, int64(s.Win), 0, s)
	}
	if p.state == peerOpen || p.state == peerFinished {
		p.ack() // challenge ACK, RFC 5961 section 4
	}
}

func sameOffer(a, b *Opts) bool {
	return a.MSS == b.MSS && a.WScale == b.WScale && a.SACKOK == b.SACKOK && a.TS == b.TS
}

// arriveDial is a SYN at the server.
func (p *Peer) arriveDial(s *Segment) {
	if p.refuses {
		p.logSegment(s)
		p.answerReset(s)
		return
	}
	switch {
	case p.state == peerOpen:
		p.logSegment(s)
		p.ack() // challenge ACK
		return
	case p.state == peerOpening && s.Seq == p.irs && p.rcv == 1:
	default:
		// A new connection. After a takeover it is the former active's dial again:
		// what the script has made the server say stays valid.
		keep, relearn, may := p.sent, p.relearn, p.mayReset
		if p.state == peerFinished || (p.state == peerDead && !relearn) {
			keep = nil
		}
		p.resetReceive()
		p.una, p.state = 0, peerOpening
		if keep == nil {
			p.reset()
			p.state = peerOpening
		}
		p.sent, p.mayReset, p.relearn, p.await = keep, may, false, false
		p.to = s.Src
		p.learn(s)
	}
	p.checkTS(s)
	p.logSegment(s)
	if len(p.sent) > 0 {
		p.retransmit()
	}
}

func (p *Peer) learn(s *Segment) {
	p.irs, p.rcv, p.their = s.Seq, 1, s.Opts
	p.their.TSVal, p.their.TSEcr = 0, 0
	if len(p.their.SACK) > 0 || p.their.MSS == 0 || p.their.WScale > 14 {
		p.rig.violate("%s: options of a SYN: %s", p.name, s)
	}
}

func (p *Peer) checkTS(s *Segment) {
	if !s.Opts.TS {
		return
	}
	if p.tsSeen && int32(s.Opts.TSVal-p.tsMax) < 0 {
		p.rig.violate("%s: TSval went back from %d to %d (%s)", p.name, p.tsMax, s.Opts.TSVal, s)
	}
	p.tsMax, p.tsSeen = s.Opts.TSVal, true
	if s.Flags&ACK == 0 || p.moved && s.Opts.TSEcr == 0 {
		return // after a takeover nobody knows the peer's newest stamp at first
	}
	if int32(s.Opts.TSEcr-p.tsSent) > 0 || s.Opts.TSEcr == 0 {
		p.rig.violate("%s: TSecr %d was never sent (newest is %d)", p.name, s.Opts.TSEcr, p.tsSent)
	}
	// A peer that has sent again takes its round trip from the echo (RFC 7323, 4.3).
	if p.moved && !p.tsLied && s.Flags&SYN == 0 && int32(s.Opts.TSEcr-p.tsMoved) <= 0 {
		p.rig.violate("%s: TSecr %d is from before the takeover, at %d", p.name, s.Opts.TSEcr, p.tsMoved)
	}
}

func (p *Peer) checkOptions(s *Segment) {
	if s.Opts.TS != p.usesTS() {
		p.rig.violate("%s: timestamps are %v, segment: %s", p.name, p.usesTS(), s)
	}
	if len(s.Opts.SACK) > 0 && !p.usesSACK() {
		p.rig.violate("%s: SACK was not agreed on: %s", p.name, s)
	}
	if s.Opts.MSS > 0 || s.Opts.WScale >= 0 || s.Opts.SACKOK {
		p.rig.violate("%s: SYN's options in another segment: %s", p.name, s)
	}
	mss := p.mine.MSS
	if mss == 0 {
		mss = 536 // RFC 9293, 3.7.1; 1220 for IPv6
		if p.self.Addr().Is6() {
			mss = 1220
		}
	}
	if n := s.Piece + len(s.Opts.encode()); s.Piece > 0 && n > max(mss, 48) {
		p.rig.violate("%s: %d bytes and options, MSS is %d (RFC 6691): %s", p.name, n, mss, s)
	}
	p.checkTS(s)
}

// arriveAck checks and takes acknowledgement, SACK blocks and window. It reports
// false for a segment that is none.
func (p *Peer) arriveAck(s *Segment) bool {
	if s.Flags&ACK == 0 {
		p.rig.violate("%s: segment without ACK: %s", p.name, s)
		return false
	}
	ack := p.ours(s.Ack)
	switch {
	case p.state == peerOpening: // below
	case ack > p.nxt:
		p.rig.violate("%s: ACK of %d, only %d was sent: %s", p.name, ack, p.nxt, s)
		return false
	case ack < p.una:
		p.rig.violate("%s: ACK went back from %d to %d: %s", p.name, p.una, ack, s)
	}
	if p.state == peerOpening {
		if ack < 1 || ack > p.nxt {
			p.answerReset(s) // not of this connection
			return false
		}
		if !p.server {
			return false // SYN-SENT: no SYN, no RST, nothing (RFC 9293, 3.10.7.3)
		}
		p.state = peerOpen
	}
	p.una = max(p.una, ack)
	for _, r := range s.Opts.SACK {
		a, b := p.ours(r[0]), p.ours(r[1])
		// After a takeover the appliance reports a segment that the former one may
		// have had. Only a script's peer sends with gaps.
		if a >= b || b > p.nxt || (!p.moved && !p.sentAll(a, b)) {
			p.rig.violate("%s: SACK block %d:%d, sent until %d: %s", p.name, a, b, p.nxt, s)
		}
	}
	p.window(ack, int64(s.Win)<<p.theirScale(), p.theirScale(), s)
	p.rig.cond.Broadcast()
	return true
}

// sentAll reports whether all of [a, b) was once sent.
func (p *Peer) sentAll(a, b int64) bool {
	for again := true; again && a < b; {
		again = false
		for _, o := range p.sent {
			if e := o.Seq + int64(o.Len); o.Seq <= a && e > a {
				a, again = e, true
			}
			if o.Flags&FIN != 0 && a == o.Seq+int64(o.Len) && a < b {
				a, again = a+1, true
			}
		}
	}
	return a >= b
}

// window checks that the right edge stays. A window field cannot express every
// edge: what rounding takes away does not count.
func (p *Peer) window(ack, win int64, scale uint, s *Segment) {
	edge := ack + win
	slack := 2 * (int64(1)<<scale - 1) // rounded down by netstack, and by the gate
	if edge < p.edge-slack {
		p.rig.violate("%s: right edge of the window shrank from %d to %d: %s", p.name, p.edge, edge, s)
	}
	p.edge = max(p.edge, edge)
}

// arriveData takes bytes and FIN, and answers what must be answered.
func (p *Peer) arriveData(s *Segment) {
	seq := p.theirs(s.Seq)
	end := seq + int64(len(s.Payload))
	reach := end
	if s.Flags&FIN != 0 {
		reach++
	}
	if reach < p.acked || (reach == p.acked && reach > seq) {
		if len(s.Payload) > 1 {
			p.take(seq, s.Payload) // compare; a single byte may be a probe's junk
		}
		p.catchUp()
		p.ack()
		return
	}
	if reach > seq && reach <= p.rcv && !p.silent() {
		p.catchUp() // sent again
		p.ack()
	}
	if reach == seq {
		return
	}
	if end > p.maxEdge || (s.Flags&FIN != 0 && end >= p.maxEdge && p.maxEdge <= seq) {
		if !p.moved && len(s.Payload) > 1 {
			p.rig.violate("%s: %d:%d is beyond the window's edge %d", p.name, seq, end, p.maxEdge)
		}
		p.compare(seq, s.Payload)
		if keep := p.maxEdge - seq; keep > 0 {
			p.take(seq, s.Payload[:min(keep, int64(len(s.Payload)))])
			p.advance()
		}
		p.ack()
		return
	}
	p.take(seq, s.Payload)
	if s.Flags&FIN != 0 {
		if p.theirFin != 0 && p.theirFin != end {
			p.rig.violate("%s: FIN at %d, before at %d", p.name, end, p.theirFin)
		}
		if p.far.fin != end {
			p.rig.violate("%s: FIN at %d, %s closed at %d", p.name, end, p.far.name, p.far.fin)
		}
		p.theirFin = end
	}
	p.advance()
}

// catchUp makes the next ACK cover all that has come. The script says what is
// acknowledged and when, but a peer that does not acknowledge what is sent again
// would stall the sender, whose segments and their number differ after a takeover
// or a time-out.
func (p *Peer) catchUp() { p.acked = max(p.acked, p.rcv) }

func (p *Peer) advance() {
	for p.rcv > 0 && int(p.rcv-1) < len(p.have) && p.have[p.rcv-1] {
		p.rcv++
	}
	if p.theirFin > 0 && p.rcv == p.theirFin {
		p.rcv++
	}
	p.rig.cond.Broadcast()
}

// take keeps bytes: each must be one that the far peer sent there, and the same
// as before.
func (p *Peer) take(seq int64, b []byte) {
	from := seq - 1
	if from < 0 || !p.compare(seq, b) {
		return
	}
	if n := int(from) + len(b); n > len(p.got) {
		p.got = append(p.got, make([]byte, n-len(p.got))...)
		p.have = append(p.have, make([]bool, n-len(p.have))...)
	}
	for i, v := range b {
		if off := from + int64(i); !p.have[off] {
			p.got[off], p.have[off] = v, true
		}
	}
}

// compare checks bytes against what was sent, and against what came before.
func (p *Peer) compare(seq int64, b []byte) bool {
	for i, v := range b {
		off := seq - 1 + int64(i)
		switch {
		case off < 0:
		case off < int64(len(p.have)) && p.have[off]:
			if p.got[off] != v && !p.far.freeAt(off) && !(p.moved && len(p.far.alts) > 0 && off >= p.heldAt) {
				p.rig.violate("%s: byte %d was %#x, is %#x now", p.name, off, p.got[off], v)
				return false
			}
		case off+1 >= p.farSent():
			p.rig.violate("%s: byte %d comes, %s has sent until %d", p.name, off, p.far.name, p.farSent())
			return false
		case v != p.far.byte(off, false) && !(p.far.altAt(off) && v == p.far.byte(off, true)) && !(p.far.freeAt(off) && v == p.far.byte(off, true)):
			p.rig.violate("%s: byte %d is %#x, sent was %#x", p.name, off, v, p.far.byte(off, false))
			return false
		}
	}
	return true
}

func (p *Peer) altAt(off int64) bool {
	for _, r := range p.alts {
		if r[0] <= off && off < r[1] {
			return true
		}
	}
	return false
}
