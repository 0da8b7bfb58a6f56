package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

// What outlives its server: connections of services with protection log and hot. The
// servers are processes of their own, so that their kernels end their connections
// when they are killed, as on any machine.

// startKept starts a pair whose service outlives its servers, with a process for each.
func startKept(t *testing.T, o options) (p *pair, s []*lab.RoleProc) {
	t.Helper()
	o.serve = func(p *pair) {
		for i := range p.Servers {
			s = append(s, p.serverProc(i))
		}
	}
	p = start(t, o)
	return p, s
}

// keptOptions of a pair whose service outlives its servers.
func keptOptions(servers int, protection config.Protection, set ...func(*config.Service)) options {
	var list []string
	for i := range servers {
		list = append(list, fmt.Sprintf("10.20.0.%d:8000", i+11))
	}
	kept := service("kept", []string{portKept}, list, func(s *config.Service) {
		s.Protection, s.Patience = protection, 20*time.Second
		s.Health.Interval, s.Health.Timeout = time.Second, 800*time.Millisecond
	})
	for _, f := range set {
		f(&kept)
	}
	return options{PairOptions: lab.PairOptions{Servers: max(servers, 1)}, extra: []config.Service{kept}}
}

const portKept = lab.VIP4 + ":8000"

// server starts a traffic server as a process on the i-th host.
func (p *pair) serverProc(i int) *lab.RoleProc {
	p.t.Helper()
	proc, err := p.Servers[i].Go(traffic.ServerRole, traffic.ServerArgs{
		Listen: []string{fmt.Sprintf("10.20.0.%d:8000", i+11)}, Debug: true,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var ev traffic.ServerEvent
	if err := proc.Next(ctx, &ev); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if p.t.Failed() {
			p.t.Logf("--- server s%d:\n%s", i+1, proc.Tail(20))
		}
	})
	return proc
}

// kept is what an appliance says of the service.
func (p *pair) kept(node string) control.Kept {
	for _, s := range p.status(node).Services {
		if s.Name == "kept" && s.Kept != nil {
			return *s.Kept
		}
	}
	return control.Kept{}
}

// end kills a server, and waits until its host has nobody at the port.
func (p *pair) end(r *lab.RoleProc) {
	p.t.Helper()
	if err := r.Kill(); err != nil {
		p.t.Fatal(err)
	}
	<-r.Done()
}

// repeatable requests: what the server says depends on the request alone.
func repeatable(reqs ...traffic.Request) []traffic.Request {
	for i := range reqs {
		reqs[i].Repeatable = true
	}
	return reqs
}

func mixed() []traffic.Request {
	return repeatable(append(traffic.Times(5, traffic.Idle(20*time.Millisecond)),
		traffic.Download(60*mib), traffic.Upload(10*mib), traffic.Both(10*mib),
		traffic.Request{Mode: traffic.Stream, Close: traffic.ClientFirst, Up: traffic.Flow{Size: mib}, Down: traffic.Flow{Size: 20 * mib}},
	)...)
}

// serverEnds runs mixed traffic to a service of protection log with so many servers,
// and kills the first once the client has got so many bytes. finish lets the client
// come to its end, and waits for it.
func serverEnds(t *testing.T, servers int, after int64) (p *pair, s []*lab.RoleProc, c *traffic.Client, finish func()) {
	t.Helper()
	p, s = startKept(t, keptOptions(servers, config.ProtectLog))
	c = p.client(portKept)
	last := make(chan struct{})
	c.Finish = last
	wait := p.run(c, mixed()...)
	p.await("traffic flows", func() bool { return c.Progress.Received.Load() >= after })
	p.end(s[0])
	return p, s, c, func() {
		t.Helper()
		close(last)
		wait()
	}
}

// A server is killed; its spare is told the requests again and goes on. Then that one
// is killed, and the first, restarted, goes on.
func TestServerKilledLog(t *testing.T) {
	p, s, c, finish := serverEnds(t, 2, 5*mib)
	p.await("the spare goes on", func() bool { return p.kept("a").Failovers > 0 })
	s[0] = p.serverProc(0)
	p.await("traffic flows", func() bool { return c.Progress.Received.Load() >= 20*mib })
	p.end(s[1])
	finish()
	k := p.kept("a")
	t.Logf("%+v", k)
	if k.Divergences > 0 || k.GivenUp > 0 {
		t.Errorf("%+v", k)
	}
}

// One server only, which is restarted in the middle of everything.
func TestServerRestartedLog(t *testing.T) {
	p, s, _, finish := serverEnds(t, 1, 5*mib)
	s[0] = p.serverProc(0)
	p.await("it goes on", func() bool { return p.kept("a").Failovers > 0 })
	finish()
	if k := p.kept("a"); k.Divergences > 0 || k.GivenUp > 0 {
		t.Errorf("%+v", k)
	}
}

