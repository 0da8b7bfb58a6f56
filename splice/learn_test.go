package splice

import (
	"testing"
	"time"
)

// taken is a connection after a takeover, and where its ends were.
func taken(t *testing.T) *rig {
	r := newRig(t, own4)
	r.open()
	p := r.Params()
	r.Restore(own4, p, 0)
	return r
}

// A continued connection drops nothing and learns where the two are from one segment of each.
func TestLearn(t *testing.T) {
	r := taken(t)
	far := uint32(3 << 30) // since the handshake
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq + far, ack: sSeq + 77, n: 1000, window: 512})
	if r.state(Open); r.Located() {
		t.Fatal("one segment tells it all")
	}
	r.want(0, Server, tcp{flags: flagACK, seq: sSeq + 77, ack: cSeq + far - 500, window: 500})
	r.at(Client, cSeq+far+1000, sSeq+77)
	r.at(Server, sSeq+77, cSeq+far-500)
	r.want(0, Client, tcp{flags: flagACK | flagFIN, seq: cSeq + far + 1000, ack: sSeq + 77, window: 512})
	r.want(0, Server, tcp{flags: flagACK | flagFIN, seq: sSeq + 77, ack: cSeq + far + 1001, window: 500})
	r.want(EventEnded, Client, tcp{flags: flagACK, seq: cSeq + far + 1001, ack: sSeq + 78, window: 512})
	r.state(Closed)
}

// Two that do not agree tell nothing; the next that do, do.
func TestLearnFromForged(t *testing.T) {
	r := taken(t)
	r.want(0, Client, tcp{flags: flagACK, seq: 1 << 30, ack: 2 << 30, n: 10, window: 512}) // forged
	r.want(0, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq, window: 512})
	if r.Located() {
		t.Fatal("a forged segment was believed")
	}
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, window: 512})
	r.at(Client, cSeq, sSeq)
}

// Even if somebody forges both sides so that they agree, the connection is not moved for long:
// the true ends' segments are passed on, and learnt again.
func TestRelearn(t *testing.T) {
	r := taken(t)
	r.want(0, Client, tcp{flags: flagACK, seq: 1 << 30, ack: 3 << 30, window: 512})
	r.want(0, Server, tcp{flags: flagACK, seq: 3 << 30, ack: 1 << 30, window: 512})
	if r.at(Client, 1<<30, 3<<30); r.proven {
		t.Fatal("taken for proven")
	}
	for i := range uint32(oddMax + 1) {
		r.want(0, Client, tcp{flags: flagACK, seq: cSeq + i, ack: sSeq + i, n: 1, window: 512})
		r.want(0, Server, tcp{flags: flagACK, seq: sSeq + i, ack: cSeq + i + 1, n: 1, window: 512})
	}
	r.at(Client, cSeq+oddMax+1, sSeq+oddMax)
}

// asked wants a side to be asked now, once, and returns the question.
func (r *rig) asked(to Side) (probe []byte) {
	r.t.Helper()
	got, ask := r.Ask(r.now)
	if !ask || got != to {
		r.t.Fatalf("asks %v, %v; want %v", got, ask, to)
	}
	if _, again := r.Ask(r.now + askAgain - 1); again {
		r.t.Fatalf("asks twice")
	}
	probe = r.Probe(to, make([]byte, MaxMade))
	whole(r.t, probe, 0)
	return probe
}

// A RST of which it is not known whether its receiver believes it is asked about. A living end
// says so; a dead one answers with a number that only who got the question knows.
func TestDoubtfulRST(t *testing.T) {
	r := taken(t)
	r.want(0, Client, tcp{flags: flagRST, seq: 12345})
	r.state(Open)
	r.now += askAgain + 1
	r.asked(Server)
	r.want(0, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq, window: 512})
	r.now += 10 * askAgain
	if _, ask := r.Ask(r.now); ask {
		t.Fatal("asks on although the server lives")
	}

	r = taken(t)
	r.want(0, Client, tcp{flags: flagRST, seq: 12345})
	probe := r.asked(Server)
	r.want(0, Server, tcp{flags: flagRST, seq: be32(probe[28:]) + 1}) // a guess
	r.state(Open)
	r.now += askAgain
	r.asked(Client) // the guess was a RST as well
	r.now += askAgain
	r.want(0, Client, tcp{flags: flagRST, seq: 12345})
	probe = r.asked(Server)
	r.want(EventEnded, Server, tcp{flags: flagRST, seq: be32(probe[28:])})
	r.state(Reset)
	r.now += grace + askAgain
	if _, ask := r.Ask(r.now); ask {
		t.Fatal("asks whether the dead lives")
	}
}

