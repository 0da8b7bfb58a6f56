package splice

import (
	"testing"

	"pgregory.net/rapid"
)

// The world of a switch: two streams through an appliance, each with its sender, its receiver and
// the endpoint between, and a standby that hears everything late. Numbers are positions.
type world struct {
	t     *rapid.T
	c     Conn
	sw    Switch
	next  [2]uint32 // sent by the sender
	freed [2]uint32 // acknowledged to it: it has these no more
	has   [2]uint32 // at the receiver, in order
	got   [2]uint32 // at the sender's endpoint, in order
	left  [2]uint32 // acknowledged by us
	queue []func()  // to the standby
	// window is what the receiver announces, in units of 128 octets. It may take more all the same.
	window [2]uint16

	ended  bool // what the standby knows
	point  [2]uint32
	safe   [2]uint32 // what it holds or knows to be delivered, of an ended connection
	absent bool      // there is none
}

const base = 1<<32 - 5000 // so that numbers wrap

func newWorld(t *rapid.T) *world {
	w := &world{t: t, absent: rapid.Bool().Draw(t, "alone")}
	w.c.Restore(addrs4, Params{WS: [2]int8{7, 7}}, 0)
	w.c.located = true
	for i := range 2 {
		w.c.ends[i].heard = 1
		for _, n := range []*[2]uint32{&w.next, &w.freed, &w.has, &w.safe} {
			n[i] = base
		}
	}
	w.note()
	return w
}

// note makes the tracker right.
func (w *world) note() {
	for i := range 2 {
		w.c.ends[i].next = w.next[i]
		if w.sw.phase == Passing {
			w.c.ends[1-i].ack = w.freed[i]
		} else {
			w.c.ends[1-i].ack = w.sw.acked[i]
		}
		w.c.ends[1-i].window = w.window[i]
	}
}

func furthest(a *uint32, b uint32) {
	if after(b, *a) {
		*a = b
	}
}

func (w *world) lost() bool { return rapid.IntRange(0, 3).Draw(w.t, "lost") == 0 }

// say tells the standby something.
func (w *world) say(f func()) {
	if w.absent {
		f()
		return
	}
	w.queue = append(w.queue, f)
}

// data: the sender sends something, new or again.
func (w *world) data(i Side) {
	seq := w.freed[i] + uint32(rapid.Uint32Range(0, w.next[i]-w.freed[i]).Draw(w.t, "from"))
	end := seq + rapid.Uint32Range(0, 900).Draw(w.t, "bytes")
	furthest(&w.next[i], end)
	if w.lost() {
		return
	}
	w.note()
	r := w.sw.Segment(i, seq, end, w.has[1-i])
	w.ack(1-i, w.has[1-i], r)
	if r.Whole && !after(seq, w.has[i]) && !w.lost() {
		furthest(&w.has[i], end)
	}
	if r.Endpoint && !after(seq, w.got[i]) {
		furthest(&w.got[i], end)
	}
}

// ack: the receiver's word about a stream has come, and passes on as its segment is routed.
func (w *world) ack(of Side, n uint32, r Route) {
	if w.sw.phase != Passing && w.sw.phase != Draining {
		w.say(func() { furthest(&w.safe[of], n) })
	}
	if w.sw.phase != Passing && after(n, w.got[of]) {
		n = w.got[of] // a sender must not forget what its endpoint lacks
	}
	if (r.Whole || r.Bare) && !w.lost() {
		furthest(&w.freed[of], n)
		furthest(&w.left[of], n)
	}
}

// forward: the receiver's endpoint sends what the sender's has.
func (w *world) forward(i Side) {
	if w.sw.phase == Passing || w.lost() {
		return
	}
	if !after(w.sw.point[i], w.has[i]) {
		furthest(&w.has[i], w.got[i])
	}
}

