package script

import (
	"encoding/binary"
	"time"
)

// ping sends an ICMP echo request to the virtual address; mu is held.
func (r *Rig) ping(id uint16) {
	if r.o.V6 {
		b := make([]byte, 16)
		b[0] = 128
		binary.BigEndian.PutUint16(b[4:], id)
		binary.BigEndian.PutUint16(b[2:], ^sum(b, pseudo(client6, vip6.Addr(), 58, len(b))))
		r.inject(append(ipHeader(client6, vip6.Addr(), 58, len(b)), b...))
		return
	}
	b := make([]byte, 16)
	b[0] = 8
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[2:], ^sum(b, 0))
	r.inject(append(ipHeader(client4, vip4.Addr(), 1, len(b)), b...))
}

// pong notes an echo reply; mu is held.
func (r *Rig) pong(pkt []byte) {
	off, kind := 20, byte(0)
	if pkt[0]>>4 == 6 {
		off, kind = 40, 129
	}
	if len(pkt) >= off+8 && pkt[off] == kind {
		r.pongs = binary.BigEndian.Uint16(pkt[off+4:])
		r.cond.Broadcast()
	}
}

// barrier returns when the appliance has read all packets injected before, and netstack has processed them.
func (r *Rig) barrier() bool {
	r.mu.Lock()
	r.pings++
	id := r.pings
	r.ping(id)
	r.mu.Unlock()
	if !r.Wait(waitLimit, func() bool { return r.pongs == id }, func() { r.ping(id) }) {
		return false
	}
	r.gen.engine.Process()
	return true
}

// waitLimit is far more than anything here takes, but for a SYN that is dialled
// again after one second, then two.
const waitLimit = 15 * time.Second

// Settle waits until nothing happens any more, as far as that can be seen: several
// barriers in a row, and a few milliseconds, during which no packet came out, no
// gate was asked and every worker waited. What must happen is awaited by other means;
// this is for what must not happen, and for where a takeover strikes.
func (r *Rig) Settle() bool {
	const barriers, quiet = 4, 4 * time.Millisecond
	var last [5]uint64
	since := time.Now()
	for same := 0; same < barriers || time.Since(since) < quiet; same++ {
		if !r.barrier() {
			return false
		}
		g := r.gen
		now := [5]uint64{g.journal.calls.Load(), g.engine.C.PacketsOut.Load() - uint64(r.pings), g.engine.C.AcksHeld.Load(), g.engine.C.BytesIn.Load() - 36*uint64(r.pings), g.engine.C.Rebuilt.Load()}
		if r.o.V6 {
			now[3] -= 20 * uint64(r.pings)
		}
		if now != last || !g.journal.idle() || !g.relay.Idle() || g.read.Load() < g.dev.written.Load()-g.dev.Dropped() {
			same, since = -1, time.Now()
		}
		last = now
	}
	return true
}
