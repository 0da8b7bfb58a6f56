package relay_test

import (
	"testing"
	"time"

	"lockstep/appliance/carry"
	"lockstep/appliance/relay"
	"lockstep/internal/script"
)

// keepalive is what a peer's kernel sends on an idle connection (RFC 1122, 4.2.3.6).
func keepalive(p *script.Peer) {
	p.Send(script.Out{Flags: script.ACK, Seq: p.State().Sent - 1, Ack: script.Next, Win: script.Next})
}

// quiet is a connection of which all that was said has arrived.
func quiet(t *testing.T, r *script.Rig) *script.Conn {
	t.Helper()
	c := r.Dial(40000, 1000, 2000)
	if err := c.Handshake(nil, nil); err != nil {
		t.Fatal(err)
	}
	send(c.Client, script.Next, 100, 1)
	awaits(t, r, c, "the request", func(cl, s script.State) bool { return s.Received == 101 && cl.Acked == 101 })
	send(c.Server, script.Next, 200, 101)
	awaits(t, r, c, "the response", func(cl, s script.State) bool { return cl.Received == 201 })
	send(c.Client, script.Next, 0, 201)
	awaits(t, r, c, "its acknowledgement", func(_, s script.State) bool { return s.Acked == 201 })
	if !r.Settle() {
		t.Fatal("does not come to rest")
	}
	return c
}

// Who asks whether the other end is there hears from the other end: no answer if that is
// dead, one if it is alive.
func TestKeepaliveIsPassedOn(t *testing.T) {
	for name, tune := range map[string]func(*relay.Service){
		"gateway": func(*relay.Service) {},
		"log": func(s *relay.Service) {
			s.Kept, s.LogLimit, s.Patience = true, 1<<20, time.Hour
		},
	} {
		for _, moved := range []bool{false, true} {
			t.Run(name+map[bool]string{true: " continued"}[moved], func(t *testing.T) {
				r := newRig(t, script.Options{Tune: tune})
				c := quiet(t, r)
				if moved {
					if err := r.Takeover(); err != nil {
						t.Fatal(err)
					}
					await(t, r, "endpoints", func() bool { return r.Engine().C.Rebuilt.Load() == 2 })
					if !r.Settle() {
						t.Fatal("does not come to rest")
					}
				}
				for _, side := range []struct{ asks, other *script.Peer }{{c.Client, c.Server}, {c.Server, c.Client}} {
					side.other.Away(true)
					before := side.asks.State().Arrived
					keepalive(side.asks)
					if !r.Settle() {
						t.Fatal("does not come to rest")
					}
					if n := side.asks.State().Arrived; n != before && !moved { // a new endpoint says where it is, late maybe
						t.Errorf("%d packets in answer, and the other end is dead\n%s", n-before, r.Trace())
					}
					side.other.Away(false)
					keepalive(side.asks)
					awaits(t, r, c, "an answer", func(cl, s script.State) bool {
						return cl.Arrived > before && side.asks == c.Client || s.Arrived > before && side.asks == c.Server
					})
				}
			})
		}
	}
}

// A peer that is silent for long is asked, one that answers stays, and of one that does not the
// other is told.
func TestDeadPeerIsFound(t *testing.T) {
	for name, kept := range map[string]bool{"gateway": false, "log": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, script.Options{Tune: func(s *relay.Service) {
				s.Kept, s.LogLimit, s.Patience = kept, 1<<20, time.Hour
				s.Keepalive = carry.Keepalive{Idle: 300 * time.Millisecond, Interval: 300 * time.Millisecond, Count: 2}
			}})
			c := quiet(t, r)
			client, server := c.Client.State().Arrived, c.Server.State().Arrived
			awaits(t, r, c, "questions", func(cl, s script.State) bool { return cl.Arrived >= client+4 && s.Arrived >= server+4 })
			if cl, s := c.Client.State(), c.Server.State(); cl.Dead || s.Dead {
				t.Fatalf("both are there: client %+v, server %+v\n%s", cl, s, r.Trace())
			}
			c.Server.MayReset()
			c.Client.Away(true)
			awaits(t, r, c, "the reset of the server", func(_, s script.State) bool { return s.Dead })
			ended(t, r)
		})
	}
}

// A connection that waits for nothing is said, run in case that an event was lost, and reset
// when that has not helped.
func TestWaitingForNothingEnds(t *testing.T) {
	r := newRig(t, script.Options{})
	c := quiet(t, r)
	c.Client.MayReset()
	c.Server.MayReset()
	said := make(chan bool, 10)
	r.Relay().OnStuck(func(_ string, ended bool) { said <- ended })
	var conn *relay.Conn
	r.Relay().Each(func(x *relay.Conn) { conn = x })
	relay.Inspect(conn)
	if n := r.Relay().Stuck(); n != 0 {
		t.Fatalf("a sound connection is stuck: %v", r.Relay().WaitForNothing())
	}
	relay.Strand(conn)
	if all := r.Relay().WaitForNothing(); len(all) != 1 {
		t.Fatalf("found: %v", all)
	}
	for ended := false; !ended; {
		relay.Inspect(conn) // a worker may have it just now
		select {
		case ended = <-said:
		default:
		}
	}
	if n := r.Relay().Stuck(); n != 2 {
		t.Errorf("%d counted", n)
	}
	awaits(t, r, c, "the resets", func(cl, s script.State) bool { return cl.Dead && s.Dead })
	await(t, r, "nothing is left", func() bool { open, _, _ := r.Relay().Counts(); return open == 0 && r.Engine().Legs() == 0 })
}
