package replication

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"testing"

	"lockstep/replication/wire"
)

// testdata/version1 to version5 hold every frame that an active and its standby
// exchanged over one script of calls, as the last build that spoke no later version
// wrote them: its two files stand for that build. They are never recorded again.
const (
	goldenActive  = "testdata/version%d/active.hex"
	goldenStandby = "testdata/version%d/standby.hex"
)

// version1Script is a life of a session, cut where frames change sides: step by step
// the active is told something, then both sides exchange what they have to say.
func version1Script(t testing.TB, a *Core) []func(now Nanos) {
	return []func(now Nanos){
		func(now Nanos) {},
		func(now Nanos) { // two connections, one with a request
			must(t, a.Open(now, testRecord(1)))
			must(t, a.Open(now, testRecord(2)))
			must(t, a.Data(now, 1, Request, 0, []byte("GET / HTTP/1.1\r\n\r\n"), false))
		},
		func(now Nanos) { // the answer, delivered at once
			must(t, a.Delivered(now, 1, Request, 18))
			must(t, a.Received(now, 1, Response, 5000, false))
			must(t, a.Delivered(now, 1, Response, 3000))
		},
		func(now Nanos) { // the rest is not, and is shipped
			a.Tick(now + 150*millisecond)
			must(t, a.Data(now, 1, Response, 3000, bytes.Repeat([]byte{'r'}, 2000), false))
			must(t, a.Data(now, 2, Request, 0, []byte("upload"), true))
		},
		func(now Nanos) { // one ends in order, one is reset
			must(t, a.Delivered(now, 1, Response, 5000))
			must(t, a.Data(now, 1, Request, 18, nil, true))
			must(t, a.Delivered(now, 1, Request, 19))
			must(t, a.Received(now, 1, Response, 5001, true))
			must(t, a.Delivered(now, 1, Response, 5001))
			must(t, a.Close(now, 1, Finished))
			must(t, a.Open(now, testRecord(3)))
		},
		func(now Nanos) {
			must(t, a.Close(now, 2, Aborted))
			a.Tick(now + 500*millisecond)
		},
	}
}

// version2Script begins with a snapshot, of a connection that was opened before the
// session.
func version2Script(t testing.TB, a *Core) []func(now Nanos) {
	script := version1Script(t, a)
	script[0] = func(now Nanos) {
		for _, id := range a.Ready().Adopt {
			must(t, a.Adopt(now, testRecord(uint64(id)), [2]StreamPos{
				{Delivered: 10, Received: 13, Acked: 13, Bytes: [][]byte{[]byte("ask")}},
				{Delivered: 4, Received: 900, Acked: 6, Bytes: [][]byte{[]byte("x"), []byte("y")}},
			}, nil))
		}
	}
	return script
}

// version3Script has a logged connection beside: a message each way, a checkpoint,
// another server leg, and the end of the log.
func version3Script(t testing.TB, a *Core) []func(now Nanos) {
	script := version2Script(t, a)
	older := func(i int) func(Nanos) { return script[i] }
	first, second, third, fourth := older(1), older(2), older(3), older(4)
	script[1] = func(now Nanos) {
		must(t, a.Open(now, loggedRecord(4)))
		must(t, a.Data(now, 4, Request, 0, []byte("first"), false))
		first(now)
	}
	script[2] = func(now Nanos) {
		must(t, a.Delivered(now, 4, Request, 5))
		must(t, a.Received(now, 4, Response, 700, false))
		must(t, a.Released(now, 4, Released{End: 700, Sum: sumOf(700), Cut: true, State: []byte("idle")}))
		must(t, a.Delivered(now, 4, Response, 700))
		second(now)
	}
	script[3] = func(now Nanos) {
		must(t, a.Checkpoint(now, 4, [2]uint64{5, 700}))
		must(t, a.Data(now, 4, Request, 5, []byte("second"), false))
		third(now)
	}
	script[4] = func(now Nanos) {
		leg := testRecord(4).Server
		leg.ISS++
		must(t, a.ServerLeg(now, 4, &leg, [2]uint64{5, 700}))
		must(t, a.Released(now, 4, Released{End: 750, Sum: sumOf(750)}))
		fourth(now)
	}
	last := script[5]
	script[5] = func(now Nanos) {
		must(t, a.Unlog(now, 4))
		last(now)
	}
	return script
}

// version4Script tells of fitness, and ends with two more connections.
func version4Script(t testing.TB, a *Core) []func(now Nanos) {
	script := version3Script(t, a)
	first, last := script[0], script[5]
	script[0] = func(now Nanos) {
		a.SetFitness(wire.Fitness{
			Faults:   []string{"eth0 has no carrier"},
			Services: []wire.ServiceDigest{{Name: "web", Aspects: []uint64{1, 1 << 63}}},
		})
		first(now)
	}
	script[5] = func(now Nanos) {
		a.SetFitness(wire.Fitness{})
		last(now)
		must(t, a.Open(now, testRecord(5)))
		must(t, a.Open(now, testRecord(6)))
	}
	return script
}

