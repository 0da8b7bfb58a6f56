package replication

import (
	"encoding/binary"
	"testing"

	"lockstep/replication/wire"
)

// runScript plays a sequence of frames: each a control byte, two bytes of length and
// a payload. The control byte picks receiver and type; header and checksum are made
// right most of the time, or the fuzzer would never get behind them.
func runScript(t *testing.T, script []byte) {
	p := newPair(Limits{MaxConns: 8, MaxHeldPerStream: 1 << 12, MaxHeldTotal: 1 << 14, MaxTombstones: 2})
	a, s := p.node["a"], p.node["s"]
	must(t, a.SetRole(RoleActive, 1))
	must(t, s.SetRole(RoleStandby, 1))
	for id := uint64(20); id < 24; id++ {
		must(t, a.Open(0, testRecord(id))) // these run when the standby joins
	}
	must(t, a.PeerJoined(0, wire.Version))
	must(t, s.PeerJoined(0, wire.Version))
	for id := range uint64(4) {
		r := testRecord(id)
		r.Logged = id < 2
		must(t, a.Open(0, r))
		must(t, a.Data(0, ConnID(id), Request, 0, []byte("request"), id == 3))
		a.Flush(nil)
	}
	must(t, a.Close(0, 2, Aborted))
	next := uint64(1)
	for n := 0; len(script) >= 3 && n < 1000; n++ {
		control := script[0]
		length := min(int(binary.BigEndian.Uint16(script[1:])), len(script)-3)
		payload := script[3 : 3+length]
		script = script[3+length:]
		p.now += millisecond
		if control&0x80 != 0 {
			_ = s.Step(p.now, payload) // as it is
			continue
		}
		h := wire.Header{Version: wire.Version, Epoch: 1, Index: next}
		to := s
		switch control & 7 {
		case 0, 1, 2:
			h.Type = wire.TypeBatch
		case 3:
			h.Type, h.Index = wire.TypeHeartbeat, uint64(control)
		case 4:
			h.Type, h.Index = wire.TypeHeartbeatAck, uint64(control>>3)
			to = a
		case 5:
			h.Type, h.Index = wire.TypeAck, uint64(control>>3)
			to = a
		case 6:
			h.Type = wire.TypeBatch
			h.Epoch = uint64(control >> 3)
		case 7:
			a.Tick(p.now)
			s.Tick(p.now)
			if r := a.Ready(); len(r.Adopt) > 0 {
				adoptAll(a, p.now, r.Adopt, payload)
			} else {
				callLog(a, p.now, payload)
			}
			s.Flush(nil)
			a.Flush(nil)
			must(t, s.Check())
			must(t, a.Check())
			continue
		}
		f := append(wire.Begin(nil), payload...)
		wire.Finish(f, 0, h)
		if err := to.Step(p.now, f); err == nil && h.Type == wire.TypeBatch {
			next++
		}
		must(t, s.Check())
		must(t, a.Check())
	}
	inSync := s.Stats().CanTakeOver
	s.PeerLost()
	if _, err := s.Takeover(2); (err == nil) != inSync {
		t.Fatalf("takeover while in sync is %v: %v", inSync, err)
	}
	must(t, s.Check())
	a.PeerLost()
	must(t, a.Check())
}

// numbers hands out b byte by byte, then zeros.
type numbers []byte

func (b *numbers) next() uint64 {
	if len(*b) == 0 {
		return 0
	}
	v := (*b)[0]
	*b = (*b)[1:]
	return uint64(v)
}

// adoptAll answers what the active asks for with positions made of b, which may be
// impossible ones.
func adoptAll(a *Core, now Nanos, ids []ConnID, b numbers) {
	for _, id := range ids {
		var pos [2]StreamPos
		for i := range pos {
			pos[i] = StreamPos{Delivered: b.next(), Acked: b.next(), Received: b.next(), Fin: b.next()&1 != 0}
			pos[i].Bytes = [][]byte{make([]byte, b.next()), make([]byte, b.next())}
		}
		r := testRecord(uint64(id))
		var log *Log
		if r.Logged = b.next()&1 != 0; r.Logged {
			log = &Log{Checkpoint: [2]uint64{b.next(), b.next()}, Bytes: [][]byte{make([]byte, b.next())}}
			for range b.next() & 3 {
				log.Segments = append(log.Segments, Segment{End: b.next()})
			}
			r.Start = [2]uint64{b.next(), b.next()}
		}
		_ = a.Adopt(now, r, pos, log)
	}
}

// callLog calls what is about logs, with arguments made of b, which may be impossible.
func callLog(a *Core, now Nanos, b numbers) {
	for len(b) > 0 {
		what := b.next()
		id := ConnID(what >> 4)
		switch what & 7 {
		case 0:
			end, cut := b.next(), b.next()&1 != 0
			_ = a.Released(now, id, Released{End: end, Cut: cut, State: []byte(b)})
		case 1:
			_ = a.Checkpoint(now, id, [2]uint64{b.next(), b.next()})
		case 2:
			_ = a.Unlog(now, id)
		case 3:
			_ = a.ServerLeg(now, id, &testRecord(b.next()).Server, [2]uint64{b.next(), b.next()})
		case 4:
			_ = a.Delivered(now, id, Stream(what>>3&1), b.next())
		case 5:
			_ = a.Received(now, id, Response, b.next(), what&8 != 0)
		case 6:
			_ = a.Data(now, id, Request, b.next(), make([]byte, b.next()<<5), what&8 != 0)
		case 7:
			_ = a.Close(now, id, Finished)
		}
	}
}

func scriptStep(control byte, payload []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{control}, uint16(len(payload))), payload...)
}

