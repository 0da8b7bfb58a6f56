package appliance

import (
	"context"
	"math"
	"net/netip"
	"time"

	"lockstep/tun"
)

// Rules, routes and sysctls may all be there and the kernel still not bring a packet: a
// firewall's forward chain drops it, or somebody's rule comes before ours. So a packet
// is sent around once a second, of each family (stack: SendLoop). The kernel has it back in
// one of the device's queues before the write returns: what is missing later was not brought, or waits
// to be read, or found no room there.

const (
	loopPeriod = time.Second
	// loopMissing is how many in a row must not come back.
	loopMissing = 3
	// loopNever is how many at first tell that they never will.
	loopNever = 10
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
	unread bool   // the last of them perhaps because nobody reads
	sent   uint64 // number of the newest
	seen   uint64 // highest number that came back
	next   int
}

// queueing is what became of packets that the kernel has brought since the newest was sent.
type queueing uint8

const (
	allRead   queueing = iota // each has been read
	notAll                    // one may wait to be read, or have found no room
	noneAtAll                 // they wait, and nobody reads them
)

// loopView is what the device's queues look like.
type loopView struct {
	dropped uint64     // that found no room
	length  uint64     // of each
	readers []tun.Look // of each
}

// since compares with a view of the moment in which a packet was sent. A queue that nobody reads overflows, too.
func (v *loopView) since(sent *loopView) queueing {
	found := allRead
	if v.dropped != sent.dropped {
		found = notAll
	}
	for i, r := range v.readers {
		switch was := sent.readers[i]; {
		case r.TakenSince(was, v.length):
		case r.Done == was.Done:
			return noneAtAll
		default:
			found = notAll
		}
	}
	return found
}

// judge is told, a period after the last was sent, the highest number that came back,
// what became of what the kernel has brought, and whether the look is late. What is missing does not count if it may have
// been brought.
func (j *loopJudge) judge(seen uint64, brought queueing, late bool) {
	switch {
	case j.sent == 0:
	case seen >= j.sent || seen > j.seen:
		j.worked, j.lost, j.seen = true, 0, seen
	case brought == notAll, late:
	default:
		j.lost++
		j.unread = brought == noneAtAll
	}
}

// fault: a firewall that has never let the packet pass may let pass what matters (it
// knows interfaces by their names), so only one that did before counts.
func (j *loopJudge) fault() []string {
	if j.unread {
		return faultIf(j.worked && j.lost >= loopMissing, "packets wait in "+tunName+" and this process has read none of them for "+loopPeriod.String()+
			" (no CPU at all, or a defect of Lockstep)")
	}
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
	number, told := uint64(0), false
	for began := time.Now(); ; {
		dropped := n.loopView().dropped // one of ours, too
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
		sent := n.loopView()
		sent.dropped = dropped
		timer.Reset(clock.sent(time.Since(began)))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		late := clock.late(time.Since(began))
		now := n.loopView()
		brought := now.since(&sent)
		for _, j := range judges {
			j.judge(n.engine.LoopSeen(j.family == "IPv6"), brought, late) // seen after the view: what it shows as read is noted
			n.found(faultsOfLoop+j.family, j.fault())
			if !told && !j.worked && j.lost >= loopNever {
				told = true
				n.log.Info("packets from "+tunName+" to itself are not forwarded (a forward chain?), so a path that is blocked later will not be noticed", "family", j.family)
			}
		}
	}
}

// loopView looks at the device's queues. Where the kernel does not tell its counters nothing was dropped.
func (n *Node) loopView() loopView {
	v := loopView{readers: n.engine.Looks()}
	var err error
	if v.dropped, v.length, err = n.routes.Queue(); err != nil {
		v.length = math.MaxUint64
	}
	return v
}
