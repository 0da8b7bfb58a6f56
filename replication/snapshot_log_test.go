package replication

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"lockstep/replication/wire"
)

// joining returns an active with connection 1 running, and its standby that has just
// joined in a session of a version; connection 1 is asked for.
func joining(t testing.TB, lim Limits, version uint8) (p *pair, a, s *Core) {
	t.Helper()
	p = newPair(lim)
	a, s = p.node["a"], p.node["s"]
	must(t, a.SetRole(RoleActive, 1))
	must(t, s.SetRole(RoleStandby, 1))
	must(t, a.Open(0, testRecord(1)))
	a.Ready()
	must(t, a.PeerJoined(0, version))
	must(t, s.PeerJoined(0, version))
	if r := a.Ready(); len(r.Adopt) != 1 {
		t.Fatalf("%+v", r)
	}
	return p, a, s
}

// halves cuts b in two, as a relay's buffers do.
func halves(b []byte) [][]byte { return [][]byte{b[:len(b)/3], b[len(b)/3:]} }

// drawLogged draws where a logged connection stands: its request, the two positions,
// and its log as Adopt wants it.
func drawLogged(t *rapid.T) (request []byte, pos [2]StreamPos, log *Log) {
	upTo := func(lo, hi uint64, what string) uint64 { return rapid.Uint64Range(lo, hi).Draw(t, what) }
	n := upTo(0, 3000, "request")
	request = make([]byte, n)
	for i := range request {
		request[i] = byte(i * 7 >> 2)
	}
	reqFin, respFin := rapid.Bool().Draw(t, "request ended"), rapid.Bool().Draw(t, "response ended")
	delivered := upTo(0, n, "delivered")
	log = &Log{State: rapid.SliceOfN(rapid.Byte(), 1, wire.MaxState).Draw(t, "state")}
	log.Checkpoint[Request] = upTo(0, n, "checkpoint")
	req := StreamPos{Delivered: delivered, Received: n, Bytes: halves(request[delivered:]), Fin: reqFin}
	if reqFin {
		if req.Received++; delivered == n && rapid.Bool().Draw(t, "request's FIN delivered") {
			req.Delivered++
		}
	}
	req.Acked = upTo(req.Delivered, req.Received, "request acked")
	if cp := log.Checkpoint[Request]; cp < delivered {
		log.Bytes = halves(request[cp:delivered])
	}

	cuts := rapid.IntRange(0, maxSegments-1).Draw(t, "cuts")
	end := upTo(0, 1000, "response's checkpoint")
	log.Checkpoint[Response] = end
	for range cuts {
		end += upTo(1, 100, "segment")
		log.Segments = append(log.Segments, Segment{end, sumOf(end)})
	}
	end += upTo(0, 100, "open segment")
	log.Segments = append(log.Segments, Segment{end, sumOf(end)})
	// The server may have been read up to less than what was released, if its leg is new.
	resp := StreamPos{Delivered: upTo(log.Checkpoint[Response], end, "response delivered")}
	resp.Received = resp.Delivered + upTo(0, 200, "pending")
	resp.Acked = resp.Delivered
	if respFin && resp.Received >= end {
		resp.Fin = true
		if resp.Received++; resp.Delivered == end && resp.Received == end+1 && rapid.Bool().Draw(t, "response's FIN delivered") {
			resp.Delivered++
			resp.Acked++
		}
	}
	return request, [2]StreamPos{Request: req, Response: resp}, log
}

