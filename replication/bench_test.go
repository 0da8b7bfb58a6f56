package replication

import (
	"testing"

	"lockstep/replication/wire"
)

const benchConns = 10_000

// benchPair has benchConns connections open, and moves frames when asked.
func benchPair(b *testing.B) (p *pair, pump func()) {
	b.Helper()
	p = joined(b, Limits{})
	a, s := p.node["a"], p.node["s"]
	for id := range uint64(benchConns) {
		must(b, a.Open(p.now, testRecord(id)))
	}
	p.run(b)
	a.Ready()
	var out, back []byte
	return p, func() {
		for a.Flushable() || s.Flushable() {
			if out = a.Flush(out[:0]); len(out) > 0 {
				if err := s.Step(p.now, out); err != nil {
					b.Fatal(err)
				}
			}
			if back = s.Flush(back[:0]); len(back) > 0 {
				if err := a.Step(p.now, back); err != nil {
					b.Fatal(err)
				}
			}
		}
		a.Ready()
	}
}

// BenchmarkRequest is a whole exchange of 100 requests of 1400 bytes per batch, both
// cores included.
func BenchmarkRequest(b *testing.B) {
	p, pump := benchPair(b)
	a := p.node["a"]
	data := make([]byte, 1400)
	var off [benchConns]uint64
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	n := 0
	for b.Loop() {
		id := n % benchConns
		_ = a.Data(p.now, ConnID(id), Request, off[id], data, false)
		off[id] += uint64(len(data))
		_ = a.Delivered(p.now, ConnID(id), Request, off[id])
		if n++; n%100 == 0 {
			pump()
		}
	}
}

// BenchmarkUpload is one connection that hands in 64 KiB at a time.
func BenchmarkUpload(b *testing.B) {
	p, pump := benchPair(b)
	a := p.node["a"]
	data := make([]byte, 64<<10)
	off := uint64(0)
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	n := 0
	for b.Loop() {
		_ = a.Data(p.now, 1, Request, off, data, false)
		off += uint64(len(data))
		_ = a.Delivered(p.now, 1, Request, off-uint64(len(data)))
		if n++; n%4 == 0 {
			pump()
		}
	}
}

// BenchmarkDownload is Received and Delivered of one connection among many, with
// group commit every 16 calls.
func BenchmarkDownload(b *testing.B) {
	p, pump := benchPair(b)
	a := p.node["a"]
	off := uint64(0)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		off += 1400
		_ = a.Received(p.now, 1, Response, off, false)
		_ = a.Delivered(p.now, 1, Response, off)
		if n++; n%16 == 0 {
			pump()
		}
	}
}

// BenchmarkDownloadLogged is the same of a logged connection, whose response is
// released, too.
func BenchmarkDownloadLogged(b *testing.B) {
	p, pump := benchPair(b)
	a := p.node["a"]
	must(b, a.Open(p.now, func() *Record { r := testRecord(benchConns); r.Logged = true; return r }()))
	pump()
	off, state := uint64(0), make([]byte, 20)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		off += 1400
		_ = a.Received(p.now, benchConns, Response, off, false)
		_ = a.Released(p.now, benchConns, Released{End: off, State: state})
		_ = a.Delivered(p.now, benchConns, Response, off)
		if n++; n%16 == 0 {
			pump()
		}
	}
}

func BenchmarkOpenClose(b *testing.B) {
	p, pump := benchPair(b)
	a := p.node["a"]
	r := *testRecord(0)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		r.ID = ConnID(benchConns + n)
		_ = a.Open(p.now, &r)
		_ = a.Close(p.now, r.ID, Aborted)
		if n++; n%32 == 0 {
			pump()
		}
	}
}

// BenchmarkTick with idle connections only.
func BenchmarkTick(b *testing.B) {
	p, pump := benchPair(b)
	a := p.node["a"]
	b.ReportAllocs()
	for b.Loop() {
		p.now += millisecond
		a.Tick(p.now)
		pump()
	}
}

// BenchmarkTakeover of benchConns idle connections.
func BenchmarkTakeover(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		p, _ := benchPair(b)
		s := p.node["s"]
		s.PeerLost()
		b.StartTimer()
		if _, err := s.Takeover(2); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSnapshot is the cores' share of a rejoin, per connection: asking, adopting,
// encoding, the standby's record.
func BenchmarkSnapshot(b *testing.B) {
	const conns = 10_000
	p := newPair(Limits{})
	a := p.node["a"]
	must(b, a.SetRole(RoleActive, 1))
	for id := range uint64(conns) {
		must(b, a.Open(0, testRecord(id)))
	}
	a.Ready()
	b.ReportAllocs()
	for range b.N {
		s := New(Limits{})
		must(b, s.SetRole(RoleStandby, 1))
		must(b, a.PeerJoined(p.now, wire.Version))
		must(b, s.PeerJoined(p.now, wire.Version))
		for !s.Stats().CanTakeOver {
			p.now += 20 * millisecond // no pacing: nothing else moves
			a.Tick(p.now)
			for _, id := range a.Ready().Adopt {
				must(b, a.Adopt(p.now, testRecord(uint64(id)), [2]StreamPos{{Delivered: 300, Received: 300, Acked: 300}, {}}, nil))
			}
			for a.Flushable() {
				must(b, stepAll(s, p.now, a.Flush(nil)))
				must(b, stepAll(a, p.now, s.Flush(nil)))
			}
		}
		a.PeerLost()
		a.Ready()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/conns, "ns/conn")
}

func stepAll(c *Core, now Nanos, frames []byte) error {
	for _, f := range splitFrames(frames) {
		if err := c.Step(now, f); err != nil {
			return err
		}
	}
	return nil
}
