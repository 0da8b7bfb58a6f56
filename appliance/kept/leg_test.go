package kept_test

import (
	"testing"

	"lockstep/appliance/pool"
	"lockstep/appliance/relay"
	"lockstep/internal/script"
)

// replaced is a connection whose server has died and another one of which has the request
// again, and has gone on with the answer beyond what the client has. The sync link is held
// from before that.
func replaced(t *testing.T, ack int64) (l *lost, c, r *script.Conn) {
	l = newLost(t, func(s *relay.Service) { s.Pool = pool.New(pool.Config{Servers: append(s.Pool.Servers(), second)}) })
	c = l.opened(40000)
	l.Journal().Hold(true)
	r = l.Replica(c, second, 3000)
	c.Server.Send(script.Out{Flags: script.RST, Seq: covered})
	compared := l.svc.Counts().Compared
	l.until("a dial of another server", r, func(_, s script.State) bool { return s.Received == 1 })
	r.Server.Send(script.Out{Flags: script.SYN | script.ACK, Ack: 1, Win: 65535, Opts: &script.DefaultOpts})
	l.until("the request at another server", r, func(_, s script.State) bool { return s.Received == asked })
	send(r.Server, script.Next, further-1, ack)
	l.until("the comparison", r, func(_, _ script.State) bool { return l.svc.Counts().Compared > compared })
	return l, c, r
}

func (l *lost) has(c *script.Conn, n int64, why string) {
	l.t.Helper()
	l.settle()
	if s := c.Client.State(); s.Received != n || s.Dead {
		l.t.Fatalf("%s: the client has %d, it had %d; dead %v; %v\n%s", why, s.Received, n, s.Dead, l.Err(), l.Trace())
	}
}

// What another server says goes to the client only when the standby holds the record of
// its leg: until then it would go on with the one before (invariants 3 and 6).
func TestLaterLegWaitsForTheStandby(t *testing.T) {
	l, c, _ := replaced(t, asked)
	l.until("the other one serves", c, func(_, _ script.State) bool { return l.svc.Counts().Failovers == 1 })
	l.has(c, covered, "the standby does not know of the leg")
	l.Journal().Deliver()
	l.has(c, covered, "it is not known that the standby holds the leg")
	l.Journal().Hold(false)
	l.until("the rest of the answer", c, func(cl, _ script.State) bool { return cl.Received == further })
}

// Nobody waits for a standby that is gone.
func TestLaterLegWithoutStandby(t *testing.T) {
	l, c, _ := replaced(t, asked)
	l.has(c, covered, "the standby does not know of the leg")
	l.Journal().Lose()
	l.until("the rest of the answer", c, func(cl, _ script.State) bool { return cl.Received == further })
}

// A server that does not get as far with the request as the one before it cannot be
// continued by the standby, which is asked to forget the connection. Then it goes on.
func TestLaterLegThatLags(t *testing.T) {
	l, c, _ := replaced(t, asked-50)
	l.Journal().Hold(false)
	l.until("the rest of the answer", c, func(cl, _ script.State) bool { return cl.Received == further })
	if st, _ := l.Journal().Standby(); st.Connections != 0 {
		t.Errorf("the standby would continue it: %+v", st)
	}
}
