package e2e

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

// talks are clients that go to and fro with a server.
type talks []*traffic.Client

// talk begins to talk, in both families, in small segments and in flights, until the test is over.
func (p *pair) talk() (all talks) {
	p.t.Helper()
	finish := make(chan struct{})
	var waits []func() traffic.Summary
	for _, addr := range []string{port4, port6} {
		for _, size := range []int{1000, 256 << 10} {
			c := p.client(addr)
			c.Finish = finish
			waits = append(waits, p.run(c, traffic.Request{Mode: traffic.Rounds, RequestSize: size, ResponseSize: size, Interval: time.Millisecond}))
			all = append(all, c)
		}
	}
	p.t.Cleanup(func() {
		close(finish)
		for _, wait := range waits {
			wait()
		}
	})
	return all
}

// now is how many rounds each has made.
func (t talks) now() (n []int64) {
	for _, c := range t {
		n = append(n, c.Progress.Rounds.Load())
	}
	return n
}

// beyond tells whether each has made more than it had.
func (t talks) beyond(than []int64) func() bool {
	return func() bool {
		for i, n := range t.now() {
			if n <= than[i] {
				return false
			}
		}
		return true
	}
}

// A network is away for a second or two, and nobody takes over. When it is back the kernel
// does not wait for its next turn to ask for those whom it has asked for in vain: here that
// would be in ten minutes, usually it is in a second.
func TestNetworkComesBack(t *testing.T) {
	for name, network := range map[string]func(*pair) *lab.Network{
		lab.FrontIf: func(p *pair) *lab.Network { return p.Front },
		lab.BackIf:  func(p *pair) *lab.Network { return p.Back },
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, options{alone: true})
			for _, family := range []string{"ipv4", "ipv6"} {
				p.must(p.A.Sysctl("net."+family+".neigh."+name+".retrans_time_ms", "600000"))
			}
			rounds := p.talk()
			p.await("all move", rounds.beyond(rounds.now()))
			for _, d := range []time.Duration{time.Second, 2 * time.Second} {
				port := network(p).PortOf(p.A)
				p.must(port.SetLink(false))
				time.Sleep(d) // the outage
				were := rounds.now()
				p.must(port.SetLink(true))
				began := time.Now()
				p.await("all move again", rounds.beyond(were))
				t.Logf("%v after an outage of %v", time.Since(began), d)
			}
			if st := p.status("a"); st.Role != control.RoleActive {
				t.Errorf("%+v", st)
			}
		})
	}
}

// A switch in between is mute for two seconds, and every link has its carrier: nothing tells of it. Of connections that
// are passed on the ends themselves have what is in flight. When the silent end has been heard again the other
// one has its doubled time-out taken back.
func TestNetworkIsMute(t *testing.T) {
	sw := lab.NetOptions{Kind: lab.Switch}
	p := start(t, options{PairOptions: lab.PairOptions{Front: sw, Back: sw}, alone: true, path: config.PathAuto})
	rounds := p.talk()
	ends := func() int { return unreachables(t, p.Client) + unreachables(t, p.Servers[0]) }
	for _, network := range []*lab.Network{p.Front, p.Back} {
		p.await("all move", rounds.beyond(rounds.now()))
		told := ends()
		port := network.PortOf(p.A)
		for _, f := range []func([]byte) bool{func([]byte) bool { return false }, nil} {
			if f == nil {
				time.Sleep(2 * time.Second) // the outage
			}
			for _, d := range []lab.Direction{lab.ToHost, lab.FromHost} {
				p.must(port.SetFilter(d, f))
			}
		}
		were, began := rounds.now(), time.Now()
		p.await("all move again", rounds.beyond(were))
		t.Logf("%v after the outage", time.Since(began))
		p.await("ICMP errors at an end that has sent again", func() bool { return ends() > told })
	}
}

// unreachables is how many ICMP errors "destination unreachable" a host has got.
func unreachables(t *testing.T, h *lab.Host) (n int) {
	t.Helper()
	err := h.Do(func() error {
		for _, file := range []string{"snmp", "snmp6"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			n += destUnreachs(string(b))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// destUnreachs reads one of the two files: names in a line and values in the next, or a name and a value in each.
func destUnreachs(text string) (n int) {
	var names []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 2 && f[0] == "Icmp6InDestUnreachs" {
			n, _ = strconv.Atoi(f[1])
			return n
		}
		if i := slices.Index(names, "InDestUnreachs"); i > 0 && len(f) == len(names) && f[0] == names[0] {
			n, _ = strconv.Atoi(f[i])
			return n
		}
		names = f
	}
	return 0
}