// Both servers are down for their health check, which is not made again for an hour, but
// not in truth. When the one that serves dies the other is tried, since there is none
// better, and not given up for the old verdict.
func TestServerTriedInNeed(t *testing.T) {
	o := keptOptions(2, config.ProtectLog, func(s *config.Service) { s.Health.Interval = time.Hour })
	o.alone = true
	p := start(t, o)
	p.await("both are down", func() bool {
		for _, s := range p.status("a").Services {
			if s.Name == "kept" {
				return !s.Servers[0].Healthy && !s.Servers[1].Healthy
			}
		}
		return false
	})
	s := []*lab.RoleProc{p.serverProc(0), p.serverProc(1)}
	c := p.client(portKept)
	finish := make(chan struct{})
	c.Finish = finish
	wait := p.run(c, repeatable(traffic.Idle(20*time.Millisecond), traffic.Download(20*mib))...)
	p.await("traffic flows", func() bool { return c.Progress.Received.Load() >= 5*mib })
	p.end(s[0])
	p.await("the other one goes on", func() bool { return p.kept("a").Failovers > 0 })
	close(finish)
	wait()
	if k := p.kept("a"); k.Divergences > 0 || k.GivenUp > 0 {
		t.Errorf("%+v", k)
	}
}

// Two servers side by side; the primary is killed, then hangs.
func TestServerKilledHot(t *testing.T) {
	for _, release := range []string{"primary", "first"} {
		for name, end := range map[string]syscall.Signal{"kill": syscall.SIGKILL, "freeze": syscall.SIGSTOP} {
			t.Run(release+"-"+name, func(t *testing.T) {
				p, s := startKept(t, keptOptions(2, config.ProtectHot, func(s *config.Service) { s.Release = config.Release(release) }))
				c := p.client(portKept)
				finish := make(chan struct{})
				c.Finish = finish
				wait := p.run(c, mixed()...)
				p.await("traffic flows", func() bool { return c.Progress.Received.Load() >= 5*mib })
				if err := s[0].Signal(end); err != nil {
					t.Fatal(err)
				}
				close(finish)
				sum := wait()
				k := p.kept("a")
				t.Logf("gap %v, %+v", sum.Gap.Longest, k)
				if k.Divergences > 0 || k.GivenUp > 0 {
					t.Errorf("%+v", k)
				}
				if end == syscall.SIGSTOP {
					_ = s[0].Signal(syscall.SIGCONT)
				}
			})
		}
	}
}

// The appliance dies, then the server; and both at once. Old connections survive.
func TestServerAndApplianceKilled(t *testing.T) {
	for _, protection := range []string{"log", "hot"} {
		t.Run(protection, func(t *testing.T) {
			p, s := startKept(t, keptOptions(2, config.Protection(protection)))
			c := p.client(portKept)
			finish := make(chan struct{})
			c.Finish = finish
			wait := p.run(c, mixed()...)
			p.await("traffic flows", func() bool { return c.Progress.Received.Load() >= 5*mib })
			p.kill(p.a)
			p.end(s[0])
			p.await("b has taken over", func() bool { return p.status("b").Role == "active" })
			p.await("traffic flows", func() bool { return c.Progress.Received.Load() >= 20*mib })
			close(finish)
			wait()
			k := p.kept("b")
			t.Logf("%+v", k)
			if k.Divergences > 0 || k.GivenUp > 0 || k.Unverified > 0 {
				t.Errorf("%+v", k)
			}
		})
	}
}

// The spare answers something else. The client must not get a byte of it: it is reset,
// and the divergence is counted.
func TestServerDiverges(t *testing.T) {
	for _, protection := range []string{"log", "hot"} {
		t.Run(protection, func(t *testing.T) {
			o := keptOptions(2, config.Protection(protection), func(s *config.Service) { s.Patience = 5 * time.Second }) // it is reset then
			const sent = 300 << 10
			var stop []func()
			o.serve = func(p *pair) {
				stop = p.talkers(bytes.Repeat([]byte{'A'}, sent), bytes.Repeat([]byte{'B'}, sent))
			}
			p := start(t, o)
			conn, err := p.Client.DialContext(context.Background(), "tcp", portKept)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write([]byte("go")); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, sent)
			if _, err := io.ReadFull(conn, got); err != nil {
				t.Fatal(err)
			}
			first := got[0]
			if protection == "hot" {
				p.await("the difference is seen", func() bool { return p.kept("a").Divergences == 1 })
			}
			stop[first-'A']()
			rest, err := io.ReadAll(conn)
			if err == nil {
				t.Errorf("the connection has ended in order, after %d more bytes", len(rest))
			}
			if wrong := bytes.Count(append(got, rest...), []byte{'A' + 'B' - first}); wrong > 0 {
				t.Errorf("%d bytes of the other server", wrong)
			}
			k := p.kept("a")
			if k.Divergences != 1 {
				t.Errorf("%+v", k)
			}
			for _, side := range []string{`"AAAA`, `"BBBB`, "differs at byte 0 of the response"} {
				if !strings.Contains(k.LastDivergence, side) {
					t.Errorf("the divergence does not say %s: %s", side, k.LastDivergence)
				}
			}
		})
	}
}

