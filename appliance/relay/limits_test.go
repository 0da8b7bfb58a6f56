package relay_test

import (
	"testing"
	"time"

	"lockstep/internal/script"
	"lockstep/replication"
)

// Clients beyond the limit on handshakes of a listening address get no answer and
// cost nothing but a count; connections that stand, and other addresses, are not
// concerned; each way out of a handshake makes room for one more.
func TestHalfOpenLimit(t *testing.T) {
	const limit, beyond = 4, 50
	r := newRig(t, script.Options{Cookies: true, HalfOpen: limit})
	stands := r.Dial(40000, 1, 2)
	if err := stands.Handshake(nil, nil); err != nil {
		t.Fatal(err)
	}
	dialled := func(c *script.Conn) bool {
		return c.Await(func(_, s script.State) bool { return s.Received == 1 }, nil)
	}
	port := uint16(41000)
	dial := func() *script.Conn {
		port++
		c := r.Dial(port, 1, 2)
		c.Client.MayReset()
		syn(c)
		return c
	}
	var half []*script.Conn
	for range limit {
		c := dial()
		if !dialled(c) {
			t.Fatal("no dial")
		}
		half = append(half, c)
	}
	cookies := func() uint64 { return r.Engine().C.CookiesSent.Load() }
	var turned []*script.Conn
	for range beyond {
		turned = append(turned, dial())
	}
	await(t, r, "cookies", func() bool { return cookies() == beyond })
	if e := r.Engine(); e.HalfOpen() != limit || e.Legs() != 2+2*limit {
		t.Errorf("%d half-open, %d legs", e.HalfOpen(), e.Legs())
	}
	for _, c := range turned {
		if !c.Await(func(cs, ss script.State) bool { return cs.Received == 1 && ss.Received == 0 }, nil) {
			t.Fatalf("a client beyond the limit: %v, its server %v", c.Client, c.Server)
		}
	}
	answered := turned[beyond-1] // the server's end of the newest client is dialled
	answered.Client.Send(script.Out{Flags: script.ACK | script.PSH, Seq: script.Next, Len: 500, Ack: 1, Win: 65535})
	if !dialled(answered) {
		t.Fatal("no dial for a client that has answered its cookie")
	}
	answered.Server.Send(script.Out{Flags: script.SYN | script.ACK, Ack: 1, Win: 65535, Opts: &script.DefaultOpts})
	if !answered.Await(func(c, s script.State) bool { return s.Received == 501 && c.Acked == 501 }, nil) {
		t.Errorf("a client that has answered its cookie: %v, its server %v", answered.Client, answered.Server)
	}
	stands.Client.Send(script.Out{Flags: script.ACK | script.PSH, Seq: script.Next, Len: 1000, Ack: 1, Win: 65535})
	if !stands.Await(func(c, s script.State) bool { return s.Received == 1001 && c.Acked == 1001 }, nil) {
		t.Error("a connection that stands is concerned")
	}
	other := r.DialOther(40001, 1, 2)
	other.Client.MayReset()
	syn(other)
	await(t, r, "a leg to the other address's server", func() bool { return r.Engine().HalfOpen() == limit+1 })

	ways := []struct {
		name string
		end  func(*script.Conn)
	}{
		{"opened", func(c *script.Conn) {
			c.Server.Send(script.Out{Flags: script.SYN | script.ACK, Ack: 1, Win: 65535, Opts: &script.DefaultOpts})
			if !c.Await(func(cs, _ script.State) bool { return cs.Received == 1 }, nil) {
				t.Fatal("no SYN-ACK")
			}
			c.Client.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: 1, Win: 65535})
		}},
		{"given up by the client", func(c *script.Conn) {
			c.Client.Send(script.Out{Flags: script.RST, Seq: 1})
		}},
		{"refused by the server", func(c *script.Conn) {
			c.Server.Send(script.Out{Flags: script.RST | script.ACK, Ack: 1})
		}},
	}
	for i, w := range ways {
		w.end(half[i])
		await(t, r, w.name+": room", func() bool { return r.Engine().HalfOpen() == limit }) // with the other address's
		if c := dial(); !dialled(c) {
			t.Fatalf("%s: no room\n%s", w.name, r.Trace())
		}
		before := cookies()
		dial()
		await(t, r, w.name+": a cookie", func() bool { return cookies() == before+1 })
	}
}

