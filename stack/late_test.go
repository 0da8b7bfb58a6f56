package stack_test

import (
	"testing"

	"lockstep/internal/script"
	"lockstep/stack"
)

// at is data with a stamp of its own.
func (b *bench) at(stamp, off uint32, n int) {
	b.t.Helper()
	o := b.opts(false)
	o.TSVal = stamp
	s := script.Segment{Flags: script.ACK, Seq: benchISN + 1 + off, Ack: b.iss + 1, Win: 1000, Opts: o}
	if n > 0 {
		s.Flags, s.Payload = s.Flags|script.PSH, pattern(off, n)
	}
	b.inject(s)
	b.barrier()
}

// What the gate has kept back for longer than the client's time-out is acknowledged with the
// stamp of what the client has sent again: it takes its round trip from that.
func TestLateAckEchoesTheRepetition(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	b.at(1000, 0, 100)
	b.received(l, 100)
	b.at(1000, 100, 50)
	b.received(l, 150)
	b.at(4000, 0, 100)
	n := b.count()
	b.permit(l, 150)
	if s := b.expect(n, "ACK", isAck(150)); s.Opts.TSEcr != 4000 {
		t.Errorf("the echo is %d: %s", s.Opts.TSEcr, &s)
	}
	n = b.count()
	b.permit(l, 1<<20)
	b.at(5000, 150, 100)
	if s := b.expect(n, "ACK", isAck(250)); s.Opts.TSEcr != 5000 {
		t.Errorf("the echo is %d: %s", s.Opts.TSEcr, &s)
	}
}

// After a silence the client answers first, and gets with its stamp what was kept from it.
func TestLateAckWaitsForTheAnswer(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	b.unacked = 100
	b.permit(l, 100)
	b.at(1000, 0, 100)
	b.expect(0, "ACK", isAck(100))
	b.at(1000, 100, 100)
	b.received(l, 200)
	b.eng.SetActive(false)
	b.eng.SetActive(true)
	n := b.count()
	b.eng.ResumeNow(silence)
	b.permit(l, 200)
	for _, s := range b.since(n) {
		if isAck(200)(&s) {
			t.Fatalf("before the client has answered: %s", &s)
		}
	}
	b.expect(n, "probe", func(s *script.Segment) bool { return b.asked(s) && isAck(100)(s) })
	b.at(4000, 200, 0)
	if s := b.expect(n, "ACK", isAck(200)); s.Opts.TSEcr != 4000 {
		t.Errorf("the echo is %d: %s", s.Opts.TSEcr, &s)
	}
}

// An answer without a stamp has none to echo: what is acknowledged then has the stamp that netstack
// has, however far the client's clock is from zero.
func TestAnswerWithoutStamp(t *testing.T) {
	b := newBench(t, stack.Options{})
	l := b.open()
	b.unacked = 100
	b.permit(l, 100)
	b.at(1<<30, 0, 50) // by steps that are no way back (RFC 7323, 5.2)
	b.expect(0, "ACK", isAck(50))
	const stamp = 1<<31 + 1000 // an echo of 0 looks newer
	b.at(stamp, 50, 50)
	b.expect(0, "ACK", isAck(100))
	b.at(stamp, 100, 100)
	b.received(l, 200)
	b.eng.SetActive(false)
	b.eng.SetActive(true)
	n := b.count()
	b.eng.ResumeNow(silence)
	b.expect(n, "probe", func(s *script.Segment) bool { return b.asked(s) && isAck(100)(s) })
	b.permit(l, 200)
	b.inject(script.Segment{Flags: script.ACK, Seq: benchISN + 1 + 200, Ack: b.iss + 1, Win: 1000, Opts: script.NoOpts})
	if s := b.expect(n, "ACK", isAck(200)); s.Opts.TSEcr != stamp {
		t.Errorf("the echo is %d: %s", s.Opts.TSEcr, &s)
	}
}
