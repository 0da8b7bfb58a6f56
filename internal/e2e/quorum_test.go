package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

// A pair with a witness. What is tested is what the voters decide and that an
// appliance obeys; that connections are continued byte for byte is tested without a
// witness, too.

// inSync waits until node is active and the voters know that other may take over.
func (p *pair) inSync(active, standby string) {
	p.t.Helper()
	p.await(fmt.Sprintf("%s is active, %s in sync", active, standby), func() bool {
		a, b := p.status(active), p.status(standby)
		return a.Role == control.RoleActive && b.Role == control.RoleStandby && a.InSync && b.InSync &&
			a.Quorum != nil && a.Quorum.Standby == standby
	})
}

// quorum is what an appliance says of the voters; nil: it has not answered.
func (p *pair) quorum(node string) *control.Quorum { return p.status(node).Quorum }

// chooseA waits until the pair is whole and makes a the active: which of the two is
// elected first, when both start, is open.
func (p *pair) chooseA() {
	p.t.Helper()
	p.await("one is active, the other in sync", func() bool {
		a, b := p.status("a"), p.status("b")
		return a.InSync && b.InSync && a.Quorum != nil && a.Quorum.Standby != "" && a.Role != b.Role
	})
	if p.status("b").Role == control.RoleActive {
		if err := p.switchover("b"); err != nil {
			p.t.Fatal(err)
		}
	}
	p.inSync("a", "b")
}

func TestQuorumKill(t *testing.T) {
	p := start(t, options{witness: true})
	p.inSync("a", "b")
	p.through(port4, 20*mib, kill, append(traffic.Times(50, traffic.Idle(50*time.Millisecond)), traffic.Both(60*mib), traffic.Download(60*mib))...)
	a, b := p.status("a"), p.status("b")
	if b.Quorum == nil || b.Quorum.Active != "b" || b.Quorum.Epoch != b.Epoch {
		t.Errorf("a: %+v\nb: %+v", a.Quorum, b.Quorum)
	}
	// The dead one comes back, and the pair is whole again.
	p.a = p.appliance(p.A, "a", options{witness: true})
	p.inSync("b", "a")
}

// watcher looks at what a host sends: for segments, and for claims of addresses that
// float between the appliances.
type watcher struct {
	floating []netip.Addr
	own4     netip.Addr // of the host itself, on the back network
	own6     netip.Addr
	mu       sync.Mutex
	armed    bool
	seen     []string
}

// newWatcher knows a host by its own addresses on the back network.
func newWatcher(own4, own6 string) *watcher {
	w := &watcher{own4: netip.MustParseAddr(own4), own6: netip.MustParseAddr(own6)}
	for _, a := range []string{lab.VIP4, lab.VIP6, lab.BackGateway4, lab.BackGateway6} {
		w.floating = append(w.floating, netip.MustParseAddr(a))
	}
	return w
}

func (w *watcher) arm() {
	w.mu.Lock()
	w.armed = true
	w.mu.Unlock()
}

func (w *watcher) stale() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.seen...)
}

// look is a filter of a port; it lets everything pass.
func (w *watcher) look(frame []byte) bool {
	what := w.what(frame)
	if what == "" {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.armed && len(w.seen) < 20 {
		w.seen = append(w.seen, what)
	}
	return true
}

const icmpProtocol, tcpProtocol, icmpv6Protocol = 1, 6, 58

// what says which of its business a frame is, or nothing.
func (w *watcher) what(frame []byte) string {
	if len(frame) < 14+28 {
		return ""
	}
	b := frame[14:]
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == 0x0800 && b[9] == tcpProtocol:
		return w.segment(netip.AddrFrom4([4]byte(b[12:16])))
	case kind == 0x86dd && len(b) >= 40 && b[6] == tcpProtocol:
		return w.segment(netip.AddrFrom16([16]byte(b[8:24])))
	case kind == 0x0806:
		if a := netip.AddrFrom4([4]byte(b[14:18])); w.floats(a) {
			return fmt.Sprintf("ARP for %v", a)
		}
	case kind == 0x0800 && b[9] == icmpProtocol && w.floats(netip.AddrFrom4([4]byte(b[12:16]))):
		return "ping answered"
	case kind == 0x86dd && len(b) >= 48 && b[6] == icmpv6Protocol && b[40] == 129 && w.floats(netip.AddrFrom16([16]byte(b[8:24]))):
		return "ping answered"
	case kind == 0x86dd && len(b) >= 64 && b[6] == icmpv6Protocol && b[40] == 136: // neighbour advertisement
		if a := netip.AddrFrom16([16]byte(b[48:64])); w.floats(a) {
			return fmt.Sprintf("advertisement of %v", a)
		}
	}
	return ""
}

