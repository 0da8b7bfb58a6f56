package stack

import (
	"net/netip"
	"testing"
	"time"
)

// With something on its way to it, an end is reset from where it was last and from where it will be: it believes
// a RST from neither other place (RFC 5961, 3.2). One that is somewhere between says so, and is answered.
func TestSplicedAbortBusy(t *testing.T) {
	p := newPassing(t, 10)
	s := p.opened(t, 40000)
	p.client(40000, made{flags: finFlag | ackFlag, seq: 1001, ack: 5001, window: 65535})
	p.next(t)
	s.Abort()
	p.leaves(t, "to the client", 80, 40000, rstFlag|ackFlag, 5001, 1002)
	p.leaves(t, "to the server, that has not acknowledged", 40000, 8080, rstFlag|ackFlag, 1001, 5001)
	p.leaves(t, "to the server, when it has all", 40000, 8080, rstFlag|ackFlag, 1002, 5001)
	p.none(t)
	p.server(40000, spliceServer, made{flags: ackFlag, seq: 5001, ack: 1001, window: 65535})
	p.leaves(t, "to a server that says where it is", 40000, 8080, rstFlag, 1001, 0)
}

// Where the two are that were restored only they know; what they answer is answered by a RST from there.
func TestSplicedAbortRestored(t *testing.T) {
	p := newPassing(t, 10)
	was := p.opened(t, 40000)
	client, server := was.Params()
	was.Drop()
	s, err := p.RestoreSpliced(client, server, false, p)
	if err != nil {
		t.Fatal(err)
	}
	s.Abort()
	for range 2 {
		if r := p.next(t); r.Flags() != ackFlag {
			t.Fatalf("%v", r.Flags())
		}
	}
	p.client(40000, made{flags: ackFlag, seq: 3000, ack: 7000})
	p.leaves(t, "answer to the client", 80, 40000, rstFlag, 7000, 0)
	p.server(40000, spliceServer, made{flags: ackFlag, seq: 7100, ack: 3100})
	p.leaves(t, "answer to the server", 40000, 8080, rstFlag, 3100, 0)
}

// A client that is not to be let in is told so.
func TestSplicedDenied(t *testing.T) {
	p := newPassing(t, 10)
	p.client(40000, made{flags: synFlag, seq: 1000, window: 65535})
	p.all[0].Deny()
	p.leaves(t, "refusal", 80, 40000, rstFlag|ackFlag, 0, 1001)
	if !p.all[0].Gone() || p.Legs() != 0 || p.HalfOpen() != 0 {
		t.Errorf("%d flows, %d half-open", p.Legs(), p.HalfOpen())
	}
}

// A client that comes again from the port of a connection that another appliance has seen end begins its own at once; a
// SYN of the former one does not.
func TestSplicedRestoredTombstoneReused(t *testing.T) {
	p := newPassing(t, 10)
	was := p.opened(t, 40000)
	client, server := was.Params()
	was.Drop()
	s, err := p.RestoreSpliced(client, server, true, noSpliced{})
	if err != nil {
		t.Fatal(err)
	}
	p.client(40000, made{flags: synFlag, seq: 1000, window: 65535})
	if p.next(t); s.Gone() || len(p.all) != 1 {
		t.Fatalf("replaced by its own SYN, %d connections", len(p.all))
	}
	p.client(40000, made{flags: synFlag, seq: 90000, window: 65535})
	if !s.Gone() || len(p.all) != 2 {
		t.Fatalf("gone %v, %d connections", s.Gone(), len(p.all))
	}
	if err := p.all[1].Dial(netip.AddrPortFrom(testClient, 40000), spliceServer); err != nil {
		t.Fatal(err)
	}
	p.leaves(t, "SYN", 40000, 8080, synFlag, 90000, 0)
}

// Of two ends that are silent one is asked at a time: what the first answers is passed to the second, and would make the
// question to that one, which had left before with an older timestamp, one that Linux discards without an answer.
func TestSplicedAsksOneAtATime(t *testing.T) {
	p := newPassing(t, 10)
	s := p.opened(t, 40000)
	s.Ask(0) // the server was silent for longer
	p.leaves(t, "question to the server", 40000, 8080, ackFlag, 1000, 5001)
	p.none(t)
	p.server(40000, spliceServer, made{flags: ackFlag, seq: 5001, ack: 1001, window: 65535})
	p.leaves(t, "its answer", 80, 40000, ackFlag, 5001, 1001)
	if s.Tend(true).Owed {
		t.Error("the answer is not heard")
	}
	s.Ask(0)
	p.leaves(t, "question to the client", 80, 40000, ackFlag, 5000, 1001)
	p.none(t)
	if !s.Tend(true).Owed {
		t.Error("the client owes nothing")
	}
	s.Ask(time.Hour)
	p.none(t)
}
