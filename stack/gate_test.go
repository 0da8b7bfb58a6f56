package stack_test

import (
	"testing"

	"lockstep/internal/script"
	"lockstep/stack"
)

// Who permits here is the test: late, in part, or never. bench.check holds every
// ACK against what was permitted, and the right edge against the one before.

func isAck(off uint32) func(*script.Segment) bool {
	return func(s *script.Segment) bool {
		return s.Flags&script.ACK != 0 && s.Ack == off+benchISN+1 && s.Flags&(script.SYN|script.RST) == 0
	}
}

// pure reports a bare ACK.
func pure(s *script.Segment) bool { return s.Flags == script.ACK && len(s.Payload) == 0 }

func TestSynAckWaitsForAccept(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.syn()
	b.inject(script.Segment{Flags: script.SYN, Seq: benchISN, Win: 65535, Opts: b.opts(true)})
	b.barrier()
	if n := b.count(); n != 0 {
		t.Fatalf("%d packets left before the record was safe: %v", n, b.since(0))
	}
	l.Accept()
	s := b.expect(0, "SYN-ACK", func(s *script.Segment) bool { return s.Flags == script.SYN|script.ACK })
	if s.Ack != benchISN+1 || !s.Opts.SACKOK || !s.Opts.TS || s.Opts.WScale < 0 || s.Opts.MSS != 1460 || s.Opts.TSEcr != 1000 {
		t.Errorf("SYN-ACK: %s", &s)
	}
	l.Accept() // again: nothing
	b.barrier()
	if n := b.count(); n != 1 {
		t.Errorf("%d packets: %v", n, b.since(0))
	}
}

func TestAckWaitsForPermit(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	n := b.count()
	b.data(0, 1000, script.PSH)
	b.received(l, 1000)
	b.barrier()
	for _, s := range b.since(n) {
		if s.Ack != benchISN+1 {
			t.Fatalf("acknowledged before it was permitted: %s", &s)
		}
	}
	for _, off := range []uint32{400, 999, 1000} {
		n = b.count()
		b.permit(l, off)
		b.expect(n, "owed ACK", isAck(off))
		b.barrier()
		if got := b.since(n); len(got) != 1 || !pure(&got[0]) {
			t.Errorf("permit %d: %v", off, got)
		}
	}
	n = b.count()
	b.permit(l, 1000) // nothing new
	b.permit(l, 500)
	b.barrier()
	if got := b.since(n); len(got) != 0 {
		t.Errorf("packets without a reason: %v", got)
	}
}

// A permit that comes before the ACK holds nothing up.
func TestPermitInAdvance(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	b.permit(l, 5000)
	n := b.count()
	b.data(0, 1448, 0)
	b.data(1448, 1448, 0)
	b.expect(n, "ACK", isAck(2896))
	if v := b.eng.C.AcksHeld.Load() + b.eng.C.AcksLower.Load(); v != 0 {
		t.Errorf("%d ACKs were held or lowered", v)
	}
}

// Data leaves at once, with a lowered ACK and the window's edge where it was.
func TestDataIsNotDelayed(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	b.data(0, 1000, script.PSH)
	b.received(l, 1000)
	n := b.count()
	answer := pattern(77, 500)
	if k, err := l.Write([][]byte{answer[:100], answer[100:]}, 500); k != 500 || err != nil {
		t.Fatalf("wrote %d: %v", k, err)
	}
	s := b.expect(n, "data", func(s *script.Segment) bool { return len(s.Payload) > 0 })
	if string(s.Payload) != string(answer) || s.Seq != b.iss+1 || s.Ack != benchISN+1 {
		t.Fatalf("data: %s", &s)
	}
	if edge := uint32(s.Win) << 8; edge < 4<<20 {
		t.Errorf("right edge at %d", edge)
	}
	n = b.count()
	b.permit(l, 1000)
	b.expect(n, "owed ACK", isAck(1000))
}

// While the gate is shut netstack acknowledges every second segment; none of
// that may reach the client as a duplicate ACK, which it would take for a loss.
func TestNoDuplicateAcksAreInvented(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	n := b.count()
	const segs = 40
	for i := range uint32(segs) {
		b.data(i*1000, 1000, 0)
		b.barrier() // one by one: not joined by the receive offload
	}
	b.received(l, segs*1000)
	b.barrier()
	noDuplicates(t, b.since(n))
	b.poll("a held ACK", func() bool { return b.eng.C.AcksHeld.Load() > 0 }) // else nothing is tested
	b.permit(l, 1000)
	b.permit(l, segs*1000/2)
	b.permit(l, segs*1000)
	b.expect(n, "last ACK", isAck(segs*1000))
	noDuplicates(t, b.since(n))
}

// noDuplicates looks for what RFC 5681, section 2 calls a duplicate ACK.
func noDuplicates(t *testing.T, pkts []script.Segment) {
	t.Helper()
	for i := 1; i < len(pkts); i++ {
		a, b := &pkts[i-1], &pkts[i]
		if pure(a) && pure(b) && a.Ack == b.Ack && a.Win == b.Win {
			t.Errorf("duplicate ACK: %s", b)
		}
	}
}

