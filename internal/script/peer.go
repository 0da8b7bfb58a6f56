package script

import (
	"fmt"
	"net/netip"
	"time"
)

type peerState uint8

const (
	peerIdle     peerState = iota // a server listens, a client has not begun
	peerOpening                   // a SYN was sent or has come
	peerOpen                      // established
	peerDead                      // reset; every segment is answered by RST
	peerFinished                  // both FINs are acknowledged
)

// Out is a segment for a peer to send; numbers are relative to the ISNs.
type Out struct {
	Flags    uint8
	Seq      int64 // Next: after all that was sent
	Len      int
	Ack      int64 // Next: as in the last segment
	Win      int   // header field; Next: as in the last segment
	Urgent   int   // with URG: how far from Seq the urgent data ends
	Alt      bool  // the other pattern
	Opts     *Opts // nil: as negotiated
	SACK     [][2]int64
	BadCksum bool
}

// Next stands for a default in Out.
const Next = -1

// seen is one segment as it arrived; numbers are relative.
type seen struct {
	flags    uint8
	seq, ack int64
	n        int
	win      uint16
	sack     [][2]int64
}

// A Peer is one fake end of a connection. It answers by itself only what every
// TCP must answer at once (RFC 9293, 3.10.7); all else is said by Send. Its
// fields are guarded by Rig.mu.
type Peer struct {
	rig      *Rig
	name     string
	far      *Peer   // the other end of the connection; its bytes come here
	also     []*Peer // a client: further servers whose bytes may come, see Rig.Replica
	server   bool
	self, to netip.AddrPort
	seed     uint32 // of the pattern of the bytes it sends
	says     string // that comes first

	state       peerState
	mine, their Opts // of the two SYNs
	isn, irs    uint32

	peerSending
	peerReceiving
	peerConduct
	peerMoved
}

// peerSending is what it has sent.
type peerSending struct {
	sent    []Out // what takes sequence space, for retransmission
	nxt     int64
	una     int64 // highest ACK from the appliance
	fin     int64 // number of our FIN, 0: none
	finLead bool  // sent before the appliance's FIN came: TIME-WAIT is ours
	alts    [][2]int64
	free    [2]int64 // offsets at which other servers may send the other pattern, see Differs
	acked   int64    // ACK of the last segment sent
	win     int      // window field of the last segment sent
	maxEdge int64    // highest right edge announced to the appliance
	tsSent  uint32
}

// peerReceiving is what has come.
type peerReceiving struct {
	rcv      int64
	got      []byte // by offset
	have     []bool
	theirFin int64 // number of the appliance's FIN, 0: none
	edge     int64 // right edge announced by the appliance
	tsMax    uint32
	tsSeen   bool
	resets   int // acceptable RSTs
	log      []seen
	mark     int // length of log at the last Send
}

// peerConduct is how it answers by itself.
type peerConduct struct {
	mayReset bool
	refuses  bool // a server that answers SYNs with RST
	away     bool // nothing reaches it
	mute     bool // it does not acknowledge what is sent again, until it sends
	replies  int
}

// peerMoved is set by a takeover.
type peerMoved struct {
	tsLied  bool   // the script made it send stamps of its own
	tsMoved uint32 // newest stamp that the former appliance can have seen
	moved   bool   // this connection was continued by another appliance
	heldAt  int64  // what the standby held of the bytes that come here
	relearn bool   // the dial that was seen will come again
	await   bool   // a server: the next step concerns a dial that is still to come
}

func (p *Peer) reset() {
	p.state = peerIdle
	p.sent, p.nxt, p.una, p.fin, p.finLead, p.alts = nil, 0, 0, 0, false, nil
	p.resetReceive()
}

func (p *Peer) resetReceive() {
	p.acked, p.win, p.maxEdge = 0, 65535, 0
	p.rcv, p.got, p.have, p.theirFin, p.edge = 0, nil, nil, 0, 0
	p.tsMax, p.tsSeen, p.resets = 0, false, 0
	p.their = NoOpts
	p.log, p.mark = nil, 0
}

