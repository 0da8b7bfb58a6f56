package stack_test

import (
	"testing"
	"time"

	"lockstep/internal/script"
	"lockstep/stack"
)

// talk is a client that sends a byte or more, and is answered.
type talk struct {
	*bench
	l         *stack.Leg
	clock     *standing // the engine's: a delay lasts until the test puts it forward
	in, out   uint32    // offsets of the two streams
	delayed   uint64
	delayLife time.Duration
}

func newTalk(t *testing.T, o stack.Options) *talk {
	t.Helper()
	c := &standing{born: time.Now()}
	o.Clock = c
	b := newBench(t, o)
	c.by.Add(int64(time.Minute))
	k := &talk{bench: b, l: b.open(), clock: c, delayLife: stack.DelayMax}
	b.mu.Lock()
	b.allowed = 1 << 30
	b.mu.Unlock()
	k.l.Open()
	return k
}

// says lets the client send n bytes, gap bytes further than it has sent, and returns how many
// packets had left before.
func (k *talk) says(gap, n int, flags uint8) int {
	k.t.Helper()
	k.barrier()
	from := k.count()
	k.inject(script.Segment{
		Flags: script.ACK | flags, Seq: benchISN + 1 + k.in + uint32(gap), Ack: k.iss + 1 + k.out, Win: 1000,
		Opts: k.opts(false), Payload: pattern(k.in+uint32(gap), n),
	})
	if gap == 0 {
		k.in += uint32(n)
		k.received(k.l, int(k.in))
	}
	return from
}

// answers lets the leg send n bytes, and waits until they have left.
func (k *talk) answers(n int) script.Segment {
	k.t.Helper()
	from := k.count()
	if m, err := k.l.Write([][]byte{pattern(k.out, n)}, n); m != n || err != nil {
		k.t.Fatalf("wrote %d: %v", m, err)
	}
	k.out += uint32(n)
	return k.expect(from, "answer", func(s *script.Segment) bool { return len(s.Payload) == n })
}

// pingPong gets the leg there: a question that is acknowledged at once, and an answer.
func (k *talk) pingPong() {
	k.t.Helper()
	n := k.says(0, 100, script.PSH)
	k.expect(n, "ACK at once", isAck(k.in))
	k.answers(50)
}

// kept waits until an acknowledgement has been kept back, and shows that nothing has left.
func (k *talk) kept(from int) {
	k.t.Helper()
	k.poll("delay", func() bool { return k.eng.C.AcksDelayed.Load() > k.delayed })
	k.delayed = k.eng.C.AcksDelayed.Load()
	k.barrier()
	if got := k.since(from); len(got) != 0 {
		k.t.Fatalf("left: %v", got)
	}
}

// ends shows that the delay ends with its time, and that what comes then is acknowledged at once.
func (k *talk) ends(from int) {
	k.t.Helper()
	k.clock.by.Add(int64(k.delayLife))
	k.expect(from, "delayed ACK", isAck(k.in))
	from = k.says(0, 100, script.PSH)
	k.expect(from, "ACK at once", isAck(k.in))
}

func TestDelayedAck(t *testing.T) {
	k := newTalk(t, stack.Options{})
	k.pingPong()
	for range 3 {
		n := k.says(0, 100, script.PSH)
		k.kept(n)
		if s := k.answers(50); s.Ack != benchISN+1+k.in {
			t.Fatalf("the answer does not carry it: %s", &s)
		}
		if got := k.since(n); len(got) != 1 {
			t.Fatalf("packets: %v", got)
		}
	}
	k.ends(k.says(0, 100, script.PSH))
}

// A sender with two segments in flight expects no delay, also if netstack takes both at once.
func TestTwoSegmentsAreNotDelayed(t *testing.T) {
	k := newTalk(t, stack.Options{})
	k.pingPong()
	for range 30 {
		k.barrier()
		from := k.count()
		for range 2 {
			k.inject(script.Segment{
				Flags: script.ACK | script.PSH, Seq: benchISN + 1 + k.in, Ack: k.iss + 1 + k.out, Win: 1000,
				Opts: k.opts(false), Payload: pattern(k.in, 10),
			})
			k.in += 10
		}
		// Of the first at least: then only one is in flight.
		k.expect(from, "ACK at once", func(s *script.Segment) bool { return isAck(k.in)(s) || isAck(k.in-10)(s) })
		k.received(k.l, int(k.in))
		k.answers(50)
	}
}

// An answer that comes later than a delay lasts is none: nothing is kept back.
func TestLateAnswerIsNone(t *testing.T) {
	k := newTalk(t, stack.Options{})
	n := k.says(0, 100, script.PSH)
	k.expect(n, "ACK", isAck(k.in))
	k.clock.by.Add(int64(k.delayLife))
	k.answers(50)
	n = k.says(0, 100, script.PSH)
	k.expect(n, "ACK at once", isAck(k.in))
}

