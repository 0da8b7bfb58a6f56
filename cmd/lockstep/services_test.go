package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"lockstep/appliance/control"
)

func show(s *control.Status, all bool) string { return render(s, palette{}, time.Now(), all) }

// A service is one line, an address is written once, and what is wrong has a line of its own.
func TestServiceLine(t *testing.T) {
	s := sample()
	s.Fitness = control.Fitness{Faults: []string{"eth0 has no carrier"}, PeerFaults: []string{"eth1 has no carrier"},
		HarmlessDifferences: []string{"service \"web\" has another path"}}
	s.Services = []control.Service{{
		Name: "mail", Protection: "hot", Connections: 1,
		Listen: []string{"203.0.113.10:25", "203.0.113.10:587", "[2001:db8::10]:25"},
		Servers: []control.Backend{
			{Addr: "10.20.0.11:25", Healthy: true}, {Addr: "10.20.0.12:25", Why: "connect: connection refused"},
		},
		Kept: &control.Kept{Replicas: 2, InStep: 1, LagBytes: 2048, Lost: 1, Failovers: 1, Divergences: 2, LastFailover: "10.20.0.11:25 goes on"},
	}}
	out := show(&s, false)
	expect(t, out,
		"mail  203.0.113.10:25,587 [2001:db8::10]:25 -> 10.20.0.11:25 10.20.0.12:25  hot, 1 connection, 1 of 2 servers healthy, 1 of 2 replicas in step\n",
		"10.20.0.12:25 down: connect: connection refused\n", "1 replica not in step, the slowest 2.0 KiB behind\n",
		"divergences 2, unverified 0, given up 0\n", "servers lost 1, failovers 1", "10.20.0.11:25 goes on",
		"fault        eth0 has no carrier\n", "fault        at b: eth1 has no carrier\n",
		"differs      service \"web\" has another path\n")
	if n := strings.Count(out, "203.0.113.10"); n != 1 {
		t.Errorf("the address is written %d times:\n%s", n, out)
	}
	s.Services[0].Servers = []control.Backend{{Addr: "10.20.0.11:25", Healthy: true}}
	expect(t, show(&s, false), "servers not asked")
	s.Role, s.Services[0].Kept = control.RoleStandby, nil
	if out := show(&s, false); strings.Contains(out, "healthy") || strings.Contains(out, "down") {
		t.Errorf("a standby, which asks no server, says how they are:\n%s", out)
	}
}

// Many services are summed up; those that are not well come first, and of those, too, few are written.
func TestManyServices(t *testing.T) {
	s := sample()
	s.Services = nil
	for i := range 500 {
		s.Services = append(s.Services, control.Service{
			Name: fmt.Sprintf("s%d", i), Listen: []string{fmt.Sprintf("203.0.113.10:%d", 1000+i)}, Protection: "gateway", Connections: 2,
			Servers: []control.Backend{{Addr: "10.20.0.11:80", Healthy: i != 400, Why: "connect: connection refused"}},
		})
	}
	out := show(&s, false)
	if n := strings.Count(out, "\n"); n > 30 {
		t.Errorf("%d lines:\n%s", n, out)
	}
	expect(t, out, "services     500, 1000 connections, something is wrong with 1\nservice      s400 ", "10.20.0.11:80 down", "and 490 more (--all shows them)")
	// What was comes after what is, and before what never was.
	s.Services[7].Kept, s.Services[300].Kept = &control.Kept{}, &control.Kept{Divergences: 1}
	out = show(&s, false)
	expect(t, out, "something is wrong with 1\nservice      s400 ", "divergences 1, unverified 0, given up 0\n")
	if at := strings.Index(out, "s300 "); at < strings.Index(out, "s400 ") || at > strings.Index(out, "s0 ") {
		t.Errorf("a service that was troubled is not the second:\n%s", out)
	}
	for i := range s.Services {
		s.Services[i].Servers[0].Healthy = false
	}
	if out := show(&s, false); strings.Count(out, "\n") > 40 || !strings.Contains(out, "something is wrong with 500") {
		t.Errorf("all are down:\n%s", out)
	}
	if n := strings.Count(show(&s, true), " -> "); n != 500 {
		t.Errorf("--all shows %d services", n)
	}
}

// That silence is borne for longer than configured is shown with its reason.
func TestTimeOutLine(t *testing.T) {
	s := sample()
	s.Timing = control.Timing{FailureTimeoutMicros: 100_000, EffectiveMicros: 100_000, OwnLateMicros: 1000}
	if out := show(&s, false); strings.Contains(out, "time-out") {
		t.Errorf("a time-out that is as configured is shown:\n%s", out)
	}
	s.Timing.EffectiveMicros, s.Timing.OwnLateMicros, s.Timing.PeerLateMicros = 240_000, 60_000, 15_000
	expect(t, show(&s, false), "time-out     240.0 ms instead of 100.0 ms: timers here up to 60.0 ms late, the peer's heartbeats up to 15.0 ms, in the last minute")
	s.Timing.EffectiveMicros, s.Timing.PromisedMicros = 100_000, 240_000
	expect(t, show(&s, false), "time-out     100.0 ms instead of 100.0 ms, 240.0 ms promised: timers")
	s.Timing.HoldDown = true
	expect(t, show(&s, false), "a takeover was a moment ago")
}