// version5Script has one more, which is passed on.
func version5Script(t testing.TB, a *Core) []func(now Nanos) {
	script := version4Script(t, a)
	last := script[5]
	script[5] = func(now Nanos) {
		last(now)
		r := testRecord(7)
		r.Spliced = true
		must(t, a.Open(now, r))
	}
	return script
}

// versionPair has a standby that refuses a connection on the way.
func versionPair(t testing.TB, version uint8) *pair {
	t.Helper()
	p := newPair(Limits{})
	a, s := New(Limits{}), New(Limits{MaxConns: int(version)})
	p.node["a"], p.node["s"] = a, s
	must(t, a.SetRole(RoleActive, 1))
	must(t, s.SetRole(RoleStandby, 1))
	a.SetClock(0, 1000)
	s.SetClock(0, 77)
	if version >= 2 {
		must(t, a.Open(0, testRecord(9)))
	}
	must(t, a.PeerJoined(0, version))
	must(t, s.PeerJoined(0, version))
	return p
}

// TestRecorded plays a session of an older version with the recorded build in either
// role: each frame that this build writes must be the one that the recorded build wrote
// in its place, and what it reads are the recorded ones.
func TestRecorded(t *testing.T) {
	for version := uint8(1); version < wire.Version; version++ {
		t.Run(fmt.Sprint("version ", version), func(t *testing.T) { playRecorded(t, version) })
	}
}

func playRecorded(t *testing.T, version uint8) {
	p := versionPair(t, version)
	a, s := p.node["a"], p.node["s"]
	script := version1Script(t, a)
	switch version {
	case 2:
		script = version2Script(t, a)
	case 3:
		script = version3Script(t, a)
	case 4:
		script = version4Script(t, a)
	case 5:
		script = version5Script(t, a)
	}
	fromA, fromS := goldenFrames(t, fmt.Sprintf(goldenActive, version)), goldenFrames(t, fmt.Sprintf(goldenStandby, version))
	pass := func(from, to *Core, golden *[][]byte, now Nanos) {
		for _, f := range splitFrames(from.Flush(nil)) {
			if len(*golden) == 0 {
				t.Fatalf("a frame more than version %d wrote: %s", version, describe(f))
			}
			want := (*golden)[0]
			*golden = (*golden)[1:]
			if !bytes.Equal(f, want) {
				t.Fatalf("writes %sinstead of %s", describe(f), describe(want))
			}
			must(t, to.Step(now, want))
		}
	}
	for i, step := range script {
		now := Nanos(i) * second
		a.Tick(now)
		s.Tick(now)
		step(now)
		for a.Flushable() || s.Flushable() {
			pass(a, s, &fromA, now)
			pass(s, a, &fromS, now)
		}
		must(t, a.Check())
		must(t, s.Check())
	}
	if len(fromA)+len(fromS) > 0 {
		t.Fatalf("%d and %d frames fewer than version %d wrote", len(fromA), len(fromS), version)
	}
	if st := s.Stats(); !st.CanTakeOver || st.Connections != int(version) || st.Tombstones != 1 {
		t.Fatalf("%+v", st)
	}
}

// Wherever the stream of a session's first frames ends, a standby that can take over knows
// the active's clock. (Up to version 4 the first batch may say "synced" before it does.)
func TestClockBeforeBatch(t *testing.T) {
	for version := uint8(wire.ClockVersion); version <= wire.Version; version++ {
		p := newPair(Limits{})
		a, s := p.node["a"], p.node["s"]
		must(t, a.SetRole(RoleActive, 1))
		must(t, s.SetRole(RoleStandby, 1))
		a.SetClock(0, 1000)
		s.SetClock(0, 77)
		must(t, a.PeerJoined(0, version))
		must(t, s.PeerJoined(0, version))
		for a.Flushable() {
			for _, f := range splitFrames(a.Flush(nil)) {
				must(t, s.Step(0, f))
				if clock, known := s.PeerClock(77); s.Stats().CanTakeOver && (!known || clock != 1000) {
					t.Fatalf("version %d: the standby can take over; it takes the active's clock for %d, known %v", version, clock, known)
				}
			}
		}
		if !s.Stats().CanTakeOver {
			t.Errorf("version %d: %+v", version, s.Stats())
		}
	}
}