// What may not wait leaves at once, and ends the mode.
func TestNotDelayed(t *testing.T) {
	for name, may := range map[string]func(k *talk) (from int){
		"two full segments": func(k *talk) int {
			n := k.says(0, 1448, 0)
			k.kept(n) // the first of them
			k.says(0, 1448, 0)
			return n
		},
		"gap": func(k *talk) int {
			n := k.says(1000, 100, 0)
			k.expect(n, "SACK", func(s *script.Segment) bool { return len(s.Opts.SACK) == 1 })
			return n
		},
		"one of two gaps": func(k *talk) int {
			k.says(100, 100, 0)
			n := k.says(300, 100, 0)
			k.expect(n, "SACK", func(s *script.Segment) bool { return len(s.Opts.SACK) == 2 })
			k.answers(50)
			n = k.count()
			k.inject(script.Segment{
				Flags: script.ACK, Seq: benchISN + 1 + k.in, Ack: k.iss + 1 + k.out, Win: 1000, Opts: k.opts(false), Payload: pattern(k.in, 100),
			})
			k.in += 200
			return n
		},
		"two small segments": func(k *talk) int {
			n := k.says(0, 10, script.PSH)
			k.kept(n)
			k.says(0, 10, script.PSH)
			return n
		},
		"two full segments that were owed": func(k *talk) int {
			_, _ = k.l.CloseGate()
			n := k.says(0, 2*1448, 0)
			k.poll("gate", func() bool { return k.eng.C.AcksHeld.Load() > 0 })
			k.l.Permit(uint64(k.in))
			return n
		},
		"owed when the answer has left": func(k *talk) int {
			_, _ = k.l.CloseGate()
			n := k.says(0, 100, 0)
			k.poll("gate", func() bool { return k.eng.C.AcksHeld.Load() > 0 })
			k.answers(50)
			k.l.Permit(uint64(k.in))
			k.expect(n, "pure ACK", func(s *script.Segment) bool { return pure(s) && isAck(k.in)(s) })
			return n
		},
		"repeated": func(k *talk) int {
			n := k.count()
			k.data(0, 100, script.PSH)
			return n
		},
		"FIN": func(k *talk) int {
			n := k.count()
			k.inject(script.Segment{Flags: script.ACK | script.FIN, Seq: benchISN + 1 + k.in, Ack: k.iss + 1 + k.out, Win: 1000, Opts: k.opts(false)})
			k.in++
			return n
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := newTalk(t, stack.Options{})
			k.pingPong()
			n := may(k)
			k.expect(n, "ACK at once", isAck(k.in))
			if name != "two full segments" && name != "repeated" {
				return
			}
			n = k.says(0, 100, script.PSH)
			k.expect(n, "ACK at once", isAck(k.in))
		})
	}
}

// A peer whose window is more than half used up waits for no answer to learn of its new one.
func TestUsedWindowIsNotDelayed(t *testing.T) {
	const window = 64 << 10
	k := newTalk(t, stack.Options{Window: window})
	for edge := uint32(window); edge-k.in > window/2; {
		n := k.says(0, 12000, 0) // nobody reads
		k.expect(n, "ACK", isAck(k.in))
		k.mu.Lock()
		edge = k.edge
		k.mu.Unlock()
	}
	for range 2 {
		n := k.says(0, 1000, 0)
		k.expect(n, "ACK at once", isAck(k.in))
		k.answers(10)
	}
}

// What the gate keeps back is not sent when it opens if an answer is expected, and the time counts from
// when the bytes came.
func TestOwedAckIsDelayed(t *testing.T) {
	k := newTalk(t, stack.Options{})
	k.pingPong()
	acked, fin := k.l.CloseGate()
	if acked != uint64(k.in) || fin {
		t.Fatalf("gate at %d, fin %v", acked, fin)
	}
	n := k.says(0, 100, script.PSH)
	k.poll("gate", func() bool { return k.eng.C.AcksHeld.Load() > 0 })
	k.permit(k.l, k.in)
	k.kept(n)
	if s := k.answers(50); s.Ack != benchISN+1+k.in {
		t.Fatalf("the answer does not carry it: %s", &s)
	}
	held := k.eng.C.AcksHeld.Load()
	n = k.says(0, 100, script.PSH)
	k.poll("gate", func() bool { return k.eng.C.AcksHeld.Load() > held })
	k.clock.by.Add(int64(k.delayLife))
	k.permit(k.l, k.in)
	k.expect(n, "owed ACK", isAck(k.in))
}

// What waits when a gate is shut leaves before: it is said of bytes that nobody else has to hold.
func TestDelayEndsBeforeGate(t *testing.T) {
	k := newTalk(t, stack.Options{})
	k.pingPong()
	n := k.says(0, 100, script.PSH)
	k.kept(n)
	if acked, _ := k.l.CloseGate(); acked != uint64(k.in) {
		t.Fatalf("gate at %d of %d", acked, k.in)
	}
	k.expect(n, "ACK", isAck(k.in))
}

// An ACK of two segments echoes the first one's stamp (RFC 7323, 4.3).
func TestDelayedAckEchoesTheFirst(t *testing.T) {
	k := newTalk(t, stack.Options{})
	k.pingPong()
	stamped := func(val uint32) (n int) {
		k.barrier()
		n = k.count()
		o := k.opts(false)
		o.TSVal = val
		k.inject(script.Segment{
			Flags: script.ACK | script.PSH, Seq: benchISN + 1 + k.in, Ack: k.iss + 1 + k.out, Win: 1000,
			Opts: o, Payload: pattern(k.in, 100),
		})
		k.in += 100
		k.received(k.l, int(k.in))
		return n
	}
	n := stamped(1010)
	k.kept(n)
	n = stamped(1020)
	if s := k.expect(n, "ACK at once", isAck(k.in)); s.Opts.TSEcr != 1010 {
		t.Fatalf("ACK of two: %s", &s)
	}
	k.answers(50)
	n = stamped(1030)
	k.kept(n)
	k.clock.by.Add(int64(k.delayLife))
	if s := k.expect(n, "delayed ACK", isAck(k.in)); s.Opts.TSEcr != 1030 {
		t.Fatalf("delayed ACK: %s", &s)
	}
}
