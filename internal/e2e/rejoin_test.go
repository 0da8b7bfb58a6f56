package e2e

import (
	"context"
	"testing"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

// couple is a pair whose appliances change places.
type couple struct {
	*pair
	o               options
	active, standby string
	procs           map[string]*lab.Proc
	hosts           map[string]*lab.Host
}

func newCouple(p *pair, o options) *couple {
	return &couple{
		pair: p, o: o, active: "a", standby: "b",
		procs: map[string]*lab.Proc{"a": p.a, "b": p.b},
		hosts: map[string]*lab.Host{"a": p.A, "b": p.B},
	}
}

// failover kills the active; the standby takes over and the dead one comes back.
func (c *couple) failover() {
	c.t.Helper()
	dead := c.procs[c.active]
	c.kill(dead)
	c.await(c.standby+" is active", func() bool { return c.status(c.standby).Role == control.RoleActive })
	c.await("the dead one is gone", func() bool { return !dead.Running() })
	c.procs[c.active] = c.appliance(c.hosts[c.active], c.active, c.o)
	c.active, c.standby = c.standby, c.active
}

// inSync waits until a crash would cost nothing: both say so.
func (c *couple) inSync() {
	c.t.Helper()
	c.await(c.standby+" is in sync", func() bool {
		return c.status(c.active).InSync && c.status(c.standby).InSync && c.status(c.standby).Role == control.RoleStandby
	})
}

// senders is the peers' congestion control: BBR, where that is the default, takes a
// row of failovers for a path of a few kbit/s and then needs minutes to find out.
const senders = "cubic"

// endless is a connection that carries bytes until it is called off.
type endless struct {
	c      *traffic.Client
	cancel context.CancelFunc
	done   chan traffic.Result
}

func (p *pair) endless(r traffic.Request) *endless {
	ctx, cancel := context.WithCancel(context.Background())
	e := &endless{c: p.client(port4), cancel: cancel, done: make(chan traffic.Result, 1)}
	r.Congestion = senders
	go func() { e.done <- e.c.Do(ctx, r) }()
	p.t.Cleanup(cancel)
	return e
}

// moves waits for progress, and with it for the proof that it lives; every byte that
// arrives is verified by its receiver.
func (e *endless) moves(p *pair, what string) {
	p.t.Helper()
	e.movesBy(p, what, 64<<10)
}

// movesBy is moves, and says for how many bytes, both ways together.
func (e *endless) movesBy(p *pair, what string, n int64) {
	p.t.Helper()
	before := e.c.Progress.Sent.Load() + e.c.Progress.Received.Load()
	p.await(what+" goes on", func() bool {
		select {
		case r := <-e.done:
			p.t.Fatalf("%s: %s", what, r.Error)
		default:
		}
		return e.c.Progress.Sent.Load()+e.c.Progress.Received.Load() > before+n
	})
}

// Ten failovers back and forth, with rejoin in between: the same connections live
// through all of them.
func TestTenFailovers(t *testing.T) {
	o := options{}
	p := start(t, o)
	c := newCouple(p, o)
	const forever = 1 << 40 // bytes
	paced := traffic.Flow{Size: forever, Chunk: 32 << 10, Pace: 10 * time.Millisecond}
	flows := map[string]*endless{
		"bulk both ways":      p.endless(traffic.Request{Mode: traffic.Stream, Up: paced, Down: paced}),
		"client closed first": p.endless(traffic.Request{Mode: traffic.Stream, Up: traffic.Flow{Size: mib}, Down: paced, Close: traffic.ClientFirst}),
		"server closed first": p.endless(traffic.Request{Mode: traffic.Stream, Up: paced, Down: traffic.Flow{Size: mib}, Close: traffic.ServerFirst}),
	}
	finish := make(chan struct{})
	cl := p.client(port4)
	cl.Finish = finish
	stall := traffic.Flow{Size: 60 * mib, StallAfter: mib, StallFor: 20 * time.Second}
	wait := p.run(cl, append(traffic.Times(50, traffic.Idle(0)),
		traffic.Request{Mode: traffic.Rounds, Congestion: senders, RequestSize: 1 << 20, ResponseSize: 1 << 20, Interval: time.Millisecond},
		traffic.Request{Mode: traffic.Rounds, Congestion: senders, RequestSize: 100, ResponseSize: 1000, Interval: 2 * time.Millisecond},
		traffic.Request{Mode: traffic.Stream, Congestion: senders, Down: stall},
		traffic.Request{Mode: traffic.Stream, Congestion: senders, Up: stall},
	)...)
	cl6 := p.client(port6)
	cl6.Finish = finish
	wait6 := p.run(cl6, append(traffic.Times(10, traffic.Idle(0)),
		traffic.Request{Mode: traffic.Rounds, Congestion: senders, RequestSize: 100, ResponseSize: 100000, Interval: 2 * time.Millisecond})...)
	p.await("all are open", func() bool { return cl.Progress.Open.Load() == 54 && cl6.Progress.Open.Load() == 11 })
	for n := range 10 {
		for what, f := range flows {
			f.moves(p, what)
		}
		c.failover()
		c.inSync()
		st := c.status(c.active)
		t.Logf("failover %d: %+v", n+1, st.Connections)
		if st.Connections.Unprotected > 0 {
			t.Fatalf("%d connections are not protected again", st.Connections.Unprotected)
		}
	}
	for what, f := range flows {
		f.moves(p, what)
		f.cancel()
	}
	close(finish)
	wait()
	wait6()
	t.Logf("drops %v", c.status(c.active).Drops)
}

// A standby that joins while ten thousand connections are open, some of them busy,
// makes all of them survive the active's death.
func TestRejoinWithManyIdle(t *testing.T) {
	idle := 10_000
	if raceEnabled {
		idle = 2000
	}
	o := options{}
	p := start(t, o)
	c := newCouple(p, o)
	paced := traffic.Flow{Size: 1 << 40, Chunk: 64 << 10, Pace: 5 * time.Millisecond}
	busy := p.endless(traffic.Request{Mode: traffic.Stream, Up: paced, Down: paced})
	wait := p.crowd(idle)
	for range 2 {
		// For the standby a connection is idle when 64 batches have come after its last one, be that of the snapshot: at
		// least one for each chunk.
		busy.movesBy(p, "bulk", 3*64*int64(paced.Chunk))
		c.failover()
		c.inSync()
		if n := c.parked(c.active)["web"]; n < idle*9/10 {
			t.Errorf("%d of %d idle connections have no endpoints after the takeover", n, idle)
		}
		busy.moves(p, "bulk")
	}
	if st := c.status(c.active); st.Connections.Protected != idle+1 || st.Connections.Unprotected != 0 {
		t.Errorf("%+v", st.Connections)
	}
	c.failover()
	busy.moves(p, "bulk")
	busy.cancel()
	wait()
}

// crowd opens n idle connections from a process of its own (ten thousand need many
// files); wait asks each once more and demands an answer.
func (p *pair) crowd(n int) (wait func()) {
	p.t.Helper()
	if err := p.Client.Sysctl("net.ipv4.ip_local_port_range", "10000 65000"); err != nil {
		p.t.Fatal(err)
	}
	r, err := p.Client.Go(traffic.ClientRole, traffic.ClientArgs{
		Addr: port4, Requests: []traffic.Batch{{Count: n, Request: traffic.Idle(0)}}, Patience: time.Minute,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	next := func(what string, ok func(e traffic.ClientEvent) bool) traffic.ClientEvent {
		p.t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		for {
			var e traffic.ClientEvent
			if err := r.Next(ctx, &e); err != nil {
				p.t.Fatalf("%s: %v", what, err)
			}
			if e.Summary != nil && (e.Summary.Lost > 0 || !ok(e)) {
				p.t.Fatalf("%s: %d of %d idle connections lost: %v", what, e.Summary.Lost, n, e.Summary.Errors)
			}
			if ok(e) {
				return e
			}
		}
	}
	next("open idle connections", func(e traffic.ClientEvent) bool { return e.AllOpen })
	return func() {
		p.t.Helper()
		if err := r.Send(traffic.FinishMessage); err != nil {
			p.t.Fatal(err)
		}
		next("ask the idle connections", func(e traffic.ClientEvent) bool { return e.Summary != nil })
	}
}

// A standby that dies within the snapshot, and comes again, harms nothing.
func TestStandbyDiesInSnapshot(t *testing.T) {
	o := options{}
	p := start(t, o)
	c := newCouple(p, o)
	finish := make(chan struct{})
	cl := p.client(port4)
	cl.Finish = finish
	wait := p.run(cl, append(traffic.Times(1000, traffic.Idle(0)),
		traffic.Request{Mode: traffic.Rounds, RequestSize: 100, ResponseSize: 1000, Interval: time.Millisecond})...)
	p.await("all are open", func() bool { return cl.Progress.Rounds.Load() >= 1001 })
	for range 5 {
		p.kill(c.procs[c.standby])
		p.await("the standby is lost", func() bool { return !c.status(c.active).Peer.Connected })
		c.procs[c.standby] = p.appliance(c.hosts[c.standby], c.standby, o)
		p.await("the standby is back", func() bool { return c.status(c.active).Peer.Connected })
	}
	c.inSync()
	c.failover()
	close(finish)
	wait()
}