// segment names one, unless it is a health check: those are between the kernels, from
// the appliance's own address.
func (w *watcher) segment(from netip.Addr) string {
	if from == w.own4 || from == w.own6 {
		return ""
	}
	return fmt.Sprintf("segment from %v", from)
}

func (w *watcher) floats(a netip.Addr) bool {
	for _, f := range w.floating {
		if f == a {
			return true
		}
	}
	return false
}

// watch follows what a host sends on the front and the back network.
func (p *pair) watch(h *lab.Host) *watcher {
	p.t.Helper()
	w := newWatcher("10.20.0.2", "fd20::2") // a's
	for _, n := range []*lab.Network{p.Front, p.Back} {
		if err := n.PortOf(h).SetFilter(lab.FromHost, w.look); err != nil {
			p.t.Fatal(err)
		}
	}
	return w
}

// The hard way: the active is stopped for several seconds while traffic flows, the
// standby takes over, the active is woken. Not one packet of it may leave, and it
// rejoins as the standby (invariant 4).
func TestZombieStaysSilent(t *testing.T) {
	p := start(t, options{witness: true, PairOptions: lab.PairOptions{Front: lab.NetOptions{Kind: lab.Switch}, Back: lab.NetOptions{Kind: lab.Switch}}})
	p.inSync("a", "b")
	w := p.watch(p.A)
	p.through(port4, 10*mib, func(p *pair) {
		if err := p.a.Stop(); err != nil {
			p.t.Fatal(err)
		}
		p.await("b is active", func() bool { return p.status("b").Role == control.RoleActive })
		<-time.After(3 * time.Second) // not for synchronisation: the freeze is to be long
		w.arm()
		if err := p.a.Cont(); err != nil {
			p.t.Fatal(err)
		}
		p.inSync("b", "a")
	}, append(traffic.Times(20, traffic.Idle(20*time.Millisecond)), traffic.Both(40*mib))...)
	if stale := w.stale(); len(stale) > 0 {
		t.Errorf("the woken appliance has sent: %s", strings.Join(stale, ", "))
	}
	if a := p.status("a"); a.Role != control.RoleStandby {
		t.Errorf("a is %s", a.Role)
	}
}

// The sync network between the two is cut, both reach the witness: the active goes
// on, the standby does not take over, and joins again when the cable is back.
func TestSyncCutWithWitness(t *testing.T) {
	p := start(t, options{witness: true, PairOptions: lab.PairOptions{Sync: lab.NetOptions{Kind: lab.Switch}}})
	p.inSync("a", "b")
	c := p.client(port4)
	finish := make(chan struct{})
	c.Finish = finish
	wait := p.run(c, traffic.Both(40*mib), traffic.Idle(10*time.Millisecond))
	p.await("traffic flows", func() bool { return c.Progress.Received.Load() >= 5*mib })
	// A frame from a to b, or from b to a, is lost; both reach w.
	a, b := netip.MustParseAddr("10.30.0.1").As4(), netip.MustParseAddr("10.30.0.2").As4()
	between := func(frame []byte) bool {
		return len(frame) < 34 || !(bytes.Equal(frame[26:30], a[:]) && bytes.Equal(frame[30:34], b[:]) ||
			bytes.Equal(frame[26:30], b[:]) && bytes.Equal(frame[30:34], a[:]))
	}
	port := p.Sync.PortOf(p.A)
	for _, d := range []lab.Direction{lab.FromHost, lab.ToHost} {
		if err := port.SetFilter(d, between); err != nil {
			t.Fatal(err)
		}
	}
	p.await("a goes on alone", func() bool {
		s := p.status("a")
		return s.Role == control.RoleActive && s.Quorum != nil && s.Quorum.Standby == "" && !s.InSync
	})
	p.run(p.client(port4), traffic.Both(mib))() // acknowledged without a standby
	if s := p.status("b"); s.Role == control.RoleActive {
		t.Error("two actives")
	}
	for _, d := range []lab.Direction{lab.FromHost, lab.ToHost} {
		if err := port.SetFilter(d, nil); err != nil {
			t.Fatal(err)
		}
	}
	p.inSync("a", "b")
	close(finish)
	wait()
}

// Without the witness the two go on, and a planned hand-over works. An active that
// then loses the other one, too, has no majority: it falls silent.
func TestWitnessGone(t *testing.T) {
	p := start(t, options{witness: true})
	p.inSync("a", "b")
	p.kill(p.w)
	p.await("the witness is missed", func() bool { q := p.quorum("a"); return q != nil && !q.Witness })
	p.through(port4, 10*mib, func(p *pair) {
		if err := p.switchover("a"); err != nil {
			p.t.Fatal(err)
		}
	}, traffic.Both(40*mib), traffic.Idle(20*time.Millisecond))
	p.inSync("b", "a")
	p.kill(p.a)
	p.await("b is silent", func() bool { q := p.quorum("b"); return q != nil && q.Silent })
	p.w = p.witness(options{witness: true})
	p.await("b speaks again", func() bool {
		s := p.status("b")
		return s.Role == control.RoleActive && s.Quorum != nil && !s.Quorum.Silent
	})
	p.run(p.client(port4), traffic.Both(mib))()
}

