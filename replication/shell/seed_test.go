package shell

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"lockstep/replication"
)

// world plays a relay's part beside an active's shell, with standbys that come and go.
type world struct {
	t     *testing.T
	rng   *rand.Rand
	now   replication.Nanos
	a, b  *end // b: nil if there is no standby
	conns map[replication.ConnID]*conn
	ids   []replication.ConnID
	asked []replication.ConnID // to be adopted
	trace []string
	seen  map[string]int
}

// conn is one connection as its relay has it.
type conn struct {
	opened, free, logged          bool
	legs                          int    // told and not announced
	leg                           uint32 // number of the newest
	legFree                       bool   // nothing was protected when it was told
	received, delivered, permit   [2]uint64
	everProtected, forgone, ended bool
}

func (w *world) failf(format string, args ...any) {
	w.t.Helper()
	for _, line := range w.trace[max(0, len(w.trace)-15):] {
		w.t.Log(line)
	}
	w.t.Fatalf(format, args...)
}

// effect is what the active's shell does; it is held against what the standby has.
func (w *world) effect(kind string, id replication.ConnID, s replication.Stream, off uint64) {
	w.seen[kind]++
	w.trace = append(w.trace, fmt.Sprint(w.now, " ", kind, " ", id, " ", s, " ", off))
	c := w.conns[id]
	if c == nil || c.ended {
		return
	}
	var delivered, held uint64
	stored := false
	if w.b != nil {
		delivered, held, stored = w.b.core.Stored(id, s)
	}
	switch kind {
	case "unprotect":
		if stored {
			w.failf("the gates of %d open, the standby would continue it", id)
		}
		if c.free && c.everProtected {
			w.failf("%d loses its protection twice", id)
		}
		c.free = true
	case "opened":
		if c.opened || !c.free && !stored {
			w.failf("%d is opened: before %v, free %v, the standby holds it: %v", id, c.opened, c.free, stored)
		}
		c.opened = true
	case "leg":
		if c.legs == 0 {
			w.failf("a leg of %d is announced that was not told", id)
		}
		if !c.free && !c.legFree && w.b.legs[id] != c.leg {
			w.failf("leg %d of %d is announced, the standby holds %d", c.leg, id, w.b.legs[id])
		}
		c.legs = 0
	case "permit":
		if off < c.permit[s] || off > max(delivered, held) {
			w.failf("permit of %d after %d, the standby has %d and %d", off, c.permit[s], delivered, held)
		}
		c.permit[s] = off
	case "adopt":
		if !c.free {
			w.failf("%d is asked for, its gates are closed", id)
		}
		if !slices.Contains(w.asked, id) {
			w.asked = append(w.asked, id)
		}
	}
}

func (w *world) check(what string, err error) {
	w.t.Helper()
	w.trace = append(w.trace, fmt.Sprint(w.now, " ", what))
	if err != nil {
		w.failf("%s: %v", what, err)
	}
}

// act is one thing that a relay, a peer or the arbiter does.
func (w *world) act() {
	w.now += replication.Nanos(w.rng.Int64N(int64(3 * ms)))
	id, c := w.pick()
	switch x := w.rng.IntN(100); {
	case c == nil || x < 8:
		w.open()
	case x < 10 && w.b != nil:
		w.lose()
	case x < 13 && w.b == nil:
		w.join()
	case x < 16:
		c.ended = true
		w.check("close", w.a.shell.Close(w.now, id, replication.Aborted))
	case x < 30:
		w.answer()
	case x < 45:
		n := w.rng.IntN(3000) + 1
		if !c.free {
			w.check("data", w.a.shell.Data(w.now, id, replication.Request, c.received[0], [][]byte{make([]byte, n/2), make([]byte, n-n/2)}, false))
		}
		c.received[0] += uint64(n)
	case x < 60:
		c.received[1] += uint64(w.rng.IntN(3000) + 1)
		if !c.free {
			w.check("received", w.a.shell.Received(w.now, id, replication.Response, c.received[1], false))
			w.check("released", w.a.shell.Released(w.now, id, replication.Released{End: c.received[1]}))
		}
	case x < 75:
		s := replication.Stream(w.rng.IntN(2))
		c.delivered[s] += w.rng.Uint64N(c.received[s] - c.delivered[s] + 1)
		if !c.free {
			w.check("delivered", w.a.shell.Delivered(w.now, id, s, c.delivered[s]))
		}
	case x < 78 && c.logged && c.opened && c.legs == 0: // LegHeld does not say which
		c.legs, c.leg, c.legFree = 1, c.leg+1, c.free
		leg := record(id, true).Server
		leg.ISS = c.leg
		w.check("server leg", w.a.shell.ServerLeg(w.now, id, &leg, [2]uint64{}))
	case x < 79 && c.logged && c.opened && !c.forgone:
		c.forgone = true
		w.check("forgo", w.a.shell.Forgo(w.now, id))
	case x < 90:
		w.move()
	default:
		w.tick()
	}
}