// answer: the sender's endpoint acknowledges what the gate lets through.
func (w *world) answer(i Side) {
	if w.sw.phase == Passing {
		return
	}
	n := w.got[i]
	own, rule := w.sw.Gate()
	if own && after(n, w.sw.acked[i]) {
		n = w.sw.acked[i]
	}
	if rule && !w.absent && after(n, w.safe[i]) {
		n = w.safe[i]
	}
	furthest(&w.left[i], n)
	if !w.lost() {
		furthest(&w.freed[i], n)
	}
}

func (w *world) begin(Side) {
	w.note()
	for i := range 2 {
		w.window[i] = uint16(rapid.Uint32Range(0, 20).Draw(w.t, "window"))
	}
	w.note()
	if w.sw.Begin(&w.c) == RefusalNone {
		w.got, w.left = w.sw.point, w.sw.acked
	}
}

// tell: the record goes to the standby, with the streams as they are.
func (w *world) tell(Side) {
	if w.sw.phase != Telling {
		return
	}
	point, at := w.sw.point, w.sw.acked
	w.say(func() {
		if !w.ended { // told twice it is told once: a record does not take back what came behind it
			w.ended, w.point, w.safe = true, point, at
		}
	})
	w.say(func() { w.sw.Told() })
}

// ship: bytes go to the standby.
func (w *world) ship(i Side) {
	if n := w.got[i]; w.sw.phase == Telling || w.sw.phase == Ended || w.sw.phase == Returning {
		w.say(func() {
			if w.ended {
				furthest(&w.safe[i], n)
			}
		})
	}
}

func (w *world) back(Side) {
	if w.sw.Return(w.left) != RefusalNone {
		return
	}
	w.say(func() { w.ended = false })
	w.say(func() { w.sw.ToldBack() })
}

func (w *world) leave(Side) {
	w.note()
	w.sw.Leave(&w.c, w.left)
}

func (w *world) hear(Side) {
	if len(w.queue) > 0 {
		f := w.queue[0]
		w.queue = w.queue[1:]
		f()
	}
}

// check: should the appliance die now, its standby goes on with what it knows, and every byte that a sender
// has no more is at its receiver, or in the standby with all that lies between.
func (w *world) check() {
	for i := range 2 {
		switch {
		case after(w.freed[i], w.next[i]) || after(w.has[i], w.next[i]):
			w.t.Fatalf("stream %d: beyond what was sent", i)
		case w.absent: // nobody goes on
		case !w.ended && after(w.freed[i], w.has[i]):
			w.t.Fatalf("%v: the standby passes on, and bytes are lost up to %d", w.sw.phase, w.freed[i]-w.has[i])
		case w.ended && after(w.point[i], w.has[i]):
			w.t.Fatalf("%v: the standby begins %d bytes behind what the receiver has", w.sw.phase, w.point[i]-w.has[i])
		case w.ended && after(w.freed[i], w.safe[i]):
			w.t.Fatalf("%v: %d bytes that the standby knows nothing of are acknowledged", w.sw.phase, w.freed[i]-w.safe[i])
		}
	}
}

// Whenever the appliance dies, whatever has got through to the standby, no byte is lost; and the
// connection comes to every phase and moves in all of them.
func TestSwitchLosesNothing(t *testing.T) {
	seen := map[Phase]int{}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		steps := []func(Side){w.data, w.data, w.data, w.forward, w.forward, w.answer, w.answer, w.begin, w.tell, w.ship, w.back, w.leave, w.hear, w.hear}
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			f := rapid.IntRange(0, len(steps)-1).Draw(t, "step")
			steps[f](Side(rapid.IntRange(0, 1).Draw(t, "side")))
			w.check()
			seen[w.sw.phase]++
		}
		// With everything repeated the streams come to their end, wherever the switch is.
		for range 4 {
			for i := Client; i <= Server; i++ {
				w.finish(i)
				w.check()
			}
		}
		for i := range 2 {
			if w.has[i] != w.next[i] || w.freed[i] != w.next[i] {
				t.Fatalf("%v: stream %d stands: sent %d, received %d, acknowledged %d", w.sw.phase, i, w.next[i]-base, w.has[i]-base, w.freed[i]-base)
			}
		}
	})
	t.Log(seen)
	for p := Passing; p <= Leaving; p++ {
		if seen[p] == 0 {
			t.Errorf("never %v", p)
		}
	}
}