// Who forges both ends after a takeover, and then a RST or FINs, ends nothing: the ends are
// asked, and contradict.
func TestForgedEndAfterTakeover(t *testing.T) {
	forge := func(r *rig) {
		r.want(0, Client, tcp{flags: flagACK, seq: 1 << 30, ack: 3 << 30, window: 512})
		r.want(0, Server, tcp{flags: flagACK, seq: 3 << 30, ack: 1 << 30, window: 512})
	}
	r := taken(t)
	forge(r)
	r.want(EventEnded, Client, tcp{flags: flagRST, seq: 1 << 30})
	r.dropsSYN()
	r.now += grace + 1
	r.asked(Server)
	r.dropsSYN()
	r.want(EventRevived, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq, window: 512})
	r.state(Open)

	r = taken(t)
	forge(r)
	r.want(0, Client, tcp{flags: flagACK | flagFIN, seq: 1 << 30, ack: 3 << 30, window: 512})
	r.want(0, Server, tcp{flags: flagACK | flagFIN, seq: 3 << 30, ack: 1<<30 + 1, window: 512})
	r.want(EventEnded, Client, tcp{flags: flagACK, seq: 1<<30 + 1, ack: 3<<30 + 1, window: 512})
	r.dropsSYN()
	r.now += grace + 1
	r.asked(Server)
	r.want(EventRevived, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq, window: 512})
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, n: 5, window: 512})
	r.at(Client, cSeq+5, sSeq)
}

// dropsSYN wants the client's SYN to be dropped, and counted.
func (r *rig) dropsSYN() {
	r.t.Helper()
	if v := r.send(Client, tcp{flags: flagSYN, seq: 777, window: 1000}); v != (Verdict{Drop: DropStale}) {
		r.t.Fatalf("a SYN before an end was asked: %+v", v)
	}
}

// A true end after a takeover keeps nobody from the port for long: whoever is closed says so when asked, and who is
// gone is not waited for.
func TestEndAfterTakeover(t *testing.T) {
	for _, answers := range []bool{true, false} {
		r := taken(t)
		r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, window: 512})
		r.want(0, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq, window: 512})
		r.want(EventEnded, Client, tcp{flags: flagRST, seq: cSeq})
		r.dropsSYN()
		r.now += grace + 1
		probe := r.asked(Server)
		if answers {
			r.want(0, Server, tcp{flags: flagRST, seq: be32(probe[28:])})
		} else {
			r.now += 2*askAgain - 1
			r.dropsSYN()
			r.now++
		}
		r.want(EventReused, Client, tcp{flags: flagSYN, seq: 777, window: 1000})
	}
}

