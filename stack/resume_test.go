package stack_test

import (
	"sync/atomic"
	"testing"
	"time"

	"lockstep/internal/script"
	"lockstep/stack"
)

// silence is what tests call a silence; what was heard in it counts as heard before.
const silence = 3 * time.Second

// poll is await for what no packet and no event tells of.
func (b *bench) poll(what string, cond func() bool) {
	b.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(benchLimit); !cond(); <-tick.C {
		if time.Now().After(end) {
			b.t.Fatalf("%s: does not happen", what)
		}
	}
}

// asked is a segment from below the peer's window, which it has to answer.
func (b *bench) asked(s *script.Segment) bool {
	return len(s.Payload) == 0 && s.Seq == b.iss && s.Flags == script.ACK
}

// heard lets the client say something, of which it is told that it is here.
func (b *bench) heard(l *stack.Leg) {
	b.t.Helper()
	b.permit(l, 1<<20)
	b.data(0, 100, script.PSH)
	b.received(l, 100)
	b.expect(0, "ACK", isAck(100))
}

// jumping is a clock that can be put forward.
type jumping struct {
	born time.Time
	by   atomic.Int64
}

func (c *jumping) Now() time.Time { return c.born.Add(c.Since(c.born)) }

func (c *jumping) Since(t time.Time) time.Duration {
	return time.Since(c.born) + time.Duration(c.by.Load()) - t.Sub(c.born)
}

// standing is a clock that goes on only when it is put forward.
type standing struct {
	born time.Time
	by   atomic.Int64
}

func (c *standing) Now() time.Time { return c.born.Add(time.Duration(c.by.Load())) }

func (c *standing) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

// Who was in its handshake when the silence began gets another SYN-ACK when it ends.
func TestResumeOfHandshake(t *testing.T) {
	c := &standing{born: time.Now()}
	b := newBench(t, stack.Options{Clock: c})
	c.by.Add(int64(time.Minute))
	b.syn().Accept()
	synAck := func(s *script.Segment) bool { return s.Flags == script.SYN|script.ACK }
	b.expect(0, "SYN-ACK", synAck)
	n := b.count()
	b.eng.ResumeNow(silence)
	b.expect(n, "another SYN-ACK", synAck)
}

// Who has been idle for long is not asked, unless something of it was lost in the silence.
func TestResumeSparesIdle(t *testing.T) {
	c := &jumping{born: time.Now()}
	b := newBench(t, stack.Options{Clock: c})
	l := b.open()
	b.heard(l)
	if b.eng.ResumeNow(silence); !l.Unheard() {
		t.Error("a client that was active is not asked")
	}
	b.inject(script.Segment{Flags: script.ACK, Seq: benchISN + 101, Ack: b.iss + 1, Win: 1000, Opts: b.opts(false)})
	b.poll("answer", func() bool { return !l.Unheard() })
	c.by.Add(int64(time.Minute))
	if b.eng.ResumeNow(silence); l.Unheard() {
		t.Error("an idle client is disturbed")
	}
	b.eng.SetActive(false)
	b.data(100, 100, script.PSH)
	b.poll("loss", func() bool { return b.eng.C.Drops()["not-active"] > 0 })
	b.eng.SetActive(true)
	if b.eng.ResumeNow(silence); !l.Unheard() {
		t.Error("a client whose request was lost is not asked")
	}
}

// A lease that comes back after a while, and an end of muteness, are ends of a silence.
func TestSilenceEnds(t *testing.T) {
	for _, mute := range []bool{false, true} {
		c := &jumping{born: time.Now()}
		b := newBench(t, stack.Options{Clock: c})
		l := b.open()
		b.heard(l)
		n := b.count()
		if mute {
			b.eng.SetActive(false)
		}
		b.eng.SetLease(c.Now())
		c.by.Add(int64(silence))
		b.eng.SetLease(stack.Forever)
		if mute && l.Unheard() {
			t.Error("the peer is asked by a mute engine")
		}
		b.eng.Unmute()
		b.expect(n, "probe", func(s *script.Segment) bool { return b.asked(s) && isAck(100)(s) })
	}
}