// Real ones pass, with their SACK blocks.
func TestDuplicateAcksPass(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	b.permit(l, 1000)
	n := b.count()
	b.data(0, 1000, 0)
	b.received(l, 1000)
	b.expect(n, "ACK", isAck(1000))
	for i := range uint32(3) {
		n = b.count()
		b.data(2000+i*1000, 1000, 0)
		s := b.expect(n, "duplicate ACK", func(s *script.Segment) bool { return isAck(1000)(s) && len(s.Opts.SACK) > 0 })
		if want := [2]uint32{benchISN + 1 + 2000, benchISN + 1 + 3000 + i*1000}; s.Opts.SACK[0] != want {
			t.Errorf("SACK %v, want %v", s.Opts.SACK, want)
		}
	}
}

// What lies behind a gap is told with the owed ACK.
func TestOwedAckCarriesSACK(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	b.data(0, 1000, 0)
	b.received(l, 1000)
	b.data(2000, 1000, 0)
	b.barrier()
	// netstack has dealt with the second segment when it has with a third.
	b.data(0, 1000, 0)
	n := b.count()
	b.await("gap", func() bool { return b.eng.C.AcksHeld.Load()+b.eng.C.AcksLower.Load() >= 2 })
	b.permit(l, 1000)
	s := b.expect(n, "owed ACK", isAck(1000))
	if want := [2]uint32{benchISN + 1 + 2000, benchISN + 1 + 3000}; len(s.Opts.SACK) != 1 || s.Opts.SACK[0] != want {
		t.Errorf("SACK %v, want %v", s.Opts.SACK, want)
	}
}

// The FIN is a byte to the gate.
func TestFinWaitsForPermit(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	n := b.count()
	b.data(0, 100, script.FIN)
	b.received(l, 100)
	b.await("FIN", func() bool { _, _, eof := l.Peek(nil, 100, 1); return eof })
	b.permit(l, 100)
	b.expect(n, "ACK of the data", isAck(100))
	b.barrier()
	n = b.count()
	b.permit(l, 101)
	b.expect(n, "ACK of the FIN", isAck(101))
}

// Without a gate everything that is owed leaves, and nothing is held any more.
func TestOpenGate(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	b.data(0, 1000, 0)
	b.received(l, 1000)
	n := b.count()
	b.mu.Lock()
	b.allowed = 1 << 30
	b.mu.Unlock()
	l.Open()
	b.expect(n, "owed ACK", isAck(1000))
	held := b.eng.C.AcksHeld.Load()
	b.data(1000, 1448, 0)
	b.data(2448, 1448, 0)
	b.expect(n, "ACK", isAck(3896))
	if v := b.eng.C.AcksHeld.Load(); v != held {
		t.Errorf("%d ACKs were held", v-held)
	}
}

// A client that sends again because nothing is acknowledged gets no ACK for it.
func TestNeverPermitted(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	for range 20 {
		b.data(0, 1000, script.PSH)
		b.barrier()
	}
	b.received(l, 1000)
	if k, err := l.Write([][]byte{pattern(0, 100)}, 100); k != 100 || err != nil {
		t.Fatalf("wrote %d: %v", k, err)
	}
	b.expect(0, "data", func(s *script.Segment) bool { return len(s.Payload) == 100 })
	l.Abort()
	s := b.expect(0, "reset", func(s *script.Segment) bool { return s.Flags&script.RST != 0 })
	if s.Ack != benchISN+1 {
		t.Errorf("the reset acknowledges: %s", &s)
	}
}

// The window opens while an ACK is owed: the client learns it.
func TestWindowUpdatePassesTheGate(t *testing.T) {
	const window = 64 << 10
	b := newBench(t, stack.Options{Window: window})
	l := b.open()
	b.permit(l, 1<<20)
	// Nobody reads: send until the window is full.
	var sent uint32
	for {
		b.mu.Lock()
		room := min(b.edge-sent, 8000)
		b.mu.Unlock()
		if room == 0 {
			break
		}
		b.data(sent, int(room), 0)
		sent += room
		b.received(l, int(sent))
		b.await("ACK", func() bool { return len(b.pkts) > 0 && isAck(sent)(&b.pkts[len(b.pkts)-1]) })
	}
	b.mu.Lock()
	edge := b.edge
	b.mu.Unlock()
	if sent < window/2 {
		t.Fatalf("the window is full after %d bytes", sent)
	}
	l.Discard(int(sent))
	b.await("window update", func() bool { return b.edge > edge })
}

// The same with the gate shut: the ACK stays, the edge moves.
func TestWindowUpdateOfALoweredAck(t *testing.T) {
	const window = 64 << 10
	b := newBench(t, stack.Options{Window: window})
	l := b.open()
	const half = window / 2
	b.permit(l, half)
	for off := uint32(0); off < half; off += 1024 {
		b.data(off, 1024, 0)
	}
	b.received(l, half)
	b.await("ACK", func() bool { return len(b.pkts) > 0 && isAck(half)(&b.pkts[len(b.pkts)-1]) })
	b.data(half, 1000, 0) // this one is not permitted
	b.await("data", func() bool { _, n, _ := l.Peek(nil, 0, 1<<20); return n == half+1000 })
	l.Discard(half)
	b.barrier()
	n := b.count()
	b.permit(l, half+1000)
	s := b.expect(n, "owed ACK", isAck(half+1000))
	if edge := half + 1000 + uint32(s.Win)<<b.scale; edge < half+window/2 {
		t.Errorf("right edge at %d", edge)
	}
}