// TestAdoptLogged: wherever a logged connection stands when it is adopted, the standby
// continues it with the same log.
func TestAdoptLogged(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		request, pos, log := drawLogged(rt)
		lim := Limits{}
		if rapid.Bool().Draw(rt, "small batches") {
			lim.MaxBatchBytes = 1
		}
		p, a, s := joining(t, lim, wire.Version)
		r := loggedRecord(1)
		r.Start = [2]uint64{min(3, pos[Request].Delivered), min(3, pos[Response].Delivered)}
		if err := a.Adopt(p.now, r, pos, log); err != nil {
			rt.Fatalf("%+v, %+v: %v", pos, log, err)
		}
		if err := a.Check(); err != nil {
			rt.Fatal(err)
		}
		for a.Flushable() || s.Flushable() { // and the standby is right in between
			for _, f := range splitFrames(a.Flush(nil)) {
				if err := errors.Join(s.Step(p.now, f), s.Check(), a.Check()); err != nil {
					rt.Fatalf("%v after %s", err, describe(f))
				}
			}
			for _, f := range splitFrames(s.Flush(nil)) {
				if err := errors.Join(a.Step(p.now, f), a.Check()); err != nil {
					rt.Fatal(err)
				}
			}
		}
		if st := a.Stats(); !st.InSync || st.HeldBytes != s.Stats().HeldBytes || st.Logged != 1 {
			rt.Fatalf("%+v\n%+v", st, s.Stats())
		}
		k := take(t, s)
		if k.Record != *r {
			rt.Fatalf("%+v", k.Record)
		}
		if got := bytes.Join(k.Log.Bytes, nil); !bytes.Equal(got, request[log.Checkpoint[Request]:]) {
			rt.Fatalf("log of %d bytes", len(got))
		}
		got, want := *k.Log, *log
		got.Bytes, want.Bytes = nil, nil
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatal(diff)
		}
		for i, c := range k.Streams {
			p := pos[i]
			if c.Delivered != p.Delivered || c.Held != p.end() || c.FinDelivered != p.finDelivered() ||
				!bytes.Equal(bytes.Join(c.Bytes, nil), bytes.Join(p.Bytes, nil)) {
				rt.Fatalf("%v: %+v, of %+v", Stream(i), c, p)
			}
		}
	})
}

// TestAdoptLogRefused: a log that contradicts the positions leaves the connection
// unprotected.
func TestAdoptLogRefused(t *testing.T) {
	good := func() ([2]StreamPos, *Log) {
		return [2]StreamPos{
				{Delivered: 10, Acked: 12, Received: 13, Bytes: halves(make([]byte, 3))},
				{Delivered: 50, Acked: 50, Received: 51, Fin: true},
			}, &Log{
				Checkpoint: [2]uint64{4, 20}, Bytes: halves(make([]byte, 6)),
				Segments: []Segment{{End: 40}, {End: 50}},
			}
	}
	for _, tc := range []struct {
		name   string
		change func(pos *[2]StreamPos, l *Log)
	}{
		{"bytes missing", func(_ *[2]StreamPos, l *Log) { l.Bytes = l.Bytes[:1] }},
		{"bytes beyond delivered", func(_ *[2]StreamPos, l *Log) { l.Checkpoint[Request] = 11 }},
		{"checkpoint beyond received", func(_ *[2]StreamPos, l *Log) { l.Checkpoint[Request], l.Bytes = 14, nil }},
		{"response's checkpoint beyond delivered", func(_ *[2]StreamPos, l *Log) { l.Checkpoint[Response], l.Segments = 51, []Segment{{End: 51}} }},
		{"released less than delivered", func(_ *[2]StreamPos, l *Log) { l.Segments[1].End = 49 }},
		{"released past the end", func(_ *[2]StreamPos, l *Log) { l.Segments[1].End = 51 }},
		{"no segment", func(_ *[2]StreamPos, l *Log) { l.Segments = nil }},
		{"empty segment", func(_ *[2]StreamPos, l *Log) { l.Segments = []Segment{{End: 50}, {End: 50}, {End: 50}} }},
		{"segments back", func(_ *[2]StreamPos, l *Log) { l.Segments = []Segment{{End: 60}, {End: 50}} }},
		{"too many segments", func(pos *[2]StreamPos, l *Log) {
			l.Segments = nil
			for i := range uint64(maxSegments + 1) {
				l.Segments = append(l.Segments, Segment{End: 50 + i})
			}
			pos[Response].Received = 1000
		}},
		{"long state", func(_ *[2]StreamPos, l *Log) { l.State = make([]byte, wire.MaxState+1) }},
		{"no log", nil},
	} {
		p, a, s := joining(t, Limits{}, wire.Version)
		pos, log := good()
		if tc.change == nil {
			log = nil
		} else {
			tc.change(&pos, log)
		}
		if err := a.Adopt(p.now, loggedRecord(1), pos, log); !errors.Is(err, ErrOffset) {
			t.Errorf("%s: %v", tc.name, err)
		}
		p.run(t)
		if st := a.Stats(); st.Protected != 0 || st.Unprotected != 1 || st.Drops[BadOffset] != 1 || s.Stats().Connections != 0 {
			t.Errorf("%s: %+v", tc.name, st)
		}
	}
	p, a, _ := joining(t, Limits{}, wire.Version)
	pos, log := good()
	if err := a.Adopt(p.now, testRecord(1), pos, log); !errors.Is(err, ErrOffset) {
		t.Errorf("log of a plain connection: %v", err)
	}
	p, a, _ = joining(t, Limits{}, wire.Version)
	pos, log = good()
	must(t, a.Adopt(p.now, loggedRecord(1), pos, log))
}

