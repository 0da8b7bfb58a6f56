package replication

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"lockstep/replication/wire"
)

// A standby that joins is in sync only when it holds every life, however many there are; a decision in one that it has not been told yet
// waits for that one's turn, so that both know them in the same order.
func TestLivesBeforeSynced(t *testing.T) {
	const lives, each = 40, 60
	p := newPair(Limits{})
	a, s := p.node["a"], p.node["s"]
	must(t, a.SetRole(RoleActive, 1))
	must(t, s.SetRole(RoleStandby, 1))
	value := bytes.Repeat([]byte{'v'}, wire.MaxValue)
	for l := range LifeID(lives) {
		must(t, a.BeginLife(0, l, fmt.Sprint("life ", l)))
		for i := range each {
			if d, err := a.Decide(0, l, fmt.Sprint("place ", i), value); err != nil || !d.Held {
				t.Fatalf("%+v, %v", d, err)
			}
		}
	}
	must(t, a.PeerJoined(0, wire.Version))
	must(t, s.PeerJoined(0, wire.Version))
	late, err := a.Decide(0, lives-1, "late", []byte("now"))
	if err != nil || late.Held {
		t.Fatalf("%+v, %v", late, err)
	}
	frames, told := 0, false
	for a.Flushable() || s.Flushable() {
		for a.Flushable() {
			for _, f := range splitFrames(a.Flush(nil)) {
				frames++
				must(t, s.Step(0, f))
				_, whole := s.DecidedHere(lives-2, fmt.Sprint("place ", each-1))
				if s.InSync() && !whole {
					t.Fatalf("in sync after %d frames without the last life", frames)
				}
			}
		}
		for s.Flushable() {
			for _, f := range splitFrames(s.Flush(nil)) {
				must(t, a.Step(0, f))
			}
		}
		for _, h := range a.Ready().Held {
			if told = told || h.Life == lives-1; told {
				if v, ok := s.DecidedHere(lives-1, "late"); !ok || string(v) != "now" {
					t.Fatalf("held, and the standby has %q, %v", v, ok)
				}
			}
		}
		must(t, a.Check())
		must(t, s.Check())
	}
	if st := s.Stats(); frames < 5 || !told || !st.CanTakeOver || st.Lives != lives || st.DecidedBytes != a.Stats().DecidedBytes {
		t.Errorf("%d frames, told %v, %+v", frames, told, st)
	}
	order := func(c *Core) (ids []LifeID) {
		c.Lives(func(id LifeID, _ string) { ids = append(ids, id) })
		return ids
	}
	if here, there := order(a), order(s); !slices.Equal(here, there) {
		t.Errorf("the active knows lives in the order %v, the standby %v", here, there)
	}
}