// talkers are servers that say one thing each, whatever they are asked.
func (p *pair) talkers(say ...[]byte) (stop []func()) {
	p.t.Helper()
	for i, b := range say {
		ln, err := p.Servers[i].Listen("tcp4", ":8000")
		if err != nil {
			p.t.Fatal(err)
		}
		stop = append(stop, talk(ln, b))
		p.t.Cleanup(stop[i])
	}
	return stop
}

// talk serves connections with the same bytes and keeps them open, until stop ends
// the listener and all of them.
func talk(ln net.Listener, say []byte) (stop func()) {
	var mu sync.Mutex
	var conns []net.Conn
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			wg.Go(func() {
				if _, err := io.ReadFull(conn, make([]byte, 2)); err == nil {
					_, _ = conn.Write(say) // an error shows at the client
				}
			})
		}
	})
	return sync.OnceFunc(func() {
		ln.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// A backup dies, is repaired and taken back: running connections are told to it again
// beside the running leg. Then the primary dies: the old connections survive.
func TestServerComesBackHot(t *testing.T) {
	p, s := startKept(t, keptOptions(2, config.ProtectHot))
	c := p.client(portKept)
	finish := make(chan struct{})
	c.Finish = finish
	large := traffic.Request{Mode: traffic.Rounds, RequestSize: 1000, ResponseSize: 32 << 10, Interval: 20 * time.Millisecond}
	wait := p.run(c, repeatable(append(traffic.Times(5, traffic.Idle(20*time.Millisecond)), large)...)...)
	all := func() bool { k := p.kept("a"); return k.Connections == 6 && k.InStep == 12 }
	p.await("both servers have everything", all)
	p.end(s[1])
	p.await("the backup is missed", func() bool { return p.kept("a").Replicas == 6 })
	s[1] = p.serverProc(1)
	p.await("the backup is back", all)
	p.end(s[0])
	// Whoever was the source of which: the one that is left serves all.
	p.await("the backup goes on", func() bool { k := p.kept("a"); return k.Orphans == 0 && k.Replicas == 6 && k.InStep == 6 })
	close(finish)
	wait()
	if k := p.kept("a"); k.Divergences > 0 || k.GivenUp > 0 {
		t.Errorf("%+v", k)
	}
}

// The appliance dies while a replacement is told the requests.
func TestApplianceKilledInReplay(t *testing.T) {
	p, _, _, finish := serverEnds(t, 2, 20*mib)
	p.await("a replay is under way", func() bool { return p.kept("a").Replays > 0 })
	p.kill(p.a)
	finish()
	if k := p.kept("b"); k.Divergences > 0 || k.GivenUp > 0 || k.Unverified > 0 {
		t.Errorf("%+v", k)
	}
}

// A server's cable is pulled: nobody says anything. With one appliance alone.
func TestServerUnplugged(t *testing.T) {
	for _, protection := range []string{"log", "hot"} {
		t.Run(protection, func(t *testing.T) {
			o := keptOptions(2, config.Protection(protection))
			o.alone = true
			p, _ := startKept(t, o)
			c := p.client(portKept)
			finish := make(chan struct{})
			c.Finish = finish
			wait := p.run(c, mixed()...)
			p.await("traffic flows", func() bool { return c.Progress.Received.Load() >= 5*mib })
			if err := p.Back.PortOf(p.Servers[0]).SetLink(false); err != nil {
				t.Fatal(err)
			}
			close(finish)
			sum := wait()
			k := p.kept("a")
			t.Logf("gap %v, %+v", sum.Gap.Longest, k)
			if k.Divergences > 0 || k.GivenUp > 0 {
				t.Errorf("%+v", k)
			}
		})
	}
}

// With three replicas the majority decides.
func TestServerMajority(t *testing.T) {
	for _, odd := range []int{0, 2} { // the primary, or a backup
		t.Run(fmt.Sprintf("s%d", odd+1), func(t *testing.T) {
			say := bytes.Repeat([]byte("right "), 50<<10)
			all := [][]byte{say, say, say}
			all[odd] = bytes.Repeat([]byte("wrong "), 50<<10)
			o := keptOptions(3, config.ProtectHot)
			o.serve = func(p *pair) { p.talkers(all...) }
			p := start(t, o)
			conn, err := p.Client.DialContext(context.Background(), "tcp", portKept)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write([]byte("go")); err != nil {
				t.Fatal(err)
			}
			if odd == 0 {
				// The client has bytes that two say are wrong. They cannot be taken back.
				if _, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the client saw %v, want a reset", err)
				}
				return
			}
			got := make([]byte, len(say))
			if _, err := io.ReadFull(conn, got); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, say) {
				t.Error("wrong bytes")
			}
			p.await("the odd one is out", func() bool { return p.kept("a").Divergences == 1 })
			p.await("the two go on", func() bool { k := p.kept("a"); return k.Replicas == 2 && k.InStep == 2 })
		})
	}
}
