package stack_test

import (
	"testing"
	"time"

	"lockstep/internal/script"
	"lockstep/stack"
)

// halfOpen is a rig with a client whose SYN-ACK has left and who says nothing, and a
// takeover: the standby does not know whether the client was ever there.
func halfOpen(t *testing.T) (*script.Rig, *script.Conn) {
	t.Helper()
	r, err := script.New(script.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := r.Err(); err != nil {
			t.Errorf("%v\n%s", err, r.Trace())
		}
	})
	c := r.Dial(40000, 1, 2)
	c.Client.MayReset()
	c.Client.Send(script.Out{Flags: script.SYN, Ack: script.Next, Win: 65535, Opts: &script.DefaultOpts})
	if !c.Await(func(_, s script.State) bool { return s.Received == 1 }, nil) {
		t.Fatal("the server is not dialled")
	}
	c.Server.Send(script.Out{Flags: script.SYN | script.ACK, Ack: 1, Win: 65535, Opts: &script.DefaultOpts})
	if !c.Await(func(c, _ script.State) bool { return c.Received == 1 }, nil) {
		t.Fatal("no SYN-ACK")
	}
	if err := r.Takeover(); err != nil {
		t.Fatal(err)
	}
	return r, c
}

// sweep lets the janitor do what it would do in so many seconds, and waits until the
// client has got so many segments.
func sweep(t *testing.T, r *script.Rig, c *script.Conn, after time.Duration, arrived int) {
	t.Helper()
	r.Engine().SweepAfter(after)
	if !c.Await(func(c, _ script.State) bool { return c.Arrived >= arrived }, nil) {
		t.Fatalf("the client got %d segments, not %d", c.Client.State().Arrived, arrived)
	}
}

// A client that is not heard of after a takeover is given up as any handshake is:
// the SYN-ACK is repeated, then the connection ends on both sides.
func TestSilentClientIsGivenUpAfterTakeover(t *testing.T) {
	r, c := halfOpen(t)
	sweep(t, r, c, 0, 2) // the first was the former active's, the second is the probe
	if n := r.Engine().HalfOpen(); n != 1 {
		t.Fatalf("%d half-open after the takeover", n)
	}
	after := time.Second
	var lasted time.Duration
	for n := 2; n < stack.SynAckContinued+1; n++ {
		sweep(t, r, c, after, n+1)
		lasted += after
		after = min(2*after, 8*time.Second)
	}
	if lasted < 30*time.Second {
		t.Errorf("a network that is away for longer than %v costs connections", lasted)
	}
	r.Engine().SweepAfter(after)
	if !c.Await(func(_, s script.State) bool { return s.Dead }, nil) {
		t.Fatalf("the server is not told: %v", c.Server)
	}
	over := func() bool { open, _, _ := r.Relay().Counts(); return open == 0 && r.Engine().HalfOpen() == 0 }
	if !r.Wait(benchLimit, over, nil) {
		open, _, _ := r.Relay().Counts()
		t.Errorf("%d open, %d half-open", open, r.Engine().HalfOpen())
	}
}

// One that answers is no handshake any more, however long it is idle then.
func TestClientThatAnswersAfterTakeoverStays(t *testing.T) {
	r, c := halfOpen(t)
	sweep(t, r, c, 0, 2)
	c.Client.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: 1, Win: script.Next})
	if !r.Wait(benchLimit, func() bool { return r.Engine().HalfOpen() == 0 }, nil) {
		t.Fatal("still half-open")
	}
	if !c.Await(func(_, s script.State) bool { return s.Open }, nil) {
		t.Fatalf("the server's handshake is not completed: %v", c.Server)
	}
	c.Client.Send(script.Out{Flags: script.ACK | script.PSH, Seq: script.Next, Len: 700, Ack: 1, Win: script.Next})
	if !c.Await(func(c, s script.State) bool { return s.Received == 701 && c.Acked == 701 }, nil) {
		t.Fatalf("bytes do not arrive: %v %v", c.Client, c.Server)
	}
	for i := range 2 * stack.SynAckMax {
		r.Engine().SweepAfter(time.Second << i)
	}
	if open, _, _ := r.Relay().Counts(); open != 1 {
		t.Errorf("%d open", open)
	}
}

// What anybody can say does not confirm a client.
func TestForgedSegmentDoesNotConfirm(t *testing.T) {
	r, c := halfOpen(t)
	sweep(t, r, c, 0, 2)
	for _, f := range []*script.Segment{
		c.Client.Forged(script.PSH, 1, 0, 1000, script.NoOpts, nil),                // no ACK
		c.Client.Forged(script.ACK, 1, -5, 1000, script.NoOpts, nil),               // of what is before the stream
		c.Client.Forged(script.ACK, 1<<30, 1, 1000, script.NoOpts, nil),            // from beyond the window
		c.Client.Forged(script.RST|script.ACK, 1<<29, 1, 1000, script.NoOpts, nil), // a RST that is not believed
	} {
		if err := r.Inject(nil, f.Encode()); err != nil {
			t.Fatal(err)
		}
	}
	if !r.Settle() {
		t.Fatal("does not come to rest")
	}
	if n := r.Engine().HalfOpen(); n != 1 {
		t.Errorf("%d half-open", n)
	}
}
