package replication

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lockstep/replication/wire"
)

// loggedRecord is testRecord's, logged.
func loggedRecord(id uint64) *Record {
	r := testRecord(id)
	r.Logged = true
	return r
}

// openLogged returns a pair in sync with one logged connection, number 1.
func openLogged(t testing.TB, lim Limits) (p *pair, a, s *Core) {
	t.Helper()
	p = joined(t, lim)
	a, s = p.node["a"], p.node["s"]
	must(t, a.Open(p.now, loggedRecord(1)))
	p.run(t)
	a.Ready()
	return p, a, s
}

// exchangeHTTP plays a request that was answered: both delivered.
func exchangeHTTP(t testing.TB, p *pair, req string, from [2]uint64, n uint64) (to [2]uint64) {
	t.Helper()
	a := p.node["a"]
	to = [2]uint64{from[0] + uint64(len(req)), from[1] + n}
	must(t, a.Data(p.now, 1, Request, from[Request], []byte(req), false))
	must(t, a.Delivered(p.now, 1, Request, to[Request]))
	must(t, a.Received(p.now, 1, Response, to[Response], false))
	must(t, a.Released(p.now, 1, Released{End: to[Response], Sum: sumOf(to[Response]), Cut: true, State: []byte(req)}))
	must(t, a.Delivered(p.now, 1, Response, to[Response]))
	return to
}

// sumOf stands for a digest of what lies below end.
func sumOf(end uint64) (d Digest) {
	copy(d[:], fmt.Sprint("sum of ", end))
	return d
}

// take makes the standby the active and returns connection 1.
func take(t testing.TB, s *Core) *Continue {
	t.Helper()
	s.PeerLost()
	all, err := s.Takeover(s.Epoch() + 1)
	must(t, err)
	must(t, s.Check())
	for i := range all {
		if all[i].Record.ID == 1 {
			return &all[i]
		}
	}
	t.Fatal("connection 1 is not continued")
	return nil
}

