package relay_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"lockstep/appliance/relay"
	"lockstep/internal/script"
	"lockstep/replication"
	"lockstep/stack"
	"lockstep/tun"
	"lockstep/tun/tuntest"
)

// bareWire is the wire of a relay without a rig.
type bareWire struct {
	t   *testing.T
	far *tuntest.End
}

func (w *bareWire) say(from, to netip.AddrPort, flags uint8, seq, ack uint32) {
	w.t.Helper()
	if err := w.far.WriteV([][]byte{make([]byte, tun.VnetHeaderLen), segment(from, to, flags, seq, ack)}); err != nil {
		w.t.Fatal(err)
	}
}

// hears the next segment.
func (w *bareWire) hears(want string) {
	w.t.Helper()
	hdr, buf := make([]byte, tun.VnetHeaderLen), make([]byte, tun.MaxPacketLen)
	n, err := w.far.ReadV([][]byte{hdr, buf})
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := script.Decode(hdr, buf[:n])
	if err != nil {
		w.t.Fatal(err)
	}
	if got := fmt.Sprintf("%v > %v seq %d", s.Src, s.Dst, s.Seq); got != want {
		w.t.Errorf("got %s, want %s", got, want)
	}
}

// resting is a relay that has taken over n connections which are passed on, and has made none of them.
func resting(t *testing.T, n int) (*relay.Relay, *bareWire) {
	t.Helper()
	core := manyPassed(t, n)
	r, e, far := newBare(t)
	_, rest, err := core.TakeoverFirst(2)
	if err != nil || rest.Len() != n {
		t.Fatal(rest, err)
	}
	r.Rest(rest)
	e.Run()
	e.SetActive(true)
	return r, &bareWire{t, far}
}

// A connection that a takeover has not made yet is made by a packet of either end, and the others later.
func TestWoken(t *testing.T) {
	r, w := resting(t, 10)
	if open, _, _ := r.Counts(); open != 10 || relay.Made(r) != 0 {
		t.Fatalf("%d connections, %d made", open, relay.Made(r))
	}
	a, b := manyClient(3), manyClient(7)
	w.say(a, passVIP, script.ACK, 100, 200)
	w.hears(fmt.Sprintf("%v > %v seq 100", a, passServer))
	w.say(passServer, b, script.ACK, 300, 400)
	w.hears(fmt.Sprintf("%v > %v seq 300", passVIP, b))
	if open, _, _ := r.Counts(); open != 10 || relay.Made(r) != 2 {
		t.Errorf("%d connections, %d made", open, relay.Made(r))
	}
	for left := 8; left > 0; {
		n, err := r.RestoreSome(3)
		if err != nil || n != max(left-3, 0) {
			t.Fatal(n, err)
		}
		left = n
	}
	if open, _, _ := r.Counts(); open != 10 || relay.Made(r) != 10 {
		t.Errorf("%d connections, %d made", open, relay.Made(r))
	}
	w.say(manyClient(0), passVIP, script.ACK, 500, 200)
	w.hears(fmt.Sprintf("%v > %v seq 500", manyClient(0), passServer))
}

// A standby that is waiting is told of each as soon as the journal knows of it, which is before it is in the table.
func TestWantedWhileItIsMade(t *testing.T) {
	const n = 10
	core := manyPassed(t, n)
	var r *relay.Relay
	adopted := make(chan replication.ConnID, n)
	r, e, _ := newBareOf(t, nobody{continued: func(id replication.ConnID) { r.Adopt(id) }, adopted: func(id replication.ConnID) { adopted <- id }})
	_, rest, err := core.TakeoverFirst(2)
	if err != nil {
		t.Fatal(err)
	}
	r.Rest(rest)
	e.Run()
	e.SetActive(true)
	if left, err := r.RestoreSome(n); left != 0 || err != nil {
		t.Fatal(left, err)
	}
	told := make(map[replication.ConnID]bool)
	for range n {
		select {
		case id := <-adopted:
			told[id] = true
		case <-time.After(limit):
			t.Fatalf("%d of %d connections are told", len(told), n)
		}
	}
	if len(told) != n {
		t.Errorf("%d of %d connections are told", len(told), n)
	}
}

// Who steps down forgets what was not made, too: a packet of it is nobody's.
func TestRestIsForgotten(t *testing.T) {
	r, _ := resting(t, 10)
	if left, err := r.RestoreSome(4); left != 6 || err != nil {
		t.Fatal(left, err)
	}
	r.Reset()
	if left, err := r.RestoreSome(4); left != 0 || err != nil || relay.Made(r) > 4 {
		t.Errorf("%d left, %d made: %v", left, relay.Made(r), err)
	}
}

// Who is stopped without a standby resets what was not made, too.
func TestRestIsEnded(t *testing.T) {
	r, _ := resting(t, 10)
	if n := r.End(limit); n != 10 {
		t.Errorf("%d of 10 connections were ended", n)
	}
}

