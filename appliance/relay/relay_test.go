package relay_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lockstep/appliance/relay"
	"lockstep/internal/script"
	"lockstep/replication"
)

const limit = 15 * time.Second

func newRig(t *testing.T, o script.Options) *script.Rig {
	t.Helper()
	r, err := script.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		var idle []string
		if !t.Failed() && !r.Wait(limit, func() bool { idle = r.Relay().WaitForNothing(); return len(idle) == 0 }, nil) {
			t.Errorf("waits for nothing: %v", idle)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := r.Err(); err != nil {
			t.Errorf("%v\n%s", err, r.Trace())
		}
	})
	return r
}

// await waits for what no packet announces, too.
func await(t *testing.T, r *script.Rig, what string, cond func() bool) {
	t.Helper()
	if !r.Wait(limit, cond, nil) {
		t.Fatalf("%s: does not happen; %v\n%s", what, r.Err(), r.Trace())
	}
}

func send(p *script.Peer, seq int64, n int, ack int64) {
	p.Send(script.Out{Flags: script.ACK | script.PSH, Seq: seq, Len: n, Ack: ack, Win: 65535})
}

func syn(c *script.Conn) {
	c.Client.Send(script.Out{Flags: script.SYN, Ack: script.Next, Win: 65535, Opts: &script.DefaultOpts})
}

// As long as the journal confirms nothing no client is let in, no server is told
// that anything of it is safe, and no request byte is passed on.
func TestNothingIsConfirmed(t *testing.T) {
	r := newRig(t, script.Options{})
	r.Journal().Hold(true)
	var conns []*script.Conn
	for i := range uint16(10) {
		c := r.Dial(40000+i, 1000, 2000)
		conns = append(conns, c)
		syn(c)
		if !c.Await(func(_, s script.State) bool { return s.Received == 1 }, nil) {
			t.Fatal("no dial")
		}
		c.Server.Send(script.Out{Flags: script.SYN | script.ACK, Ack: 1, Win: 65535, Opts: &script.DefaultOpts})
		c.Server.Send(script.Out{Flags: script.ACK | script.PSH, Seq: script.Next, Len: 100, Ack: 1, Win: 65535})
	}
	await(t, r, "ten records", func() bool { return r.Journal().Active().Connections == 10 })
	if !r.Settle() {
		t.Fatal("does not come to rest")
	}
	for _, c := range conns {
		if cs, ss := c.Client.State(), c.Server.State(); cs.Received != 0 || ss.Acked > 1 || ss.Received > 1 {
			t.Errorf("client %+v, server %+v", cs, ss)
		}
	}
	r.Journal().Hold(false)
	for _, c := range conns {
		if !c.Await(func(cs, _ script.State) bool { return cs.Received == 1 }, nil) {
			t.Fatal("no SYN-ACK")
		}
		c.Client.Send(script.Out{Flags: script.ACK | script.PSH, Seq: script.Next, Len: 50, Ack: 1, Win: 65535})
		if !c.Await(func(cs, ss script.State) bool { return cs.Received == 101 && ss.Received == 51 && cs.Acked == 51 }, nil) {
			t.Fatalf("bytes do not arrive\n%s", r.Trace())
		}
	}
}