// TestAdoptLogTooLarge: what does not fit with its log is adopted without.
func TestAdoptLogTooLarge(t *testing.T) {
	for _, tc := range []struct {
		lim Limits
		why Reason
	}{
		{Limits{MaxHeldPerStream: 100}, LimitStream},
		{Limits{MaxHeldTotal: 100}, LimitTotal},
		{Limits{MaxPending: 400}, LimitPending},
	} {
		p, a, s := joining(t, tc.lim, wire.Version)
		pos := [2]StreamPos{{Delivered: 200, Received: 203, Bytes: halves([]byte("ask"))}, {Delivered: 50, Received: 50, Acked: 50}}
		log := &Log{Bytes: halves(make([]byte, 200)), Segments: []Segment{{End: 50}}}
		must(t, a.Adopt(p.now, loggedRecord(1), pos, log))
		p.run(t)
		if r := a.Ready(); len(r.Unlogged) != 1 || a.Stats().Drops[tc.why] != 1 || a.Stats().Protected != 1 {
			t.Fatalf("%+v", r)
		}
		if k := take(t, s); k.Log != nil || k.Record.Logged || string(bytes.Join(k.Streams[Request].Bytes, nil)) != "ask" {
			t.Fatalf("%+v", k)
		}
	}
	// Nor does it fit without.
	p, a, _ := joining(t, Limits{MaxHeldPerStream: 2}, wire.Version)
	pos := [2]StreamPos{{Received: 3, Bytes: halves([]byte("ask"))}, {}}
	if err := a.Adopt(p.now, loggedRecord(1), pos, &Log{Segments: []Segment{{}}}); !errors.Is(err, ErrLimit) {
		t.Error(err)
	}
	if r := a.Ready(); len(r.Unlogged) != 0 || a.Stats().Drops[LimitStream] != 1 {
		t.Errorf("%+v", r)
	}
}

// TestLogWithOlderPeer: for a standby of version 1 or 2 a logged connection is a plain
// one, and one whose server leg was replaced cannot be expressed.
func TestLogWithOlderPeer(t *testing.T) {
	for version := uint8(wire.MinVersion); version < wire.LogVersion; version++ {
		t.Run(fmt.Sprint("version ", version), func(t *testing.T) { logWithOlderPeer(t, version) })
	}
}

