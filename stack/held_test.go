package stack

import (
	"errors"
	"net/netip"
	"testing"

	"lockstep/tun"
)

// early gives a mute engine n segments of an opened connection, as the reader does.
func (p *passing) early(port uint16, n int) (kept int) {
	f := flowOf(testVIP, netip.AddrPortFrom(testClient, port))
	for i := range n {
		b := f.build(make([]byte, maxMade), false, true, made{flags: ackFlag, seq: 1001, ack: 5001, window: uint16(1000 + i)})
		if p.hold([][]byte{make([]byte, tun.VnetHeaderLen), b, nil}, len(b)) {
			kept++
		}
	}
	return kept
}

// What reaches a standby is treated when it has become the active: in order, and unless it is too old.
func TestHeldUntilActive(t *testing.T) {
	p := newPassing(t, 10)
	p.opened(t, 40000)
	p.SetActive(false)
	if n := p.early(40000, 3); n != 0 {
		t.Errorf("%d segments kept by an engine that is no standby's", n)
	}
	p.Hold(true)
	if n := p.early(40000, 3); n != 3 {
		t.Fatalf("%d of 3 segments kept", n)
	}
	p.held.queue[0].at -= heldLife + 1
	p.SetActive(true)
	for _, window := range []uint16{1001, 1002} {
		if s := p.next(t); s.SourcePort() != 40000 || s.DestinationPort() != 8080 || s.WindowSize() != window {
			t.Errorf("%d > %d, window %d left, want %d", s.SourcePort(), s.DestinationPort(), s.WindowSize(), window)
		}
	}
	p.none(t)
	if n := p.early(40000, 1); n != 0 {
		t.Error("kept by an active engine")
	}
	if held, old := p.C.Held.Load(), p.C.Drops()["held"]; held != 2 || old != 1 {
		t.Errorf("%d treated, %d too old", held, old)
	}
}

// The number of what is kept is bounded, and what is beyond is counted.
func TestHeldIsBounded(t *testing.T) {
	p := newPassing(t, 10)
	p.SetActive(false)
	p.Hold(true)
	p.early(40000, heldPackets+5)
	if n := len(p.held.queue); n != heldPackets || p.C.Drops()["held"] != 5 {
		t.Errorf("%d packets kept, drops %v", n, p.C.Drops())
	}
	p.held.bytes = heldBytes
	p.held.queue = p.held.queue[:1]
	p.early(40000, 1)
	if n := len(p.held.queue); n != 1 || p.C.Drops()["held"] != 6 {
		t.Errorf("%d packets kept beyond the bytes, drops %v", n, p.C.Drops())
	}
	p.Hold(false)
	if len(p.held.queue) > 0 || p.held.bytes > 0 {
		t.Error("kept by what is no standby any more")
	}
}

// An active that hands over gives what comes to the peer, until then or until it is active again.
func TestHandedOn(t *testing.T) {
	p := newPassing(t, 10)
	var got int
	var fails error
	p.onward = func(bufs [][]byte) error { got += len(bufs[1]); return fails }
	p.HandOn(1 << 40)
	if n := p.early(40000, 1); n != 0 || got != 0 {
		t.Error("an active hands on")
	}
	p.SetActive(false)
	if n := p.early(40000, 2); n != 2 || got != 2*40 || p.C.HandedOn.Load() != 2 {
		t.Errorf("%d segments, %d bytes handed on", n, got)
	}
	fails = errors.New("no way")
	p.early(40000, 1)
	if p.C.HandedOn.Load() != 2 || p.C.Drops()["not-active"] != 1 {
		t.Errorf("drops: %v", p.C.Drops())
	}
	// The peer is active: soon everything is kept for the case that it hands over.
	p.Hold(true)
	if left := p.held.onwardUntil - p.now(); left > onwardLast {
		t.Errorf("handed on for another %v", left)
	}
	p.HandOn(0)
	if n := p.early(40000, 1); n != 1 || len(p.held.queue) != 1 {
		t.Error("handed on afterwards")
	}
}

// A connection of a takeover's rest that another goroutine makes while its segment is looked up is found: it is no
// stranger's, who would be reset.
func TestMadeMeanwhile(t *testing.T) {
	p := newPassing(t, 10)
	client, server := p.opened(t, 40000).Params()
	q := newPassing(t, 10)
	q.SetMissing(func(netip.AddrPort, netip.AddrPort) bool {
		q.SetMissing(nil)
		if _, err := q.RestoreSpliced(client, server, false, q); err != nil {
			t.Error(err)
		}
		return false // somebody else has taken it from the rest
	})
	q.client(40000, made{flags: ackFlag, seq: 1001, ack: 5001, window: 65535})
	q.leaves(t, "ACK", 40000, 8080, ackFlag, 1001, 5001)
}

// The segment of a connection that rests is no word of the one before it on the same flow, which has ended.
func TestRestBehindTombstone(t *testing.T) {
	p := newPassing(t, 10)
	client, server := p.opened(t, 40000).Params()
	q := newPassing(t, 10)
	old := server
	old.Remote = netip.AddrPortFrom(server.Remote.Addr(), server.Remote.Port()+1)
	if _, err := q.RestoreSpliced(client, old, true, q); err != nil {
		t.Fatal(err)
	}
	q.SetMissing(func(netip.AddrPort, netip.AddrPort) bool {
		_, err := q.RestoreSpliced(client, server, false, q)
		if err != nil {
			t.Error(err)
		}
		return err == nil
	})
	q.client(40000, made{flags: ackFlag, seq: 1001, ack: 5001, window: 65535})
	q.leaves(t, "ACK", 40000, 8080, ackFlag, 1001, 5001)
}
