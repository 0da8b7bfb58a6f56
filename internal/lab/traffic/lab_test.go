package traffic_test

import (
	"context"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
	"lockstep/internal/lab/traffic"
)

func TestMain(m *testing.M) {
	lab.Main(traffic.Roles())
	goleak.VerifyTestMain(m)
}

// standIn is the standard topology with a plain router in the appliance's place and a server on
// s1 port 80 that runs as a process of its own.
func standIn(t *testing.T, front lab.NetOptions) (p *lab.PairLab, server *lab.RoleProc) {
	t.Helper()
	p = labtest.Pair(t, lab.PairOptions{Front: front, Servers: 1})
	if err := p.StandIn(p.A); err != nil {
		t.Fatal(err)
	}
	server, err := p.Servers[0].Go(traffic.ServerRole, traffic.ServerArgs{Listen: []string{":80"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var up traffic.ServerEvent
	if err := server.Next(ctx, &up); err != nil {
		t.Fatal(err)
	}
	return p, server
}

func client(p *lab.PairLab, v6 bool) *traffic.Client {
	addr := p.ServerAddr(0, v6, 80).String()
	return &traffic.Client{Patience: 30 * time.Second, Dial: func(ctx context.Context) (net.Conn, error) {
		return p.Client.DialContext(ctx, "tcp", addr)
	}}
}

func TestLossyNetworkLeavesTrafficWhole(t *testing.T) {
	p, _ := standIn(t, lab.NetOptions{Kind: lab.Switch, Faults: lab.Faults{
		Loss: 0.005, Duplicate: 0.01, Reorder: 0.02, Delay: 200 * time.Microsecond, Jitter: 300 * time.Microsecond}})
	for _, v6 := range []bool{false, true} {
		reqs := append(traffic.Times(4, traffic.Both(500_000)), traffic.Times(4, traffic.PingPong(20, 100, 3000))...)
		reqs = append(reqs,
			traffic.Request{Mode: traffic.Stream, Up: traffic.Flow{Size: 100_000}, Down: traffic.Flow{Size: 100_000}, Close: traffic.ClientFirst},
			traffic.Request{Mode: traffic.Stream, Up: traffic.Flow{Size: 100_000}, Down: traffic.Flow{Size: 100_000}, Close: traffic.ServerFirst})
		if s := traffic.Summarize(client(p, v6).Run(context.Background(), reqs...)...); !s.Intact {
			t.Errorf("IPv6 %v: %+v", v6, s)
		}
	}
}

func TestFaultsMakeGapsVisible(t *testing.T) {
	const hold = 300 * time.Millisecond
	for name, fault := range map[string]func(p *lab.PairLab, s *lab.RoleProc, on bool) error{
		"link down": func(p *lab.PairLab, _ *lab.RoleProc, on bool) error {
			return p.Front.PortOf(p.Client).SetLink(!on)
		},
		"partition": func(p *lab.PairLab, _ *lab.RoleProc, on bool) error {
			if on {
				return p.Back.Partition([]*lab.Host{p.A})
			}
			return p.Back.Heal()
		},
		"frozen server": func(_ *lab.PairLab, s *lab.RoleProc, on bool) error {
			if on {
				return s.Stop()
			}
			return s.Cont()
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, server := standIn(t, lab.NetOptions{})
			c := client(p, false)
			req := traffic.Request{Mode: traffic.Stream, Down: traffic.Flow{Size: 4 << 20, Chunk: 4096, Pace: time.Millisecond}}
			done := make(chan traffic.Result, 1)
			go func() { done <- c.Do(context.Background(), req) }()
			labtest.Eventually(t, 30*time.Second, "the download is under way", func() bool {
				return c.Progress.Received.Load() > 100_000
			})
			begin := time.Now()
			if err := fault(p, server, true); err != nil {
				t.Fatal(err)
			}
			time.Sleep(hold) // the length of the fault
			if err := fault(p, server, false); err != nil {
				t.Fatal(err)
			}
			r := <-done
			if !r.Intact {
				t.Fatal(r.Error)
			}
			g := r.Gap()
			if g.Longest < hold*9/10 || g.At.Before(begin.Add(-hold)) {
				t.Errorf("gap of %v at %v; the fault lasted %v from %v", g.Longest, g.At, hold, begin)
			}
		})
	}
}

func TestKilledServerIsReported(t *testing.T) {
	p, server := standIn(t, lab.NetOptions{})
	c := client(p, false)
	done := make(chan traffic.Result, 1)
	go func() { done <- c.Do(context.Background(), traffic.Download(1<<40)) }()
	labtest.Eventually(t, 30*time.Second, "the download is under way", func() bool {
		return c.Progress.Received.Load() > 100_000
	})
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.Intact || r.Error == "" {
		t.Errorf("%+v", r)
	}
}

func TestClientRoleCarriesManyConnections(t *testing.T) {
	p, _ := standIn(t, lab.NetOptions{Offload: true})
	const idle = 1000
	r, err := p.Client.Go(traffic.ClientRole, traffic.ClientArgs{
		Addr: p.ServerAddr(0, false, 80).String(),
		Requests: []traffic.Batch{
			{Count: idle, Request: traffic.Idle(0)},
			{Count: 2, Request: traffic.Download(8 << 20)},
			{Count: 2, Request: traffic.Upload(8 << 20)},
		},
		Every: 10 * time.Millisecond, Results: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var e traffic.ClientEvent
	for e.Summary == nil {
		e = traffic.ClientEvent{}
		if err := r.Next(ctx, &e); err != nil {
			t.Fatal(err)
		}
		if e.AllOpen {
			if err := r.Send(traffic.FinishMessage); err != nil {
				t.Fatal(err)
			}
		}
	}
	if s := e.Summary; !s.Intact || s.Connections != idle+4 || s.Bytes != 4*8<<20+4*idle || len(e.Results) != idle+4 {
		t.Errorf("%+v", s)
	}
	if err := r.Wait(ctx); err != nil {
		t.Errorf("%v: %s", err, r.Output())
	}
}

func TestOptionsOfTheKernel(t *testing.T) {
	p, _ := standIn(t, lab.NetOptions{})
	for _, key := range []string{"net.ipv4.tcp_timestamps", "net.ipv4.tcp_sack", "net.ipv4.tcp_window_scaling"} {
		if err := p.Client.Sysctl(key, "0"); err != nil {
			t.Fatal(err)
		}
	}
	req := traffic.Both(1 << 20)
	req.Congestion = "reno"
	if r := client(p, false).Do(context.Background(), req); !r.Intact {
		t.Error(r.Error)
	}
	req.Congestion = "nonesuch"
	if r := client(p, false).Do(context.Background(), req); r.Intact {
		t.Error("unknown congestion control accepted")
	}
}
