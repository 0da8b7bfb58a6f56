package storm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// kind of fault.
type kind struct {
	name     string
	says     string // for the help
	weight   int    // how often it is drawn, compared with the others
	witness  bool   // exists only with a witness
	switched bool   // needs the lab's own switches
	clocks   bool   // needs nodes with clocks of their own
	servers  bool   // needs servers that can die
	// draw chooses what is left open; it does nothing yet, and must not look at anything but rng
	// and the options, so that a seed gives the same faults again.
	draw func(rng *rand.Rand, o *options) *fault
}

// fault is one that is going to happen.
type fault struct {
	Kind   string        `json:"kind"`
	What   string        `json:"what"` // kind, target and, if it matters, network
	Length time.Duration `json:"length_ns"`
	// inject breaks something, heal mends it Length later. Both get the storm as it is then.
	inject, heal func(ctx context.Context, s *storm) error
	// mended tells whether the appliance has repaired what was taken away from it, and if not,
	// what is missing. nil: there is nothing to be repaired by it. It is asked when the pair is in
	// sync again.
	mended func(s *storm) (missing string, err error)
	// stated is why SAFETY.md allows a connection to a service's port to be lost; empty: it does not.
	// nil: it allows none.
	stated func(port int) string
}

const (
	shortest = 50 * time.Millisecond
	longest  = 3 * time.Second
)

// length of a fault: short ones are as likely as long ones, on a scale of magnitudes.
func length(rng *rand.Rand) time.Duration {
	d := float64(shortest)
	for range rng.IntN(6) {
		d *= 2
	}
	return min(time.Duration(d*(1+rng.Float64())), longest).Round(time.Millisecond)
}

// Targets by role.
const (
	onActive  = "active"
	onStandby = "standby"
	onWitness = "witness"
)

func appliance2(rng *rand.Rand) string { return pick(rng, onActive, onStandby) }

// anyNode is mostly an appliance; the witness counts only where there is one.
func anyNode(rng *rand.Rand, o *options) string {
	if n := rng.IntN(5); o.witness && n == 0 {
		return onWitness
	}
	return appliance2(rng)
}

func pick[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

// kinds is the table of faults.
func kinds() []kind {
	return []kind{
		{name: "kill", weight: 6, says: "a process dies (SIGKILL) and is started again: active, standby or witness", draw: drawKill},
		{name: "freeze", weight: 8, says: "a process stops (SIGSTOP) for 50 ms to 3 s and goes on: active, standby or witness", draw: drawFreeze},
		{name: "mute", weight: 2, witness: true, says: "witness and standby stop, so that the active's lease ends and nobody can follow it", draw: drawMute},
		{name: "power", weight: 2, says: "an appliance vanishes from all networks, and its process with it", draw: drawPower},
		{name: "switchover", weight: 3, says: "the active is asked to hand over", draw: drawSwitchover},
		{name: "cable", weight: 5, says: "one cable of an appliance is pulled: front, back or sync", draw: drawCable},
		{name: "isolate", weight: 2, says: "all cables of an appliance are pulled", draw: drawIsolate},
		{name: "partition", weight: 4, says: "a network does not carry an appliance's frames any more, though it has carrier", draw: drawPartition},
		{name: "oneway", weight: 4, switched: true, says: "frames are lost in one direction of one cable of an appliance", draw: drawOneWay},
		{name: "cut", weight: 3, switched: true, says: "the two appliances do not hear each other on the sync network, and the witness hears both", draw: drawCut},
		{name: "lossy", weight: 3, switched: true, says: "one cable of an appliance loses, duplicates and reorders frames", draw: drawLossy},
		{name: "disk", weight: 1, witness: true, says: "the disk with a node's state is full", draw: drawDisk},
		{name: "rules", weight: 2, says: "the routing rules of an appliance are flushed", draw: drawRules},
		{name: "routes", weight: 2, says: "Lockstep's routing table on an appliance is flushed", draw: drawRoutes},
		{name: "forward", weight: 2, says: "an appliance's forwarding of IPv4 or IPv6 is switched off", draw: drawForward},
		{name: "tun", weight: 2, says: "the TUN device of an appliance is set down, or deleted", draw: drawTUN},
		{name: "flood", weight: 2, says: "a stranger sends some hundred SYNs with forged sources to the virtual addresses", draw: drawFlood},
		{name: "garp", weight: 2, says: "a stranger claims a virtual address by gratuitous ARP or an advertisement", draw: drawClaim},
		{name: "clock", weight: 3, clocks: true, says: "a node's clock, by which leases are kept, steps forward by 50 ms to 3 s (with --clocks)", draw: drawClock},
		{name: "server", weight: 6, servers: true, says: "a server dies (its process, its host) and is started again, stops for a while, or its cable is pulled", draw: drawServer},
		{name: "cpu", weight: 3, says: "busy processes take the CPUs, two for each", draw: drawCPU},
	}
}

func kindHelp() string {
	var b strings.Builder
	for _, k := range kinds() {
		fmt.Fprintf(&b, "  %-10s  %s\n", k.name, k.says)
	}
	return b.String()
}

// forecast draws faults from a seed.
type forecast struct {
	rng   *rand.Rand
	kinds []kind
	total int
	opts  *options
}

func newForecast(o *options) (*forecast, error) {
	list, err := o.kinds()
	if err != nil {
		return nil, err
	}
	f := &forecast{rng: rand.New(rand.NewPCG(o.seed, 1)), kinds: list, opts: o}
	for _, k := range list {
		f.total += k.weight
	}
	return f, nil
}

// next fault, and how long to wait before it once the pair is ready.
func (f *forecast) next() (*fault, time.Duration) {
	n := f.rng.IntN(f.total)
	pause := 200*time.Millisecond + time.Duration(f.rng.Int64N(int64(time.Second)))
	if f.opts.quick {
		pause /= 2
	}
	for _, k := range f.kinds {
		if n -= k.weight; n < 0 {
			drawn := k.draw(f.rng, f.opts)
			drawn.Kind = k.name
			return drawn, pause
		}
	}
	panic("unreachable: n is below the sum of the weights")
}
