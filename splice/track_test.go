package splice

import (
	"testing"
	"time"
)

func (r *rig) at(s Side, next, ack uint32) {
	r.t.Helper()
	if p := r.Position(s); p.Next != next || p.Ack != ack || !p.Known {
		r.t.Fatalf("side %d is at %d, %d (%v), want %d, %d", s, p.Next, p.Ack, p.Known, next, ack)
	}
}

func TestExchange(t *testing.T) {
	for _, a := range []Addrs{addrs4, addrs6, own4, own6} {
		r := newRig(t, a)
		r.open()
		r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, n: 100, window: 512}) // past the wrap
		r.at(Client, cSeq+100, sSeq)
		r.want(0, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq + 100, window: 500})
		r.want(0, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq + 100, n: 60000, window: 500})
		r.want(0, Client, tcp{flags: flagACK, seq: cSeq + 100, ack: sSeq + 30000, window: 300})
		r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq + 30000, n: 100, window: 300}) // again: old
		r.at(Client, cSeq+100, sSeq+30000)
		r.at(Server, sSeq+60000, cSeq+100)
		p, q := r.Position(Client), r.Position(Server)
		if p.Bytes != 100 || p.Delivered != 100 || p.Segments != 5 || q.Bytes != 60000 || q.Delivered != 30000 || q.Segments != 3 {
			t.Fatalf("%+v\n%+v", p, q)
		}
		if p.Edge != sSeq+30000+300<<7 || p.Window != 300 || q.Edge != cSeq+65160 {
			t.Fatalf("%+v\n%+v", p, q)
		}
	}
}

// An ACK that is ahead of a lost FIN, as Linux sends it (it has SND.NXT), shows the FIN's octet before the FIN comes again.
func TestFINIsNoPayload(t *testing.T) {
	r := newRig(t, addrs4)
	r.open()
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, n: 100, window: 512})
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq + 151, ack: sSeq, window: 512}) // 50 bytes and FIN are lost
	r.want(0, Client, tcp{flags: flagACK | flagFIN, seq: cSeq + 100, ack: sSeq, n: 50, window: 512})
	r.want(0, Client, tcp{flags: flagACK | flagFIN, seq: cSeq + 100, ack: sSeq, n: 50, window: 512})
	r.want(0, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq + 151, window: 500})
	if p := r.Position(Client); p.Bytes != 150 || p.Delivered != 150 || p.FIN != cSeq+151 {
		t.Fatalf("%+v", p)
	}
}