func logWithOlderPeer(t *testing.T, version uint8) {
	p := newPair(Limits{})
	a, s := p.node["a"], p.node["s"]
	must(t, a.SetRole(RoleActive, 1))
	must(t, s.SetRole(RoleStandby, 1))
	must(t, a.Open(0, testRecord(1)))
	must(t, a.Open(0, testRecord(2)))
	a.Ready()
	must(t, a.PeerJoined(0, version))
	must(t, s.PeerJoined(0, version))
	moved := loggedRecord(2)
	moved.Start = [2]uint64{4, 4}
	pos := [2]StreamPos{{Delivered: 10, Received: 13, Bytes: halves([]byte("ask"))}, {Delivered: 5, Received: 5, Acked: 5}}
	log := func() *Log { return &Log{Bytes: halves(make([]byte, 10)), Segments: []Segment{{End: 5}}} }
	unprotected := 2
	if version >= wire.AdoptVersion {
		unprotected = 1
		must(t, a.Adopt(0, loggedRecord(1), pos, log()))
		if err := a.Adopt(0, moved, pos, log()); !errors.Is(err, ErrVersionLeg) {
			t.Error(err)
		}
	}
	moved.ID = 3
	must(t, a.Open(0, moved))
	must(t, a.Open(0, loggedRecord(4)))
	p.run(t)
	if r := a.Ready(); len(r.Unlogged) > 0 || len(r.Unprotected) != 1 || r.Unprotected[0] != 3 {
		t.Fatalf("%+v", r)
	}
	must(t, a.Data(0, 4, Request, 0, []byte("request"), false))
	must(t, a.Delivered(0, 4, Request, 4))
	must(t, a.Received(0, 4, Response, 9, false))
	must(t, a.Released(0, 4, Released{End: 9, Cut: true}))
	must(t, a.Delivered(0, 4, Response, 9))
	must(t, a.Checkpoint(0, 4, [2]uint64{4, 9}))
	p.run(t)
	if st := a.Stats(); st.Logged != 0 || st.Unprotected != unprotected+1 || st.Drops[PeerVersion] != uint64(3-unprotected) {
		t.Fatalf("%+v", st)
	}
	// A replaced leg takes the protection away, and may be used when that is known.
	must(t, a.Open(0, loggedRecord(5)))
	p.run(t)
	a.Ready()
	leg := testRecord(15).Server
	must(t, a.ServerLeg(0, 5, &leg, [2]uint64{}))
	if r := a.Ready(); len(r.Legs) > 0 {
		t.Fatalf("%+v", r)
	}
	p.run(t)
	if r := a.Ready(); len(r.Legs) != 1 || len(r.Unprotected) != 1 || r.Unprotected[0] != 5 {
		t.Fatalf("%+v", r)
	}
	// Nor does a standby take in what its session's version does not have.
	for _, b := range [][]byte{
		wire.AppendLeg(nil, 4, &leg, [2]uint64{}), wire.AppendLog(nil, 4, [2]uint64{}),
		wire.AppendReleased(nil, 4, &Released{}), wire.AppendCheckpoint(nil, 4, [2]uint64{}), wire.AppendUnlog(nil, 4),
	} {
		other := New(Limits{})
		must(t, other.SetRole(RoleStandby, 1))
		must(t, other.PeerJoined(0, version))
		f := append(wire.AppendOpen(wire.Begin(nil), testRecord(4)), b...)
		wire.Finish(f, 0, wire.Header{Version: version, Type: wire.TypeBatch, Epoch: 1, Index: 1})
		if err := other.Step(0, f); !errors.Is(err, ErrUnexpected) {
			t.Errorf("kind %d: %v", b[0], err)
		}
	}
	s.PeerLost()
	all, err := s.Takeover(2)
	must(t, err)
	for _, k := range all {
		if k.Log != nil || k.Record.Logged || (k.Record.ID != 4 && (k.Record.ID != 1 || version < wire.AdoptVersion)) {
			t.Errorf("%+v", k)
		}
	}
	if len(all) != 3-unprotected {
		t.Errorf("%d connections", len(all))
	}
}
