package relay_test

import (
	"testing"
	"time"

	"lockstep/appliance/relay"
	"lockstep/internal/script"
	"lockstep/stack"
	"lockstep/tun"
)

// takesOver has the standby continue what was parked, and is parked again.
func takesOver(t *testing.T, r *script.Rig, svc **relay.Service) {
	t.Helper()
	if err := r.Takeover(); err != nil {
		t.Fatal(err)
	}
	if !r.Settle() || (*svc).Parked() != 1 {
		t.Fatalf("%d connections are parked after a takeover\n%s", (*svc).Parked(), r.Trace())
	}
}

// fills has the server send more than the client has space for, which is edge bytes; netstack may keep a part of them
// back (RFC 9293, 3.8.6.2.1). Then the window opens.
func fills(t *testing.T, r *script.Rig, c *script.Conn, edge int64) {
	t.Helper()
	from := c.Client.State().Received
	send(c.Server, script.Next, 3000, script.Next)
	awaits(t, r, c, "the response's beginning", func(cl, _ script.State) bool { return cl.Received > from })
	if !r.Settle() {
		t.Fatal("does not come to rest")
	}
	if n := c.Client.State().Received; n > edge {
		t.Errorf("%d bytes beyond the window\n%s", n-edge, r.Trace())
	}
	send(c.Client, script.Next, 0, script.Next)
	awaits(t, r, c, "the response", func(cl, _ script.State) bool { return cl.Received == from+3000 })
	send(c.Client, script.Next, 0, script.Next)
	awaits(t, r, c, "its acknowledgement", func(_, s script.State) bool { return s.Acked == s.Sent })
}

// What a client says of its window while it is parked holds for the endpoint, also where a takeover has parked it.
func TestParkedWindow(t *testing.T) {
	for _, takeover := range []bool{false, true} {
		r, c, _, now := parked(t, parkable["gateway"])
		if takeover {
			takesOver(t, r, now)
		}
		c.Client.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: 201, Win: 2}) // 256 bytes
		if !r.Settle() || (*now).Parked() != 1 {
			t.Fatalf("takeover %v: %d connections are parked after a window update", takeover, (*now).Parked())
		}
		fills(t, r, c, 201+256)
	}
}

// An ACK that was overtaken is the last that comes before the parking: the window is that of the newest one.
func TestParkedAfterAnOvertakenACK(t *testing.T) {
	var svc *relay.Service
	r := newRig(t, script.Options{Tune: func(s *relay.Service) { s.Park, svc = time.Hour, s }})
	o := script.DefaultOpts
	o.TS, o.WScale = false, 7 // a stamp would tell that it is old
	c := r.Dial(40000, 1000, 2000)
	if err := c.Handshake(&o, &o); err != nil {
		t.Fatal(err)
	}
	send(c.Client, script.Next, 100, 1)
	awaits(t, r, c, "the request", func(cl, s script.State) bool { return s.Received == 101 && cl.Acked == 101 })
	send(c.Server, script.Next, 200, 101)
	awaits(t, r, c, "the response", func(cl, _ script.State) bool { return cl.Received == 201 })
	send(c.Client, script.Next, 0, 201)
	awaits(t, r, c, "its acknowledgement", func(_, s script.State) bool { return s.Acked == 201 })
	send(c.Server, script.Next, 300, script.Next)
	awaits(t, r, c, "the next response", func(cl, _ script.State) bool { return cl.Received == 501 })
	c.Client.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: 501, Win: 2}) // 256 bytes
	awaits(t, r, c, "its acknowledgement", func(_, s script.State) bool { return s.Acked == 501 })
	f := c.Client.Forged(script.ACK, c.Client.State().Sent, 201, 65535, script.NoOpts, nil)
	if err := r.Inject(make([]byte, tun.VnetHeaderLen), f.Encode()); err != nil {
		t.Fatal(err)
	}
	if !r.Settle() {
		t.Fatal("does not come to rest")
	}
	park(t, r, &svc)
	fills(t, r, c, 501+256)
}

