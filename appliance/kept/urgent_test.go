package kept_test

import (
	"testing"

	"lockstep/internal/script"
)

// Urgent data of a connection that outlives its servers becomes ordinary from the beginning on,
// in both directions, and also after its server was replaced; each time it is counted.
func TestUrgentBecomesOrdinary(t *testing.T) {
	l := newLost(t, spare)
	c := l.opened(40000)
	marks := uint64(0)
	urgent := func(what string, from, to *script.Peer, ack int64) {
		t.Helper()
		before := to.State().Received
		from.Send(script.Out{Flags: script.ACK | script.PSH | script.URG, Urgent: 10, Seq: script.Next, Len: 10, Ack: ack, Win: 65535})
		l.until(what, c, func(_, _ script.State) bool { return true })
		l.await(what, func() bool { return l.Engine().C.Drops()["urgent-mark"] == marks+1 })
		l.settle()
		marks++
		if s := to.State(); s.Urgent != 0 || s.Received != before+10 {
			t.Errorf("%s: %d marks, %d bytes\n%s", what, s.Urgent, s.Received-before, l.Trace())
		}
	}
	urgent("to the server", c.Client, c.Server, covered)
	send(c.Server, script.Next, 0, asked+10)
	urgent("to the client", c.Server, c.Client, asked+10)
	send(c.Client, script.Next, 0, covered+10)
	l.settle()

	again := l.Replica(c, second, 3000)
	c.Server.MayReset()
	end(c.Server, script.RST)
	l.until("a dial", again, func(_, s script.State) bool { return s.Received == 1 })
	again.Server.Send(script.Out{Flags: script.SYN | script.ACK, Ack: 1, Win: 65535, Opts: &script.DefaultOpts})
	l.until("the request", again, func(_, s script.State) bool { return s.Received == asked+10 })
	send(again.Server, script.Next, covered+10-1, asked+10)
	l.until("the other one serves", c, func(_, _ script.State) bool { return l.svc.Counts().Failovers == 1 })
	urgent("to another server", c.Client, again.Server, covered+10)
	send(again.Server, script.Next, 0, asked+20)
	urgent("from another server", again.Server, c.Client, asked+20)
}
