package replication

import (
	"errors"
	"testing"

	"lockstep/replication/wire"
)

// takenOverSpliced has opened connections that are passed on, and others between them, and lets the standby take over.
func takenOverSpliced(t *testing.T) (p *pair, first []Continue, rest *Rest) {
	t.Helper()
	p = joined(t, Limits{})
	for id := uint64(1); id <= 6; id++ {
		must(t, p.node["a"].Open(p.now, maybeSpliced(ConnID(id))))
	}
	p.run(t)
	must(t, p.node["a"].Close(p.now, 6, Finished))
	p.run(t)
	s := p.node["s"]
	s.PeerLost()
	first, rest, err := s.TakeoverFirst(2)
	must(t, err)
	p.node["a"], p.node["s"] = s, New(Limits{})
	return p, first, rest
}

// maybeSpliced is testRecord's, and of one that is passed on if the number is even.
func maybeSpliced(id ConnID) *Record {
	r := testRecord(uint64(id))
	r.Spliced = id%2 == 0
	return r
}

// What is in no hurry is handed out later, and no standby is in sync before it goes on.
func TestRest(t *testing.T) {
	p, first, rest := takenOverSpliced(t)
	c, s := p.node["a"], p.node["s"]
	if len(first) != 4 || rest.Len() != 2 || !first[3].Finished || !first[3].Record.Spliced {
		t.Fatalf("first %+v, %d left", first, rest.Len())
	}
	if st := c.Stats(); st.Connections != 5 || st.Unprotected != 5 {
		t.Errorf("%+v", st)
	}
	must(t, s.SetRole(RoleStandby, 2))
	must(t, s.PeerJoined(p.now, wire.Version))
	must(t, c.PeerJoined(p.now, wire.Version))
	adopt := func() {
		for range 10 {
			p.now += 3 * millisecond
			c.Tick(p.now)
			s.Tick(p.now)
			p.run(t)
			for _, id := range c.Ready().Adopt {
				must(t, c.Adopt(p.now, maybeSpliced(id), [2]StreamPos{}, nil))
			}
		}
	}
	for i := range rest.Len() {
		if adopt(); c.SaidSynced() || s.InSync() {
			t.Fatalf("in sync although %d rest", rest.Len()-i)
		}
		if st := c.Stats(); st.SnapshotTotal != 5 || st.SnapshotDone != 3+i {
			t.Errorf("snapshot %d of %d", st.SnapshotDone, st.SnapshotTotal)
		}
		service := rest.Service(i)
		client, server := rest.Flows(i)
		k := rest.Take(i)
		r := &k.Record
		if !r.Spliced || !k.Idle || service != r.Service || client[0] != r.Client.Local || client[1] != r.Client.Remote || server[0] != r.Server.Local || server[1] != r.Server.Remote {
			t.Errorf("%+v of %s, %v and %v", k, service, client, server)
		}
		must(t, c.Continued(p.now, r.ID))
	}
	if adopt(); !c.InSync() || !s.InSync() {
		t.Errorf("not in sync: %+v", c.Stats())
	}
	if err := c.Continued(p.now, 99); !errors.Is(err, ErrUnexpected) {
		t.Errorf("one more: %v", err)
	}
}

// What goes on already does not go on again, and what an appliance that steps down has left rests no more.
func TestRestErrors(t *testing.T) {
	p, _, rest := takenOverSpliced(t)
	c, id := p.node["a"], rest.Take(0).Record.ID
	must(t, c.Continued(p.now, id))
	if err := c.Continued(p.now, id); !errors.Is(err, ErrDuplicate) {
		t.Errorf("again: %v", err)
	}
	must(t, c.SetRole(RoleNone, 3))
	if err := c.Continued(p.now, rest.Take(1).Record.ID); !errors.Is(err, ErrUnexpected) {
		t.Errorf("deposed: %v", err)
	}
}
