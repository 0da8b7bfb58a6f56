package e2e

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

// Clocks that are off. The appliances and the witness are whole processes that read every lease,
// promise and heartbeat from a clock of the test's making.

// speech is when the two appliances spoke as the active, by the kernel's time at which each frame
// left its host.
type speech struct {
	mu     sync.Mutex
	spoken map[string]*spoken // by node
	began  chan struct{}      // closed at b's first word
}

type spoken struct {
	first, last time.Time
	word        string // the last one
}

// listen begins to follow what both send on the front and the back network. finish says that all
// was heard, and ends it.
func (p *pair) listen() (s *speech, finish func()) {
	p.t.Helper()
	s = &speech{spoken: map[string]*spoken{"a": {}, "b": {}}, began: make(chan struct{})}
	captures := []*lab.Capture{}
	for node, h := range map[string]*lab.Host{"a": p.A, "b": p.B} {
		w := newWatcher("10.20.0.2", "fd20::2")
		if node == "b" {
			w = newWatcher("10.20.0.3", "fd20::3")
		}
		for _, ifname := range []string{lab.FrontIf, lab.BackIf} {
			c, err := h.Capture(ifname, func(at time.Time, frame []byte) {
				if word := w.what(frame); word != "" {
					s.heard(node, at, word)
				}
			})
			if err != nil {
				p.t.Fatal(err)
			}
			captures = append(captures, c)
		}
	}
	return s, func() {
		p.t.Helper()
		for _, c := range captures {
			if err := c.Close(); err != nil {
				p.t.Error(err)
			}
		}
	}
}

func (s *speech) heard(node string, at time.Time, word string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.spoken[node]
	if node == "b" && n.first.IsZero() {
		close(s.began)
	}
	// Two captures of one host are read independently.
	if n.first.IsZero() || at.Before(n.first) {
		n.first = at
	}
	if at.After(n.last) {
		n.last, n.word = at, word
	}
}

func (s *speech) of(node string) spoken {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.spoken[node]
}

// overlap is for how long a went on after b had begun; below zero: the pause between the two.
func (s *speech) overlap() time.Duration { return s.of("a").last.Sub(s.of("b").first) }

// pingA asks a for an answer from the floating IPv6 addresses, on both networks, every other
// millisecond and whoever is active: its MAC address is pinned. So a speaks to the end of its
// lease, and whenever it wakes, though every connection stands still.
func (p *pair) pingA() {
	p.t.Helper()
	for _, q := range []struct {
		from         *lab.Host
		ifname       string // of a
		own, address string
	}{
		{p.Client, lab.FrontIf, lab.Client6, lab.VIP6},
		{p.Servers[0], lab.BackIf, p.ServerAddr(0, true, 0).Addr().String(), lab.BackGateway6},
	} {
		at, err := p.A.Netlink().LinkByName(q.ifname)
		if err != nil {
			p.t.Fatal(err)
		}
		own, err := q.from.Netlink().LinkByName(lab.FrontIf)
		if err != nil {
			p.t.Fatal(err)
		}
		dst := netip.MustParseAddr(q.address)
		if err := q.from.Netlink().NeighSet(&netlink.Neigh{
			LinkIndex: own.Attrs().Index, IP: dst.AsSlice(), HardwareAddr: at.Attrs().HardwareAddr, State: netlink.NUD_PERMANENT,
		}); err != nil {
			p.t.Fatal(err)
		}
		var conn *icmp.PacketConn
		if err := q.from.Do(func() (err error) { conn, err = icmp.ListenPacket("ip6:ipv6-icmp", q.own); return err }); err != nil {
			p.t.Fatal(err)
		}
		ping, err := (&icmp.Message{Type: ipv6.ICMPTypeEchoRequest, Body: &icmp.Echo{ID: 7, Seq: 1}}).Marshal(nil)
		if err != nil {
			p.t.Fatal(err)
		}
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			every := time.NewTicker(2 * time.Millisecond)
			defer every.Stop()
			for {
				select {
				case <-stop:
					return
				case <-every.C:
					_, _ = conn.WriteTo(ping, &net.IPAddr{IP: dst.AsSlice()}) // a full queue loses it
				}
			}
		}()
		p.t.Cleanup(func() { close(stop); <-done; conn.Close() })
	}
}

// isolate cuts a off from the other voters, or mends that. The cables stay: nothing is noticed
// but silence. What a sends is lost first, so that the newest round that the others have heard is
// answered, which gives it the longest lease.
func (p *pair) isolate(on bool) {
	p.t.Helper()
	f := lab.Faults{}
	if on {
		f.Loss = 1
	}
	for _, d := range []lab.Direction{lab.FromHost, lab.ToHost} {
		if err := p.Sync.PortOf(p.A).SetFaults(d, f); err != nil {
			p.t.Fatal(err)
		}
	}
}

