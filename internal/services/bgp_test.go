package services

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
	"lockstep/internal/realservers"
)

// birdConf is a BGP speaker with one route of its own, and another that is announced once it is told
// to. Nothing of it touches the kernel's routes.
func birdConf(id string, own, later string, peers string) string {
	return fmt.Sprintf(`router id %s;
log stderr all;
timeformat protocol iso long us;
protocol device { }
protocol static own { ipv4; route %s blackhole; }
protocol static later { disabled; ipv4; route %s blackhole; }
template bgp peer {
  connect delay time 1; connect retry time 1; error wait time 1, 1; hold time 240;
  ipv4 { import all; export all; gateway recursive; };
}
%s`, id, own, later, peers)
}

func bird(conf string) func(www, dir string) (realservers.Server, error) {
	return func(_, dir string) (realservers.Server, error) {
		return realservers.Server{Program: "bird", Package: "bird2", Port: 179,
			Args: []string{"-f", "-c", conf, "-s", filepath.Join(dir, "sock"), "-P", filepath.Join(dir, "pid")}}, nil
	}
}

// birdc asks a speaker.
func (b *bed) birdc(h *lab.Host, dir string, words ...string) string {
	b.t.Helper()
	p, err := h.Start(lab.Command{Path: "birdc", Args: append([]string{"-s", filepath.Join(dir, "sock")}, words...)})
	if err != nil {
		b.t.Fatal(err)
	}
	<-p.Done()
	return p.Output()
}

var established = regexp.MustCompile(`(?m)^(\w+) +BGP +--- +up +(\S+ \S+) +Established`)

// sessions are the established ones, with the time since when they are, which BIRD knows to some
// microseconds.
func (b *bed) sessions(h *lab.Host, dir string) map[string]time.Time {
	b.t.Helper()
	since := map[string]time.Time{}
	for _, m := range established.FindAllStringSubmatch(b.birdc(h, dir, "show", "protocols"), -1) {
		at, err := time.Parse("2006-01-02 15:04:05.000000", m[2])
		if err != nil {
			b.t.Fatal(err)
		}
		since[m[1]] = at
	}
	return since
}

// BGP sessions, for which FT-TCP was made: between neighbours as usual, whose packets live for one hop,
// and with "ttl security" (RFC 5082), with the servers seeing the clients' addresses or not. The active
// is killed, then the other; no session goes down, and what is announced afterwards arrives.
func TestBIRD(t *testing.T) {
	labtest.RequirePrograms(t, "bird:bird2", "birdc:bird2")
	const plain, secure = 179, 1179
	services := []service{
		{name: "bgp", port: plain, to: 179, only: "10.20.0.11", unprobed: true},
		{name: "bgp-secure", port: secure, to: 179, only: "10.20.0.11", unprobed: true,
			set: func(s *config.Service) { s.Source, s.TTL, s.MinTTL = config.SourceGateway, 255, 255 }},
	}
	var clientDir, serverDir string
	b := lay(t, services, func(b *bed) {
		clientDir, serverDir = b.dir("bird-client"), b.dir("bird-s1")
		client, server := filepath.Join(clientDir, "conf"), filepath.Join(serverDir, "conf")
		b.write(client, birdConf("203.0.113.100", "198.51.100.0/25", "198.51.100.128/25", fmt.Sprintf(`
protocol bgp plain from peer { local 203.0.113.100 as 65001; neighbor %s as 65002; }
protocol bgp secure from peer { local 203.0.113.100 as 65001; neighbor %s port %d as 65003; ttl security on; }
`, lab.VIP4, lab.VIP4, secure)), 0o644)
		b.write(server, birdConf("10.20.0.11", "192.0.2.0/25", "192.0.2.128/25", `
protocol bgp plain from peer { local 10.20.0.11 as 65002; neighbor 203.0.113.100 as 65001; multihop; passive; }
protocol bgp secure from peer { local 10.20.0.11 as 65003; neighbor 10.20.0.1 as 65001; ttl security on; passive; }
`), 0o644)
		b.daemon(0, bird(server), "", serverDir)
		speaker, err := bird(client)("", clientDir)
		if err != nil {
			t.Fatal(err)
		}
		proc, err := speaker.Start(t.Context(), b.Client, filepath.Join(b.Dir, "bird-client.log"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("--- client's bird:\n%s", proc.Tail(30))
			}
		})
	})
	up := func() bool {
		return len(b.sessions(b.Client, clientDir)) == 2 && len(b.sessions(b.Servers[0], serverDir)) == 2
	}
	b.Await("both sessions are established", up)
	client, server := b.sessions(b.Client, clientDir), b.sessions(b.Servers[0], serverDir)
	still := func(when string) {
		t.Helper()
		for _, x := range []struct {
			at          string
			now, before map[string]time.Time
		}{{"client", b.sessions(b.Client, clientDir), client}, {"server", b.sessions(b.Servers[0], serverDir), server}} {
			for name, since := range x.before {
				// One that went down waits for a second before it comes up again.
				if x.now[name].Sub(since).Abs() > 500*time.Millisecond {
					t.Errorf("%s: %s at the %s is up since %v, was since %v", when, name, x.at, x.now[name], since)
				}
			}
		}
	}

	b.Kill(b.a)
	b.birdc(b.Client, clientDir, "enable", "later")
	b.Await("the server hears of the client's new route", func() bool {
		return strings.Count(b.birdc(b.Servers[0], serverDir, "show", "route", "198.51.100.128/25", "all"), "BGP.as_path: 65001") == 2
	})
	still("after the first takeover")

	b.a = b.Appliance("a", options(services))
	b.Await("a is the standby", func() bool { return b.Status("a").InSync && b.Status("b").InSync })
	b.Kill(b.b)
	b.birdc(b.Servers[0], serverDir, "enable", "later")
	b.Await("the client hears of the server's new route", func() bool {
		return strings.Count(b.birdc(b.Client, clientDir, "show", "route", "192.0.2.128/25", "all"), "BGP.as_path: 6500") == 2
	})
	still("after the second takeover")
}