// A server may answer the same SYN twice and differently, as one does that begins to send SYN cookies, or ends it. A
// successor with the record of the first, whatever the ends have agreed on by the second, passes all on, asks so that
// they answer, and finds out where they are, if not at once: the windows that it reckons with may be too small.
func TestRecordOfEarlierSYNACK(t *testing.T) {
	small := []byte{2, 4, 5, 0xb4}
	all := []byte{2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7}
	stamped := []byte{1, 1, 8, 10, 0, 0, 0, 20, 0, 0, 0, 10}
	for _, opts := range [][2][]byte{{small, all}, {all, small}} {
		r := newRig(t, own4)
		r.want(EventSYN, Client, tcp{flags: flagSYN, seq: cISN, window: 64240, opts: all})
		r.want(EventSYNACK, Server, tcp{flags: flagSYN | flagACK, seq: sISN - 999, ack: cSeq, window: 65160, opts: opts[0]})
		record := r.Params()
		r.want(EventSYNACK, Server, tcp{flags: flagSYN | flagACK, seq: sISN, ack: cSeq, window: 65160, opts: opts[1]})
		scale, ts := uint(0), []byte(nil)
		if len(opts[1]) > 4 {
			scale, ts = 7, stamped
		}
		field := uint16(0xffff >> scale)
		r.want(EventOpened, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, window: field, opts: ts})
		r.Restore(own4, record, 0)
		sent := uint32(0)
		for range 40 { // a whole window each time, then its ACK
			for range 40 {
				r.want(0, Server, tcp{flags: flagACK, seq: sSeq + sent, ack: cSeq, n: 1400, window: field, opts: ts})
				sent += 1400
			}
			r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq + sent, window: field, opts: ts})
		}
		for range oddMax + 1 {
			r.want(0, Server, tcp{flags: flagACK, seq: sSeq + sent, ack: cSeq, n: 1, window: field, opts: ts})
			sent++
			r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq + sent, window: field, opts: ts})
		}
		r.at(Server, sSeq+sent, cSeq)
		probe := r.Probe(Client, make([]byte, MaxMade))
		if has := len(probe) > 40; has && ts == nil && !record.TS || !has && ts != nil {
			t.Fatalf("timestamps in a question: %v, the ends use them: %v", has, ts != nil)
		}
		r.want(0, Server, tcp{flags: flagACK | flagFIN, seq: sSeq + sent, ack: cSeq, window: field, opts: ts})
		r.want(0, Client, tcp{flags: flagACK | flagFIN, seq: cSeq, ack: sSeq + sent + 1, window: field, opts: ts})
		r.want(EventEnded, Server, tcp{flags: flagACK, seq: sSeq + sent + 1, ack: cSeq + 1, window: field, opts: ts})
	}
}

// A FIN that has passed before the takeover is not known. When all is quiet the ends are asked.
func TestHalfClosedBeforeTakeover(t *testing.T) {
	r := taken(t)
	// The client has closed; the server sends the rest, and closes.
	r.want(0, Server, tcp{flags: flagACK | flagFIN, seq: sSeq, ack: cSeq + 1, n: 10, window: 512})
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq + 1, ack: sSeq + 11, window: 512})
	r.state(HalfClosed)
	r.now += quiet
	first, _ := r.Ask(r.now)
	r.Probe(first, make([]byte, MaxMade))
	r.want(0, first, tcp{flags: flagACK, seq: r.Position(first).Next, ack: r.Position(first).Ack}) // in TIME-WAIT, say
	r.now += quiet
	probe := r.asked(first.Other())
	r.want(EventEnded, first.Other(), tcp{flags: flagRST, seq: be32(probe[28:])})
}

// SYN cookies of one server may differ: the client answers the first.
func TestOtherCookieAnswered(t *testing.T) {
	r := newRig(t, addrs4)
	r.want(EventSYN, Client, tcp{flags: flagSYN, seq: cISN, window: 64240})
	r.want(EventSYNACK, Server, tcp{flags: flagSYN | flagACK, seq: sISN, ack: cSeq, window: 65160})
	r.want(EventSYN, Client, tcp{flags: flagSYN, seq: cISN, window: 64240})
	r.want(0, Server, tcp{flags: flagSYN | flagACK, seq: sISN, ack: cSeq, window: 65160}) // the same again
	r.want(EventSYNACK, Server, tcp{flags: flagSYN | flagACK, seq: sISN + 99, ack: cSeq, window: 65160})
	for _, ack := range []uint32{0, sSeq + 98, sSeq + 100, sSeq - 1, sSeq + 1} { // whoever has forged the SYN knows no number
		r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: ack, n: 10, window: 64240})
		r.state(Opening)
	}
	r.want(EventOpened, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, n: 10, window: 64240})
	r.state(Open)
	r.want(0, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq + 10, n: 10, window: 65160})
	r.at(Server, sSeq+10, cSeq+10)
}