// Every order of two FINs and their acknowledgements ends the connection once, with the last.
func TestOrdersOfFIN(t *testing.T) {
	type step struct {
		from Side
		seg  tcp
		end  bool
	}
	fin := flagFIN | flagACK
	for name, steps := range map[string][]step{
		"client first": {
			{Client, tcp{flags: fin, seq: cSeq, ack: sSeq}, false},
			{Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq + 1}, false},
			{Server, tcp{flags: fin, seq: sSeq, ack: cSeq + 1}, false},
			{Client, tcp{flags: flagACK, seq: cSeq + 1, ack: sSeq + 1}, true},
		},
		"server first, in one": {
			{Server, tcp{flags: fin, seq: sSeq, ack: cSeq}, false},
			{Client, tcp{flags: fin, seq: cSeq, ack: sSeq + 1}, false},
			{Server, tcp{flags: flagACK, seq: sSeq + 1, ack: cSeq + 1}, true},
		},
		"both at once": {
			{Client, tcp{flags: fin, seq: cSeq, ack: sSeq}, false},
			{Server, tcp{flags: fin, seq: sSeq, ack: cSeq}, false},
			{Client, tcp{flags: flagACK, seq: cSeq + 1, ack: sSeq + 1}, false},
			{Server, tcp{flags: flagACK, seq: sSeq + 1, ack: cSeq + 1}, true},
		},
		"with data, the FIN lost behind us": {
			{Client, tcp{flags: fin, seq: cSeq, ack: sSeq, n: 50}, false},
			{Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq}, false},
			{Server, tcp{flags: fin, seq: sSeq, ack: cSeq, n: 7}, false},
			{Client, tcp{flags: flagACK, seq: cSeq + 51, ack: sSeq + 8}, false},
			{Client, tcp{flags: fin, seq: cSeq, ack: sSeq + 8, n: 50}, false},
			{Server, tcp{flags: flagACK, seq: sSeq + 8, ack: cSeq + 51}, true},
		},
		"the FIN before the data": { // reordered
			{Client, tcp{flags: fin, seq: cSeq + 50, ack: sSeq}, false},
			{Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, n: 50}, false},
			{Server, tcp{flags: fin, seq: sSeq, ack: cSeq + 51}, false},
			{Client, tcp{flags: flagACK, seq: cSeq + 51, ack: sSeq + 1}, true},
		},
	} {
		r := newRig(t, addrs4)
		r.open()
		for i, s := range steps {
			s.seg.window = 400
			e := EventNone
			if s.end {
				e = EventEnded
			}
			if v := r.send(s.from, s.seg); v != (Verdict{Event: e}) {
				t.Fatalf("%s, step %d: %+v", name, i, v)
			}
			if want := map[bool]State{true: Closed, false: HalfClosed}[s.end]; r.State() != want {
				t.Fatalf("%s, step %d: %v, want %v", name, i, r.State(), want)
			}
		}
		p, q := r.Position(Client), r.Position(Server)
		if p.Bytes != p.Delivered || q.Bytes != q.Delivered || p.Bytes%50 != 0 || q.Bytes%7 != 0 {
			t.Fatalf("%s: a FIN counts as a byte: %+v, %+v", name, p, q)
		}
		// The tombstone passes the last FIN on, and its answer, and is over at last.
		r.want(0, Server, tcp{flags: fin, seq: q.Next - 1, ack: p.Next})
		r.want(0, Client, tcp{flags: flagACK, seq: p.Next, ack: q.Next})
		if r.state(Closed); r.Over(r.now+tombstoneIdle-1) || !r.Over(r.now+tombstoneIdle) {
			t.Fatalf("%s: over at the wrong time", name)
		}
		r.now += 2 * time.Second
		r.want(0, Client, tcp{flags: flagACK, seq: p.Next, ack: q.Next})
		r.state(Closed)
		r.want(EventReused, Client, tcp{flags: flagSYN, seq: 77})
	}
}

func TestRST(t *testing.T) {
	for _, x := range []struct {
		name  string
		from  Side
		s     tcp
		event Event
	}{
		{"where the server is", Client, tcp{flags: flagRST, seq: cSeq + 100}, EventEnded},
		{"behind what is on its way", Client, tcp{flags: flagRST | flagACK, seq: cSeq + 200, ack: 5}, EventEnded},
		{"the server's", Server, tcp{flags: flagRST, seq: sSeq}, EventEnded},
		{"inside the window", Client, tcp{flags: flagRST, seq: cSeq + 150}, EventNone},
		{"one below", Client, tcp{flags: flagRST, seq: cSeq + 99}, EventNone},
		{"far off", Client, tcp{flags: flagRST, seq: cSeq + 1<<30}, EventNone},
		{"far off, the server's", Server, tcp{flags: flagRST, seq: sSeq - 1<<30}, EventNone},
	} {
		r := newRig(t, addrs4)
		r.open()
		r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, n: 200, window: 512})
		r.want(0, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq + 100, window: 512})
		if v := r.send(x.from, x.s); v != (Verdict{Event: x.event}) {
			t.Fatalf("%s: %+v", x.name, v)
		}
		if x.event == EventNone {
			r.state(Open)
			continue
		}
		r.state(Reset)
		if r.Over(r.now + tombstoneIdle - 1) {
			t.Fatalf("%s: over too soon", x.name)
		}
		r.want(EventReused, Client, tcp{flags: flagSYN, seq: cISN})
	}
}

// A forged RST that its receiver does not respect ends nothing; what the receiver said before it came does not count.
func TestRevived(t *testing.T) {
	r := newRig(t, own4)
	r.open()
	r.want(EventEnded, Client, tcp{flags: flagRST, seq: cSeq})
	r.now += grace / 2
	r.want(0, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq, n: 10, window: 512})
	r.state(Reset)
	r.now += grace
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq + 10, window: 512})
	r.want(0, Server, tcp{flags: flagACK, seq: sSeq + 1<<30, ack: cSeq, n: 10, window: 512}) // nor what nobody believes
	r.state(Reset)
	r.want(EventRevived, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq, n: 10, window: 512})
	r.state(Open)
}