// finish repeats what is not acknowledged, without loss.
func (w *world) finish(i Side) {
	seq, end := w.freed[i], w.next[i]
	r := w.sw.Segment(i, seq, end, w.has[1-i])
	if r.Whole && !after(seq, w.has[i]) {
		furthest(&w.has[i], end)
	}
	if r.Endpoint && !after(seq, w.got[i]) {
		furthest(&w.got[i], end)
	}
	if w.sw.phase != Passing {
		furthest(&w.has[i], w.got[i])
	}
	r = w.sw.Segment(i.Other(), w.next[1-i], w.next[1-i], w.has[i])
	if r.Whole || r.Bare {
		furthest(&w.freed[i], w.has[i])
		furthest(&w.left[i], w.has[i])
	} else if n := w.has[i]; true {
		w.say(func() { furthest(&w.safe[i], n) })
	}
	w.tell(i)
	w.ship(i)
	for len(w.queue) > 0 {
		w.hear(i)
	}
	w.note()
	own, _ := w.sw.Gate()
	if w.sw.phase != Passing && (!own || !after(w.got[i], w.sw.acked[i])) {
		furthest(&w.left[i], w.got[i])
		furthest(&w.freed[i], w.got[i])
	}
}

func TestSwitchRefuses(t *testing.T) {
	r := newRig(t, addrs4)
	var s Switch
	if why := s.Begin(&r.Conn); why != RefusalState {
		t.Errorf("opening: %v", why)
	}
	r.open()
	r.want(0, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq, n: 100, window: 500})
	if why := s.Begin(&r.Conn); why != RefusalNone || s.Phase() != Draining || s.Point(Server) != sSeq+100 || s.Own(Server) != sSeq || s.Point(Client) != cSeq {
		t.Fatalf("open: %v %+v", why, s)
	}
	if why := s.Begin(&r.Conn); why != RefusalPhase {
		t.Errorf("again: %v", why)
	}
	if r := s.Segment(Server, sSeq, sSeq+100, cSeq); r != (Route{Whole: true}) {
		t.Errorf("sent again: %+v", r)
	}
	if r := s.Segment(Server, sSeq+50, sSeq+150, cSeq); r != (Route{Whole: true, Endpoint: true}) {
		t.Errorf("across the point: %+v", r)
	}
	if r := s.Segment(Server, sSeq+100, sSeq+200, cSeq); r != (Route{Bare: true, Endpoint: true}) {
		t.Errorf("behind the point: %+v", r)
	}
	if s.Told() || s.ToldBack() || s.Return([2]uint32{}) != RefusalPhase || s.Leave(&r.Conn, [2]uint32{}) {
		t.Error("a phase was left out")
	}
	if r := s.Segment(Client, cSeq, cSeq, sSeq+100); r != (Route{Bare: true, Endpoint: true}) || s.Phase() != Telling {
		t.Errorf("the last acknowledgement: %+v, %v", r, s.Phase())
	}
	if !s.Told() || s.Return([2]uint32{cSeq, sSeq + 101}) != RefusalHeld {
		t.Error("bytes that are held here were left to nobody")
	}
	r.want(0, Client, tcp{flags: flagFIN | flagACK, seq: cSeq, ack: sSeq + 100, window: 500})
	var other Switch
	if why := other.Begin(&r.Conn); why != RefusalState {
		t.Errorf("half closed: %v", why)
	}
	k := newRig(t, addrs4)
	k.Restore(addrs4, Params{WS: [2]int8{7, 7}, MSS: [2]uint16{1460, 1460}}, 0)
	if why := other.Begin(&k.Conn); why != RefusalUnknown {
		t.Errorf("after a takeover: %v", why)
	}
}
