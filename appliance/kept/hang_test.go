package kept_test

import (
	"sync"
	"testing"
	"time"

	"lockstep/appliance/relay"
	"lockstep/internal/script"
)

// The next server's kernel takes the request, and what the client adds to it, but its process says nothing: patience
// ends, whether the client goes on asking or not.
func TestServerThatHangsIsGivenUp(t *testing.T) {
	for name, chats := range map[string]bool{"silent client": false, "client that goes on": true} {
		t.Run(name, func(t *testing.T) {
			l := newLost(t, func(s *relay.Service) {
				spare(s)
				s.Patience = time.Second
			})
			c := l.opened(40000)
			again := l.Replica(c, second, 3000)
			for _, p := range []*script.Peer{c.Client, c.Server, again.Server} {
				p.MayReset()
			}
			end(c.Server, script.FIN)
			l.until("a dial", again, func(_, s script.State) bool { return s.Received == 1 })
			again.Server.Send(script.Out{Flags: script.SYN | script.ACK, Ack: 1, Win: 65535, Opts: &script.DefaultOpts})
			l.until("the request", again, func(_, s script.State) bool { return s.Received == asked })
			kernel := time.NewTicker(100 * time.Millisecond)
			defer kernel.Stop()
			var joined sync.WaitGroup
			over := make(chan struct{})
			said := 0
			joined.Go(func() {
				for {
					send(again.Server, script.Next, 0, again.Server.State().Received)
					select {
					case <-over:
						return
					case <-kernel.C:
					}
					if chats {
						send(c.Client, script.Next, 10, covered)
						said++
					}
				}
			})
			given := l.Wait(limit, func() bool { return l.svc.Counts().GivenUp == 1 }, nil)
			close(over)
			joined.Wait()
			if !given || chats && said == 0 {
				t.Errorf("given up: %v; the client has spoken %d times; %+v", given, said, l.svc.Counts())
			}
		})
	}
}
