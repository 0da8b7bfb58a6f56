package splice

import (
	"math/rand/v2"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// What Offloaded has is all that a plain segment changes: a connection that reclaims what another one has seen is that one.
func TestReclaimIsForward(t *testing.T) {
	for seed := range uint64(50) {
		r := newRig(t, own6)
		r.open()
		draw := rand.New(rand.NewPCG(seed, 2))
		r.ts, r.ends[Client].hasTS, r.ends[Server].hasTS, r.odd = true, true, true, [2]uint8{2, 3}
		away := r.Conn // whoever has it
		for step := range 100 {
			var o Offloaded
			if !away.Offload(&o) {
				t.Fatalf("seed %d, step %d: not offered: %+v", seed, step, away)
			}
			from := Side(draw.IntN(2))
			e, k := away.Position(from), away.Position(from.Other())
			var ts [12]byte
			header.EncodeNOP(ts[:])
			header.EncodeNOP(ts[1:])
			header.EncodeTSOption(e.TSVal+uint32(draw.IntN(5)), k.TSVal, ts[2:])
			s := tcp{flags: flagACK, seq: e.Next - uint32(draw.IntN(2)), ack: k.Next, window: uint16(500 + draw.IntN(500)), n: 1 + draw.IntN(100), opts: ts[:]}
			b := packet(own6, from, s)
			now := time.Hour + time.Duration(step)*time.Second
			if v := away.Forward(from, make([]byte, 10), b, 40, len(b), now); v.Drop != DropNone || v.Event != EventNone || v.Answer || !away.Believed(from) {
				t.Fatalf("seed %d, step %d: %+v of %+v", seed, step, v, s)
			}
			var seen Offloaded
			if !away.Offload(&seen) {
				t.Fatalf("seed %d, step %d: not offered any more", seed, step)
			}
			seen.Ends[from].Heard = 3 * time.Second
			if away.Moved() == now {
				seen.Moved = 3 * time.Second
			}
			r.Conn.Reclaim(&seen, now+3*time.Second)
			if r.Conn != away {
				t.Fatalf("seed %d, step %d: reclaimed is\n%+v, want\n%+v", seed, step, r.Conn, away)
			}
		}
	}
}

// A connection of which something is to be looked at is not offered.
func TestNotOffered(t *testing.T) {
	for what, change := range map[string]func(c *Conn){
		"opening":             func(c *Conn) { c.state = Opening },
		"half closed":         func(c *Conn) { c.state = HalfClosed },
		"closed":              func(c *Conn) { c.state = Closed },
		"killed":              func(c *Conn) { c.Kill(0) },
		"lost":                func(c *Conn) { c.Mislaid() },
		"in doubt":            func(c *Conn) { c.doubt = momentOf(0, Server) },
		"a FIN is on its way": func(c *Conn) { c.ends[Client].hasFIN = true },
		"no stamp yet":        func(c *Conn) { c.ts, c.ends[Server].hasTS = true, false },
	} {
		r := newRig(t, addrs4)
		r.open()
		var o Offloaded
		if !r.Conn.Offload(&o) {
			t.Fatal("an open one is not offered")
		}
		if change(&r.Conn); r.Conn.Offload(&o) {
			t.Errorf("%s: offered", what)
		}
	}
}