// whole waits until active has standby, with or without a witness.
func (p *pair) whole(active, standby string) {
	p.t.Helper()
	if p.w != nil {
		p.inSync(active, standby)
		return
	}
	p.await(active+" is active, "+standby+" in sync", func() bool {
		a, b := p.status(active), p.status(standby)
		return a.Role == control.RoleActive && b.Role == control.RoleStandby && a.InSync && b.InSync
	})
}

// Few enough segments that a machine without a CPU to spare keeps up.
func drops() []traffic.Request {
	paced := traffic.Flow{Size: 8 * mib, Chunk: 16 << 10, Pace: 10 * time.Millisecond}
	return append(traffic.Times(5, traffic.Idle(50*time.Millisecond)),
		traffic.Request{Mode: traffic.Stream, Up: paced, Down: paced}, traffic.Request{Mode: traffic.Stream, Down: paced})
}

// The active's clock is as slow as it may be and everybody else's as fast, so its lease is the
// longest and their promises are the shortest in true time. It is cut off, or stopped and woken as
// soon as it has a successor. In the order in which frames leave the two hosts its last one comes
// before the successor's first, on both networks, and no connection notices.
func TestClocksAtTheBound(t *testing.T) {
	for _, f := range []struct {
		name   string
		freeze bool
	}{{"isolated", false}, {"stopped", true}} {
		for _, witness := range []bool{true, false} {
			name := f.name
			if !witness {
				name += "-alone"
			}
			t.Run(name, func(t *testing.T) {
				// A long time-out: without the part of the lease that is given up for drift, a would
				// speak for a hundred milliseconds too long, more than an election takes. It is also
				// longer than the kernel's usual patience with a silent connection.
				p := start(t, options{
					witness: witness, tune: times(50*time.Millisecond, 5*time.Second),
					clocks:      map[string]float64{"a": 0.99, "b": 1.01, "w": 1.01},
					PairOptions: lab.PairOptions{Sync: lab.NetOptions{Kind: lab.Switch}},
				})
				p.patience = time.Minute // peers have doubled their time-outs up to the takeover
				p.whole("a", "b")
				s, finish := p.listen()
				p.pingA()
				p.through(port4, mib, func(p *pair) {
					at := time.Now()
					if f.freeze {
						if err := p.a.Stop(); err != nil {
							t.Fatal(err)
						}
					} else {
						p.isolate(true)
					}
					select {
					case <-s.began:
					case <-time.After(time.Minute):
						t.Fatal("b never spoke")
					}
					t.Logf("b began %v after a's last word, %v after the fault", -s.overlap(), s.of("b").first.Sub(at))
					if f.freeze {
						if err := p.a.Cont(); err != nil {
							t.Fatal(err)
						}
					} else if s.of("a").last.Before(at) {
						t.Error("a did not use its lease")
					}
					p.await("b is active", func() bool { return p.status("b").Role == control.RoleActive })
					p.isolate(false)
					p.whole("b", "a")
				}, drops()...)
				finish()
				if d := s.overlap(); d >= 0 {
					t.Errorf("a spoke until %v after b's first word: %s", d, s.of("a").word)
				}
			})
		}
	}
}

// Beyond the bound the lease outlasts the promises, and two speak at once: that is seen here, and
// that the capture can see it. What holds all the same is what the clocks have no part in. The
// gates of the one that was cut off let nothing be acknowledged that its successor does not hold,
// so the connections go on intact; and it gives in as soon as it hears of the other.
func TestClockBeyondTheBound(t *testing.T) {
	p := start(t, options{
		witness: true, tune: times(50*time.Millisecond, 2*time.Second),
		clocks:      map[string]float64{"a": 0.25},
		PairOptions: lab.PairOptions{Sync: lab.NetOptions{Kind: lab.Switch}},
	})
	p.whole("a", "b")
	s, finish := p.listen()
	p.pingA()
	p.through(port4, mib, func(p *pair) {
		p.isolate(true)
		p.await("both speak", func() bool { return !s.of("b").first.IsZero() && s.overlap() > 0 })
		p.await("b is active", func() bool { return p.status("b").Role == control.RoleActive })
		p.isolate(false)
		p.whole("b", "a")
	}, drops()...)
	finish()
	t.Logf("both spoke for %v", s.overlap())
}