// scriptSeeds are what the committed corpus in testdata/fuzz/FuzzStep was made from.
func scriptSeeds() map[string][]byte {
	open := wire.AppendOpen(wire.AppendSynced(nil), testRecord(9))
	data := wire.AppendData(nil, 9, Request, 0, []byte("hello"), false)
	data = wire.AppendData(data, 9, Response, 0, []byte("world"), true)
	more := wire.AppendData(nil, 9, Request, 5, []byte("!"), true)
	delivered := wire.AppendDelivered(nil, 9, [2]uint64{7, 6}, [2]bool{true, true})
	finish := wire.AppendClose(nil, 9, Finished)
	big := wire.AppendData(nil, 9, Request, 0, make([]byte, 5000), false)
	adopt := wire.AppendAdopt(nil, testRecord(9), [2]uint64{7, 3}, [2]uint64{7, 5}, [2]bool{true, false})
	tail := wire.AppendData(nil, 9, Response, 3, []byte("xy"), false)
	synced := wire.AppendSynced(nil)
	log := func(id ConnID) []byte { return wire.AppendLog(nil, id, [2]uint64{}) }
	released := wire.AppendReleased(nil, 9, &Released{End: 5, Cut: true, State: []byte("st")})
	released = wire.AppendReleased(released, 9, &Released{End: 8})
	some := wire.AppendDelivered(nil, 9, [2]uint64{4, 6}, [2]bool{})
	checkpoint := wire.AppendCheckpoint(nil, 9, [2]uint64{3, 5})
	leg := wire.AppendLeg(nil, 9, &testRecord(8).Server, [2]uint64{3, 5})
	adoptLog := wire.AppendAdopt(nil, testRecord(9), [2]uint64{2, 6}, [2]uint64{4, 6}, [2]bool{})
	adoptLog = wire.AppendLog(adoptLog, 9, [2]uint64{2, 1})
	whole := wire.AppendAck(nil, wire.Version, 1, 1, nil)
	return map[string][]byte{
		"whole-life":  join(scriptStep(0, open), scriptStep(0, data), scriptStep(0, more), scriptStep(0, delivered), scriptStep(0, finish)),
		"limit":       join(scriptStep(0, open), scriptStep(0, big), scriptStep(7, nil), scriptStep(0, data), scriptStep(0, finish)),
		"gap":         join(scriptStep(0, open), scriptStep(0, more)),
		"acks":        join(scriptStep(5|1<<3, []byte{0}), scriptStep(5|3<<3, []byte{2, 1, 3}), scriptStep(7, nil)),
		"adopt":       join(scriptStep(0, join(adopt, tail, synced)), scriptStep(0, wire.AppendDelivered(nil, 9, [2]uint64{7, 5}, [2]bool{true, false}))),
		"adopt-short": join(scriptStep(0, join(adopt, synced))),
		"adopt-late":  join(scriptStep(0, synced), scriptStep(0, adopt)),
		"adopt-end":   join(scriptStep(0, adopt), scriptStep(0, finish), scriptStep(0, synced)),
		"adopt-drop":  join(scriptStep(0, adopt), scriptStep(0, wire.AppendClose(nil, 9, Aborted)), scriptStep(0, synced)),
		"adopting":    join(scriptStep(7, []byte{5, 6, 8, 0, 3, 0, 0, 0, 9, 0, 2, 2, 1, 1, 1, 1, 0, 0}), scriptStep(5|1<<3, []byte{0}), scriptStep(7, nil)),
		"heartbeats":  join(scriptStep(3, []byte{0, 0, 1, 0}), scriptStep(7, nil), scriptStep(4|1<<3, nil)),
		"raw":         join(scriptStep(0x80, whole), scriptStep(0, open)),
		"log": join(scriptStep(0, join(open, log(9), data[:len(data)-11])), scriptStep(0, join(released, some, checkpoint, leg)),
			scriptStep(0, wire.AppendUnlog(nil, 9)), scriptStep(0, finish)),
		"log-limit": join(scriptStep(0, join(open, log(9))), scriptStep(0, big), scriptStep(0, released)),
		"log-adopt": join(scriptStep(0, adoptLog), scriptStep(0, wire.AppendData(nil, 9, Request, 2, []byte("xy"), false)), scriptStep(0, released), scriptStep(0, synced)),
		"log-short": join(scriptStep(0, adoptLog), scriptStep(0, wire.AppendData(nil, 9, Request, 2, []byte("xy"), false)), scriptStep(0, synced)),
		"log-drop":  join(scriptStep(0, adoptLog), scriptStep(0, wire.AppendClose(nil, 9, Aborted)), scriptStep(0, synced)),
		"log-adopting": join(scriptStep(7, []byte{5, 6, 8, 0, 3, 0, 2, 2, 9, 0, 0, 0, 1, 1, 0, 4, 2, 2, 7, 1, 1}),
			scriptStep(5|1<<3, []byte{0}), scriptStep(7, nil)),
		"log-calls": join(scriptStep(7, nil), scriptStep(7, []byte{5, 90, 0, 80, 1, 1, 0, 85, 0, 12, 82, 4, 4, 1, 5, 80, 3, 1, 5, 80}),
			scriptStep(7, []byte{6, 7, 100, 6, 135, 200, 22, 7, 3, 18, 19, 2, 0, 0, 7}), scriptStep(5|1<<3, []byte{0})),
		"other-epochs": join(scriptStep(6, open), scriptStep(6|2<<3, open), scriptStep(6|1<<3, open)),
	}
}

// FuzzStep: no sequence of frames panics, breaks an invariant, or leaves a standby
// that has seen an error able to take over.
func FuzzStep(f *testing.F) {
	for _, s := range scriptSeeds() {
		f.Add(s)
	}
	f.Fuzz(runScript)
}
