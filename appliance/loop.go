package appliance

import (
	"context"
	"net/netip"
	"time"
)

// Rules, routes and sysctls may all be there and the kernel still not bring a packet: a
// firewall's forward chain drops it, or somebody's rule comes before ours. So a packet
// is sent around once a second, of each family (stack: SendLoop).

const (
	loopPeriod = time.Second
	// loopMissing is how many in a row must not come back.
	loopMissing = 3
	// loopNever is how many at first tell that they never will.
	loopNever = 10
	// loopBusy is how many packets in a period show as well that the kernel brings them:
	// an overloaded queue may lose ours.
	loopBusy = 1000
	// loopLate is how late a look may be to count. After a pause of ours (no CPU, a stopped
	// machine) the packet is waiting to be read, by a goroutine that has had none either.
	loopLate = loopPeriod / 2
)

// loopClock says when to look: a whole period after sending, however late the look before was.
type loopClock struct{ due time.Duration }

// sent returns in how long the look is due.
func (c *loopClock) sent(now time.Duration) time.Duration {
	c.due = now + loopPeriod
	return loopPeriod
}

func (c *loopClock) late(now time.Duration) bool { return now-c.due > loopLate }

// loopJudge judges the loop packets of one family.
type loopJudge struct {
	family string
	addrs  []netip.Addr
	worked bool   // one has come back: before that silence means nothing, see fault
	lost   int    // in a row
	sent   uint64 // number of the newest
	seen   uint64 // highest number that came back
	next   int
}

// judge is told, a period after the last was sent, the highest number that came back,
// whether packets came in plenty, and whether the look is late: then what is missing does not count.
func (j *loopJudge) judge(seen uint64, busy, late bool) {
	switch {
	case j.sent == 0:
	case seen >= j.sent || seen > j.seen:
		j.worked, j.lost, j.seen = true, 0, seen
	case busy:
		j.lost = 0
	case late:
	default:
		j.lost++
	}
}

// fault: a firewall that has never let the packet pass may let pass what matters (it
// knows interfaces by their names), so only one that did before counts.
func (j *loopJudge) fault() []string {
	return faultIf(j.worked && j.lost >= loopMissing, "the kernel does not bring "+j.family+
		" packets to "+tunName+" any more: a forward chain that drops them (nft list ruleset), or a routing rule before ours (ip rule)")
}

// pair are the addresses of the next packet; every one has its turn.
func (j *loopJudge) pair() (src, dst netip.Addr) {
	dst = j.addrs[j.next%len(j.addrs)]
	j.next++
	return j.addrs[j.next%len(j.addrs)], dst
}

// watchLoop sends packets around and judges whether they come back.
func (n *Node) watchLoop(ctx context.Context) {
	defer n.wg.Done()
	judges := []*loopJudge{{family: "IPv4"}, {family: "IPv6"}}
	for _, a := range n.virtual() {
		j := judges[0]
		if a.Unmap().Is6() {
			j = judges[1]
		}
		j.addrs = append(j.addrs, a.Unmap())
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var clock loopClock
	number, packets, told := uint64(0), uint64(0), false
	for began := time.Now(); ; {
		for _, j := range judges {
			if len(j.addrs) == 0 {
				continue
			}
			number++
			src, dst := j.pair()
			if n.engine.SendLoop(src, dst, number) == nil { // an error is told by who watches the device
				j.sent = number
			}
		}
		timer.Reset(clock.sent(time.Since(began)))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		late := clock.late(time.Since(began))
		in := n.engine.C.PacketsIn.Load()
		for _, j := range judges {
			j.judge(n.engine.LoopSeen(j.family == "IPv6"), in-packets > loopBusy, late)
			n.found(faultsOfLoop+j.family, j.fault())
			if !told && !j.worked && j.lost >= loopNever {
				told = true
				n.log.Info("packets from "+tunName+" to itself are not forwarded (a forward chain?), so a path that is blocked later will not be noticed", "family", j.family)
			}
		}
		packets = in
	}
}
