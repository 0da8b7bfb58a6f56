package stack

import (
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

var (
	lostServerA = netip.MustParseAddrPort("10.20.0.11:8080")
	lostServerB = netip.MustParseAddrPort("10.20.0.12:8080")
)

const lostPort = 40000 // the client's

// lostWorld is an engine that knows no connection, between a client and two servers.
type lostWorld struct {
	*quietEngine
	t *testing.T
}

func newLostWorld(t *testing.T) *lostWorld {
	q := newQuietEngine(t, 10)
	q.Behind(testVIP, []netip.AddrPort{lostServerA, lostServerB})
	return &lostWorld{q, t}
}

// says injects a segment of one of the ends.
func (w *lostWorld) says(from, to netip.AddrPort, m made) {
	f := flowOf(to, from)
	w.take(f.build(make([]byte, maxMade), false, true, m))
}

func (w *lostWorld) client() netip.AddrPort { return netip.AddrPortFrom(testClient, lostPort) }

// question returns where the client was asked.
func (w *lostWorld) question() uint32 {
	w.t.Helper()
	a, b := w.next(w.t), w.next(w.t)
	if a.SourcePort() != testVIP.Port() || a.DestinationPort() != lostPort || a.Flags() != header.TCPFlagAck ||
		b.SequenceNumber() != a.SequenceNumber()+1<<31 || len(a) != int(a.DataOffset())+1 {
		w.t.Fatalf("not the question: %v %v", a, b)
	}
	return b.SequenceNumber()
}

// reported is an ACK that reports the octet at seq as a duplicate.
func reported(seq uint32) made {
	o := []byte{header.TCPOptionNOP, header.TCPOptionNOP, header.TCPOptionSACK, 10, 0, 0, 0, 0, 0, 0, 0, 0}
	put32(o[4:], seq)
	put32(o[8:], seq+1)
	return made{flags: header.TCPFlagAck, seq: 1000, ack: 2000, window: 65535, opts: o}
}

// resets checks that the next segment is a RST from one port to another.
func (w *lostWorld) resets(what string, from, to uint16, seq uint32) {
	w.t.Helper()
	if s := w.next(w.t); s.Flags() != header.TCPFlagRst || s.SourcePort() != from || s.DestinationPort() != to || s.SequenceNumber() != seq {
		w.t.Fatalf("%s: flags %v seq %d, %d > %d; want a RST at %d, %d > %d", what, s.Flags(), s.SequenceNumber(), s.SourcePort(), s.DestinationPort(), seq, from, to)
	}
}

// passes checks that a server's segment is routed on, and nothing else is said.
func (w *lostWorld) passes(m made) {
	w.t.Helper()
	w.says(lostServerA, w.client(), m)
	if s := w.next(w.t); s.SourcePort() != lostServerA.Port() || s.SequenceNumber() != m.seq {
		w.t.Fatalf("%d > %d, seq %d; want the server's segment", s.SourcePort(), s.DestinationPort(), s.SequenceNumber())
	}
	w.none(w.t)
}

// asksServers reads what both servers are asked in the client's name.
func (w *lostWorld) asksServers() {
	w.t.Helper()
	for range 2 {
		if s := w.next(w.t); s.SourcePort() != lostPort || s.DestinationPort() != lostServerA.Port() || s.Flags() != header.TCPFlagAck {
			w.t.Fatalf("not a question to a server: %v", s)
		}
	}
}

var fromServer = made{flags: header.TCPFlagAck | header.TCPFlagPsh, seq: 5000, ack: 6000, window: 100}

// A server retransmits to a client that only receives: both are told.
func TestLostIsToldToBoth(t *testing.T) {
	w := newLostWorld(t)
	w.says(lostServerA, w.client(), fromServer)
	seq := w.question()
	if s := w.next(t); s.SequenceNumber() != fromServer.seq {
		t.Fatal("before anything is known the segment is routed on")
	}
	w.says(w.client(), testVIP, reported(seq))
	w.asksServers()
	w.resets("the client", testVIP.Port(), lostPort, 2000)
	w.says(lostServerA, w.client(), made{flags: header.TCPFlagAck, seq: 5001, ack: 6001, window: 100})
	w.says(lostServerB, w.client(), made{flags: header.TCPFlagRst, seq: 77}) // has none
	w.none(t)
	w.sweepLost(w.now())
	w.none(t) // others may still say that they have it
	w.sweepLost(w.now() + lostAnswer)
	w.resets("the server", lostPort, lostServerA.Port(), 6001)
	w.resets("the client again", testVIP.Port(), lostPort, 2000)
	w.says(lostServerA, w.client(), fromServer)
	w.resets("a server that has not heard it", lostPort, lostServerA.Port(), 6000)
	if n := w.C.Drops()["connection-lost"]; n != 2 {
		t.Errorf("%d counted", n)
	}
	w.sweepLost(w.now() + lostAnswer + lostKeep)
	if n := len(w.lost.asked); n != 0 {
		t.Errorf("%d clients remembered", n)
	}
}

// Of two virtual addresses before one server the client has a connection with the second
// only: its refusal for the first, one for each question, says nothing of that.
func TestLostBehindTwoAddresses(t *testing.T) {
	w := newLostWorld(t)
	second := netip.AddrPortFrom(testVIP.Addr(), testVIP.Port()+1)
	w.Behind(second, []netip.AddrPort{lostServerA, lostServerB})
	w.says(lostServerA, w.client(), fromServer)
	var seq uint32
	for range 4 {
		seq = w.next(t).SequenceNumber()
	}
	w.next(t) // the server's, routed on
	for range 2 {
		w.says(w.client(), testVIP, made{flags: header.TCPFlagRst, seq: 1})
	}
	w.says(w.client(), second, reported(seq))
	w.asksServers()
}

// A client speaks first: it is told at once, and the server as soon as that is known.
func TestLostClientSpeaks(t *testing.T) {
	w := newLostWorld(t)
	w.says(w.client(), testVIP, made{flags: header.TCPFlagAck, seq: 900, ack: 2000, window: 65535})
	seq := w.question()
	w.resets("the client", testVIP.Port(), lostPort, 2000)
	w.says(w.client(), testVIP, reported(seq))
	w.asksServers()
	w.resets("the client", testVIP.Port(), lostPort, 2000)
	w.sweepLost(w.now() + lostAgain) // no server has answered yet
	w.asksServers()
	w.says(lostServerB, w.client(), fromServer)
	w.sweepLost(w.now() + lostAgain + lostAnswer)
	w.resets("the server", lostPort, lostServerB.Port(), 6000)
}

// Whoever has not seen the question proves nothing: a server's connection with a client
// that talks to it directly cannot be ended by forged segments of the client.
func TestLostNeedsProof(t *testing.T) {
	w := newLostWorld(t)
	w.says(lostServerA, w.client(), fromServer)
	seq := w.question()
	w.next(t) // the server's
	for _, m := range []made{{flags: header.TCPFlagAck, seq: 1000, ack: 2000}, reported(seq + 1), reported(seq - 1)} {
		w.says(w.client(), testVIP, m)
		w.resets("whoever it was", testVIP.Port(), lostPort, 2000)
	}
	w.sweepLost(w.now() + lostAnswer)
	w.passes(fromServer)
}

// A client that talks to a server directly, has no connection with us, and says so, or
// whose connection began under our eyes, or that has one with us, is left alone.
func TestDirectConnectionsPass(t *testing.T) {
	t.Run("says so", func(t *testing.T) {
		w := newLostWorld(t)
		w.says(lostServerA, w.client(), fromServer)
		w.question()
		w.next(t)
		w.says(w.client(), testVIP, made{flags: header.TCPFlagRst, seq: 3})
		w.passes(fromServer)
	})
	t.Run("begins", func(t *testing.T) {
		w := newLostWorld(t)
		w.passes(made{flags: header.TCPFlagSyn | header.TCPFlagAck, seq: 1, ack: 2})
		w.passes(fromServer)
		w.passes(made{flags: header.TCPFlagRst, seq: 1})
	})
	t.Run("a leg", func(t *testing.T) {
		w := newLostWorld(t)
		w.syn(lostPort)
		w.passes(fromServer)
	})
	t.Run("two servers", func(t *testing.T) {
		w := newLostWorld(t)
		w.says(w.client(), testVIP, made{flags: header.TCPFlagAck, seq: 900, ack: 2000})
		seq := w.question()
		w.next(t)
		w.says(w.client(), testVIP, reported(seq))
		w.asksServers()
		w.next(t)
		w.says(lostServerA, w.client(), fromServer)
		w.says(lostServerB, w.client(), fromServer)
		w.sweepLost(w.now() + lostAnswer)
		w.passes(fromServer)
	})
}

// What is remembered is bounded.
func TestLostIsBounded(t *testing.T) {
	w := newLostWorld(t)
	now := 10 * time.Second
	w.lost.mu.Lock()
	for i := range 2 * lostMax {
		w.lost.get(netip.AddrPortFrom(testClient, uint16(i)), now)
	}
	for i := range directMax + 10 {
		f := flowOf(lostServerA, netip.AddrPortFrom(testClient, uint16(i)))
		f.local[0] = byte(i >> 16)
		w.lost.isDirect(f, now)
	}
	asked, direct := len(w.lost.asked), len(w.lost.direct)
	w.lost.mu.Unlock()
	if asked != lostMax || direct > directMax {
		t.Errorf("%d clients asked, %d direct", asked, direct)
	}
}
