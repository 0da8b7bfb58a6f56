package kept_test

import (
	"testing"
	"time"

	"lockstep/appliance/adapter"
	"lockstep/appliance/relay"
	"lockstep/internal/script"
	"lockstep/replication"
)

// A response over HTTP of which the standby is given more than the adapter releases.
const (
	question = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

	requested = 1 + int64(len(question))
	shipped   = replication.Nanos(200 * time.Millisecond) // more than Limits.ShipAfter
)

func speaksHTTP(s *relay.Service) {
	s.NewAdapter = func() adapter.Adapter { return adapter.NewHTTP(nil) }
}

// asks is a connection whose client asks, and whose server begins with n bytes of what it says;
// of them the client gets some at once. All of them come to be at the standby.
func (l *lost) asks(says string, n, some int64) *script.Conn {
	l.t.Helper()
	c := l.Dial(40000, 1000, 2000)
	c.Client.Says(question)
	c.Server.Says(says)
	if err := c.Handshake(nil, nil); err != nil {
		l.t.Fatal(err)
	}
	send(c.Client, script.Next, len(question), 1)
	l.until("the request", c, func(_, s script.State) bool { return s.Received == requested })
	send(c.Server, script.Next, int(n), requested)
	l.until("what can be released", c, func(cl, _ script.State) bool { return cl.Received == 1+some })
	send(c.Client, script.Next, 0, 1+some)
	l.settle()
	l.Journal().Advance(shipped)
	l.until("the first piece at the standby", c, func(_, s script.State) bool { return s.Acked == 1+n })
	l.has(c, 1+some, "there is no whole head")
	return c
}

// rest lets a server say the rest, and end, and waits for it at the client.
func (l *lost) rest(c *script.Conn, says string, from int64) {
	l.t.Helper()
	end := 1 + int64(len(says))
	c.Server.Send(script.Out{
		Flags: script.ACK | script.PSH | script.FIN, Seq: 1 + from, Len: len(says) - int(from), Ack: requested, Win: 65535,
	})
	l.until("the response", c, func(cl, _ script.State) bool { return cl.Received >= end })
	send(c.Client, script.Next, 0, end)
	l.until("the server's end", c, func(cl, _ script.State) bool { return cl.Received == end+1 && cl.Fin })
}

// What the standby holds behind a response that was the last one is no head, and none will
// come of it. It is the client's all the same.
func TestHeldRestIsReleased(t *testing.T) {
	const last, more = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1"
	l := newLost(t, speaksHTTP)
	c := l.asks(last+more, int64(len(last+more)), int64(len(last)))
	l.takeover()
	l.rest(c, last+more, int64(len(last+more)))
}
