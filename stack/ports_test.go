package stack

import (
	"errors"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

var (
	portsServer = netip.MustParseAddrPort("10.20.0.11:8080")
	portsOther  = netip.MustParseAddrPort("10.20.0.12:8080")
)

func portsLeg(local netip.Addr, port uint16, remote netip.AddrPort) *Params {
	return &Params{Local: netip.AddrPortFrom(local, port), Remote: remote}
}

// Every port from 1024 on serves once for each of our addresses and each server; then
// there is none, until a leg ends: and then the one that ended first.
func TestPortsRunOut(t *testing.T) {
	k := ports{of: make(map[portKey]*portPool)}
	local := testVIP.Addr()
	seen := make(map[uint16]bool)
	for range PortsPerServer {
		p, ok := k.take(portsLeg(local, 0, portsServer))
		if !ok || p < firstPort || seen[p] {
			t.Fatalf("port %d after %d others, %v", p, len(seen), ok)
		}
		seen[p] = true
	}
	if p, ok := k.take(portsLeg(local, 0, portsServer)); ok {
		t.Fatalf("port %d is given twice", p)
	}
	for _, l := range []*Params{portsLeg(local, 0, portsOther), portsLeg(testClient, 0, portsServer)} {
		if _, ok := k.take(l); !ok {
			t.Error("another server, or another address of ours, has no port")
		}
	}
	for _, p := range []uint16{5000, 1024, 65535} {
		k.give(portsLeg(local, p, portsServer))
		k.give(portsLeg(local, p, portsServer)) // once is enough
	}
	for _, want := range []uint16{5000, 1024, 65535} {
		if p, ok := k.take(portsLeg(local, 0, portsServer)); !ok || p != want {
			t.Errorf("port %d, %v, want %d", p, ok, want)
		}
	}
	if _, ok := k.take(portsLeg(local, 0, portsServer)); ok {
		t.Error("more ports than there are")
	}
}

// Whatever comes and goes, no two legs have one port, and none is lost.
func TestPorts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := ports{of: make(map[portKey]*portPool)}
		used := make(map[uint16]bool)
		var all []uint16
		k.pool(portsLeg(testClient, 0, portsServer)).fresh = 20 // as if most had been used
		n := 20
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				p, ok := k.take(portsLeg(testClient, 0, portsServer))
				if ok && used[p] {
					t.Fatalf("port %d is given twice", p)
				}
				if !ok && len(used) < n {
					t.Fatalf("no port, but only %d of %d are used", len(used), n)
				}
				if ok {
					used[p] = true
					all = append(all, p)
				}
			},
			"claim": func(t *rapid.T) {
				if len(all) == 0 || len(used) == n {
					t.Skip("none")
				}
				p := rapid.SampledFrom(all).Draw(t, "port")
				used[p] = true
				k.claim(portsLeg(testClient, p, portsServer))
			},
			"give": func(t *rapid.T) {
				if len(all) == 0 {
					t.Skip("none")
				}
				p := rapid.SampledFrom(all).Draw(t, "port")
				delete(used, p)
				k.give(portsLeg(testClient, p, portsServer))
			},
		})
	})
}

// takeAll takes all ports from one of our addresses to a server.
func (e *Engine) takeAll(local netip.Addr, server netip.AddrPort) {
	for {
		if _, ok := e.ports.take(portsLeg(local, 0, server)); !ok {
			return
		}
	}
}

// A leg that is dialled when no port is left is refused; it may have that of a leg that
// has ended, though its tombstone still answers, and that of no leg that another
// appliance has dialled.
func TestDialWithoutPort(t *testing.T) {
	q := newQuietEngine(t, 10)
	p := Params{Local: netip.AddrPortFrom(testVIP.Addr(), 0), Remote: portsServer}
	first, err := q.Dial(p, false, q)
	if err != nil {
		t.Fatal(err)
	}
	held := p
	held.Local = netip.AddrPortFrom(p.Local.Addr(), first.Params().Local.Port()+1)
	held.PeerWS, held.OurWS = -1, -1
	restored, err := q.Restore(held, Resume{PeerKnows: true}, q)
	if err != nil {
		t.Fatal(err)
	}
	q.takeAll(p.Local.Addr(), portsServer)
	if _, err := q.Dial(p, false, q); !errors.Is(err, ErrNoPort) {
		t.Fatalf("dial without a port: %v", err)
	}
	for _, l := range []*Leg{first, restored} {
		want := l.Params().Local
		l.Finish()
		if q.Tombstones() == 0 {
			t.Fatal("no tombstone")
		}
		again, err := q.Dial(p, false, q)
		if err != nil || again.Params().Local != want {
			t.Fatalf("dial after a leg has ended: %v, %v, want %v", again, err, want)
		}
	}
	if _, err := q.Dial(p, false, q); !errors.Is(err, ErrNoPort) {
		t.Fatalf("dial without a port: %v", err)
	}
}

// BenchmarkNoPort is what a refusal costs.
func BenchmarkNoPort(b *testing.B) {
	k := ports{of: make(map[portKey]*portPool)}
	l := portsLeg(testClient, 0, portsServer)
	for range PortsPerServer {
		k.take(l)
	}
	b.ResetTimer()
	for range b.N {
		k.take(l)
	}
}