func TestHandshake(t *testing.T) {
	r := newRig(t, own6)
	if v := r.send(Server, tcp{flags: flagSYN | flagACK, seq: 1, ack: 2}); v.Drop != DropStale {
		t.Errorf("a SYN-ACK before any SYN: %+v", v)
	}
	r.want(EventSYN, Client, tcp{flags: flagSYN, seq: cISN, window: 64240})
	r.want(EventSYN, Client, tcp{flags: flagSYN, seq: cISN, window: 64240})
	r.want(EventReused, Client, tcp{flags: flagSYN, seq: cISN + 5, window: 64240})
	for _, s := range []tcp{{flags: flagSYN, seq: 1}, {flags: flagSYN | flagACK, seq: sISN, ack: cSeq + 1}} {
		if v := r.send(Server, s); v.Drop != DropStale {
			t.Errorf("%+v: %+v", s, v)
		}
	}
	// A server in TIME-WAIT challenges, the client answers with a RST, the SYN comes again.
	r.want(0, Server, tcp{flags: flagACK, seq: 555, ack: 666, window: 5})
	r.want(0, Client, tcp{flags: flagRST, seq: 666})
	r.state(Opening)
	r.want(EventRefused, Server, tcp{flags: flagRST | flagACK, ack: cSeq})
	r.state(Opening)

	// The next server, at another address of ours.
	next := own6
	next.Local, next.Server = ap("[fd00::fe]:50001"), ap("[fd00::4]:8080")
	r.a = next
	r.Retarget(next.Local, next.Server)
	syn := r.MakeSYN(make([]byte, MaxMade))
	if src, dst := addressesOf(syn); src != next.Local || dst != next.Server || be32(syn[44:]) != cISN {
		t.Fatalf("% x", syn)
	}
	whole(t, syn, 0)
	r.want(EventSYNACK, Server, tcp{flags: flagSYN | flagACK, seq: sISN, ack: cSeq, window: 65160})
	r.want(EventSYN, Client, tcp{flags: flagSYN, seq: cISN, window: 64240})
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq + 1<<30, ack: sSeq}) // forged
	r.state(Opening)
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq + 5}) // of one who knows his own number only
	r.state(Opening)
	r.want(EventOpened, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq})
}

// A server that has answered the SYN may be left as well, as long as the client knows nothing of it.
func TestRetargetAfterAnswer(t *testing.T) {
	r := newRig(t, addrs4)
	r.want(EventSYN, Client, tcp{flags: flagSYN, seq: cISN, window: 64240})
	answer := tcp{flags: flagSYN | flagACK, seq: sISN, ack: cSeq, window: 65160}
	r.want(EventSYNACK, Server, answer)
	r.a.Server = ap("10.1.2.4:8080")
	r.Retarget(r.a.Local, r.a.Server)
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq}) // of nobody's SYN-ACK
	r.state(Opening)
	r.want(EventSYNACK, Server, answer)
	r.want(EventOpened, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq})
}

// A SYN made again says what the client's did.
func TestMakeSYN(t *testing.T) {
	ts := []byte{8, 10, 0, 0, 0, 9, 0, 0, 0, 0}
	for _, opts := range [][]byte{
		{2, 4, 5, 0xb4}, append([]byte{2, 4, 5, 0xb4, 4, 2}, append(ts, 1, 3, 3, 7)...), append([]byte{2, 4, 5, 0xb4, 1, 1}, ts...),
		{2, 4, 5, 0xb4, 4, 2, 1, 1}, {2, 4, 5, 0xb4, 1, 3, 3, 7},
	} {
		r := newRig(t, addrs4)
		r.want(EventSYN, Client, tcp{flags: flagSYN | flagECE | flagCWR, seq: cISN, window: 64240, opts: opts})
		a, b := r.out, r.MakeSYN(make([]byte, MaxMade))
		var x, y Conn
		x.Init(addrs4, 0)
		y.Init(addrs4, 0)
		p, _ := x.readSYN(a[20:], false)
		q, drop := y.readSYN(b[20:], false)
		if whole(t, b, 0); p != q || drop != DropNone || a[33] != b[33] {
			t.Errorf("% x:\n%+v\n%+v", opts, p, q)
		}
	}
}

