package e2e

import (
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

// Support asks with SIGUSR1 how every connection stands, again and again: under load, while a server
// dies and while a takeover is under way, of plain connections and of those that outlive their
// servers. None is lost by it; the race detector looks on in both processes (rig.Pair).
func TestDumpUnderLoad(t *testing.T) {
	p, s := startKept(t, keptOptions(2, config.ProtectLog))
	stop := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		period := time.NewTicker(100 * time.Millisecond)
		defer period.Stop()
		for {
			select {
			case <-stop:
				return
			case <-period.C:
			}
			for _, proc := range []*lab.Proc{p.a, p.b} {
				_ = proc.Signal(syscall.SIGUSR1) // one of them is killed
			}
		}
	})
	defer asking.Wait()
	defer close(stop)

	finish := make(chan struct{})
	var waits []func() traffic.Summary
	for addr, reqs := range map[string][]traffic.Request{ // the idle ones last until finish
		port4:    append(traffic.Times(5, traffic.Idle(20*time.Millisecond)), traffic.Times(10, traffic.Both(mib))...),
		portKept: repeatable(append(traffic.Times(5, traffic.Idle(20*time.Millisecond)), traffic.Times(3, traffic.Download(8*mib))...)...),
	} {
		c := p.client(addr)
		c.Finish = finish
		waits = append(waits, p.run(c, reqs...))
		p.await("traffic flows", func() bool { return c.Progress.Received.Load() >= 2*mib })
	}
	p.end(s[0])
	p.await("the other server goes on, and the standby knows", func() bool { // one fault after the other
		k := p.kept("a")
		return k.Failovers > 0 && k.Orphans == 0 && p.status("a").InSync
	})
	kill(p)
	p.await("b is active", func() bool { return p.status("b").Role == control.RoleActive })
	close(finish)
	for _, wait := range waits {
		wait()
	}
	if out := p.b.Output(); !strings.Contains(out, "waits_for=") {
		t.Error("no connection was described")
	}
}