// Forged segments neither end nor move a connection. (All are passed on: the ends judge them.)
func TestForged(t *testing.T) {
	r := newRig(t, addrs4)
	r.open()
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, n: 100, window: 512})
	r.want(0, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq + 100, n: 100, window: 512})
	before := [2]Position{r.Position(Client), r.Position(Server)}
	for _, s := range []tcp{
		{flags: flagACK, seq: cSeq + 1<<28, ack: sSeq, n: 10},           // beyond the window
		{flags: flagACK, seq: cSeq + 50, ack: sSeq + 101},               // old
		{flags: flagACK, seq: cSeq + 100, ack: sSeq + 101},              // acknowledges what was not sent
		{flags: flagACK, seq: cSeq + 100, ack: sSeq - 1<<31 + 5, n: 50}, // or what is long gone
		{flags: flagFIN, seq: cSeq + 100},                               // has no ACK
		{flags: flagFIN | flagACK, seq: cSeq + 1<<27, ack: sSeq},
		{flags: 0, seq: cSeq + 100, n: 50},
	} {
		r.want(0, Client, s)
		r.state(Open)
		p, q := r.Position(Client), r.Position(Server)
		p.Segments, q.Segments = before[0].Segments, before[1].Segments
		if p != before[0] || q != before[1] {
			t.Fatalf("%+v is believed:\n%+v\n%+v", s, p, q)
		}
	}
	// One inside the window can only raise what was sent, as it makes the receiver believe it.
	r.want(0, Client, tcp{flags: flagACK | flagFIN, seq: cSeq + 5000, ack: sSeq, n: 10})
	r.state(HalfClosed)
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq + 100, ack: sSeq + 100, n: 10000, window: 512})
	r.state(Open) // there was no FIN
	r.at(Client, cSeq+10100, sSeq+100)
}

// What is sent beyond the window counts by one octet at most: a probe.
func TestWindowProbe(t *testing.T) {
	r := newRig(t, addrs4)
	r.open()
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, n: 65160, window: 512})
	r.want(0, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq + 65160, window: 0})
	for range 3 {
		r.want(0, Client, tcp{flags: flagACK, seq: cSeq + 65159, ack: sSeq, window: 512}) // Linux's: nothing, one below
		r.want(0, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq + 65160, window: 0})
	}
	r.at(Client, cSeq+65160, sSeq)
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq + 65160, ack: sSeq, n: 500, window: 512})
	r.at(Client, cSeq+65161, sSeq)
	r.want(0, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq + 65161, window: 100})
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq + 65161, ack: sSeq, n: 5000, window: 512})
	r.at(Client, cSeq+70161, sSeq)
}

func TestTimestamps(t *testing.T) {
	stamp := func(val, ecr byte) []byte { return []byte{1, 1, 8, 10, 0, 0, 0, val, 0, 0, 0, ecr} }
	r := newRig(t, own6)
	r.want(EventSYN, Client, tcp{flags: flagSYN, seq: cISN, window: 64240, opts: []byte{8, 10, 0, 0, 0, 1, 0, 0, 0, 0}})
	r.want(EventSYNACK, Server, tcp{flags: flagSYN | flagACK, seq: sISN, ack: cSeq, window: 65160, opts: []byte{8, 10, 0, 0, 0, 100, 0, 0, 0, 1}})
	r.want(EventOpened, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, window: 512, opts: stamp(2, 100)})
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq + 100, ack: sSeq, n: 100, window: 512, opts: stamp(4, 100)}) // out of order
	if p, q := r.Position(Client), r.Position(Server); p.TSVal != 4 || q.Echo != 2 || q.TSVal != 100 || p.Echo != 100 {
		t.Fatalf("%+v\n%+v", p, q)
	}
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, n: 100, window: 512, opts: stamp(3, 100)})
	if p, q := r.Position(Client), r.Position(Server); p.TSVal != 4 || q.Echo != 3 {
		t.Fatalf("%+v\n%+v", p, q)
	}
}
