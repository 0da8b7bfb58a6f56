package stack_test

import (
	"fmt"
	"testing"
	"time"

	"lockstep/appliance/relay"
	"lockstep/internal/script"
)

// Parked connections have no endpoint in netstack, whose memory is free; time and again, so that nothing of
// the former ones is left behind.
func TestParkedHaveNoEndpoints(t *testing.T) {
	const n = 300
	var svc *relay.Service
	r, err := script.New(script.Options{Light: true, Tune: func(s *relay.Service) { s.Park, svc = time.Hour, s }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := r.Err(); err != nil {
			t.Error(err)
		}
	}()
	conns := make([]*script.Conn, n)
	for i := range conns {
		conns[i] = r.Dial(uint16(20000+i), 1000, 2000)
		if err := conns[i].Handshake(nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	var before, parked [3]uint64
	for round := range before {
		for _, c := range conns {
			rcv := c.Server.State().Received
			c.Client.Send(script.Out{Flags: script.ACK | script.PSH, Seq: script.Next, Len: 10, Ack: script.Next, Win: 65535})
			if !c.Await(func(cl, s script.State) bool { return s.Received == rcv+10 && cl.Acked == cl.Sent }, nil) {
				t.Fatalf("the request does not arrive: client %+v, server %+v", c.Client.State(), c.Server.State())
			}
		}
		if got := r.Engine().Endpoints(); got != 2*n {
			t.Errorf("%d endpoints of %d connections", got, n)
		}
		before[round] = heap()
		wait(t, "all to be parked", func() string {
			if !r.Relay().Parking() && svc.Parked() < n {
				r.Relay().ParkIdle()
			}
			if got := r.Engine().Endpoints(); svc.Parked() < n || got > 0 {
				return fmt.Sprintf("%d of %d are, %d endpoints", svc.Parked(), n, got)
			}
			return ""
		})
		parked[round] = heap()
	}
	t.Logf("heap with endpoints %v, without %v", before, parked)
	const each = 4 << 10 // of an endpoint, at least
	for round := range before {
		if before[round] < parked[round]+2*n*each {
			t.Errorf("round %d: %d bytes of each leg are given back, want %d", round, (int64(before[round])-int64(parked[round]))/(2*n), each)
		}
	}
	// What the peers note of a round grows with what they send again on a busy machine, but is less than an endpoint.
	if last := len(parked) - 1; parked[last] > parked[0]+uint64(n*last)*each {
		t.Errorf("%d bytes of each connection stay each time", (parked[last]-parked[0])/uint64(last*n))
	}
}