// usesTS and the like say what both SYNs agreed on.
func (p *Peer) usesTS() bool   { return p.mine.TS && p.their.TS }
func (p *Peer) usesSACK() bool { return p.mine.SACKOK && p.their.SACKOK }
func (p *Peer) scales() bool   { return p.mine.WScale >= 0 && p.their.WScale >= 0 }

func (p *Peer) myScale() uint {
	if p.scales() {
		return uint(p.mine.WScale)
	}
	return 0
}

func (p *Peer) theirScale() uint {
	if p.scales() {
		return uint(p.their.WScale)
	}
	return 0
}

// Says makes p's stream begin with text. It is called before p sends.
func (p *Peer) Says(text string) {
	p.rig.mu.Lock()
	p.says = text
	p.rig.mu.Unlock()
}

// byte is the pattern: what p's stream has at offset off.
func (p *Peer) byte(off int64, alt bool) byte {
	if off < int64(len(p.says)) && !alt {
		return p.says[off]
	}
	x := uint32(off)*0x9E3779B1 + p.seed
	x ^= x >> 15
	x *= 0x85EBCA6B
	if b := byte(x >> 24); !alt {
		return b
	} else {
		return ^b
	}
}

func (p *Peer) payload(seq int64, n int, alt bool) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = p.byte(seq-1+int64(i), alt)
	}
	return b
}

// tsNow is the peer's own timestamp clock; it ticks at least once per segment,
// so that segments can be told apart.
func (p *Peer) tsNow() uint32 {
	p.tsSent = max(p.tsSent+1, 5000+uint32(time.Since(p.rig.born)/time.Millisecond))
	return p.tsSent
}

// Send injects a segment.
func (p *Peer) Send(o Out) {
	p.rig.mu.Lock()
	defer p.rig.mu.Unlock()
	p.send(o, true)
}

// send makes and injects a segment; fresh ones are noted for retransmission.
func (p *Peer) send(o Out, fresh bool) {
	if o.Seq == Next {
		o.Seq = p.nxt
	}
	if o.Ack > p.acked || (o.Ack != Next && p.acked > p.rcv) { // it goes back only after a lie
		p.acked = o.Ack
	}
	if o.Win != Next {
		p.win = o.Win
	}
	syn := o.Flags&SYN != 0
	s := Segment{Src: p.self, Dst: p.to, Flags: o.Flags, Seq: p.isn + uint32(o.Seq), Win: uint16(p.win), Urgent: uint16(o.Urgent), Opts: NoOpts}
	if o.Flags&ACK != 0 {
		s.Ack = p.irs + uint32(p.acked)
		scale := p.myScale()
		if syn {
			scale = 0
		}
		if o.Flags&RST == 0 {
			p.maxEdge = max(p.maxEdge, p.acked+int64(p.win)<<scale)
		}
	}
	if syn && o.Opts != nil {
		p.mine = *o.Opts
	}
	switch {
	case o.Opts != nil:
		s.Opts = *o.Opts
	case p.usesTS() && o.Flags&RST == 0:
		s.Opts.TS = true
	}
	if !syn && s.Opts.TSVal != 0 {
		p.tsLied = true
	}
	if s.Opts.TS && s.Opts.TSVal == 0 {
		s.Opts.TSVal = p.tsNow()
		if o.Flags&ACK != 0 && s.Opts.TSEcr == 0 {
			s.Opts.TSEcr = p.tsMax
		}
	}
	for _, r := range o.SACK {
		s.Opts.SACK = append(s.Opts.SACK, [2]uint32{p.irs + uint32(r[0]), p.irs + uint32(r[1])})
	}
	s.Payload = p.payload(o.Seq, o.Len, o.Alt)
	if fresh {
		p.note(o, int64(s.seqLen()))
	}
	b := s.Encode()
	if o.BadCksum {
		b[len(b)-1] ^= 0x55
	}
	p.rig.tracef("%s> %s", p.name, &s)
	p.rig.inject(b)
}

