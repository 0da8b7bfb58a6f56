package relay_test

import (
	"testing"
	"time"

	"lockstep/appliance/relay"
	"lockstep/internal/script"
	"lockstep/stack"
)

// parkable are services whose connections are ended here.
var parkable = map[string]func(*relay.Service){
	"gateway": func(*relay.Service) {},
	"log":     func(s *relay.Service) { s.Kept, s.LogLimit, s.Patience = true, 1<<20, time.Hour },
	"hot":     func(s *relay.Service) { s.Kept, s.Hot, s.LogLimit, s.Patience = true, true, 1<<20, time.Hour },
}

// park parks the one connection, which has come to rest, or is about to: a timer may still run.
func park(t *testing.T, r *script.Rig, svc **relay.Service) {
	t.Helper()
	await(t, r, "a connection that is parked", func() bool {
		if !r.Relay().Parking() && (*svc).Parked() == 0 {
			r.Relay().ParkIdle()
		}
		return (*svc).Parked() == 1
	})
}

// parked is a quiet connection that is parked; svc is its service, on whichever appliance is active.
func parked(t *testing.T, tune func(*relay.Service)) (r *script.Rig, c *script.Conn, svc *relay.Service, now **relay.Service) {
	t.Helper()
	now = &svc
	r = newRig(t, script.Options{Tune: func(s *relay.Service) {
		tune(s)
		s.Park, *now = time.Hour, s
	}})
	c = quiet(t, r)
	park(t, r, now)
	if n := r.Engine().C.Parked.Load(); n != 2 {
		t.Fatalf("%d legs are parked\n%s", n, r.Trace())
	}
	return r, c, svc, now
}

// exchange is one more request and its response, of which all arrives.
func exchange(t *testing.T, r *script.Rig, c *script.Conn) {
	t.Helper()
	cl, s := c.Client.State(), c.Server.State()
	send(c.Client, script.Next, 100, script.Next)
	awaits(t, r, c, "the request", func(cn, sn script.State) bool {
		return sn.Received == s.Received+100 && cn.Acked == cl.Acked+100
	})
	send(c.Server, script.Next, 300, script.Next)
	awaits(t, r, c, "the response", func(cn, _ script.State) bool { return cn.Received == cl.Received+300 })
	send(c.Client, script.Next, 0, script.Next)
	awaits(t, r, c, "its acknowledgement", func(_, sn script.State) bool { return sn.Acked == s.Acked+300 })
}

// A connection with which nothing is going on gives its endpoints back, and goes on as if it had not:
// whoever speaks first, time and again, also on another appliance after a takeover, and on the next one.
func TestParked(t *testing.T) {
	for name, tune := range parkable {
		t.Run(name, func(t *testing.T) {
			r, c, _, svc := parked(t, tune)
			exchange(t, r, c)
			park(t, r, svc)
			send(c.Server, script.Next, 300, script.Next)
			awaits(t, r, c, "what the server says unasked", func(cl, _ script.State) bool { return cl.Received == 201+300+300 })
			if n := (*svc).Parked(); n != 0 {
				t.Errorf("%d connections are parked while bytes are on their way", n)
			}
			send(c.Client, script.Next, 0, script.Next)
			awaits(t, r, c, "its acknowledgement", func(_, s script.State) bool { return s.Acked == 801 })
			for range 2 {
				park(t, r, svc)
				if err := r.Takeover(); err != nil {
					t.Fatal(err)
				}
				if !r.Settle() {
					t.Fatal("does not come to rest")
				}
				exchange(t, r, c)
				park(t, r, svc) // so is what a joining standby gets
				if err := r.Rejoin(); err != nil {
					t.Fatal(err)
				}
				await(t, r, "a standby in sync", r.InSync)
			}
			park(t, r, svc)
			for _, p := range [2]*script.Peer{c.Client, c.Server} {
				p.Send(script.Out{Flags: script.ACK | script.FIN, Seq: script.Next, Ack: script.Next, Win: script.Next})
			}
			awaits(t, r, c, "both ends", func(cl, s script.State) bool { return cl.Fin && s.Fin })
			for _, p := range [2]*script.Peer{c.Client, c.Server} {
				send(p, script.Next, 0, script.Next)
			}
			await(t, r, "the end", func() bool { open, ended, _ := r.Relay().Counts(); return open == 0 && ended == 1 })
			if n := (*svc).Parked(); n != 0 {
				t.Errorf("%d connections are parked, and none is left", n)
			}
		})
	}
}

// A keepalive goes to the other end, and its answer comes back, without an endpoint on the way; a dead peer
// answers none. What a connection is asked when a takeover finds it parked goes the same way.
func TestKeepaliveWhileParked(t *testing.T) {
	for name, tune := range parkable {
		t.Run(name, func(t *testing.T) {
			r, c, _, svc := parked(t, tune)
			asked(t, r, c)
			if n := (*svc).Parked(); n != 1 || r.Engine().C.Rebuilt.Load() > 2 {
				t.Errorf("%d connections are parked, %d endpoints were built\n%s", n, r.Engine().C.Rebuilt.Load(), r.Trace())
			}
			if name != "hot" { // that gets endpoints at once
				takesOver(t, r, svc)
				asked(t, r, c)
				if n := (*svc).Parked(); n != 1 || r.Engine().C.Rebuilt.Load() > 0 {
					t.Errorf("after a takeover %d connections are parked, %d endpoints were built\n%s", n, r.Engine().C.Rebuilt.Load(), r.Trace())
				}
			}
			exchange(t, r, c)
		})
	}
}