func (w *world) pick() (replication.ConnID, *conn) {
	live := w.ids[:0]
	for _, id := range w.ids {
		if !w.conns[id].ended {
			live = append(live, id)
		}
	}
	if w.ids = live; len(live) == 0 {
		return 0, nil
	}
	id := live[w.rng.IntN(len(live))]
	return id, w.conns[id]
}

func (w *world) open() {
	id := replication.ConnID(len(w.conns) + 1)
	c := &conn{logged: w.rng.IntN(2) == 0, everProtected: w.a.core.Stats().PeerJoined}
	w.conns[id], w.ids = c, append(w.ids, id)
	w.check("open", w.a.shell.Open(w.now, record(id, c.logged)))
	if w.b == nil && !c.opened {
		w.failf("%d waits for a standby that is not there", id)
	}
}

// answer adopts what was asked for.
func (w *world) answer() {
	for _, id := range w.asked {
		c := w.conns[id]
		if c.ended || !c.free {
			continue
		}
		r := record(id, false) // a log would have to be taken along: of its own session only
		c.logged, c.free, c.permit = false, false, c.delivered
		var pos [2]replication.StreamPos
		for s := range pos {
			pos[s] = replication.StreamPos{Delivered: c.delivered[s], Acked: c.delivered[s], Received: c.received[s]}
		}
		pos[0].Bytes = [][]byte{make([]byte, c.received[0]-c.delivered[0])}
		if err := w.a.shell.Adopt(w.now, r, pos, nil); err != nil {
			c.free = true
			w.seen["not adopted"]++
			continue
		}
		c.everProtected = true
		w.seen["adopted"]++
	}
	w.asked = nil
}

func (w *world) lose() {
	w.seen["lost"]++
	b := w.b
	w.b = nil
	w.a.sent, b.sent = nil, nil
	w.a.shell.Detach()
	w.a.shell.With(w.now, (*replication.Core).PeerLost)
	for _, id := range w.ids {
		if c := w.conns[id]; !c.ended && (!c.free || !c.opened || c.legs > 0) {
			w.failf("no standby, and %d waits: free %v, opened %v, legs %d", id, c.free, c.opened, c.legs)
		}
	}
}

func (w *world) join() {
	w.seen["joined"]++
	w.b = newEnd(w.t, replication.RoleStandby)
	begin(w.t, w.now, w.a, w.b)
}

// move lets a few frames through, and somebody run.
func (w *world) move() {
	for _, e := range []*end{w.a, w.b} {
		if e == nil {
			continue
		}
		if e.kicked && w.rng.IntN(3) > 0 {
			e.kicked = false
			e.shell.Run(w.now)
		}
		for n := w.rng.IntN(4); n > 0 && len(e.sent) > 0 && w.b != nil; n-- {
			f := e.sent[0]
			e.sent = e.sent[1:]
			step(w.t, e.peer, w.now, f)
			w.check("active", w.a.core.Check())
			w.check("standby", w.b.core.Check())
		}
	}
}

func (w *world) tick() {
	for _, e := range []*end{w.a, w.b} {
		if e != nil && e.shell.Due() <= w.now {
			e.shell.Tick(w.now, uint32(w.now/ms))
		}
	}
}

// rest lets everything come to its end: what nobody is asked for never comes.
func (w *world) rest() {
	if w.b == nil {
		w.join()
	}
	for range 40 {
		w.now += 5 * ms
		w.tick()
		w.answer()
		exchange(w.t, w.now, w.a, w.b)
	}
	for _, id := range w.ids {
		c := w.conns[id]
		switch {
		case c.ended:
		case !c.opened || c.legs > 0:
			w.failf("at rest %d waits: opened %v, legs %d", id, c.opened, c.legs)
		case c.free:
		case c.permit[0] < c.received[0] || c.permit[1] < c.delivered[1]:
			w.failf("at rest %d may be acknowledged up to %v: %+v, %+v", id, c.permit, *c, w.a.core.Stats())
		}
	}
	if !w.a.core.InSync() {
		w.failf("at rest the standby is not in sync: %+v", w.a.core.Stats())
	}
}

func play(t *testing.T, seed uint64, seen map[string]int) []string {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), a: newEnd(t, replication.RoleActive), conns: map[replication.ConnID]*conn{}, seen: seen}
	w.a.onEffect = w.effect
	for range 600 {
		w.act()
	}
	w.rest()
	return w.trace
}

// Whatever comes in whatever order: no effect is early, none is missing, and who drives
// the shell is asked for all that it needs. Equal seeds give equal runs.
func TestSeeds(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(120) {
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) {
			if one, two := play(t, seed, seen), play(t, seed, map[string]int{}); !slices.Equal(one, two) {
				t.Error("two runs differ")
			}
		}) {
			break
		}
	}
	for _, what := range []string{"unprotect", "opened", "leg", "permit", "need", "adopt", "adopted", "not adopted", "lost", "joined"} {
		if seen[what] == 0 {
			t.Errorf("%q never happens: %v", what, seen)
		}
	}
}
