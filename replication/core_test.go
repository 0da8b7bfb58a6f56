package replication

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"testing"

	"lockstep/replication/wire"
)

// joined returns a pair whose standby is in sync.
func joined(t testing.TB, lim Limits) *pair {
	t.Helper()
	p := newPair(lim)
	must(t, p.node["a"].SetRole(RoleActive, 1))
	must(t, p.node["s"].SetRole(RoleStandby, 1))
	must(t, p.node["a"].PeerJoined(p.now, wire.Version))
	must(t, p.node["s"].PeerJoined(p.now, wire.Version))
	p.run(t)
	p.node["a"].Ready()
	return p
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run exchanges frames until both sides are quiet, without any error.
func (p *pair) run(t testing.TB) {
	t.Helper()
	var out strings.Builder
	p.exchange(&out)
	if out.Len() > 0 {
		t.Fatal(out.String())
	}
	must(t, p.node["a"].Check())
	must(t, p.node["s"].Check())
}

func TestIdleConnectionMemory(t *testing.T) {
	const conns = 10_000
	p := joined(t, Limits{})
	a, s := p.node["a"], p.node["s"]
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range uint64(conns) {
		must(t, a.Open(p.now, testRecord(i+1)))
		must(t, a.Data(p.now, ConnID(i+1), Request, 0, []byte("some request"), false))
		must(t, a.Delivered(p.now, ConnID(i+1), Request, 12))
	}
	p.run(t)
	if st := s.Stats(); st.Connections != conns || st.HeldBytes != 0 {
		t.Fatalf("%+v", st)
	}
	p.node["a"] = New(Limits{}) // only the standby's share is measured
	a = nil
	clear(p.queue)
	perConn := float64(heap()-before) / conns
	t.Logf("%.0f bytes per idle connection", perConn)
	if perConn > 1024 {
		t.Errorf("%.0f bytes per idle connection on the standby, at most 1024 wanted", perConn)
	}
	runtime.KeepAlive(s)
}

// TestFlushOwnership: an empty dst changes hands; a batch once handed out is never
// written to again, and a dst with contents is only appended to.
func TestFlushOwnership(t *testing.T) {
	p := joined(t, Limits{MaxOutstanding: 100})
	a := p.node["a"]
	must(t, a.Open(p.now, testRecord(1)))
	var kept, copies [][]byte
	dst := make([]byte, 0, 64)
	off := uint64(0)
	for i := range 50 {
		b := bytes.Repeat([]byte{byte(i)}, 100*i+1)
		must(t, a.Data(p.now, 1, Request, off, b, false))
		off += uint64(len(b))
		out := a.Flush(dst)
		kept, copies = append(kept, out), append(copies, bytes.Clone(out))
		dst = nil
		if i%3 == 0 {
			dst = make([]byte, 0, 10000)
		}
	}
	for i := range kept {
		if !bytes.Equal(kept[i], copies[i]) {
			t.Fatalf("batch %d changed after Flush", i)
		}
	}
	must(t, a.Data(p.now, 1, Request, off, []byte("x"), false))
	out := a.Flush([]byte("before"))
	if !bytes.HasPrefix(out, []byte("before")) {
		t.Fatalf("%q", out[:6])
	}
	if _, _, err := wire.Decode(out[6:]); err != nil {
		t.Fatal(err)
	}
}

// TestBigData: data larger than a batch goes in several, none above the limit, and
// arrives whole.
func TestBigData(t *testing.T) {
	for _, size := range []int{1, 4000, 1 << 20} {
		p := joined(t, Limits{MaxBatchBytes: size})
		a, s := p.node["a"], p.node["s"]
		must(t, a.Open(p.now, testRecord(1)))
		want := make([]byte, 300_000)
		for i := range want {
			want[i] = byte(i * 7 >> 3)
		}
		must(t, a.Data(p.now, 1, Request, 0, want, true))
		batches := 0
		for {
			for a.Flushable() {
				f := a.Flush(nil)
				batches++
				if len(f) > a.lim.MaxBatchBytes+a.lim.MaxBatchBytes/4 {
					t.Fatalf("batch of %d bytes, limit %d", len(f), a.lim.MaxBatchBytes)
				}
				must(t, s.Step(p.now, f))
			}
			if !s.Flushable() {
				break
			}
			must(t, a.Step(p.now, s.Flush(nil)))
			must(t, a.Check())
		}
		must(t, s.Check())
		s.PeerLost()
		cont, err := s.Takeover(2)
		must(t, err)
		req := cont[0].Streams[Request]
		if got := bytes.Join(req.Bytes, nil); !bytes.Equal(got, want) || !req.Fin || req.Held != uint64(len(want))+1 {
			t.Fatalf("size %d: %d bytes after %d batches, %+v", size, len(got), batches, req.Held)
		}
	}
}

// TestEarlyDelivered: a report of delivery that overtakes the reading of the bytes
// is not passed on before, so that the FIN is never mistaken for a byte.
func TestEarlyDelivered(t *testing.T) {
	p := joined(t, Limits{})
	a, s := p.node["a"], p.node["s"]
	must(t, a.Open(p.now, testRecord(1)))
	must(t, a.Received(p.now, 1, Response, 10, false))
	must(t, a.Delivered(p.now, 1, Response, 12))
	p.run(t)
	if d, c, _ := s.Stored(1, Response); d != 10 || c != 10 {
		t.Fatalf("delivered %d, held %d", d, c)
	}
	must(t, a.Received(p.now, 1, Response, 12, true))
	p.run(t)
	s.PeerLost()
	cont, err := s.Takeover(2)
	must(t, err)
	if r := cont[0].Streams[Response]; r.Delivered != 12 || !r.FinDelivered || !r.Fin {
		t.Fatalf("%+v", r)
	}
}

// TestPendingLimit: what waits for a stalled standby is bounded.
func TestPendingLimit(t *testing.T) {
	p := joined(t, Limits{MaxPending: 10_000, MaxBatchBytes: 2000})
	a := p.node["a"]
	for id := range ConnID(3) {
		must(t, a.Open(p.now, testRecord(uint64(id))))
	}
	off := [3]uint64{}
	b := make([]byte, 900)
	congested := false
	for range 100 {
		for id := range off {
			must(t, a.Data(p.now, ConnID(id), Request, off[id], b, false))
			off[id] += uint64(len(b))
			congested = congested || (a.Congested() && a.Protected(ConnID(id)))
			must(t, a.Check())
		}
		if n := a.act.pending(); n > 11_000 {
			t.Fatalf("%d bytes wait", n)
		}
	}
	if !congested {
		t.Error("protection is lost without Congested before")
	}
	p.run(t)
	if r := a.Ready(); len(r.Unprotected) != 3 || len(r.Opened) != 3 {
		t.Errorf("%+v", r)
	}
	if n := a.Stats().Drops[LimitPending]; n != 3 {
		t.Errorf("%d", n)
	}
}

// TestTombstones expire after Linger and are bounded in number.
func TestTombstones(t *testing.T) {
	p := joined(t, Limits{MaxTombstones: 3, Linger: second})
	a, s := p.node["a"], p.node["s"]
	for id := range uint64(5) {
		must(t, a.Open(p.now, testRecord(id)))
		must(t, a.Data(p.now, ConnID(id), Request, 0, nil, true))
		must(t, a.Received(p.now, ConnID(id), Response, 1, true))
		must(t, a.Delivered(p.now, ConnID(id), Request, 1))
		must(t, a.Delivered(p.now, ConnID(id), Response, 1))
		must(t, a.Close(p.now, ConnID(id), Finished))
		p.run(t)
	}
	if st := s.Stats(); st.Tombstones != 3 || st.Connections != 0 || st.Drops[TombstoneEvicted] != 2 {
		t.Fatalf("%+v", st)
	}
	if at := s.NextTick(p.now); at > p.now+second {
		t.Errorf("next tick at %d", at)
	}
	p.now += second
	s.Tick(p.now)
	if st := s.Stats(); st.Tombstones != 0 {
		t.Fatalf("%+v", st)
	}
}

// TestIdleCostsNothing: Tick looks at pending responses only.
func TestIdleCostsNothing(t *testing.T) {
	p := joined(t, Limits{})
	a := p.node["a"]
	for id := range uint64(1000) {
		must(t, a.Open(p.now, testRecord(id)))
		must(t, a.Received(p.now, ConnID(id), Response, 5, false))
		must(t, a.Delivered(p.now, ConnID(id), Response, 5))
	}
	p.run(t)
	if a.act.age.n != 0 {
		t.Fatalf("%d connections age", a.act.age.n)
	}
}

func TestPeerClock(t *testing.T) {
	p := joined(t, Limits{})
	a, s := p.node["a"], p.node["s"]
	// The active's clock is about to wrap; the standby's is somewhere else.
	a.SetClock(0, 0xffffff00)
	s.SetClock(0, 5000)
	if _, ok := s.PeerClock(5000); ok {
		t.Fatal("a clock before the first heartbeat with one")
	}
	delays := []Nanos{9 * millisecond, 2 * millisecond, 30 * millisecond, 4 * millisecond}
	a, s = New(Limits{}), New(Limits{})
	a.SetClock(0, 0xffffff00)
	s.SetClock(0, 5000)
	must(t, a.SetRole(RoleActive, 1))
	must(t, s.SetRole(RoleStandby, 1))
	must(t, a.PeerJoined(0, wire.Version))
	must(t, s.PeerJoined(0, wire.Version))
	now := Nanos(0)
	for i := range 40 {
		now += 20 * millisecond
		delay := delays[i%len(delays)]
		a.Tick(now)
		for _, f := range splitFrames(a.Flush(nil)) {
			must(t, s.Step(now+delay, f))
		}
		for _, f := range splitFrames(s.Flush(nil)) {
			must(t, a.Step(now+2*delay, f))
		}
		now += 2 * delay
		truth := uint32(0xffffff00) + uint32(now/millisecond)
		est, ok := s.PeerClock(5000 + uint32(now/millisecond))
		if behind := int32(truth - est); i >= len(delays) && (!ok || behind < 0 || behind > 3) {
			t.Fatalf("at %d: %d behind the truth, %v", now, behind, ok)
		}
	}
	if rtt := a.RTT(); rtt < 4*millisecond || rtt > 60*millisecond {
		t.Errorf("round trip %d", rtt)
	}
	s.PeerLost()
	if _, ok := s.PeerClock(0); !ok {
		t.Error("the peer's clock is forgotten when it is needed")
	}
}

func TestPeerSilent(t *testing.T) {
	p := joined(t, Limits{})
	a := p.node["a"]
	p.now += 100 * millisecond
	a.Tick(p.now)
	if !a.PeerSilent(p.now) {
		t.Error("silence is not noticed")
	}
	if at := a.NextTick(p.now); at <= p.now {
		t.Error("a silent peer makes the shell spin")
	}
	for _, f := range splitFrames(a.Flush(nil)) {
		must(t, p.node["s"].Step(p.now, f))
	}
	for _, f := range splitFrames(p.node["s"].Flush(nil)) {
		must(t, a.Step(p.now, f))
	}
	if a.PeerSilent(p.now) {
		t.Error("an answer is not noticed")
	}
}

// TestErrors: what a broken or hostile peer sends ends the session and is counted.
func TestErrors(t *testing.T) {
	batch := func(epoch, index uint64, payload []byte) []byte {
		f := append(wire.Begin(nil), payload...)
		wire.Finish(f, 0, wire.Header{Version: wire.Version, Type: wire.TypeBatch, Epoch: epoch, Index: index})
		return f
	}
	open := wire.AppendOpen(nil, testRecord(1))
	data := func(s Stream, off uint64, b string, fin bool) []byte {
		return wire.AppendData(nil, 1, s, off, []byte(b), fin)
	}
	delivered := func(req, resp uint64, reqFin, respFin bool) []byte {
		return wire.AppendDelivered(nil, 1, [2]uint64{req, resp}, [2]bool{reqFin, respFin})
	}
	for _, tc := range []struct {
		name  string
		frame []byte
		want  error
		count Reason
	}{
		{"garbage", []byte("GET / HTTP/1.1\r\n\r\n and more of it"), wire.ErrMagic, BadFrame},
		{"old epoch", batch(4, 2, nil), ErrStaleEpoch, StaleEpoch},
		{"new epoch", batch(6, 2, nil), ErrWrongEpoch, WrongEpoch},
		{"index", batch(5, 3, nil), ErrIndex, BadBatch},
		{"replay", batch(5, 1, nil), ErrIndex, BadBatch},
		{"ack to a standby", wire.AppendAck(nil, wire.Version, 5, 1, nil), ErrUnexpected, BadFrame},
		{"hello in a session", mustHello(t), ErrStaleEpoch, StaleEpoch},
		{"unknown connection", batch(5, 2, data(Request, 0, "x", false)), ErrUnknownConn, BadBatch},
		{"duplicate", batch(5, 2, join(open, open)), ErrDuplicate, BadBatch},
		{"gap", batch(5, 2, join(open, data(Request, 1, "x", false))), ErrOffset, BadBatch},
		{"overlap", batch(5, 2, join(open, data(Request, 0, "xy", false), data(Request, 1, "yz", false))), ErrOffset, BadBatch},
		{"behind the FIN", batch(5, 2, join(open, data(Request, 0, "x", true), data(Request, 2, "y", false))), ErrFinPassed, BadBatch},
		{"delivered, never shipped", batch(5, 2, join(open, delivered(1, 0, false, false))), ErrOffset, BadBatch},
		{"delivered back", batch(5, 2, join(open, delivered(0, 5, false, false), delivered(0, 4, false, false))), ErrOffset, BadBatch},
		{"FIN as a byte", batch(5, 2, join(open, data(Request, 0, "x", true), delivered(2, 0, false, false))), ErrOffset, BadBatch},
		{"FIN too early", batch(5, 2, join(open, data(Request, 0, "x", true), delivered(1, 0, true, false))), ErrOffset, BadBatch},
		{"FIN without a place", batch(5, 2, join(open, delivered(0, 0, false, true))), ErrOffset, BadBatch},
		{"past the end", batch(5, 2, join(open, delivered(0, 9, false, true), delivered(0, 10, false, true))), ErrOffset, BadBatch},
		{"offset overflow", batch(5, 2, join(open, delivered(0, 1<<64-1, false, false), data(Response, 1<<64-1, "x", false))), ErrOffset, BadBatch},
		{"finished too early", batch(5, 2, join(open, wire.AppendClose(nil, 1, Finished))), ErrOffset, BadBatch},
		{"cut entry", batch(5, 2, open[:20]), wire.ErrShort, BadBatch},
		{"unknown entry", batch(5, 2, []byte{200}), wire.ErrEntry, BadBatch},
	} {
		s := New(Limits{})
		must(t, s.SetRole(RoleStandby, 5))
		must(t, s.PeerJoined(0, wire.Version))
		must(t, s.Step(0, batch(5, 1, wire.AppendSynced(nil))))
		err := s.Step(0, tc.frame)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
		if st := s.Stats(); st.Drops[tc.count] != 1 {
			t.Errorf("%s: %v is not counted: %v", tc.name, tc.count, st.Drops)
		}
		if tc.count == BadBatch {
			s.PeerLost()
			if _, err := s.Takeover(6); !errors.Is(err, ErrNotInSync) {
				t.Errorf("%s: takeover: %v", tc.name, err)
			}
		}
		must(t, s.Check())
	}
}

func join(b ...[]byte) []byte { return bytes.Join(b, nil) }

func mustHello(t *testing.T) []byte {
	t.Helper()
	f, err := wire.AppendHello(nil, &wire.Hello{MinVersion: 1, MaxVersion: 1, Pair: "p", Node: "n"})
	must(t, err)
	return f
}

// TestAckErrors: an active does not believe in batches it never sent.
func TestAckErrors(t *testing.T) {
	p := joined(t, Limits{})
	a := p.node["a"]
	must(t, a.Open(p.now, testRecord(1)))
	a.Flush(nil)
	if err := a.Step(p.now, wire.AppendAck(nil, wire.Version, 1, 3, nil)); !errors.Is(err, ErrAckAhead) {
		t.Error(err)
	}
	if err := a.Step(p.now, wire.AppendAck(nil, wire.Version, 1, 0, nil)); !errors.Is(err, ErrAckAhead) {
		t.Error(err)
	}
	if !a.Ready().empty() {
		t.Error("a false acknowledgement opened something")
	}
	must(t, a.Check())
}

// TestRecordThatCannotBeReplicated goes on without protection.
func TestRecordThatCannotBeReplicated(t *testing.T) {
	p := joined(t, Limits{})
	a := p.node["a"]
	r := testRecord(1)
	r.Service = strings.Repeat("x", wire.MaxService+1)
	if err := a.Open(p.now, r); !errors.Is(err, wire.ErrService) {
		t.Error(err)
	}
	if r := a.Ready(); len(r.Opened) != 1 || len(r.Unprotected) != 1 {
		t.Errorf("%+v", r)
	}
	must(t, a.Check())
}

// TestReuse: a struct that went back to the pool is not touched by confirmations
// meant for the connection that had it before.
func TestReuse(t *testing.T) {
	p := joined(t, Limits{})
	a, s := p.node["a"], p.node["s"]
	must(t, a.Open(p.now, testRecord(1)))
	must(t, a.Data(p.now, 1, Request, 0, make([]byte, 100), false))
	f := a.Flush(nil)
	must(t, a.Close(p.now, 1, Aborted))
	must(t, a.Open(p.now, testRecord(2)))
	must(t, a.Data(p.now, 2, Request, 0, make([]byte, 3), false))
	must(t, s.Step(p.now, f))
	must(t, a.Step(p.now, s.Flush(nil)))
	if r := a.Ready(); !r.empty() {
		t.Fatalf("%+v", r)
	}
	must(t, a.Check())
	p.run(t)
	if r := a.Ready(); len(r.Opened) != 1 || len(r.Permits) != 1 || r.Permits[0] != (Permit{2, Request, 3}) {
		t.Fatalf("%+v", r)
	}
}

// TestClockIsToldAtOnce: what brings a standby in sync is sent together with the active's
// clock, without which TSval would go back at a takeover (invariant 7).
func TestClockIsToldAtOnce(t *testing.T) {
	p := newPair(Limits{})
	a, s := p.node["a"], p.node["s"]
	a.SetClock(p.now, 123_456)
	s.SetClock(p.now, 1000)
	must(t, a.SetRole(RoleActive, 1))
	must(t, s.SetRole(RoleStandby, 1))
	must(t, a.PeerJoined(p.now, wire.Version))
	must(t, s.PeerJoined(p.now, wire.Version))
	for _, f := range splitFrames(a.Flush(nil)) {
		must(t, s.Step(p.now, f))
	}
	if clock, ok := s.PeerClock(1000); !s.InSync() || !ok || clock != 123_456 {
		t.Errorf("in sync %v, the active's clock is %d, known %v", s.InSync(), clock, ok)
	}
}
