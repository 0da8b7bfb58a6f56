package kept_test

import (
	"testing"

	"lockstep/appliance/relay"
	"lockstep/internal/script"
)

// A client that does not read has not acknowledged what the standby held, and what the successor has released to it. A standby that
// joins then is told of it, and has it: the server has been told that it arrived, and sends it no more.
func TestUnreadResponseIsToldToTheNextStandby(t *testing.T) {
	const window = 128 // bytes that it takes, scaled: see Dial
	l := newLost(t, func(*relay.Service) {})
	l.more = nil
	c := l.Dial(40000, 1000, 2000)
	if err := c.Handshake(nil, nil); err != nil {
		t.Fatal(err)
	}
	c.Client.Send(script.Out{Flags: script.ACK | script.PSH, Seq: script.Next, Len: asked - 1, Ack: 1, Win: window >> 7})
	l.until("the request", c, func(_, s script.State) bool { return s.Received == asked })
	send(c.Server, script.Next, covered-1, asked)
	l.until("what fits of the response", c, func(cl, _ script.State) bool { return cl.Received == 1+window })
	c.Client.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: 1 + window, Win: 0})
	l.settle()
	l.Journal().Advance(shipped)
	l.until("its acknowledgement, because the standby has it", c, func(_, s script.State) bool { return s.Acked == covered })
	for range 2 {
		l.takeover()
		l.settle()
		send(c.Server, script.Next, 100, asked) // what follows
		l.settle()
		if err := l.Rejoin(); err != nil {
			t.Fatal(err)
		}
		l.await("a standby that could take over", l.InSync)
	}
	send(c.Client, script.Next, 0, 1+window) // it reads again
	l.until("the rest of what had been sent", c, func(cl, _ script.State) bool { return cl.Received == covered+200 })
	send(c.Client, script.Next, 0, covered+200)
	l.settle()
	send(c.Server, script.Next, further-covered-200, asked)
	l.until("the rest of the response", c, func(cl, _ script.State) bool { return cl.Received == further })
	if err := l.Err(); err != nil {
		t.Fatalf("%v\n%s", err, l.Trace())
	}
}