// A running engine buffers no more than its limit. Above it, whoever has much
// buffered loses data and slows down, who has little goes on; above twice of it
// nobody's data is taken. When the servers read again, all of it arrives.
func TestMemoryLimit(t *testing.T) {
	const (
		memory = 256 << 10
		share  = 64 << 10 // stack.fairShare
		chunk  = 8 << 10
		each   = 25 * chunk
		n      = 8
	)
	r := newRig(t, script.Options{Memory: memory, MinRTO: time.Minute}) // the servers keep still at first
	noScale := script.DefaultOpts
	noScale.WScale = -1 // the server's window stays below 64 KiB
	var conns []*script.Conn
	open := func(port uint16) *script.Conn {
		c := r.Dial(port, 1000, 2000)
		if err := c.Handshake(nil, &noScale); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		return c
	}
	drops := func() uint64 { return r.Engine().C.Drops()["memory-limit"] }
	// send reports whether the next chunk of c was taken.
	send := func(c *script.Conn) (taken bool) {
		t.Helper()
		before, from := drops(), c.Client.State().Acked
		c.Client.Send(script.Out{Flags: script.ACK | script.PSH, Seq: from, Len: chunk, Ack: 1, Win: 65535})
		if !c.Await(func(cs, _ script.State) bool { return drops() > before || cs.Acked == from+chunk }, nil) {
			t.Fatalf("a chunk is neither taken nor dropped\n%s", r.Trace())
		}
		return drops() == before
	}
	for i := range uint16(n) {
		open(40000 + i)
	}
	first := conns[0]
	for c := first; send(c); { // one alone fills the memory
		if c.Client.State().Acked > 2*memory {
			t.Fatalf("%d bytes are buffered", r.Engine().Buffered())
		}
	}
	if b := r.Engine().Buffered(); b <= memory || b > memory+chunk {
		t.Errorf("%d bytes are buffered, the limit is %d", b, memory)
	}
	for _, c := range conns[1:] { // the others have little and go on, up to their share
		for range share/chunk - 1 {
			if b := r.Engine().Buffered(); !send(c) && b <= 2*memory {
				t.Errorf("%d are buffered, a connection that has %d is turned away", b, c.Client.State().Acked-1)
			}
		}
	}
	if b := r.Engine().Buffered(); b <= 2*memory || b > 2*memory+chunk {
		t.Errorf("%d bytes are buffered, twice the limit is %d", b, 2*memory)
	}
	last := open(40000 + n) // a handshake needs no buffer
	if send(last) {
		t.Error("data is taken above twice the limit")
	}

	// The servers read; each client sends again what was not taken.
	for _, c := range conns {
		end, got := time.Now().Add(limit), int64(0)
		for c.Server.State().Received <= each {
			cs, ss := c.Client.State(), c.Server.State()
			if ss.Received > got {
				end, got = time.Now().Add(limit), ss.Received
			}
			if cs.Acked <= each {
				c.Client.Send(script.Out{Flags: script.ACK | script.PSH, Seq: cs.Acked, Len: chunk, Ack: 1, Win: 65535})
			}
			c.Server.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: ss.Received, Win: 65535})
			// A chunk that came too early was dropped: it is sent again soon.
			c.AwaitFor(50*time.Millisecond, func(cl, s script.State) bool { return cl.Acked > cs.Acked || s.Received > ss.Received })
			if time.Now().After(end) {
				t.Fatalf("nothing moves: client %+v, server %+v\n%s", cs, ss, r.Trace())
			}
		}
	}
	empty := func() bool { return r.Engine().Buffered() == 0 }
	for end := time.Now().Add(limit); !r.Wait(50*time.Millisecond, empty, nil); {
		for _, c := range conns {
			c.Server.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: c.Server.State().Received, Win: 65535})
		}
		if time.Now().After(end) {
			t.Fatalf("%d bytes are still buffered", r.Engine().Buffered())
		}
	}
	for i, c := range conns {
		if got := c.Server.State().Received; got <= each {
			t.Errorf("connection %d: %d bytes arrived", i, got)
		}
	}
}

// A connection that was not read because the sync link was congested is read when it no
// longer is, though nothing of its own is left to be confirmed.
func TestCongestionEnds(t *testing.T) {
	r := newRig(t, script.Options{Limits: replication.Limits{MaxPending: 64 << 10}})
	busy, quiet := r.Dial(40000, 1, 2), r.Dial(40001, 3, 4)
	for _, c := range []*script.Conn{busy, quiet} {
		if err := c.Handshake(nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	r.Journal().Hold(true)
	for n := int64(1); !r.Journal().Congested(); n++ {
		c, end := busy, n*1000
		c.Client.Send(script.Out{Flags: script.ACK | script.PSH, Seq: script.Next, Len: 1000, Ack: 1, Win: 65535})
		if !c.Await(func(_, s script.State) bool { return s.Received == end+1 }, nil) {
			t.Fatalf("no %d bytes at the server\n%s", end, r.Trace())
		}
		c.Server.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: script.Next, Win: 65535})
	}
	quiet.Client.Send(script.Out{Flags: script.ACK | script.PSH, Seq: script.Next, Len: 100, Ack: 1, Win: 65535})
	if !r.Settle() {
		t.Fatal("does not come to rest")
	}
	if s := quiet.Server.State(); s.Received != 1 {
		t.Fatalf("the server has %v while the link is congested", s)
	}
	r.Journal().Hold(false)
	if !quiet.Await(func(c, s script.State) bool { return s.Received == 101 && c.Acked == 101 }, nil) {
		t.Fatalf("stands still after the congestion\n%s", r.Trace())
	}
}
