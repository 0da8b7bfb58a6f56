package stack_test

import (
	"slices"
	"testing"
	"time"

	"lockstep/internal/script"
	"lockstep/stack"
)

// restore makes a leg that a former active has left at the start of both streams,
// with its endpoint; held is what it had of ours.
func (b *bench) restore(r stack.Resume) *stack.Leg {
	b.t.Helper()
	b.iss = 1<<32 - 3000
	r.PeerKnows = true
	l, err := b.eng.Restore(stack.Params{
		Local: benchVIP, Remote: benchClient, ISS: b.iss, IRS: benchISN, MSS: 1460, OurMSS: 1460,
		PeerWS: 7, OurWS: 8, SACK: true, TS: true, TSOffset: 77, PeerTS: 900,
	}, r, b)
	if err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	b.leg, b.scale, b.allowed = l, 8, 1<<20
	b.mu.Unlock()
	if err := l.Attach(); err != nil {
		b.t.Fatal(err)
	}
	b.await("endpoint", l.Established)
	return l
}

// ack sends the client's ACK of off.
func (b *bench) ack(off uint32) {
	b.t.Helper()
	b.inject(script.Segment{Flags: script.ACK, Seq: benchISN + 1, Ack: b.iss + 1 + off, Win: 1000, Opts: b.opts(false)})
	b.barrier()
}

// A segment of which the peer has the front leaves without it: some do not bear a
// segment from below what they have acknowledged (Linux's MPTCP takes it for the
// stream's end).
func TestStraddlingSegmentIsTrimmed(t *testing.T) {
	for _, has := range []uint32{1, 1000, 1448, 4999} {
		b := newBench(t, stack.Options{})
		l := b.restore(stack.Resume{Held: 10000})
		b.ack(has)
		if n, ok := l.PeerHas(); n != uint64(has) || !ok {
			t.Fatalf("the peer has %d, %v", n, ok)
		}
		n := b.count()
		b.write(l, 0, 5000)
		s := b.expect(n, "data", func(s *script.Segment) bool { return len(s.Payload) > 0 })
		if s.Seq != b.iss+1+has || string(s.Payload) != string(pattern(has, 5000-int(has))) {
			t.Errorf("has %d: segment at %d of %d bytes", has, s.Seq-b.iss-1, len(s.Payload))
		}
		l.CloseWrite()
		s = b.expect(n, "FIN", func(s *script.Segment) bool { return s.Flags&script.FIN != 0 })
		b.ack(5001)
	}
}

// All but the FIN is with the peer: the FIN leaves alone.
func TestStraddlingFIN(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.restore(stack.Resume{Held: 500, HeldFIN: true})
	b.ack(500)
	n := b.count()
	b.write(l, 0, 500)
	l.CloseWrite()
	s := b.expect(n, "FIN", func(s *script.Segment) bool { return s.Flags&script.FIN != 0 })
	if s.Seq != b.iss+501 || len(s.Payload) != 0 {
		t.Errorf("FIN at %d with %d bytes", s.Seq-b.iss-1, len(s.Payload))
	}
}

// A peer that does not say where it is, is asked again and again, and is sent again
// what it may lack; once it has that it is left alone.
func TestProbedUntilLocated(t *testing.T) {
	b := newBench(t, stack.Options{MinRTO: time.Minute})
	l := b.restore(stack.Resume{Held: 1000})
	probe := func(s *script.Segment) bool { return len(s.Payload) == 0 && s.Seq == b.iss }
	for range 4 {
		n := b.count()
		b.expect(n, "probe", probe)
	}
	b.write(l, 0, 1000)
	for range 4 {
		n := b.count()
		s := b.expect(n, "first segment again", func(s *script.Segment) bool { return len(s.Payload) > 0 })
		if s.Seq != b.iss+1 || string(s.Payload) != string(pattern(0, 1000)) || s.Opts.TSEcr != 0 {
			t.Fatalf("sent again: %s", &s)
		}
	}
	b.ack(600)
	n := b.count()
	s := b.expect(n, "the rest of it", func(s *script.Segment) bool { return len(s.Payload) > 0 })
	if s.Seq != b.iss+601 || string(s.Payload) != string(pattern(600, 400)) {
		t.Errorf("sent again: %s", &s)
	}
	b.ack(1000)
	probes := b.eng.C.Probes.Load()
	b.data(0, 100, script.PSH) // in order: the peer is all there
	b.received(l, 100)
	if sent := b.eng.C.Probes.Load(); sent > probes+1 {
		t.Errorf("%d probes after all was acknowledged", sent-probes)
	}
}