// wantLog compares a log whose bytes are one string.
func wantLog(t testing.TB, k *Continue, request string, want Log) {
	t.Helper()
	if k.Log == nil || !k.Record.Logged {
		t.Fatalf("not logged: %+v", k)
	}
	if got := string(bytes.Join(k.Log.Bytes, nil)); got != request {
		t.Errorf("log of request %q, want %q", got, request)
	}
	got := *k.Log
	got.Bytes, want.Bytes = nil, nil
	if len(got.State) == 0 {
		got.State = nil
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLogIsTakenOver(t *testing.T) {
	p, a, s := openLogged(t, Limits{})
	at := exchangeHTTP(t, p, "first ", [2]uint64{}, 1000)
	mid := exchangeHTTP(t, p, "second ", at, 500)
	must(t, a.Checkpoint(p.now, 1, at))
	must(t, a.Data(p.now, 1, Request, mid[0], []byte("third"), true))
	must(t, a.Delivered(p.now, 1, Request, mid[0]+2))
	must(t, a.Received(p.now, 1, Response, 1700, false))
	must(t, a.Released(p.now, 1, Released{End: 1700, Sum: sumOf(1700), State: []byte("body")}))
	must(t, a.Delivered(p.now, 1, Response, 1600))
	p.run(t)
	if st := a.Stats(); st.Logged != 1 || st.HeldBytes != uint64(len("second third")) || s.Stats().HeldBytes != st.HeldBytes || s.Stats().Logged != 1 {
		t.Fatalf("%+v\n%+v", st, s.Stats())
	}
	k := take(t, s)
	wantLog(t, k, "second third", Log{
		Turns:      Turns{{6, 1000}, {13, 1500}},
		Checkpoint: at, Segments: []Segment{{1500, sumOf(1500)}, {1700, sumOf(1700)}}, State: []byte("body"),
	})
	req, resp := &k.Streams[Request], &k.Streams[Response]
	if got := string(bytes.Join(req.Bytes, nil)); got != "ird" || req.Delivered != mid[0]+2 || req.Held != mid[0]+6 || !req.Fin {
		t.Errorf("request %+v with %q", req, got)
	}
	if resp.Delivered != 1600 || resp.Held != 1600 || len(resp.Bytes) > 0 {
		t.Errorf("response %+v", resp)
	}
	if last := k.Log.Bytes[len(k.Log.Bytes)-1]; &last[len(last)-1] != &req.Bytes[0][len(req.Bytes[0])-1] {
		t.Error("the stream's bytes are not the log's")
	}
}

// A checkpoint may be beyond what the server has acknowledged: these bytes are still
// kept for it.
func TestCheckpointBeyondDelivered(t *testing.T) {
	p, a, s := openLogged(t, Limits{})
	must(t, a.Data(p.now, 1, Request, 0, []byte("asked and told"), false))
	must(t, a.Delivered(p.now, 1, Request, 5))
	must(t, a.Checkpoint(p.now, 1, [2]uint64{10, 0}))
	p.run(t)
	k := take(t, s)
	wantLog(t, k, "told", Log{Checkpoint: [2]uint64{10, 0}, Segments: []Segment{{}}})
	if got := string(bytes.Join(k.Streams[Request].Bytes, nil)); got != " and told" {
		t.Errorf("%q", got)
	}
}

// Released is merged until a batch takes it, costs nothing, and what was not told to
// be released is not reported to be delivered: the client may be ahead of us.
func TestReleasedIsMerged(t *testing.T) {
	p, a, s := openLogged(t, Limits{})
	end := uint64(0)
	state, sum := make([]byte, wire.MaxState), sumOf(1)
	allocs := testing.AllocsPerRun(1000, func() {
		end += 1400
		if a.Received(p.now, 1, Response, end, false) != nil || a.Released(p.now, 1, Released{End: end, Sum: sum, State: state}) != nil ||
			a.Delivered(p.now, 1, Response, end-1400) != nil {
			t.Fatal("refused")
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations for one call", allocs)
	}
	f := a.Flush(nil)
	_, payload, err := wire.Decode(f)
	must(t, err)
	var kinds []wire.EntryKind
	var e wire.Entry
	for es := wire.NewEntries(payload); ; kinds = append(kinds, e.Kind) {
		more, err := es.Next(&e)
		must(t, err)
		if !more {
			break
		}
	}
	if diff := cmp.Diff([]wire.EntryKind{wire.EntryReleased, wire.EntryDelivered}, kinds); diff != "" {
		t.Error(diff)
	}
	must(t, s.Step(p.now, f))
	must(t, a.Received(p.now, 1, Response, end+100, false))
	must(t, a.Delivered(p.now, 1, Response, end+100))
	p.run(t)
	if d, _, _ := s.Stored(1, Response); d != end {
		t.Errorf("delivered up to %d, released %d", d, end)
	}
	must(t, a.Released(p.now, 1, Released{End: end + 100, Sum: sumOf(2)}))
	must(t, a.Received(p.now, 1, Response, end+101, true))
	must(t, a.Delivered(p.now, 1, Response, end+101))
	p.run(t)
	k := take(t, s)
	if r := k.Streams[Response]; r.Delivered != end+101 || !r.FinDelivered {
		t.Errorf("%+v", r)
	}
	wantLog(t, k, "", Log{Segments: []Segment{{end + 100, sumOf(2)}}})
}

// A logged connection that ends leaves a tombstone as any other.
func TestLoggedFinished(t *testing.T) {
	p, a, s := openLogged(t, Limits{})
	exchangeHTTP(t, p, "bye", [2]uint64{}, 10)
	must(t, a.Data(p.now, 1, Request, 3, nil, true))
	must(t, a.Delivered(p.now, 1, Request, 4))
	must(t, a.Received(p.now, 1, Response, 11, true))
	must(t, a.Delivered(p.now, 1, Response, 11))
	must(t, a.Close(p.now, 1, Finished))
	p.run(t)
	if st := s.Stats(); st.HeldBytes != 0 || st.Tombstones != 1 || st.Logged != 0 || a.Stats().HeldBytes != 0 {
		t.Fatalf("%+v", st)
	}
	if k := take(t, s); !k.Finished || k.Log != nil {
		t.Fatalf("%+v", k)
	}
}

// TestServerLeg: the newest leg counts, and it is announced only when the standby
// holds it.
func TestServerLeg(t *testing.T) {
	p, a, s := openLogged(t, Limits{})
	at := exchangeHTTP(t, p, "first", [2]uint64{}, 7)
	p.run(t)
	a.Ready()
	second, third := testRecord(12).Server, testRecord(13).Server
	must(t, a.ServerLeg(p.now, 1, &second, [2]uint64{}))
	one := a.Flush(nil)
	must(t, a.ServerLeg(p.now, 1, &third, at))
	must(t, a.Checkpoint(p.now, 1, at))
	two := a.Flush(nil)
	must(t, s.Step(p.now, one))
	must(t, a.Step(p.now, s.Flush(nil)))
	if r := a.Ready(); len(r.Legs) > 0 {
		t.Fatalf("announced before the standby holds the newest: %+v", r)
	}
	must(t, s.Step(p.now, two))
	must(t, a.Step(p.now, s.Flush(nil)))
	if r := a.Ready(); len(r.Legs) != 1 || r.Legs[0] != 1 {
		t.Fatalf("%+v", r)
	}
	must(t, a.Unlog(p.now, 1)) // its leg begins where it begins nevertheless
	p.run(t)
	k := take(t, s)
	if k.Record.Server != third || k.Record.Client != testRecord(1).Client || k.Record.Start != at {
		t.Fatalf("%+v", k.Record)
	}
}

// Without a standby that might continue with the leg before, nothing is waited for.
func TestServerLegUnprotected(t *testing.T) {
	p, a, _ := openLogged(t, Limits{})
	leg := testRecord(12).Server
	must(t, a.ServerLeg(p.now, 1, &leg, [2]uint64{}))
	a.PeerLost()
	if r := a.Ready(); len(r.Legs) != 1 || len(r.Unprotected) != 1 {
		t.Fatalf("%+v", r)
	}
	must(t, a.ServerLeg(p.now, 1, &leg, [2]uint64{}))
	if r := a.Ready(); len(r.Legs) != 1 {
		t.Fatalf("%+v", r)
	}
	must(t, a.Check())
	// Refused by the standby while the leg is under way.
	p = joined(t, Limits{})
	p.node["s"].lim.MaxHeldPerStream = 3
	a, s := p.node["a"], p.node["s"]
	must(t, a.Open(p.now, loggedRecord(1)))
	must(t, a.Data(p.now, 1, Request, 0, []byte("too much"), false))
	must(t, a.ServerLeg(p.now, 1, &leg, [2]uint64{}))
	p.run(t)
	if r := a.Ready(); len(r.Legs) != 1 || len(r.Unprotected) != 1 {
		t.Fatalf("%+v", r)
	}
	if s.Stats().Connections != 0 {
		t.Fatal("kept")
	}
	// Its protection is being taken back: the standby may still continue the leg before.
	p, a, _ = openLogged(t, Limits{MaxHeldPerStream: 10})
	must(t, a.Data(p.now, 1, Request, 0, []byte("more than ten"), false))
	must(t, a.ServerLeg(p.now, 1, &leg, [2]uint64{}))
	if r := a.Ready(); len(r.Legs) != 0 {
		t.Fatalf("%+v", r)
	}
	p.run(t)
	if r := a.Ready(); len(r.Legs) != 1 || len(r.Unprotected) != 1 {
		t.Fatalf("%+v", r)
	}
}
