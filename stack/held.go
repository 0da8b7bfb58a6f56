package stack

import (
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"lockstep/tun"
)

// A standby may get packets before it is the active: those that the dead active's kernel, or an
// active that hands over, has handed on. It keeps them for a moment, and treats them when it has
// taken over, as if they had been that long on their way.

const (
	// heldLife is how long: less than the least retransmission time-out of Linux, after which
	// the sender has sent it again anyway.
	heldLife = 200 * time.Millisecond
	// heldPackets and heldBytes bound what is kept: about what a gigabit a second brings until
	// the standby has noticed a process's death and taken over.
	heldPackets = 2048
	heldBytes   = 4 << 20
	// onwardLast is how long an engine goes on handing on when it has become the standby's, of a peer
	// that is active: until what was on its way to us has come. Longer, and the two would hand to each
	// other, until the packets' hops are used up, what comes when that peer hands over or dies in its turn.
	onwardLast = 50 * time.Millisecond
)

// heldPacket is a packet with its virtio-net header.
type heldPacket struct {
	b  []byte
	at time.Duration
}

// held belongs to whoever holds engineIO.reading.
type held struct {
	on    bool
	queue []heldPacket // oldest first
	bytes int

	onwardUntil time.Duration // see HandOn
}

// Hold makes a mute engine keep the segments that come in until SetActive(true).
func (e *Engine) Hold(on bool) {
	e.reading.Lock()
	defer e.reading.Unlock()
	e.held.on, e.held.queue, e.held.bytes = on, nil, 0
	e.held.onwardUntil = min(e.held.onwardUntil, e.now()+onwardLast)
}

// HandOn makes an engine that is muted, or is going to be, give the segments that come in for so long
// to the peer, which continues the connections: until the neighbours know that.
func (e *Engine) HandOn(d time.Duration) {
	e.reading.Lock()
	defer e.reading.Unlock()
	e.held.onwardUntil = e.now() + d
}

// hold keeps a packet of n bytes (see pass), if it is to be kept.
func (e *Engine) hold(bufs [][]byte, n int) bool {
	h := &e.held
	now := e.now()
	onward := e.onward != nil && now < h.onwardUntil
	if !h.on && !onward || e.active.Load() {
		return false
	}
	var s segment
	first := bufs[1][:min(n, len(bufs[1]))]
	if s.parse(first, n) != parsedTCP {
		return false
	}
	if onward {
		if e.onward([][]byte{bufs[0], first, bufs[2][:n-len(first)]}) != nil {
			e.C.drop(DropNotActive)
		} else {
			e.C.HandedOn.Add(1)
		}
		return true
	}
	gone := 0
	for gone < len(h.queue) && now-h.queue[gone].at > heldLife {
		h.bytes -= len(h.queue[gone].b)
		h.queue[gone].b = nil
		gone++
		e.C.drop(DropHeld)
	}
	h.queue = h.queue[gone:]
	size := tun.VnetHeaderLen + n
	if len(h.queue) == heldPackets || h.bytes+size > heldBytes {
		e.C.drop(DropHeld)
		return true
	}
	b := append(append(append(make([]byte, 0, size), bufs[0]...), first...), bufs[2][:n-len(first)]...)
	h.queue = append(h.queue, heldPacket{b, now})
	h.bytes += size
	return true
}

// treatHeld takes in what was kept, in the order in which it came; changing and reading are held.
func (e *Engine) treatHeld() {
	if len(e.held.queue) == 0 {
		e.held = held{}
		return
	}
	now := e.now()
	for _, p := range e.held.queue {
		if now-p.at > heldLife {
			e.C.drop(DropHeld)
			continue
		}
		e.C.Held.Add(1)
		hdr, b := p.b[:tun.VnetHeaderLen], p.b[tun.VnetHeaderLen:]
		if first := min(len(b), smallRead); e.pass([][]byte{hdr, b[:first], b[first:]}, len(b), true) {
			continue
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
		e.receive(hdr, pkt, len(b))
		pkt.DecRef()
	}
	e.held = held{}
	e.gro.Flush()
}