// Of a service that is not configured here none can be continued, and that is said when all were looked at.
func TestRestIsLost(t *testing.T) {
	r, _ := resting(t, 10)
	relay.Rename(r, "web", "other")
	left, err := r.RestoreSome(10)
	lost, ok := err.(*relay.LostError)
	if left != 0 || !ok || lost.Lost() != 10 {
		t.Errorf("%d left: %v", left, err)
	}
}

// deaf are the events of a leg that is only dialled.
type deaf struct{}

func (deaf) Wake(*stack.Leg)              {}
func (deaf) Delivered(*stack.Leg, uint64) {}

// The gateway's ports of connections that are forgotten, or cannot be continued, are given back.
func TestRestGivesPortsBack(t *testing.T) {
	for how, end := range map[string]func(r *relay.Relay){
		"stepped down": func(r *relay.Relay) { r.Reset() },
		"not continued": func(r *relay.Relay) {
			relay.Rename(r, "web", "other")
			_, _ = r.RestoreSome(10)
		},
	} {
		core := manyPassed(t, 10, restGateway)
		r, e, _ := newBare(t)
		_, rest, err := core.TakeoverFirst(2)
		if err != nil || rest.Len() != 10 {
			t.Fatal(rest, err)
		}
		r.Rest(rest)
		for port := 1024; port <= 65535; port++ {
			e.ClaimPort(netip.AddrPortFrom(restGateway, uint16(port)), passServer)
		}
		dial := func() error {
			_, err := e.Dial(stack.Params{Local: netip.AddrPortFrom(restGateway, 0), Remote: passServer, MSS: 1460, OurMSS: 1460}, false, deaf{})
			return err
		}
		if err := dial(); !errors.Is(err, stack.ErrNoPort) {
			t.Fatalf("%s: before it: %v", how, err)
		}
		end(r)
		if err := dial(); err != nil {
			t.Errorf("%s: %v", how, err)
		}
	}
}

// A packet of no such connection does not wait for one that is being made.
func TestStrangersDoNotWait(t *testing.T) {
	r, w := resting(t, 10)
	release := relay.HoldRest(r)
	late := time.AfterFunc(30*time.Second, release)
	from, to := netip.MustParseAddrPort("192.0.2.7:5555"), netip.MustParseAddrPort("192.0.2.99:6666")
	w.say(from, to, script.ACK, 1, 1)
	w.hears(fmt.Sprintf("%v > %v seq 1", from, to))
	if !late.Stop() {
		t.Fatal("it waited")
	}
	release()
}

// Who is stopped does not make connections beyond its time.
func TestRestIsEndedInTime(t *testing.T) {
	r, _ := resting(t, 1000)
	n := r.End(time.Nanosecond)
	if _, _, aborted := r.Counts(); n != 1000 || relay.Made(r) != 0 || aborted != 0 {
		t.Errorf("%d connections were there, %d are made, %d reset", n, relay.Made(r), aborted)
	}
}

// A connection that rests and whose client has begun it in place of a terminated one is made before that one's worker
// runs, and not by the client's packet.
func TestRestSupersedesTerminated(t *testing.T) {
	client := manyClient(1)
	core := standbyOf(t, 2, func(i int) replication.Record {
		r := passedRecord(i, client)
		if i == 0 {
			r.Spliced = false
			r.Server.Local = netip.AddrPortFrom(restGateway, 2000)
		}
		return r
	})
	r, e, far := newBare(t)
	first, rest, err := core.TakeoverFirst(2)
	if err != nil || len(first) != 1 || rest.Len() != 1 {
		t.Fatal(first, rest, err)
	}
	conns, err := r.Restore(first, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.Rest(rest)
	if n := relay.RestLeft(r); n != 0 {
		t.Errorf("%d rest", n)
	}
	built := make(chan struct{})
	r.Rebuild(conns, func() { close(built) })
	<-built
	e.Run()
	e.SetActive(true)
	w := &bareWire{t, far}
	w.say(client, passVIP, script.ACK, 100, 200)
	w.hears(fmt.Sprintf("%v > %v seq 100", client, passServer))
}

// Between two inspections of a connection that is passed on there is a minute, whether it is calm meanwhile or not.
func TestInspects(t *testing.T) {
	for _, every := range []uint64{1, 4} {
		for phase := range every {
			var at []uint64
			var calm time.Duration
			for turn := phase; turn < 240; turn += every {
				now := time.Duration(turn+1) * time.Second
				if relay.Inspects(7, turn, calm, now) {
					at = append(at, turn)
				}
				if every > 1 {
					calm = now + 3500*time.Millisecond
				}
			}
			if len(at) != 4 || at[1]-at[0] != 60 || at[2]-at[1] != 60 || at[3]-at[2] != 60 {
				t.Errorf("looked at every %d turns from %d on: inspected in turns %v", every, phase, at)
			}
		}
	}
}
