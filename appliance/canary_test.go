package appliance

import (
	"net/netip"
	"testing"

	"lockstep/appliance/config"
	"lockstep/appliance/kept"
	"lockstep/appliance/relay"
)

func TestStarved(t *testing.T) {
	nobody, all, some := kept.Gauge{}, kept.Gauge{Connections: 3, Unanswered: 3}, kept.Gauge{Connections: 3, Unanswered: 2}
	var s starved
	after := func(n int, g kept.Gauge) (looks int) {
		for looks = 1; looks <= n; looks++ {
			if s.look(g) {
				return looks
			}
		}
		return 0
	}
	if after(100, nobody) != 0 || after(100, some) != 0 {
		t.Error("it is tried although somebody is served, or there is nobody")
	}
	if n := after(100, all); n != starvedLooks {
		t.Fatalf("it is tried after %d looks, want %d", n, starvedLooks)
	}
	s.tried(all) // it was not the canaries
	if n := after(1000, all); n != starvedPause+starvedLooks {
		t.Fatalf("it is tried again after %d looks, want %d", n, starvedPause+starvedLooks)
	}
	for range 2 { // the second time without so long a pause
		for range starvedTries - 1 {
			s.tried(some)
			if s.off {
				t.Fatal("off before as many tries as it takes")
			}
			if n := after(100, all); n != starvedLooks {
				t.Fatalf("it is tried after %d looks, want %d", n, starvedLooks)
			}
		}
		s.tried(nobody) // that tells nothing
		after(starvedWindow, some)
	}
	if n := after(100, all); n != starvedLooks {
		t.Fatalf("it is tried after %d looks, want %d", n, starvedLooks)
	}
	for range starvedTries {
		s.tried(some)
	}
	if !s.off || after(1000, all) != 0 {
		t.Error("canaries are held although they keep clients from being served")
	}
}

// Servers are asked where something depends on the answer.
func TestWhoIsAsked(t *testing.T) {
	one, two := netip.MustParseAddrPort("10.20.0.11:80"), netip.MustParseAddrPort("10.20.0.12:80")
	six := netip.MustParseAddrPort("[fd20::11]:80")
	idle := &relay.Service{}
	for name, c := range map[string]struct {
		service       config.Service
		asked, always bool
	}{
		"one server":            {config.Service{Servers: []netip.AddrPort{one}, Protection: config.ProtectGateway}, false, false},
		"one of each family":    {config.Service{Servers: []netip.AddrPort{one, six}, Protection: config.ProtectGateway, Source: config.SourceClient}, false, false},
		"either family will do": {config.Service{Servers: []netip.AddrPort{one, six}, Protection: config.ProtectGateway, Source: config.SourceGateway}, true, true},
		"two servers":           {config.Service{Servers: []netip.AddrPort{one, two}, Protection: config.ProtectGateway, Source: config.SourceClient}, true, true},
		"a path is named":       {config.Service{Servers: []netip.AddrPort{one}, Protection: config.ProtectGateway, Health: config.Health{HTTP: "/"}}, true, true},
		"log, without clients":  {config.Service{Servers: []netip.AddrPort{one}, Protection: config.ProtectLog}, true, false},
		"log, and a spare":      {config.Service{Servers: []netip.AddrPort{one, two}, Protection: config.ProtectLog}, true, true},
	} {
		if got := asks(&c.service); got != c.asked {
			t.Errorf("%s: asked is %v", name, got)
		}
		if w := wanted(&c.service, idle); (w == nil) != c.always && (w == nil || w() != c.always) {
			t.Errorf("%s: asked without clients is %v", name, !c.always)
		}
	}
}