// asked: either end asks whether the other is there, while that is dead and when it is not.
func asked(t *testing.T, r *script.Rig, c *script.Conn) {
	t.Helper()
	for _, side := range []struct{ asks, other *script.Peer }{{c.Client, c.Server}, {c.Server, c.Client}} {
		side.other.Away(true)
		before := side.asks.State().Arrived
		keepalive(side.asks)
		if !r.Settle() {
			t.Fatal("does not come to rest")
		}
		if n := side.asks.State().Arrived; n != before {
			t.Errorf("%d packets in answer, and the other end is dead\n%s", n-before, r.Trace())
		}
		side.other.Away(false)
		keepalive(side.asks)
		awaits(t, r, c, "an answer", func(cl, s script.State) bool {
			return cl.Arrived > before && side.asks == c.Client || s.Arrived > before && side.asks == c.Server
		})
		if !r.Settle() { // whoever answers for the first time since a takeover gets an ACK
			t.Fatal("does not come to rest")
		}
	}
}

// Who speaks while the appliance is mute, its lease over or in doubt, is asked when it may speak again: for what was said
// has been lost, and a sender that has been silent for long waits long.
func TestParkedWhileMute(t *testing.T) {
	for name, tune := range parkable {
		t.Run(name, func(t *testing.T) {
			r, c, _, svc := parked(t, tune)
			r.Engine().SetActive(false)
			before := c.Client.State()
			send(c.Client, script.Next, 100, script.Next)
			await(t, r, "a segment that is not taken in", func() bool { return r.Engine().C.Drops()[stack.DropNotActive.String()] > 0 })
			r.Engine().SetActive(true)
			r.Engine().Resume(time.Second)
			awaits(t, r, c, "a question", func(cl, _ script.State) bool { return cl.Arrived > before.Arrived })
			await(t, r, "endpoints", func() bool { return (*svc).Parked() == 0 })
			was := c.Server.State().Received
			send(c.Client, int64(before.Sent), 100, script.Next)
			awaits(t, r, c, "what was lost", func(cl, s script.State) bool { return s.Received == was+100 && cl.Acked == cl.Sent })
			send(c.Server, script.Next, 0, script.Next)
			exchange(t, r, c)
		})
	}
}

// What is ended by the appliance while it is parked is reset to both ends, from where they are.
func TestParkedIsReset(t *testing.T) {
	for name, tune := range parkable {
		t.Run(name, func(t *testing.T) {
			r, c, svc, _ := parked(t, tune)
			c.Client.MayReset()
			r.Relay().End(limit)
			awaits(t, r, c, "both resets", func(cl, s script.State) bool { return cl.Dead && s.Dead })
			if n := svc.Parked(); n != 0 {
				t.Errorf("%d connections are parked, and none is left", n)
			}
		})
	}
}

// What is measured of a kept connection that a takeover leaves parked is what was measured of it before.
func TestParkedIsMeasured(t *testing.T) {
	r, _, _, svc := parked(t, parkable["log"])
	before := r.Relay().Gauge(*svc)
	takesOver(t, r, svc)
	if after := r.Relay().Gauge(*svc); after != before || after.InStep != 1 {
		t.Errorf("%+v before a takeover, %+v after it", before, after)
	}
}

// Who asks whether the other end is there while endpoints are built hears from the other end, too.
func TestKeepaliveWhileUnparked(t *testing.T) {
	for name, tune := range parkable {
		t.Run(name, func(t *testing.T) {
			var svc *relay.Service
			r := newRig(t, script.Options{MinRTO: time.Minute, Tune: func(s *relay.Service) {
				tune(s)
				s.Park, svc = time.Hour, s
			}})
			c := quiet(t, r)
			park(t, r, &svc)
			goOn := relay.Taking(one(r))
			before := c.Server.State().Arrived
			send(c.Client, script.Next, 100, script.Next)
			keepalive(c.Server)
			if !r.Settle() {
				t.Fatal("does not come to rest")
			}
			c.Client.Away(true)
			goOn()
			awaits(t, r, c, "the request", func(_, s script.State) bool { return s.Received == 201 })
			if !r.Settle() {
				t.Fatal("does not come to rest")
			}
			if n := c.Server.State().Arrived - before; n != 1 {
				t.Errorf("%d packets, and the client is dead: more than the request\n%s", n, r.Trace())
			}
			c.Client.Away(false)
			send(c.Client, script.Next, 0, script.Next)
			awaits(t, r, c, "an answer", func(_, s script.State) bool { return s.Arrived > before+1 })
			// Its acknowledgement may have been sent, delayed, while the client was away.
			send(c.Client, c.Client.State().Sent-100, 100, script.Next)
			awaits(t, r, c, "an acknowledgement", func(cl, _ script.State) bool { return cl.Acked == cl.Sent })
		})
	}
}

// What is to be looked at in its turn is ended at once all the same.
func TestIdleIsReset(t *testing.T) {
	r := newRig(t, script.Options{Tune: func(s *relay.Service) { s.Park = time.Hour }})
	c := quiet(t, r)
	release := relay.Idles(one(r), 2*time.Hour)
	defer release()
	c.Client.MayReset()
	r.Relay().End(time.Second)
	awaits(t, r, c, "both resets", func(cl, s script.State) bool { return cl.Dead && s.Dead })
}
