package replication

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lockstep/replication/wire"
)

// TestLogRefused: calls that contradict what was said before change nothing.
func TestLogRefused(t *testing.T) {
	p, a, _ := openLogged(t, Limits{})
	at := exchangeHTTP(t, p, "0123456789", [2]uint64{}, 100)
	next := exchangeHTTP(t, p, "abc", at, 100)
	must(t, a.Received(p.now, 1, Response, 300, false))
	must(t, a.Released(p.now, 1, Released{End: 300, Cut: true}))
	must(t, a.Checkpoint(p.now, 1, at))
	must(t, a.Data(p.now, 1, Request, next[0], nil, true))
	must(t, a.Received(p.now, 1, Response, 351, true))
	p.run(t)
	leg := &testRecord(1).Server
	for i, tc := range []struct {
		name string
		call func() error
		want error
	}{
		{"checkpoint goes back", func() error { return a.Checkpoint(p.now, 1, [2]uint64{9, 100}) }, ErrOffset},
		{"checkpoint goes back", func() error { return a.Checkpoint(p.now, 1, [2]uint64{13, 0}) }, ErrOffset},
		{"no cut", func() error { return a.Checkpoint(p.now, 1, [2]uint64{13, 150}) }, ErrOffset},
		{"not delivered", func() error { return a.Checkpoint(p.now, 1, [2]uint64{13, 300}) }, ErrOffset},
		{"not received, or the FIN", func() error { return a.Checkpoint(p.now, 1, [2]uint64{14, 200}) }, ErrOffset},
		{"released goes back", func() error { return a.Released(p.now, 1, Released{End: 299}) }, ErrOffset},
		{"released past the end", func() error { return a.Released(p.now, 1, Released{End: 351}) }, ErrOffset},
		{"long state", func() error { return a.Released(p.now, 1, Released{End: 300, State: make([]byte, 65)}) }, wire.ErrState},
		{"unknown", func() error { return a.Released(p.now, 2, Released{}) }, ErrUnknownConn},
		{"unknown", func() error { return a.Unlog(p.now, 2) }, ErrUnknownConn},
		{"unknown", func() error { return a.Checkpoint(p.now, 2, [2]uint64{}) }, ErrUnknownConn},
		{"unknown", func() error { return a.ServerLeg(p.now, 2, leg, [2]uint64{}) }, ErrUnknownConn},
		{"leg of the future", func() error { return a.ServerLeg(p.now, 1, leg, [2]uint64{14, 0}) }, ErrOffset},
		{"leg of the future", func() error { return a.ServerLeg(p.now, 1, leg, [2]uint64{0, 201}) }, ErrOffset},
		{"leg", func() error { return a.ServerLeg(p.now, 1, &LegRecord{OurWS: 15}, [2]uint64{}) }, wire.ErrWindowScale},
	} {
		if err := tc.call(); !errors.Is(err, tc.want) {
			t.Errorf("%d, %s: %v, want %v", i, tc.name, err, tc.want)
		}
		if a.Flushable() {
			t.Errorf("%d, %s: something is told to the standby", i, tc.name)
		}
		must(t, a.Check())
	}
	// The same again, and an empty cut, are no news.
	must(t, a.Checkpoint(p.now, 1, at))
	must(t, a.Released(p.now, 1, Released{End: 300, Cut: true}))
	if n := len(a.act.conns[1].log.cuts); n != 2 {
		t.Errorf("%d cuts", n)
	}
	// A response cannot end before what was released of it.
	must(t, a.Open(p.now, func() *Record { r := loggedRecord(2); return r }()))
	must(t, a.Received(p.now, 2, Response, 10, false))
	must(t, a.Released(p.now, 2, Released{End: 20}))
	if err := a.Received(p.now, 2, Response, 20, true); !errors.Is(err, ErrOffset) {
		t.Error(err)
	}
	must(t, a.Received(p.now, 2, Response, 21, true))
	p.run(t)
}

