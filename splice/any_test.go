package splice

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever comes in whatever order, a packet that passes is whole and has the right addresses (rig.send
// looks), a drop has a reason that fits, and no made packet has a wrong checksum.
func TestAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.SampledFrom([]Addrs{addrs4, own6}).Draw(t, "addresses")
		r := &rig{t: t, a: a, now: time.Hour}
		r.Init(a, 1400)
		near := func(name string) uint32 {
			base := rapid.SampledFrom([]uint32{0, r.ends[0].next, r.ends[1].next, r.ends[0].ack, r.ends[1].ack, r.ends[0].isn, r.ends[0].isn + 1}).Draw(t, name)
			return base + uint32(rapid.SampledFrom([]int{-1, 0, 0, 0, 1, 1000, 1 << 20, 1 << 31}).Draw(t, name+"+"))
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			r.now += time.Duration(rapid.IntRange(0, 3).Draw(t, "ds")) * time.Second / 2
			side := rapid.SampledFrom([]Side{Client, Server}).Draw(t, "side")
			buf := make([]byte, MaxMade)
			switch rapid.IntRange(0, 30).Draw(t, "step") {
			case 0:
				r.Restore(a, r.Params(), 0)
			case 1:
				if r.State() == Opening {
					r.Retarget(a.Local, a.Server)
				}
			case 2:
				b, _ := r.Reset(side, buf)
				whole(t, b, 0)
			case 3:
				r.Kill(r.now)
			case 4, 5:
				if to, ask := r.Ask(r.now); ask {
					whole(t, r.Probe(to, buf), 0)
				}
			case 6:
				whole(t, r.MakeSYN(buf), 0)
			case 7:
				if r.Over(r.now) && r.State() < Closed {
					t.Fatalf("over while %v", r.State())
				}
				r.Position(side)
			case 8:
				r.Init(a, 1400)
			default:
				s := tcp{
					flags: rapid.SampledFrom([]uint8{flagACK, flagACK, flagACK | flagFIN, flagRST, flagRST | flagACK, flagSYN, flagSYN | flagACK, 0, 0xff}).Draw(t, "flags"),
					seq:   near("seq"), ack: near("ack"), n: rapid.IntRange(0, 100).Draw(t, "n"), window: rapid.Uint16().Draw(t, "window"),
					vnet: rapid.Uint8Range(0, 1).Draw(t, "vnet"), opts: rapid.SliceOfN(rapid.Byte(), 0, 12).Draw(t, "options"),
				}
				state := r.State()
				v := r.send(side, s)
				switch {
				case v.Drop == DropNone, v.Drop == DropStale && (s.flags&flagSYN != 0 || state == Killed):
				case (v.Drop == DropOptions || v.Drop == DropSigned) && s.flags&flagSYN != 0:
				default:
					t.Fatalf("%v: %+v of side %d: %+v", state, s, side, v)
				}
				if v.Answer != (state == Killed && v.Drop == DropNone && v.Event == EventNone) || v.Event == EventEnded && r.State() < Closed {
					t.Fatalf("%v: %+v", state, v)
				}
			}
		}
	})
}