// answer is the client's answer to a probe: it has sent everything below nxt and took
// something from us as long ago as the echo tells.
func (b *bench) answer(nxt uint32, age time.Duration) {
	b.t.Helper()
	b.mu.Lock()
	now := b.tsval
	b.mu.Unlock()
	o := b.opts(false)
	o.TSEcr = now - uint32(age.Milliseconds())
	b.inject(script.Segment{Flags: script.ACK, Seq: benchISN + 1 + nxt, Ack: b.iss + 1, Win: 1000, Opts: o})
	b.barrier()
}

// A peer that has sent something that is lost, and has heard of us a moment ago, is told
// of a loss by a SACK block: of another segment each time, below what it has sent.
func TestHurry(t *testing.T) {
	var told [][2]uint32
	for range 6 {
		b := newBench(t, stack.Options{MinRTO: time.Minute})
		b.restore(stack.Resume{})
		b.answer(20*1448, -time.Hour) // whatever the machine is busy with
		s := b.expect(0, "SACK", func(s *script.Segment) bool { return len(s.Opts.SACK) > 0 })
		at := s.Opts.SACK[0]
		if at[1]-at[0] != 1448 || at[0] < benchISN+1+1448 || at[1] > benchISN+1+20*1448 || s.Ack != benchISN+1 {
			t.Errorf("SACK %v", at)
		}
		if !slices.Contains(told, at) {
			told = append(told, at)
		}
		if b.errors() != 0 {
			t.Error("its time-out was taken back")
		}
	}
	if len(told) < 2 {
		t.Errorf("always the same block: %v", told)
	}
}

// One whose time-out has struck is not told a lie, which it would take for a round trip:
// the doubling is taken back (RFC 6069), each time that it answers, while nothing comes.
func TestRevive(t *testing.T) {
	b := newBench(t, stack.Options{MinRTO: time.Minute})
	l := b.restore(stack.Resume{})
	for i := range 3 {
		n := b.count()
		b.expect(n, "probe", func(s *script.Segment) bool { return s.Seq == b.iss })
		n = b.count()
		b.answer(20*1448, 3*time.Second)
		b.await("ICMP errors", func() bool { return b.icmpErrors == 5*(i+1) })
		b.expect(n, "ACK in the window", func(s *script.Segment) bool { return s.Seq == b.iss+1 && isAck(0)(s) })
		for _, s := range b.since(0) {
			if len(s.Opts.SACK) > 0 {
				t.Fatalf("%s", &s)
			}
		}
	}
	b.data(0, 1448, 0)
	b.received(l, 1448)
}

// A peer that lacks nothing but our ACK gets it, from inside its window: it does not take
// the probe's.
func TestAnswerIsAcknowledged(t *testing.T) {
	b := newBench(t, stack.Options{MinRTO: time.Minute})
	b.restore(stack.Resume{Received: 1000})
	n := b.count()
	b.answer(1000, 3*time.Second)
	b.expect(n, "ACK in the window", func(s *script.Segment) bool { return s.Seq == b.iss+1 && isAck(1000)(s) })
	if b.errors() != 0 {
		t.Error("its time-out was taken back")
	}
}

func (b *bench) errors() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.icmpErrors
}

// A peer whose FIN the former active has acknowledged is closed, and answers the probe
// with a RST. That ends nothing, though this appliance never saw the FIN itself.
func TestClosedPeerAnswersWithReset(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.restore(stack.Resume{PeerFIN: true})
	b.barrier()
	b.inject(script.Segment{Flags: script.RST, Seq: benchISN + 2})
	b.barrier()
	if err := l.Err(); err != nil {
		t.Fatalf("the leg has ended: %v", err)
	}
	if n := b.eng.C.Drops()["stale-segment"]; n != 1 {
		t.Errorf("%d segments dropped as stale, want 1: %v", n, b.eng.C.Drops())
	}
}
