package replication

import (
	"errors"
	"slices"
	"testing"

	"lockstep/replication/wire"
)

// Each side knows what the other says of its fitness: from the beginning of a session
// on, and changes at once. An older peer is told no more than that there is a fault.
func TestFitness(t *testing.T) {
	for _, version := range []uint8{wire.FitnessVersion - 1, wire.Version} {
		p := newPair(Limits{})
		a, s := p.node["a"], p.node["s"]
		must(t, a.SetRole(RoleActive, 1))
		must(t, s.SetRole(RoleStandby, 1))
		s.SetFitness(wire.Fitness{Faults: []string{"no carrier"}, Services: []wire.ServiceDigest{{Name: "web", Aspects: []uint64{7}}}})
		if _, known := a.PeerFitness(); known || !a.PeerFit() {
			t.Fatal("something is known before the session")
		}
		must(t, a.PeerJoined(0, version))
		must(t, s.PeerJoined(0, version))
		p.run(t)
		s.Tick(s.lim.Heartbeat)
		p.run(t)
		f, known := a.PeerFitness()
		if known != (version >= wire.FitnessVersion) || a.PeerFit() {
			t.Fatalf("version %d: known %v, fit %v", version, known, a.PeerFit())
		}
		if known && (!slices.Equal(f.Faults, []string{"no carrier"}) || len(f.Services) != 1 || f.Services[0].Name != "web") {
			t.Fatalf("%+v", f)
		}
		s.SetFitness(wire.Fitness{})
		if !s.Flushable() && version >= wire.FitnessVersion {
			t.Fatal("a change waits for the next heartbeat")
		}
		s.Tick(2 * s.lim.Heartbeat)
		p.run(t)
		if !a.PeerFit() {
			t.Fatalf("version %d: still unfit", version)
		}
		a.PeerLost()
		must(t, a.PeerJoined(p.now, version))
		if _, known := a.PeerFitness(); known {
			t.Fatal("what was said in an earlier session is believed")
		}
	}
}

// A frame of fitness is part of version 4 and bounded.
func TestFitnessErrors(t *testing.T) {
	c := New(Limits{})
	must(t, c.SetRole(RoleActive, 1))
	must(t, c.PeerJoined(0, wire.FitnessVersion-1))
	if err := c.Step(0, wire.AppendFitness(nil, wire.FitnessVersion, 1, &wire.Fitness{})); !errors.Is(err, ErrVersion) {
		t.Error(err)
	}
	many := wire.Fitness{Faults: make([]string, 2*wire.MaxFaults), Services: make([]wire.ServiceDigest, 2*wire.MaxServices)}
	many.Faults[0] = string(make([]byte, 2*wire.MaxFaultText))
	_, payload, err := wire.Decode(wire.AppendFitness(nil, wire.Version, 1, &many))
	must(t, err)
	f, err := wire.DecodeFitness(payload)
	if err != nil || len(f.Faults) != wire.MaxFaults || len(f.Services) != wire.MaxServices {
		t.Errorf("%d faults, %d services, %v", len(f.Faults), len(f.Services), err)
	}
	for n := range payload {
		if _, err := wire.DecodeFitness(payload[:n]); err == nil {
			t.Fatalf("cut to %d bytes it is accepted", n)
		}
	}
}