// TestLogLimits: at each limit the log goes first, told and counted, and the connection
// stays protected as a plain one.
func TestLogLimits(t *testing.T) {
	ask := func(t *testing.T, p *pair, n, size int) {
		for i := range n {
			off := uint64(i * size)
			must(t, p.node["a"].Data(p.now, 1, Request, off, bytes.Repeat([]byte{'x'}, size), false))
			must(t, p.node["a"].Delivered(p.now, 1, Request, off+uint64(size)))
		}
	}
	for _, tc := range []struct {
		name string
		lim  Limits
		why  Reason
		do   func(t *testing.T, p *pair)
	}{
		{"stream", Limits{MaxHeldPerStream: 1000}, LimitStream, func(t *testing.T, p *pair) { ask(t, p, 11, 100) }},
		{"total", Limits{MaxHeldTotal: 1000}, LimitTotal, func(t *testing.T, p *pair) { ask(t, p, 11, 100) }},
		{"segments", Limits{}, LimitSegments, func(t *testing.T, p *pair) {
			for i := range uint64(maxSegments) {
				must(t, p.node["a"].Received(p.now, 1, Response, i+1, false))
				must(t, p.node["a"].Released(p.now, 1, Released{End: i + 1, Cut: true}))
				must(t, p.node["a"].Delivered(p.now, 1, Response, i+1))
			}
		}},
		{"pending cuts", Limits{MaxPending: 1000}, LimitPending, func(t *testing.T, p *pair) {
			for i := range uint64(60) {
				must(t, p.node["a"].Released(p.now, 1, Released{End: i + 1, Cut: true}))
			}
		}},
		{"pending checkpoints", Limits{MaxPending: 1000}, LimitPending, func(t *testing.T, p *pair) {
			must(t, p.node["a"].Data(p.now, 1, Request, 0, make([]byte, 500), false))
			for i := range uint64(500) {
				must(t, p.node["a"].Checkpoint(p.now, 1, [2]uint64{i + 1, 0}))
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, a, s := openLogged(t, tc.lim)
			tc.do(t, p)
			if n := a.act.pending(); n > 2000 {
				t.Errorf("%d bytes wait", n)
			}
			p.run(t)
			r := a.Ready()
			if diff := cmp.Diff([]ConnID{1}, r.Unlogged); diff != "" || len(r.Unprotected) > 0 {
				t.Fatalf("%+v", r)
			}
			if st := a.Stats(); st.Drops[tc.why] != 1 || st.Logged != 0 || st.Protected != 1 || st.HeldBytes != s.Stats().HeldBytes {
				t.Fatalf("%+v", st)
			}
			// What the relay says of the log before it hears of that does nothing.
			must(t, a.Released(p.now, 1, Released{End: 1 << 30}))
			must(t, a.Checkpoint(p.now, 1, [2]uint64{1 << 30, 1 << 30}))
			must(t, a.Unlog(p.now, 1))
			p.run(t)
			if k := take(t, s); k.Log != nil || k.Record.Logged {
				t.Fatalf("%+v", k)
			}
		})
	}
	t.Run("undelivered", func(t *testing.T) {
		// Without a log it does not fit either.
		p, a, _ := openLogged(t, Limits{MaxHeldPerStream: 1000})
		for i := range uint64(11) {
			must(t, a.Data(p.now, 1, Request, i*100, make([]byte, 100), false))
		}
		p.run(t)
		if r := a.Ready(); len(r.Unlogged) != 1 || len(r.Unprotected) != 1 {
			t.Fatalf("%+v", r)
		}
	})
}

// TestUnlog: undelivered bytes stay, what the log kept beyond goes, on both sides.
func TestUnlog(t *testing.T) {
	p, a, s := openLogged(t, Limits{})
	must(t, a.Data(p.now, 1, Request, 0, []byte("kept for a replay"), false))
	must(t, a.Delivered(p.now, 1, Request, 11))
	must(t, a.Received(p.now, 1, Response, 10, false))
	must(t, a.Delivered(p.now, 1, Response, 10)) // held back: not released
	p.run(t)
	must(t, a.Unlog(p.now, 1))
	p.run(t)
	if n, m := a.Stats().HeldBytes, s.Stats().HeldBytes; n != 6 || m != 6 {
		t.Errorf("%d and %d bytes held", n, m)
	}
	if r := a.Ready(); len(r.Unlogged) > 0 {
		t.Errorf("%+v", r)
	}
	k := take(t, s)
	if got := string(bytes.Join(k.Streams[Request].Bytes, nil)); got != "replay" || k.Log != nil || k.Streams[Response].Delivered != 10 {
		t.Errorf("%q, %+v", got, k)
	}
}

// TestLogErrors: entries that contradict the store end the session, and nothing can be
// taken over (invariant 5).
func TestLogErrors(t *testing.T) {
	batch := func(index uint64, payload []byte) []byte {
		f := append(wire.Begin(nil), payload...)
		wire.Finish(f, 0, wire.Header{Version: wire.Version, Type: wire.TypeBatch, Epoch: 1, Index: index})
		return f
	}
	open := join(wire.AppendOpen(nil, testRecord(1)), wire.AppendLog(nil, 1, [2]uint64{}),
		wire.AppendData(nil, 1, Request, 0, []byte("0123456789"), false))
	released := func(end uint64, cut bool) []byte {
		return wire.AppendReleased(nil, 1, &Released{End: end, Cut: cut})
	}
	delivered := func(req, resp uint64, fin bool) []byte {
		return wire.AppendDelivered(nil, 1, [2]uint64{req, resp}, [2]bool{false, fin})
	}
	checkpoint := func(req, resp uint64) []byte { return wire.AppendCheckpoint(nil, 1, [2]uint64{req, resp}) }
	cut := join(released(100, true), delivered(5, 100, false))
	var many []byte
	for i := range uint64(maxSegments) {
		many = append(many, released(i+1, true)...)
	}
	plain := wire.AppendOpen(nil, testRecord(2))
	leg := func(id ConnID, start [2]uint64) []byte { return wire.AppendLeg(nil, id, &testRecord(1).Server, start) }
	for _, tc := range []struct {
		name    string
		payload []byte
		want    error
	}{
		{"delivered, not released", delivered(0, 1, false), ErrOffset},
		{"end before released", join(released(5, false), delivered(0, 4, true)), ErrOffset},
		{"end shipped before released", join(released(5, false), wire.AppendData(nil, 1, Response, 0, []byte("1234"), true)), ErrOffset},
		{"released back", join(released(5, false), released(4, false)), ErrOffset},
		{"released past the end", join(released(5, false), delivered(0, 6, true), released(6, false)), ErrOffset},
		{"empty segment", join(released(5, true), released(5, true)), ErrOffset},
		{"segments", many, ErrSegments},
		{"checkpoint back", join(cut, checkpoint(5, 100), checkpoint(4, 100)), ErrOffset},
		{"checkpoint back", join(cut, checkpoint(5, 100), checkpoint(5, 0)), ErrOffset},
		{"checkpoint beyond", join(cut, checkpoint(11, 100)), ErrOffset},
		{"checkpoint not delivered", join(released(100, true), checkpoint(5, 100)), ErrOffset},
		{"checkpoint at no cut", join(cut, checkpoint(5, 50)), ErrOffset},
		{"logged twice", wire.AppendLog(nil, 1, [2]uint64{}), ErrUnexpected},
		{"logged too late", join(plain, wire.AppendData(nil, 2, Request, 0, []byte("x"), false), wire.AppendLog(nil, 2, [2]uint64{})), ErrUnexpected},
		{"log of the future", join(plain, wire.AppendLog(nil, 2, [2]uint64{1, 0})), ErrOffset},
		{"log of the future", join(plain, wire.AppendLog(nil, 2, [2]uint64{0, 1})), ErrOffset},
		{"released of a plain one", join(plain, wire.AppendReleased(nil, 2, &Released{End: 1})), ErrUnexpected},
		{"checkpoint of a plain one", join(plain, wire.AppendCheckpoint(nil, 2, [2]uint64{})), ErrUnexpected},
		{"unlogged twice", join(wire.AppendUnlog(nil, 1), wire.AppendUnlog(nil, 1)), ErrUnexpected},
		{"unknown", wire.AppendUnlog(nil, 7), ErrUnknownConn},
		{"leg of the future", leg(1, [2]uint64{11, 0}), ErrOffset},
		{"leg of the future", leg(1, [2]uint64{0, 1}), ErrOffset},
		{"overflow", join(released(1<<64-1, false), wire.AppendData(nil, 1, Response, 0, nil, true)), ErrOffset},
	} {
		s := New(Limits{})
		must(t, s.SetRole(RoleStandby, 1))
		must(t, s.PeerJoined(0, wire.Version))
		must(t, s.Step(0, batch(1, join(wire.AppendSynced(nil), open))))
		must(t, s.Check())
		if err := s.Step(0, batch(2, tc.payload)); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
		must(t, s.Check())
		s.PeerLost()
		if _, err := s.Takeover(2); !errors.Is(err, ErrNotInSync) {
			t.Errorf("%s: takeover: %v", tc.name, err)
		}
	}
	// A snapshot that lacks segments is not complete.
	s := New(Limits{})
	must(t, s.SetRole(RoleStandby, 1))
	must(t, s.PeerJoined(0, wire.Version))
	adopt := join(wire.AppendAdopt(nil, testRecord(1), [2]uint64{3, 50}, [2]uint64{3, 50}, [2]bool{}), wire.AppendLog(nil, 1, [2]uint64{3, 20}))
	must(t, s.Step(0, batch(1, join(adopt, released(40, true)))))
	must(t, s.Check())
	if err := s.Step(0, batch(2, wire.AppendSynced(nil))); !errors.Is(err, ErrOffset) {
		t.Error(err)
	}
	s = New(Limits{})
	must(t, s.SetRole(RoleStandby, 1))
	must(t, s.PeerJoined(0, wire.Version))
	must(t, s.Step(0, batch(1, join(adopt, released(40, true), released(50, false), wire.AppendSynced(nil)))))
	must(t, s.Check())
}

// A connection whose leg the standby could not continue is forgotten there first, and then
// unprotected; one that waits to be adopted holds up nobody.
func TestForgo(t *testing.T) {
	p, a, s := openLogged(t, Limits{})
	a.Ready()
	must(t, a.Forgo(p.now, 1))
	if r := a.Ready(); !r.empty() {
		t.Fatalf("before the standby has forgotten it: %+v", r)
	}
	p.run(t)
	if r := a.Ready(); len(r.Unprotected) != 1 || s.Stats().Connections != 0 || a.Stats().Drops[LegBehind] != 1 {
		t.Fatalf("%+v, the standby has %d", r, s.Stats().Connections)
	}
	must(t, a.Forgo(p.now, 1))
	if r := a.Ready(); !r.empty() {
		t.Fatalf("a second time: %+v", r)
	}
	if err := a.Forgo(p.now, 2); !errors.Is(err, ErrUnknownConn) {
		t.Error(err)
	}
	a.PeerLost()
	a.Ready()
	s = New(Limits{})
	must(t, s.SetRole(RoleStandby, a.Epoch()))
	p.node["s"] = s
	must(t, s.PeerJoined(p.now, wire.Version))
	must(t, a.PeerJoined(p.now, wire.Version))
	if r := a.Ready(); len(r.Adopt) != 1 || a.InSync() {
		t.Fatalf("%+v", r)
	}
	must(t, a.Forgo(p.now, 1))
	p.run(t)
	if !a.InSync() || s.Stats().Connections != 0 {
		t.Fatal("the snapshot waits for it")
	}
	must(t, a.Check())
}
