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
	// loopBusy is how many packets in a period show as well that the kernel brings them:
	// an overloaded queue may lose ours.
	loopBusy = 1000
)

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

// judge is told, a period after the last was sent, the highest number that came back and
// whether packets came in plenty.
func (j *loopJudge) judge(seen uint64, busy bool) {
	switch {
	case j.sent == 0:
	case seen >= j.sent || seen > j.seen:
		j.worked, j.lost, j.seen = true, 0, seen
	case busy:
		j.lost = 0
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
	tick := time.NewTicker(loopPeriod)
	defer tick.Stop()
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
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		in := n.engine.C.PacketsIn.Load()
		for _, j := range judges {
			j.judge(n.engine.LoopSeen(j.family == "IPv6"), in-packets > loopBusy)
			n.found(faultsOfLoop+j.family, j.fault())
			if !told && !j.worked && len(j.addrs) > 0 && time.Since(began) > 10*loopPeriod {
				told = true
				n.log.Info("packets from "+tunName+" to itself are not forwarded (a forward chain?), so a path that is blocked later will not be noticed", "family", j.family)
			}
		}
		packets = in
	}
}