// What contradicts the store ends the session and empties it.
func TestLifeErrors(t *testing.T) {
	decided := func(b []byte, number uint64, key, value string) []byte {
		return wire.AppendDecided(b, &wire.Decided{Life: 1, Number: number, Key: []byte(key), Value: []byte(value)})
	}
	for name, tc := range map[string]struct {
		version uint8
		entries func(b []byte) []byte
		want    error
	}{
		"older":             {wire.DecideVersion - 1, func(b []byte) []byte { return b }, ErrUnexpected},
		"decided":           {wire.Version, func(b []byte) []byte { return decided(decided(b, 0, "a", "1"), 7, "b", "1") }, nil},
		"twice":             {wire.Version, func(b []byte) []byte { return wire.AppendLife(b, 1, "again") }, ErrDuplicate},
		"too many":          {wire.Version, func(b []byte) []byte { return wire.AppendLife(wire.AppendLife(b, 2, ""), 3, "") }, ErrTold},
		"same key":          {wire.Version, func(b []byte) []byte { return decided(decided(b, 0, "a", "1"), 1, "a", "2") }, ErrDuplicate},
		"number again":      {wire.Version, func(b []byte) []byte { return decided(decided(b, 5, "a", "1"), 5, "b", "2") }, ErrOffset},
		"number back":       {wire.Version, func(b []byte) []byte { return decided(decided(b, 5, "a", "1"), 4, "b", "2") }, ErrOffset},
		"last number":       {wire.Version, func(b []byte) []byte { return decided(b, 1<<64-1, "a", "1") }, ErrOffset},
		"too much":          {wire.Version, func(b []byte) []byte { return decided(b, 0, "a", string(make([]byte, 600))) }, ErrTold},
		"forgotten":         {wire.Version, func(b []byte) []byte { return wire.AppendForgotten(decided(b, 3, "a", "1"), 1, 3) }, nil},
		"nothing to forget": {wire.Version, func(b []byte) []byte { return wire.AppendForgotten(decided(b, 3, "a", "1"), 1, 2) }, ErrUnknownLife},
		"after its end":     {wire.Version, func(b []byte) []byte { return decided(wire.AppendLifeOver(b, 1), 0, "a", "1") }, ErrUnknownLife},
		"ended twice":       {wire.Version, func(b []byte) []byte { return wire.AppendLifeOver(wire.AppendLifeOver(b, 1), 1) }, ErrUnknownLife},
		"begun again":       {wire.Version, func(b []byte) []byte { return wire.AppendLife(wire.AppendLifeOver(b, 1), 1, "") }, nil},
	} {
		s := New(Limits{MaxLives: 2, MaxDecidedPerLife: 700})
		must(t, s.SetRole(RoleStandby, 1))
		must(t, s.PeerJoined(0, tc.version))
		f := tc.entries(wire.AppendLife(wire.Begin(nil), 1, "life"))
		wire.Finish(f, 0, wire.Header{Version: tc.version, Type: wire.TypeBatch, Epoch: 1, Index: 1})
		err := s.Step(0, f)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		must(t, s.Check())
		if st := s.Stats(); err != nil && st.Lives > 0 {
			t.Errorf("%s: %d lives are left", name, st.Lives)
		}
	}
}

// What is forgotten leaves nothing behind, however long a life lasts.
func TestForgottenIsFree(t *testing.T) {
	c := New(Limits{MaxDecidedPerLife: 10_000})
	must(t, c.SetRole(RoleActive, 1))
	must(t, c.BeginLife(0, 1, "a parent that only accepts"))
	for i := range uint64(5000) {
		d, err := c.Decide(0, 1, fmt.Sprint(i), []byte("noon"))
		must(t, err)
		if i >= 10 {
			must(t, c.Forget(0, 1, d.Number-10))
		}
	}
	must(t, c.Check())
	l := c.act.lives.byID[1]
	if len(l.numbers) != 10 || cap(l.decided) > 300 {
		t.Errorf("%d decisions, room for %d", len(l.numbers), cap(l.decided))
	}
}

// BenchmarkDecide decides, replicates and forgets one determinant after the other.
func BenchmarkDecide(b *testing.B) {
	p := newPair(Limits{})
	a, s := p.node["a"], p.node["s"]
	must(b, a.SetRole(RoleActive, 1))
	must(b, s.SetRole(RoleStandby, 1))
	must(b, a.PeerJoined(0, wire.Version))
	must(b, s.PeerJoined(0, wire.Version))
	must(b, a.BeginLife(0, 1, "life"))
	value := make([]byte, 144) // a stat
	var toS, toA []byte
	b.ReportAllocs()
	for i := range b.N {
		d, err := a.Decide(0, 1, fmt.Sprintf("%25d", i), value)
		must(b, err)
		toS = a.Flush(toS[:0])
		must(b, stepAll(s, 0, toS))
		toA = s.Flush(toA[:0])
		must(b, stepAll(a, 0, toA))
		if h := a.Ready().Held; len(h) != 1 || h[0].Below <= d.Number {
			b.Fatalf("held are %v", h)
		}
		must(b, a.Forget(0, 1, d.Number))
	}
}
