package script

import (
	"testing"

	"lockstep/replication"
)

// A server that does not read, through one takeover after the other: what waits for it
// stays bounded although every rebuilt endpoint begins with an empty queue, no right
// edge goes back (arrive.go), and in the end it gets every byte.
func TestStalledThroughTakeovers(t *testing.T) {
	const window, slack, segment = 256 << 10, 256 << 10, 1400
	rig, err := New(Options{Window: window, Limits: replication.Limits{MaxHeldPerStream: 2 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := rig.Close(); err != nil {
			t.Error(err)
		}
		if err := rig.Err(); err != nil {
			t.Errorf("%v\n%s", err, rig.Trace())
		}
	}()
	c := rig.Dial(40000, 1000, 2000)
	if err := c.Handshake(nil, nil); err != nil {
		t.Fatal(err)
	}
	c.Server.Send(Out{Flags: ACK, Seq: Next, Ack: Next, Win: 0})
	again := func() { c.Client.retransmit(); c.Server.retransmit() }
	for round := range 8 {
		for sent := int64(-1); sent != c.Client.State().Sent; {
			sent = c.Client.State().Sent
			for s := c.Client.State(); s.Sent+segment <= s.Edge; s = c.Client.State() {
				c.Client.Send(Out{Flags: ACK, Seq: Next, Len: segment, Ack: Next, Win: Next})
			}
			if !c.Await(func(cl, _ State) bool { return cl.Acked == cl.Sent }, again) {
				t.Fatalf("round %d: what fits the window is not acknowledged: %+v", round, c.Client.State())
			}
			if !rig.Settle() {
				t.Fatal("does not come to rest")
			}
		}
		// A server that has closed its window may still take what fits the one that it
		// announced before.
		waiting, most := c.Client.State().Sent-c.Server.State().Received, int64(2*window+slack)
		if waiting > most {
			t.Fatalf("round %d: %d bytes wait for a server that does not read, at most %d wanted", round, waiting, most)
		}
		if round > 0 {
			if err := rig.Rejoin(); err != nil {
				t.Fatal(err)
			}
			if !rig.Wait(waitLimit, rig.InSync, nil) {
				t.Fatal("not in sync")
			}
		}
		if st := rig.Journal().Active(); st.Unprotected > 0 {
			t.Fatalf("round %d: %+v", round, st)
		}
		if err := rig.Takeover(); err != nil {
			t.Fatal(err)
		}
	}
	// It reads, and what comes after finds an open window again.
	c.Server.Send(Out{Flags: ACK, Seq: Next, Ack: Next, Win: 65535})
	for range 3 {
		if !c.Await(func(cl, s State) bool { return s.Received == cl.Sent && cl.Acked == cl.Sent }, again) {
			t.Fatalf("bytes do not arrive: %+v %+v", c.Client.State(), c.Server.State())
		}
		if !c.Await(func(cl, _ State) bool { return cl.Edge >= cl.Sent+window/2 }, again) {
			t.Fatalf("the window does not open: %+v", c.Client.State())
		}
		for range window / 2 / segment {
			c.Client.Send(Out{Flags: ACK, Seq: Next, Len: segment, Ack: Next, Win: Next})
		}
	}
}
