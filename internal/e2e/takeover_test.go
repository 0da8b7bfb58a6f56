package e2e

import (
	"strings"
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

const mib = 1 << 20

// fault ends the active; a takeover by b must follow.
type fault func(p *pair)

func kill(p *pair) { p.kill(p.a) }

// through runs reqs, kills the active once `at` bytes or rounds have been
// carried, and waits for all to end intact on b.
func (p *pair) through(addr string, at int64, f fault, reqs ...traffic.Request) traffic.Summary {
	p.t.Helper()
	finish := make(chan struct{})
	c := p.client(addr)
	c.Finish = finish
	wait := p.run(c, reqs...)
	p.await("traffic flows", func() bool {
		return c.Progress.Received.Load()+p.server.Progress.Received.Load()+c.Progress.Rounds.Load() >= at
	})
	f(p)
	p.await("b is active", func() bool { return p.status("b").Role == control.RoleActive })
	close(finish)
	sum := wait()
	st := p.status("b")
	p.t.Logf("gap %v, bytes %d, takeover %+v, drops %v", sum.Gap.Longest, sum.Bytes, st.LastTakeover, st.Drops)
	return sum
}

func killWhen(t *testing.T, o options, addr string, at int64, reqs ...traffic.Request) {
	t.Helper()
	start(t, o).through(addr, at, kill, reqs...)
}

func TestDownload(t *testing.T) { killWhen(t, options{}, port4, 20*mib, traffic.Download(200*mib)) }
func TestUpload(t *testing.T)   { killWhen(t, options{}, port4, 20*mib, traffic.Upload(200*mib)) }
func TestBoth(t *testing.T)     { killWhen(t, options{}, port4, 20*mib, traffic.Both(100*mib)) }

func TestIPv6(t *testing.T) { killWhen(t, options{}, port6, 20*mib, traffic.Both(50*mib)) }

func TestSourceGateway(t *testing.T) {
	killWhen(t, options{source: config.SourceGateway}, port4, 20*mib, traffic.Both(50*mib))
}

func TestSourceGatewayIPv6(t *testing.T) {
	killWhen(t, options{source: config.SourceGateway}, port6, 20*mib, traffic.Both(50*mib))
}

func TestIdleStayUsable(t *testing.T) {
	killWhen(t, options{}, port4, 300, traffic.Times(300, traffic.Idle(0))...)
}

func TestRequests(t *testing.T) {
	killWhen(t, options{}, port4, 5000, traffic.Times(20, traffic.PingPong(2000, 100, 1000))...)
}

// Half-closed: one side has sent its FIN, the other goes on sending.
func TestHalfClosed(t *testing.T) {
	for name, r := range map[string]traffic.Request{
		"client closed first": {Mode: traffic.Stream, Up: traffic.Flow{Size: mib}, Down: traffic.Flow{Size: 60 * mib, Chunk: 64 << 10, Pace: time.Millisecond}, Close: traffic.ClientFirst},
		"server closed first": {Mode: traffic.Stream, Up: traffic.Flow{Size: 60 * mib, Chunk: 64 << 10, Pace: time.Millisecond}, Down: traffic.Flow{Size: mib}, Close: traffic.ServerFirst},
	} {
		t.Run(name, func(t *testing.T) { killWhen(t, options{}, port4, 10*mib, r) })
	}
}

// A client that does not read: its window is zero when the active dies.
func TestZeroWindow(t *testing.T) {
	r := traffic.Request{Mode: traffic.Stream, Down: traffic.Flow{Size: 60 * mib, StallAfter: 4 * mib, StallFor: 3 * time.Second}}
	killWhen(t, options{}, port4, 4*mib, r)
}

// The server does not read for a while: the client's upload fills everything.
func TestZeroWindowOfServer(t *testing.T) {
	r := traffic.Request{Mode: traffic.Stream, Up: traffic.Flow{Size: 60 * mib, StallAfter: 4 * mib, StallFor: 3 * time.Second}}
	killWhen(t, options{}, port4, 4*mib, r)
}

func TestOptions(t *testing.T) {
	for _, off := range []string{"tcp_timestamps", "tcp_sack", "tcp_window_scaling"} {
		t.Run("no "+off, func(t *testing.T) {
			p := start(t, options{})
			for _, h := range []*lab.Host{p.Client, p.Servers[0]} {
				if err := h.Sysctl("net.ipv4."+off, "0"); err != nil {
					t.Fatal(err)
				}
			}
			p.through(port4, 10*mib, kill, traffic.Both(30*mib), traffic.Download(30*mib), traffic.Upload(30*mib))
		})
	}
}

// Real senders are not all BBR.
func TestCongestionControls(t *testing.T) {
	for _, cc := range []string{"reno", "cubic"} {
		t.Run(cc, func(t *testing.T) {
			up, down := traffic.Upload(60*mib), traffic.Download(60*mib)
			up.Congestion, down.Congestion = cc, cc
			killWhen(t, options{}, port4, 10*mib, up, down)
		})
	}
}

// The standby's knowledge lags: the sync link is slow and unsteady.
func TestSlowSyncLink(t *testing.T) {
	o := options{tune: times(50*time.Millisecond, time.Second)}
	o.Sync = lab.NetOptions{Kind: lab.Switch, Faults: lab.Faults{Delay: 5 * time.Millisecond, Jitter: 5 * time.Millisecond}}
	killWhen(t, o, port4, 5*mib, traffic.Both(20*mib), traffic.Download(20*mib), traffic.Upload(20*mib), traffic.PingPong(200, 100, 1000))
}

// Both networks lose, reorder and duplicate.
func TestBadNetworks(t *testing.T) {
	bad := lab.NetOptions{Kind: lab.Switch, Faults: lab.Faults{Loss: 0.005, Reorder: 0.01, Duplicate: 0.01, Delay: 200 * time.Microsecond}}
	o := options{}
	o.Front, o.Back = bad, bad
	p := start(t, o)
	// What a client knows of its upload is when its kernel takes more, and that may be long
	// after the server has got what it took before.
	p.patience = 2 * time.Minute
	p.through(port4, 3*mib, kill, traffic.Both(10*mib), traffic.Download(10*mib), traffic.Upload(10*mib), traffic.PingPong(200, 100, 1000))
}

// Connections come and go all the time: at the kill some are in their handshake
// and some are closing. One whose SYN was not answered yet is dialled anew.
func TestOpeningAndClosing(t *testing.T) {
	p := start(t, options{})
	p.through(port4, 2*mib, kill, traffic.Times(1500, traffic.Both(4000))...)
}

// Freezing the process is found by missing heartbeats, not by a closed session.
func TestFrozenActive(t *testing.T) {
	p := start(t, options{})
	p.through(port4, 20*mib, func(p *pair) {
		if err := p.a.Stop(); err != nil {
			p.t.Fatal(err)
		}
	}, traffic.Both(60*mib), traffic.Idle(0))
}

// Unplugged: all cables of the active are pulled.
func TestUnpluggedActive(t *testing.T) {
	p := start(t, options{})
	p.through(port4, 20*mib, func(p *pair) {
		for _, n := range []*lab.Network{p.Front, p.Back, p.Sync} {
			if err := n.PortOf(p.A).SetLink(false); err != nil {
				p.t.Fatal(err)
			}
		}
	}, traffic.Both(60*mib), traffic.Idle(0))
}

// A hundred busy connections of all kinds.
func TestManyBusy(t *testing.T) {
	p := start(t, options{})
	var reqs []traffic.Request
	// Little enough for a slow machine with the race detector: what is tested is
	// that none of them is lost, not how much fits through.
	paced := traffic.Flow{Size: 256 << 10, Chunk: 2 << 10, Pace: 20 * time.Millisecond}
	for range 33 {
		reqs = append(reqs,
			traffic.Request{Mode: traffic.Stream, Up: paced},
			traffic.Request{Mode: traffic.Stream, Down: paced},
			traffic.Request{Mode: traffic.Stream, Up: paced, Down: paced})
	}
	p.through(port4, 8*mib, kill, reqs...)
}

// The sync network alone fails, and there is no witness: the active falls silent, the
// standby takes over and answers when it is asked, the active steps down. No connection
// is lost.
func TestSyncLinkCut(t *testing.T) {
	p := start(t, options{})
	c := p.client(port4)
	wait := p.run(c, traffic.Both(60*mib), traffic.Download(60*mib))
	p.await("traffic flows", func() bool { return c.Progress.Received.Load() >= 10*mib })
	if err := p.Sync.PortOf(p.A).SetLink(false); err != nil {
		t.Fatal(err)
	}
	p.await("b is the only active", func() bool {
		return p.status("b").Role == control.RoleActive && p.status("a").Role == control.RoleStarting
	})
	wait()
	// New connections are served by b, and when the link heals a joins it.
	p.run(p.client(port4), traffic.Both(mib))()
	if err := p.Sync.PortOf(p.A).SetLink(true); err != nil {
		t.Fatal(err)
	}
	p.await("a is b's standby", func() bool {
		return p.status("a").Role == control.RoleStandby && p.status("b").Peer.Connected
	})
}

// A killed appliance that comes back is the standby for all connections that
// begin from then on: they survive the next death, and so on, back and forth.
func TestBackAndForth(t *testing.T) {
	o := options{}
	p := start(t, o)
	active, standby := "a", "b"
	procs := map[string]*lab.Proc{"a": p.a, "b": p.b}
	hosts := map[string]*lab.Host{"a": p.A, "b": p.B}
	for range 3 {
		c := p.client(port4)
		wait := p.run(c, traffic.Both(30*mib), traffic.PingPong(300, 100, 1000))
		p.await("traffic flows", func() bool { return c.Progress.Received.Load() >= 5*mib })
		p.kill(procs[active])
		p.await(standby+" is active", func() bool { return p.status(standby).Role == control.RoleActive })
		wait()
		procs[active] = p.appliance(hosts[active], active, o)
		active, standby = standby, active
		p.await(standby+" is in sync again", func() bool {
			return p.status(active).InSync && p.status(standby).InSync && p.status(standby).Role == control.RoleStandby
		})
	}
}

// A frozen active that wakes finds itself mute: its lease is over. It joins the
// new active as the standby, and no connection notices.
func TestFrozenActiveWakes(t *testing.T) {
	p := start(t, options{})
	p.through(port4, 20*mib, func(p *pair) {
		if err := p.a.Stop(); err != nil {
			p.t.Fatal(err)
		}
		p.await("b is active", func() bool { return p.status("b").Role == control.RoleActive })
		if err := p.a.Cont(); err != nil {
			p.t.Fatal(err)
		}
		p.await("a is the standby", func() bool { return p.status("a").Role == control.RoleStandby })
	}, append(traffic.Times(50, traffic.Idle(50*time.Millisecond)), traffic.Both(60*mib))...)
}

// An appliance that cannot reach its peer over the sync network, and knows nothing,
// does not announce itself over one that has connections. When the network heals it
// becomes the standby.
func TestNewcomerStaysBack(t *testing.T) {
	o := options{alone: true}
	p := start(t, o)
	if err := p.Sync.PortOf(p.B).SetLink(false); err != nil {
		t.Fatal(err)
	}
	c := p.client(port4)
	wait := p.run(c, traffic.Request{Mode: traffic.Stream, Down: traffic.Flow{Size: 20 * mib, Chunk: 16 << 10, Pace: 5 * time.Millisecond}})
	p.await("traffic flows", func() bool { return c.Progress.Received.Load() >= mib })
	p.b = p.appliance(p.B, "b", o)
	p.await("b has looked and stayed back", func() bool {
		return strings.Contains(p.b.Output(), "not becoming active") && p.status("b").Role == control.RoleStarting
	})
	wait()
	if s := p.status("a"); s.Role != control.RoleActive {
		t.Errorf("a is %s", s.Role)
	}
	if err := p.Sync.PortOf(p.B).SetLink(true); err != nil {
		t.Fatal(err)
	}
	p.await("b is the standby", func() bool { return p.status("b").Role == control.RoleStandby && p.status("a").InSync })
}