// A server that has restarted, and a client as well, with a port that the tracker takes for open.
func TestRestartUnderneath(t *testing.T) {
	r := newRig(t, addrs4)
	r.open()
	r.want(0, Client, tcp{flags: flagSYN, seq: 777, window: 1000})
	r.want(0, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq, window: 512}) // it still knows the connection
	r.want(EventEnded, Client, tcp{flags: flagRST, seq: cSeq})
	r.want(EventReused, Client, tcp{flags: flagSYN, seq: 777, window: 1000})

	r = newRig(t, addrs4)
	r.open()
	r.want(0, Client, tcp{flags: flagSYN, seq: 777, window: 1000})
	restarted := tcp{flags: flagSYN | flagACK, seq: 888, ack: 778, window: 1000}
	if v := r.send(Server, restarted); v != (Verdict{Drop: DropStale, Event: EventEnded}) { // it does not
		t.Fatalf("%+v", v)
	}
	// The client is asked before its SYN begins another: it says by a RST, as one does that is closed or has sent a SYN
	// (RFC 9293, 3.10.7.3), that it knows nothing of the connection.
	r.dropsSYN()
	r.now += grace + 1
	probe := r.asked(Client)
	r.dropsSYN()
	r.want(0, Client, tcp{flags: flagRST, seq: be32(probe[28:]) + 1}) // a guess
	r.dropsSYN()
	r.want(0, Client, tcp{flags: flagRST, seq: be32(probe[28:])})
	r.want(EventReused, Client, tcp{flags: flagSYN, seq: 777, window: 1000})

	// Both may be forged: a client that lives says so.
	r = newRig(t, addrs4)
	r.open()
	r.want(0, Client, tcp{flags: flagSYN, seq: 777, window: 1000})
	r.send(Server, restarted)
	r.dropsSYN()
	r.now += grace + 1
	r.asked(Client)
	r.want(EventRevived, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, window: 512})
	r.want(0, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq, n: 7, window: 512})
	r.state(Open)
	r.at(Server, sSeq+7, cSeq)

	// A forged SYN moves nothing, and no forged SYN-ACK passes.
	r = newRig(t, addrs4)
	r.open()
	r.want(0, Client, tcp{flags: flagSYN, seq: 777, window: 1000})
	if v := r.send(Server, tcp{flags: flagSYN | flagACK, seq: 888, ack: 700}); v.Drop != DropStale {
		t.Fatalf("%+v", v)
	}
	r.at(Client, cSeq, sSeq)
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, n: 5, window: 512})
	r.at(Client, cSeq+5, sSeq)
}

// What is killed answers like a closed port, with a RST that is believed.
func TestKill(t *testing.T) {
	for _, a := range []Addrs{own4, addrs6} {
		r := newRig(t, a)
		r.open()
		buf, ipLen := make([]byte, MaxMade), 20
		if a.VIP.Addr().Is6() {
			ipLen = 40
		}
		b, sure := r.Reset(Server, buf)
		if src, dst := addressesOf(b); !sure || src != a.Local || dst != a.Server || be32(b[ipLen+4:]) != cSeq || b[ipLen+13] != flagRST|flagACK {
			t.Fatalf("%v % x", sure, b)
		}
		whole(t, b, 0)
		r.Kill(r.now)
		s := tcp{flags: flagACK, seq: cSeq, ack: sSeq + 9, n: 3}
		if v := r.send(Client, s); v != (Verdict{Answer: true}) {
			t.Fatalf("%+v", v)
		}
		p := packet(a, Client, s)
		b = r.Answer(Client, p, ipLen, len(p), buf)
		if src, dst := addressesOf(b); src != a.VIP || dst != a.Client || be32(b[ipLen+4:]) != sSeq+9 || b[ipLen+13] != flagRST {
			t.Fatalf("% x", b)
		}
		whole(t, b, 0)
		p = packet(a, Client, tcp{flags: flagFIN, seq: cSeq, n: 3})
		b = r.Answer(Client, p, ipLen, len(p), buf)
		if b[ipLen+13] != flagRST|flagACK || be32(b[ipLen+8:]) != cSeq+4 {
			t.Fatalf("% x", b)
		}
		if v := r.send(Client, tcp{flags: flagRST}); v.Drop != DropStale {
			t.Fatalf("%+v", v)
		}
		r.want(EventReused, Client, tcp{flags: flagSYN, seq: 1})
		if r.Over(r.now+tombstoneIdle-1) || !r.Over(r.now+tombstoneIdle) {
			t.Fatal("over at the wrong time")
		}
		r.Restore(a, Params{}, 0)
		if b, sure = r.Reset(Client, buf); sure || b[ipLen+13] != flagACK {
			t.Fatalf("after a takeover: %v % x", sure, b)
		}
	}
}