// The server of a connection that nobody has used yet has told its window in its SYN only.
func TestParkedUnused(t *testing.T) {
	var svc *relay.Service
	r := newRig(t, script.Options{Tune: func(s *relay.Service) { s.Park, svc = time.Hour, s }})
	c := r.Dial(40000, 1000, 2000)
	syn(c)
	awaits(t, r, c, "a dial", func(_, s script.State) bool { return s.Received == 1 })
	c.Server.Send(script.Out{Flags: script.SYN | script.ACK, Ack: 1, Win: 256, Opts: &script.DefaultOpts})
	awaits(t, r, c, "an answer", func(cl, _ script.State) bool { return cl.Received == 1 })
	send(c.Client, script.Next, 0, 1)
	if !r.Settle() {
		t.Fatal("does not come to rest")
	}
	park(t, r, &svc)
	send(c.Client, script.Next, 1000, 1)
	awaits(t, r, c, "the request's beginning", func(_, s script.State) bool { return s.Received > 1 })
	if !r.Settle() {
		t.Fatal("does not come to rest")
	}
	if n := c.Server.State().Received - 1; n > 256 {
		t.Errorf("%d bytes, the window is of 256\n%s", n, r.Trace())
	}
	send(c.Server, script.Next, 0, script.Next)
	awaits(t, r, c, "the request", func(_, s script.State) bool { return s.Received == 1001 })
	send(c.Server, script.Next, 0, 1001)
}

// one is the connection that there is.
func one(r *script.Rig) (c *relay.Conn) {
	r.Relay().Each(func(x *relay.Conn) { c = x })
	return c
}

// A sender that does not slow down after a rest loses nothing of its flight, also after a takeover. What waits counts as
// buffered.
func TestBurstWakes(t *testing.T) {
	for _, takeover := range []bool{false, true} {
		r, c, _, now := parked(t, parkable["gateway"])
		if takeover {
			takesOver(t, r, now)
		}
		goOn := relay.Taking(one(r)) // no endpoint is built before all has come
		const n = 45
		for range n {
			send(c.Client, script.Next, 1400, script.Next)
		}
		if !r.Settle() {
			t.Fatal("does not come to rest")
		}
		if b := r.Engine().Buffered(); b < n*1400 {
			t.Errorf("takeover %v: %d bytes wait, %d count as buffered", takeover, n*1400, b)
		}
		goOn()
		awaits(t, r, c, "all of it", func(_, s script.State) bool { return s.Received == 101+n*1400 })
		if d := r.Engine().C.Drops()[stack.DropPending.String()]; d != 0 {
			t.Errorf("takeover %v: %d packets are dropped", takeover, d)
		}
		send(c.Server, script.Next, 0, script.Next)
		awaits(t, r, c, "its acknowledgement", func(cl, _ script.State) bool { return cl.Acked == cl.Sent })
		await(t, r, "empty queues", func() bool { return r.Engine().Buffered() == 0 })
	}
}

// What waits for an endpoint is bounded by what the engine may buffer; what is dropped is sent again.
func TestBurstIsBounded(t *testing.T) {
	var svc *relay.Service
	const memory = 128 << 10
	r := newRig(t, script.Options{Memory: memory, Tune: func(s *relay.Service) { s.Park, svc = time.Hour, s }})
	c := quiet(t, r)
	park(t, r, &svc)
	goOn := relay.Taking(one(r))
	const n = 200
	for range n {
		send(c.Client, script.Next, 1400, script.Next)
	}
	if !r.Settle() {
		t.Fatal("does not come to rest")
	}
	if b := r.Engine().Buffered(); b <= memory || b > memory+1500 {
		t.Errorf("%d bytes wait, the limit is %d", b, memory)
	}
	if d := r.Engine().C.Drops()["memory-limit"]; d == 0 {
		t.Error("nothing is dropped")
	}
	goOn()
	c.Client.MayReset()
	r.Relay().End(limit)
	if b := r.Engine().Buffered(); b != 0 {
		t.Errorf("%d bytes are buffered, and nobody is left", b)
	}
}
