package e2e

import (
	"testing"
	"time"

	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

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
			finish := make(chan struct{})
			var clients []*traffic.Client
			for _, addr := range []string{port4, port6} {
				for _, size := range []int{1000, 256 << 10} {
					c := p.client(addr)
					c.Finish = finish
					wait := p.run(c, traffic.Request{Mode: traffic.Rounds, RequestSize: size, ResponseSize: size, Interval: time.Millisecond})
					defer wait()
					clients = append(clients, c)
				}
			}
			defer close(finish)
			moved := func(than []int64) func() bool {
				return func() bool {
					for i, c := range clients {
						if c.Progress.Rounds.Load() <= than[i] {
							return false
						}
					}
					return true
				}
			}
			p.await("all move", moved(make([]int64, len(clients))))
			for _, d := range []time.Duration{time.Second, 2 * time.Second} {
				port := network(p).PortOf(p.A)
				p.must(port.SetLink(false))
				time.Sleep(d) // the outage
				were := make([]int64, len(clients))
				for i, c := range clients {
					were[i] = c.Progress.Rounds.Load()
				}
				p.must(port.SetLink(true))
				began := time.Now()
				p.await("all move again", moved(were))
				t.Logf("%v after an outage of %v", time.Since(began), d)
			}
			if st := p.status("a"); st.Role != control.RoleActive {
				t.Errorf("%+v", st)
			}
		})
	}
}