func TestIdle(t *testing.T) {
	r := newRig(t, addrs4)
	r.open()
	r.now += time.Minute
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq - 1, ack: sSeq, window: 512}) // a keepalive
	if r.Heard() != r.now || r.HeardFrom(Client) != r.now || r.HeardFrom(Server) != r.now-time.Minute || r.Over(r.now+time.Hour) {
		t.Fatal(r.Heard(), r.HeardFrom(Server))
	}
}

// What moves a connection is a byte, SYN or FIN that is sent or acknowledged: not a keepalive, its answer, a zero window's
// probe that comes again, or what is forged; nor a question of the gateway's and its answer.
func TestMoved(t *testing.T) {
	still := func(r *rig, seq, ack uint32) {
		t.Helper()
		was := r.Moved()
		for range 3 {
			r.now += time.Minute
			r.want(0, Client, tcp{flags: flagACK, seq: seq - 1, ack: ack, window: 512})
			r.want(0, Server, tcp{flags: flagACK, seq: ack, ack: seq, window: 512})
			r.want(0, Client, tcp{flags: flagACK, seq: seq - 1, ack: ack, n: 1, window: 512}) // one with a byte
			r.want(0, Server, tcp{flags: flagACK, seq: ack, ack: seq, window: 512})
		}
		if r.Moved() != was {
			t.Fatalf("moved by keepalives, %v later", r.Moved()-was)
		}
	}
	moves := func(r *rig, from Side, s tcp) {
		t.Helper()
		r.now += time.Minute
		r.want(0, from, s)
		if r.Moved() != r.now {
			t.Fatalf("%v %+v moves nothing", from, s)
		}
	}
	r := newRig(t, own4)
	r.open()
	if r.Moved() != r.now {
		t.Fatal("not moved by a handshake")
	}
	still(r, cSeq, sSeq)
	moves(r, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, n: 100, window: 512})
	moves(r, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq + 100, window: 0})
	moves(r, Client, tcp{flags: flagACK, seq: cSeq + 100, ack: sSeq, n: 1, window: 512})
	still(r, cSeq+100, sSeq)
	was := r.Moved()
	r.now += time.Minute
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq + 1<<30, ack: sSeq, n: 10, window: 512}) // forged
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq + 101, ack: sSeq + 1<<30, window: 512})
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, n: 100, window: 512}) // comes again
	if r.Moved() != was {
		t.Fatal("moved by what is forged or comes again")
	}
	moves(r, Server, tcp{flags: flagACK | flagFIN, seq: sSeq, ack: cSeq + 101, window: 512})

	r = taken(t)
	r.now += time.Minute
	probe := r.Probe(Client, make([]byte, MaxMade))
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, window: 512})
	still(r, cSeq, sSeq)
	if r.Moved() != 0 || len(probe) == 0 || !r.Located() {
		t.Fatal("moved by the answer to a question")
	}
	moves(r, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq, n: 5, window: 512})
	r = taken(t)
	moves(r, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq, n: 5, window: 512})
	moves(r, Server, tcp{flags: flagACK, seq: sSeq + 5, ack: cSeq, n: 5, window: 512})
}
