package relay_test

import (
	"net/netip"
	"testing"
	"time"

	"lockstep/appliance/relay"
	"lockstep/internal/script"
	"lockstep/replication"
	"lockstep/stack"
)

// idleEvents are of legs that nobody looks at.
type idleEvents struct{}

func (idleEvents) Wake(*stack.Leg)              {}
func (idleEvents) Delivered(*stack.Leg, uint64) {}

// only is the connection of a rig that has one.
func only(p *passRig) (one *relay.Conn) {
	p.are(1)
	p.Relay().Each(func(c *relay.Conn) { one = c })
	return one
}

// A connection that has left the table to its legs, whose worker has not come to saying so, has not vanished.
func TestTakenUpIsNotVanished(t *testing.T) {
	p := newPassRig(t, nil)
	p.open(passClient)
	c := only(p)
	defer relay.Taking(c)()
	passed := relay.Passed(c)
	if _, _, err := passed.TakeUp(idleEvents{}, idleEvents{}); err != nil {
		t.Fatal(err)
	}
	if !passed.TakenUp() || !passed.Gone() {
		t.Fatal("not drained")
	}
	if relay.TendPassed(c) {
		t.Error("the janitor ends it")
	}
}

// While so much waits for the standby that a record might find no room, the change waits.
func TestTakeUpWaitsForTheStandby(t *testing.T) {
	p := passRigOf(t, nil, script.Options{Limits: replication.Limits{MaxPending: 4 << 10}})
	p.open(passClient)
	c := only(p)
	p.Journal().Hold(true)
	for port := uint16(41000); !p.Journal().Congested(); port++ {
		from := netip.AddrPortFrom(passClient.Addr(), port)
		p.say(from, passVIP, script.SYN, 1000, 0)
		p.gets("SYN", from, passServer, script.SYN, 1000, 0)
		p.say(passServer, from, script.SYN|script.ACK, 5000, 1001)
		p.Wait(time.Millisecond, p.Journal().Congested, nil)
	}
	taken := func() bool { done, _ := p.svc.TakenUp(); return done == 1 }
	relay.Want(c)
	if p.Wait(50*time.Millisecond, taken, nil) {
		t.Fatal("taken up while the link is congested")
	}
	p.Journal().Hold(false)
	if !p.Wait(limit, taken, func() { relay.Want(c) }) {
		t.Fatal("not taken up after the congestion")
	}
}

// A reset is no change that was given up.
func TestTakeUpReset(t *testing.T) {
	p := passRigOf(t, nil, script.Options{Limits: replication.Limits{MaxPending: 4 << 10}})
	p.open(passClient)
	c := only(p)
	// What the server has sent last is on its way.
	p.say(passServer, passClient, script.ACK, 5001, 1001)
	p.gets("ACK", passVIP, passClient, script.ACK, 5001, 1001)
	flight := script.Segment{Src: passServer, Dst: passClient, Flags: script.ACK, Seq: 5001, Ack: 1001, Win: 65535, Opts: script.NoOpts, Payload: make([]byte, 100)}
	if err := p.Inject(nil, flight.Encode()); err != nil {
		t.Fatal(err)
	}
	p.gets("data", passVIP, passClient, script.ACK, 5001, 1001)
	relay.Want(c)
	await(t, p.Rig, "being taken up", func() bool { return relay.IsTaking(c) })
	p.say(passClient, passVIP, script.RST, 1001, 0)
	p.are(0)
	if done, givenUp := p.svc.TakenUp(); done != 0 || givenUp != 0 {
		t.Errorf("taken up %d, given up %d", done, givenUp)
	}
}
