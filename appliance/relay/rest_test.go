package relay_test

import (
	"fmt"
	"net/netip"
	"testing"

	"lockstep/appliance/relay"
	"lockstep/internal/script"
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