// With a peer of version 1 running connections stay unprotected and all else works.
func TestVersion1HasNoSnapshot(t *testing.T) {
	p := newPair(Limits{})
	a, s := p.node["a"], p.node["s"]
	must(t, a.SetRole(RoleActive, 1))
	must(t, s.SetRole(RoleStandby, 1))
	must(t, a.Open(0, testRecord(1)))
	a.Ready()
	must(t, a.PeerJoined(0, 1))
	must(t, s.PeerJoined(0, 1))
	if r := a.Ready(); !r.empty() {
		t.Fatalf("%+v", r)
	}
	if err := a.Adopt(0, testRecord(1), [2]StreamPos{}, nil); !errors.Is(err, ErrUnexpected) {
		t.Fatal(err)
	}
	must(t, a.Open(0, testRecord(2)))
	p.run(t)
	if st := a.Stats(); !st.CanTakeOver || st.InSync || st.Protected != 1 || st.Unprotected != 1 {
		t.Fatalf("%+v", st)
	}
	s.PeerLost()
	all, err := s.Takeover(2)
	if err != nil || len(all) != 1 || all[0].Record.ID != 2 {
		t.Fatalf("%+v, %v", all, err)
	}
	// Nor does a standby take in what its session's version does not have.
	p = newPair(Limits{})
	s = p.node["s"]
	must(t, s.SetRole(RoleStandby, 1))
	must(t, s.PeerJoined(0, 1))
	f := wire.AppendAdopt(wire.Begin(nil), testRecord(1), [2]uint64{}, [2]uint64{}, [2]bool{})
	wire.Finish(f, 0, wire.Header{Version: 1, Type: wire.TypeBatch, Epoch: 1, Index: 1})
	if err := s.Step(0, f); !errors.Is(err, ErrUnexpected) {
		t.Fatal(err)
	}
	wire.Finish(f, 0, wire.Header{Version: 2, Type: wire.TypeBatch, Epoch: 1, Index: 1})
	if err := s.Step(0, f); !errors.Is(err, ErrVersion) {
		t.Fatal(err)
	}
}

// Of a connection that is passed on nothing is told but its end, and in version 4 not even
// its beginning.
func TestSpliceErrors(t *testing.T) {
	step := func(version uint8, entries func(b []byte) []byte) error {
		s := New(Limits{})
		must(t, s.SetRole(RoleStandby, 1))
		must(t, s.PeerJoined(0, version))
		r := testRecord(1)
		r.Spliced = true
		f := entries(wire.AppendSplice(wire.Begin(nil), r))
		wire.Finish(f, 0, wire.Header{Version: version, Type: wire.TypeBatch, Epoch: 1, Index: 1})
		err := s.Step(0, f)
		must(t, s.Check())
		return err
	}
	for name, tc := range map[string]struct {
		version uint8
		entries func(b []byte) []byte
		want    error
	}{
		"older":     {wire.SpliceVersion - 1, func(b []byte) []byte { return b }, ErrUnexpected},
		"data":      {wire.Version, func(b []byte) []byte { return wire.AppendData(b, 1, Request, 0, []byte("x"), false) }, ErrSpliced},
		"delivered": {wire.Version, func(b []byte) []byte { return wire.AppendDelivered(b, 1, [2]uint64{}, [2]bool{}) }, ErrSpliced},
		"log":       {wire.Version, func(b []byte) []byte { return wire.AppendLog(b, 1, [2]uint64{}) }, ErrSpliced},
		"end":       {wire.Version, func(b []byte) []byte { return wire.AppendClose(b, 1, Finished) }, nil},
		"ended here": {wire.Version, func(b []byte) []byte {
			b = wire.AppendTerminate(b, testRecord(1), [2]uint64{5, 7}, [2]bool{})
			return wire.AppendData(b, 1, Request, 5, []byte("x"), false)
		}, nil},
		"ended twice":         {wire.Version, func(b []byte) []byte { return terminate(terminate(b)) }, ErrUnexpected},
		"ended, and older":    {wire.TerminateVersion - 1, terminate, ErrUnexpected},
		"ended, never begun":  {wire.Version, func(b []byte) []byte { return terminate(wire.AppendClose(b, 1, Aborted)) }, ErrUnknownConn},
		"ended, and a gap":    {wire.Version, func(b []byte) []byte { return wire.AppendData(terminate(b), 1, Request, 2, []byte("x"), false) }, ErrOffset},
		"ended before a byte": {wire.Version, func(b []byte) []byte { return wire.AppendTerminate(b, testRecord(1), [2]uint64{}, [2]bool{true}) }, ErrOffset},
	} {
		if err := step(tc.version, tc.entries); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// terminate appends that testRecord(1) is ended here.
func terminate(b []byte) []byte {
	return wire.AppendTerminate(b, testRecord(1), [2]uint64{1, 1}, [2]bool{})
}

func TestVersionOfSession(t *testing.T) {
	c := New(Limits{})
	must(t, c.SetRole(RoleActive, 1))
	for _, v := range []uint8{0, wire.Version + 1} {
		if err := c.PeerJoined(0, v); !errors.Is(err, ErrVersion) {
			t.Errorf("version %d: %v", v, err)
		}
	}
}

// goldenFrames reads one of the files.
func goldenFrames(t testing.TB, path string) [][]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	var frames [][]byte
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		f, err := hex.DecodeString(sc.Text())
		must(t, err)
		frames = append(frames, f)
	}
	if len(frames) == 0 {
		t.Fatalf("%s is empty", path)
	}
	return frames
}