// A hand-over by the operator, back and forth under load.
func TestSwitchoverWithWitness(t *testing.T) {
	p := start(t, options{witness: true})
	p.inSync("a", "b")
	p.through(port4, 10*mib, func(p *pair) {
		for _, from := range []string{"a", "b", "a"} {
			to := map[string]string{"a": "b", "b": "a"}[from]
			if err := p.switchover(from); err != nil {
				p.t.Fatal(err)
			}
			if s := p.status(to); s.Role != control.RoleActive {
				p.t.Errorf("%s is %s", to, s.Role)
			}
			p.inSync(to, from)
		}
	}, append(traffic.Times(30, traffic.Idle(20*time.Millisecond)), traffic.Both(60*mib))...)
}

// An active that is told to stop hands over before it goes.
func TestStopWithWitness(t *testing.T) {
	p := start(t, options{witness: true})
	p.inSync("a", "b")
	p.through(port4, 10*mib, func(p *pair) {
		if err := p.a.Signal(syscall.SIGTERM); err != nil {
			p.t.Fatal(err)
		}
		<-p.a.Done()
		if err := p.a.Err(); err != nil {
			p.t.Errorf("a ended with %v", err)
		}
	}, traffic.Both(40*mib), traffic.Idle(20*time.Millisecond))
}

// Networks that fail in one direction, and a witness that is slow: whatever the
// voters make of it, no connection is lost, there is never a second active, and the
// pair is whole again when the fault is over.
func TestOneWayFaults(t *testing.T) {
	drop := lab.Faults{Loss: 1}
	for _, f := range []struct {
		name    string
		network func(p *pair) *lab.Network
		host    func(p *pair) *lab.Host
		dir     lab.Direction
		faults  lab.Faults
	}{
		{"sync-from-active", func(p *pair) *lab.Network { return p.Sync }, func(p *pair) *lab.Host { return p.A }, lab.FromHost, drop},
		{"sync-to-active", func(p *pair) *lab.Network { return p.Sync }, func(p *pair) *lab.Host { return p.A }, lab.ToHost, drop},
		{"sync-from-standby", func(p *pair) *lab.Network { return p.Sync }, func(p *pair) *lab.Host { return p.B }, lab.FromHost, drop},
		{"sync-to-witness", func(p *pair) *lab.Network { return p.Sync }, func(p *pair) *lab.Host { return p.W }, lab.ToHost, drop},
		{"witness-slow", func(p *pair) *lab.Network { return p.Sync }, func(p *pair) *lab.Host { return p.W }, lab.FromHost, lab.Faults{Delay: 700 * time.Millisecond}},
	} {
		t.Run(f.name, func(t *testing.T) {
			p := start(t, options{witness: true, PairOptions: lab.PairOptions{Sync: lab.NetOptions{Kind: lab.Switch}}})
			c := p.client(port4)
			finish := make(chan struct{})
			c.Finish = finish
			paced := traffic.Flow{Size: 30 * mib, Chunk: 16 << 10, Pace: 2 * time.Millisecond}
			wait := p.run(c, traffic.Request{Mode: traffic.Stream, Up: paced, Down: paced}, traffic.Idle(20*time.Millisecond))
			p.await("traffic flows", func() bool { return c.Progress.Received.Load() >= mib })
			port := f.network(p).PortOf(f.host(p))
			if err := port.SetFaults(f.dir, f.faults); err != nil {
				t.Fatal(err)
			}
			// For three failure time-outs both are looked at all the time.
			for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
				p.oneSpeaks()
			}
			if err := port.SetFaults(f.dir, lab.Faults{}); err != nil {
				t.Fatal(err)
			}
			p.await("the pair is whole", func() bool {
				p.oneSpeaks()
				a, b := p.status("a"), p.status("b")
				return a.InSync && b.InSync && a.Role != b.Role
			})
			close(finish)
			wait()
		})
	}
}

// oneSpeaks fails if both are active and neither is silent.
func (p *pair) oneSpeaks() {
	p.t.Helper()
	a, b := p.status("a"), p.status("b")
	speaks := func(s control.Status) bool {
		return s.Role == control.RoleActive && s.Quorum != nil && !s.Quorum.Silent
	}
	// Between the two questions the role may have moved from the first to the second;
	// ask the first again.
	if speaks(a) && speaks(b) && speaks(p.status("a")) {
		p.t.Errorf("two actives: %+v and %+v", a.Quorum, b.Quorum)
	}
}