// note keeps what a fresh segment means for the peer's state.
func (p *Peer) note(o Out, n int64) {
	p.mark, p.mute = len(p.log), false
	if o.BadCksum {
		return
	}
	switch {
	case o.Flags&RST != 0:
		p.refuses = p.server && p.nxt == 0
		p.state = peerDead
		p.mayReset, p.far.mayReset = true, true
		return
	case o.Flags&SYN != 0 && p.state == peerIdle:
		p.state = peerOpening
	}
	if n > 0 {
		p.sent = append(p.sent, o)
	}
	if o.Alt {
		p.alts = append(p.alts, [2]int64{o.Seq - 1, o.Seq - 1 + int64(o.Len)})
	}
	if o.Flags&FIN != 0 {
		p.fin = o.Seq + n - 1
		p.finLead = p.theirFin == 0
	}
	p.nxt = max(p.nxt, o.Seq+n)
	if p.state == peerOpening && o.Flags&ACK != 0 && !p.server && p.rcv > 0 {
		p.state = peerOpen
	}
	p.settleEnd()
}

// settleEnd notes the end of the connection for this peer.
func (p *Peer) settleEnd() {
	if p.state == peerOpen && p.fin > 0 && p.una > p.fin && p.theirFin > 0 && p.acked > p.theirFin {
		p.state = peerFinished
		p.mayReset = true // it cannot hurt any more
	}
}

// retransmit sends again what is not acknowledged, oldest first, as after a
// retransmission time-out.
func (p *Peer) retransmit() {
	if p.state != peerOpening && p.state != peerOpen {
		return
	}
	if p.state == peerOpen && p.acked < p.rcv {
		p.catchUp()
		p.ack()
	}
	for _, o := range p.sent {
		n := int64(o.Len)
		if o.Flags&(SYN|FIN) != 0 {
			n++
		}
		if o.Seq+n <= p.una {
			continue
		}
		o.Ack, o.Win, o.SACK = Next, Next, nil
		if o.Flags&SYN == 0 && o.Opts != nil && o.Opts.TSVal != 0 {
			o.Opts = nil // with the stamp of now (RFC 7323, 3.2)
		}
		if o.Flags&SYN != 0 {
			if p.server && p.irs == 0 {
				continue
			}
			o.Win = 65535
			if p.server {
				o.Ack = 1
			}
		} else if p.state != peerOpen {
			continue
		}
		p.send(o, false)
	}
}

// silent reports that the script makes the peer keep still; after a takeover it
// would stall the connection.
func (p *Peer) silent() bool { return p.mute && !p.moved }

// ack sends a bare ACK of the current state.
func (p *Peer) ack() {
	if p.replies++; p.replies > 5000 {
		p.rig.violate("%s: more than 5000 automatic answers", p.name)
		return
	}
	p.send(Out{Flags: ACK, Seq: Next, Ack: Next, Win: Next}, false)
}

// answerReset answers a segment to a closed port (RFC 9293, 3.10.7.1).
func (p *Peer) answerReset(s *Segment) {
	r := Segment{Src: s.Dst, Dst: s.Src, Flags: RST, Seq: s.Ack, Opts: NoOpts}
	if s.Flags&ACK == 0 {
		r.Flags, r.Seq, r.Ack = RST|ACK, 0, s.Seq+s.seqLen()
	}
	p.rig.tracef("%s> (auto) %s", p.name, &r)
	p.rig.inject(r.Encode())
}

// String is the peer's state in a failure report.
func (p *Peer) String() string {
	return fmt.Sprintf("%s{state %d, snd nxt %d una %d fin %d, rcv %d acked %d fin %d, edge %d, resets %d, packets %d}",
		p.name, p.state, p.nxt, p.una, p.fin, p.rcv, p.acked, p.theirFin, p.edge, p.resets, len(p.log))
}