// A client beyond the service's limit gets no answer, and is counted; when one
// goes there is room again.
func TestConnectionLimit(t *testing.T) {
	var svc *relay.Service
	r := newRig(t, script.Options{Tune: func(s *relay.Service) { s.MaxConns, svc = 2, s }})
	a, b := r.Dial(40000, 1, 2), r.Dial(40001, 1, 2)
	for _, c := range []*script.Conn{a, b} {
		if err := c.Handshake(nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	c := r.Dial(40002, 1, 2)
	syn(c)
	await(t, r, "drop", func() bool { return r.Engine().C.Drops()["connection-limit"] == 1 })
	if svc.Conns() != 2 || r.Engine().HalfOpen() != 0 {
		t.Errorf("%d connections, %d half-open", svc.Conns(), r.Engine().HalfOpen())
	}
	a.Client.Send(script.Out{Flags: script.RST, Seq: script.Next, Ack: script.Next, Win: script.Next})
	await(t, r, "end of the first", func() bool { return svc.Conns() == 1 })
	syn(c)
	if !c.Await(func(_, s script.State) bool { return s.Received == 1 }, nil) {
		t.Fatal("no dial")
	}
}

// An idle connection is reset on both sides.
func TestIdle(t *testing.T) {
	r := newRig(t, script.Options{Tune: func(s *relay.Service) { s.Idle = 10 * time.Millisecond }})
	c := r.Dial(40000, 1, 2)
	c.Client.MayReset()
	if err := c.Handshake(nil, nil); err != nil {
		t.Fatal(err)
	}
	if !c.Await(func(cs, ss script.State) bool { return cs.Dead && ss.Dead }, nil) {
		t.Fatalf("not reset\n%s", r.Trace())
	}
	await(t, r, "nothing left", func() bool {
		open, _, aborted := r.Relay().Counts()
		return open == 0 && aborted == 1 && r.Engine().Legs() == 0
	})
}

// Other settings hold at once, for the connections that there are, too; a smaller limit ends none of them.
func TestChange(t *testing.T) {
	var svc *relay.Service
	r := newRig(t, script.Options{Tune: func(s *relay.Service) { s.MaxConns, svc = 3, s }})
	a, b := r.Dial(40000, 1, 2), r.Dial(40001, 1, 2)
	for _, c := range []*script.Conn{a, b} {
		c.Client.MayReset()
		if err := c.Handshake(nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	to := *svc.Now()
	to.MaxConns = 1
	r.Relay().Change(svc, to)
	syn(r.Dial(40002, 1, 2))
	await(t, r, "drop", func() bool { return r.Engine().C.Drops()["connection-limit"] == 1 })
	a.Client.Send(script.Out{Flags: script.ACK | script.PSH, Seq: script.Next, Len: 1000, Ack: 1, Win: 65535})
	if !a.Await(func(c, s script.State) bool { return s.Received == 1001 && c.Acked == 1001 }, nil) || svc.Conns() != 2 {
		t.Errorf("%d connections\n%s", svc.Conns(), r.Trace())
	}
	to.Idle = 10 * time.Millisecond
	r.Relay().Change(svc, to)
	await(t, r, "end of both", func() bool { return svc.Conns() == 0 })
}

// Reset ends everything without a word (somebody else continues it).
func TestResetIsSilent(t *testing.T) {
	r := newRig(t, script.Options{})
	c := r.Dial(40000, 1, 2)
	if err := c.Handshake(nil, nil); err != nil {
		t.Fatal(err)
	}
	if !r.Settle() {
		t.Fatal("does not come to rest")
	}
	before := r.Trace() // every packet that a peer got, or sent
	r.Relay().Reset()
	await(t, r, "end", func() bool {
		open, _, _ := r.Relay().Counts()
		return open == 0 && r.Engine().Legs() == 0
	})
	if !r.Settle() {
		t.Fatal("does not come to rest")
	}
	if after := r.Trace(); after != before {
		t.Errorf("a peer was told\n%s", after)
	}
}

// Two virtual addresses, one server, one client port: the connections are kept
// apart by another port, and never mixed.
func TestSamePortOnTwoAddresses(t *testing.T) {
	r := newRig(t, script.Options{})
	a := r.Dial(40000, 1000, 2000)
	if err := a.Handshake(nil, nil); err != nil {
		t.Fatal(err)
	}
	b := r.DialOther(40000, 3000, 4000)
	if err := b.Handshake(nil, nil); err != nil {
		t.Fatal(err)
	}
	_, ta := a.Server.Addr()
	_, tb := b.Server.Addr()
	if ta == tb || netip.MustParseAddrPort(ta).Addr() != netip.MustParseAddrPort(tb).Addr() {
		t.Fatalf("dialled from %s and %s", ta, tb)
	}
	for i, c := range []*script.Conn{a, b} {
		n := 100 * (i + 1)
		c.Client.Send(script.Out{Flags: script.ACK | script.PSH, Seq: script.Next, Len: n, Ack: 1, Win: 65535})
		c.Server.Send(script.Out{Flags: script.ACK | script.PSH, Seq: script.Next, Len: n + 7, Ack: 1, Win: 65535})
	}
	for i, c := range []*script.Conn{a, b} {
		n := int64(100*(i+1) + 1)
		if !c.Await(func(cs, ss script.State) bool { return cs.Received == n+7 && ss.Received == n }, nil) {
			t.Fatalf("bytes do not arrive: %+v %+v", c.Client.State(), c.Server.State())
		}
	}
}

// A connection of a service that this appliance does not have is an error, the
// others are continued; of two with the same client the newer, in whatever order they come. The journal forgets those that are not: or it would wait for
// them for ever when a standby joins.
func TestRestoreUnknownService(t *testing.T) {
	r := newRig(t, script.Options{})
	leg := func(local, remote string) replication.LegRecord {
		return replication.LegRecord{
			Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote),
			ISS: 1, IRS: 2, MSS: 1460, OurMSS: 1460, PeerWS: -1, OurWS: -1,
		}
	}
	record := func(id replication.ConnID, service, client string) replication.Continue {
		return replication.Continue{Record: replication.Record{
			ID: id, Service: service, Client: leg("203.0.113.10:80", client), Server: leg(client, "10.20.0.11:8080"),
		}}
	}
	all := []replication.Continue{
		record(1, "mail", "198.51.100.1:5000"),
		record(2, "web", "198.51.100.1:5001"),
		record(3, "web", "198.51.100.1:5001"), // its client has begun anew
		record(4, "web", "198.51.100.1:5002"),
	}
	// The journal has what is continued, as after any takeover: it is told of the
	// ends.
	for i := range all {
		r.Journal().Open(new(relay.Conn), all[i].Record)
	}
	await(t, r, "four records", func() bool { st, _ := r.Journal().Standby(); return st.Connections == 4 })
	if !r.Settle() {
		t.Fatal("does not come to rest")
	}
	conns, err := r.Relay().Restore(all, 0)
	if err == nil || len(conns) != 2 {
		t.Fatalf("%d connections, %v", len(conns), err)
	}
	var lost *relay.LostError
	if !errors.As(err, &lost) || lost.Lost() != 1 {
		t.Errorf("lost: %v", err)
	}
	await(t, r, "the end of the second", func() bool { open, _, _ := r.Relay().Counts(); return open == 2 })
	if open, _, _ := r.Relay().Counts(); open != 2 || r.Engine().Legs() != 4 {
		t.Errorf("%d connections, %d legs", open, r.Engine().Legs())
	}
	if r.Relay().Lookup(1) != nil || r.Relay().Lookup(2) != nil || r.Relay().Lookup(3) == nil || r.Relay().Lookup(4) == nil {
		t.Error("the wrong ones are continued")
	}
	r.Relay().Reset()
	await(t, r, "the ends of all", func() bool {
		open, _, aborted := r.Relay().Counts()
		return open == 0 && aborted == 3 && r.Engine().Legs() == 0 && r.Journal().Active().Connections == 0
	})
}

// Closing with connections in every state leaves no goroutine.
func TestClose(t *testing.T) {
	running := goleak.IgnoreCurrent()
	for range 5 {
		r, err := script.New(script.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var errs []error
		for i := range uint16(5) {
			c := r.Dial(40000+i, 1, 2)
			if i < 3 {
				errs = append(errs, c.Handshake(nil, nil))
			} else {
				syn(c)
			}
			if i < 2 {
				c.Client.Send(script.Out{Flags: script.ACK | script.PSH, Seq: script.Next, Len: 1000, Ack: 1, Win: 65535})
			}
		}
		if err := errors.Join(append(errs, r.Close(), r.Err())...); err != nil {
			t.Fatal(err)
		}
	}
	if err := goleak.Find(running); err != nil {
		t.Error(err)
	}
}

// TestDescribe: connections are described while their workers run them, and are not
// moved by it. It is the race detector that fails if a worker's fields are read beside it.
func TestDescribe(t *testing.T) {
	for _, kept := range []bool{false, true} {
		r := newRig(t, script.Options{Tune: func(s *relay.Service) { s.Kept, s.LogLimit, s.Patience = kept, 1<<20, time.Minute }})
		c := r.Dial(40000, 1, 2)
		if err := c.Handshake(nil, nil); err != nil {
			t.Fatal(err)
		}
		stop, stopped := make(chan struct{}), make(chan struct{})
		var busy, last string
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
				}
				r.Relay().Describe(10, func(s string) {
					last = s
					if strings.Contains(s, "more than") {
						busy = s
					}
				})
			}
		}()
		for i := range 30 {
			c.Client.Send(script.Out{Flags: script.ACK | script.PSH, Seq: script.Next, Len: 100, Ack: script.Next, Win: 65535})
			if !c.Await(func(_, ss script.State) bool { return ss.Received == int64(100*(i+1)+1) }, nil) {
				t.Fatalf("bytes do not arrive\n%s", r.Trace())
			}
			c.Server.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: script.Next, Win: 65535})
		}
		close(stop)
		<-stopped
		r.Relay().Describe(10, func(s string) { last = s })
		if busy != "" || !strings.Contains(last, "last_step=") || !strings.Contains(last, "_ago") {
			t.Errorf("kept %v: busy %q, last %q", kept, busy, last)
		}
		n := 0
		if r.Relay().Describe(0, func(string) { n++ }); n != 0 {
			t.Errorf("%d connections are described, none was asked for", n)
		}
	}
}