// A process that was stopped finds in its device what has come meanwhile. If its lease has just ended it refuses that, though it has
// been silent for a moment only: who has lost something is asked, who has not is left alone.
func TestRefusedInShortSilence(t *testing.T) {
	for _, mute := range []bool{false, true} {
		c := &standing{born: time.Now()}
		b := newBench(t, stack.Options{Clock: c})
		c.by.Add(int64(time.Minute))
		l := b.open()
		b.heard(l)
		moment := func() {
			if mute {
				b.eng.SetActive(false)
			}
			b.eng.SetLease(c.Now())
			c.by.Add(int64(time.Millisecond))
		}
		spoken := func() {
			b.eng.SetLease(c.Now().Add(time.Minute))
			b.eng.Unmute()
		}
		moment()
		spoken()
		if b.eng.Resuming() || l.Unheard() {
			t.Error("a client that has lost nothing is asked")
		}
		n := b.count()
		moment()
		b.data(100, 100, script.PSH)
		b.poll("loss", func() bool { return b.eng.C.Drops()["not-active"] > 0 })
		spoken()
		b.expect(n, "probe", func(s *script.Segment) bool { return b.asked(s) && isAck(100)(s) })
	}
}

// After a silence without a takeover our first segment that the peer may lack leaves at
// once, though netstack's timer is far off, and again until it is acknowledged; the peer
// is asked where it is, and what it has sent in vain is made to come. For all that it is
// not believed more than before.
func TestResume(t *testing.T) {
	b := newBench(t, stack.Options{MinRTO: time.Minute})
	l := b.open()
	b.unacked = 100
	b.heard(l)
	b.eng.SetActive(false)
	b.write(l, 0, 5000)
	b.poll("output", func() bool { return b.eng.C.Drops()["muted"] > 0 })
	b.data(100, 1448, 0)
	b.poll("loss", func() bool { return b.eng.C.Drops()["not-active"] > 0 })
	n := b.count()
	b.eng.SetActive(true)
	b.eng.Resume(silence)
	for range 3 {
		b.expect(n, "probe", b.asked)
		s := b.expect(n, "first segment again", func(s *script.Segment) bool { return len(s.Payload) > 0 })
		if s.Seq != b.iss+1 || string(s.Payload) != string(pattern(0, len(s.Payload))) {
			t.Fatalf("sent again: %s", &s)
		}
		n = b.count()
	}

	ahead := func() {
		o := b.opts(false)
		o.TSVal = 1001
		b.inject(script.Segment{Flags: script.ACK, Seq: benchISN + 101, Ack: b.iss + 1 + 50000, Win: 1000, Opts: o})
		b.barrier()
	}
	ahead()
	if d := b.eng.C.Drops()["ack-range"]; d != 1 || l.Delivered() != 0 {
		t.Errorf("%d ACKs from ahead refused, %d delivered", d, l.Delivered())
	}

	n = b.count()
	b.inject(script.Segment{Flags: script.ACK, Seq: benchISN + 1 + 1548, Ack: b.iss + 1 + 5000, Win: 1000, Opts: b.opts(false)})
	b.await("ICMP errors", func() bool { return b.icmpErrors >= 5 })
	b.expect(n, "ACK in the window", func(s *script.Segment) bool { return s.Seq == b.iss+5001 && isAck(100)(s) })
	ahead()
	b.inject(script.Segment{Flags: script.ACK, Seq: benchISN + 101, Ack: b.iss + 5001, Win: 1000, Opts: b.opts(false), Payload: pattern(100, 1448)})
	b.received(l, 1548)
	if d := b.eng.C.Drops()["ack-range"]; d != 2 || l.Delivered() != 5000 {
		t.Errorf("%d ACKs from ahead refused, %d delivered", d, l.Delivered())
	}
	for _, s := range b.since(0) {
		if len(s.Opts.SACK) > 0 {
			t.Errorf("%s", &s)
		}
	}
}
