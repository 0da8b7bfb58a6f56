package kept_test

import (
	"sync/atomic"
	"testing"
	"time"

	"lockstep/appliance/adapter"
	"lockstep/appliance/kept"
	"lockstep/appliance/pool"
	"lockstep/appliance/relay"
	"lockstep/internal/script"
)

func end(p *script.Peer, flags uint8) {
	p.Send(script.Out{Flags: flags | script.ACK, Seq: script.Next, Ack: asked, Win: 65535})
}

// What a server's end means for the client depends on what has become of its process: of one
// that lives it is the response's, of one that is dead it is nothing, and of one of which
// nothing is known it is believed when the request, told again, ends at the same byte.
func TestEndIsJudged(t *testing.T) {
	for name, flags := range map[string]uint8{"FIN": script.FIN, "RST": script.RST} {
		for fate, says := range map[string]kept.Fate{"alive": kept.Alive, "dead": kept.Dead, "unproven": kept.Unproven} {
			t.Run(name+" "+fate, func(t *testing.T) {
				l := newLost(t, func(s *relay.Service) {
					spare(s)
					s.Ask = func(_ int, _ uint64, done func(kept.Fate)) { done(says) }
				})
				c := l.opened(40000)
				c.Client.MayReset()
				c.Server.MayReset()
				gone := func(cl script.State) bool { return cl.Fin || cl.Dead }
				if says == kept.Alive {
					end(c.Server, flags)
					l.until("the end", c, func(cl, _ script.State) bool { return gone(cl) })
					return
				}
				again := l.Replica(c, second, 3000)
				end(c.Server, flags)
				l.ask(again)
				l.until("the other one serves", c, func(_, _ script.State) bool { return l.svc.Counts().Failovers == 1 })
				l.settle()
				if s := l.svc.Pool.Status(); s[0].Conns != 0 || s[1].Conns != 1 {
					t.Errorf("the pool counts %+v", s)
				}
				if cl := c.Client.State(); gone(cl) {
					t.Fatalf("the client is told of an end that may be a crash: %+v\n%s", cl, l.Trace())
				}
				again.Server.MayReset()
				if says == kept.Unproven {
					end(again.Server, flags)
					l.until("the end, which is the same", c, func(cl, _ script.State) bool { return gone(cl) })
					return
				}
				goOn(again, 100, false)
				l.until("the rest", c, func(cl, _ script.State) bool { return cl.Received == covered+100 })
			})
		}
	}
}

// Nobody but the server that has ended can show what the client has, as long as the standby does not
// know it: it is not given up for another one before. A takeover in between finds it there.
func TestServerStaysWhileTheStandbyLacksSomething(t *testing.T) {
	for name, moved := range map[string]bool{"confirmed": false, "takeover": true} {
		t.Run(name, func(t *testing.T) {
			l := newLost(t, func(s *relay.Service) {
				if l := s.Pool.Ready(); l < 2 {
					spare(s)
				}
				s.Ask = func(_ int, _ uint64, done func(kept.Fate)) { done(kept.Unproven) }
			})
			c, again := l.lacking()
			c.Server.Send(script.Out{Flags: script.FIN | script.ACK, Seq: script.Next, Ack: asked, Win: 65535})
			l.settle()
			if s := c.Server.State(); s.Dead || again.Server.State().Received > 0 {
				t.Fatalf("the server is given up: %+v\n%s", s, l.Trace())
			}
			c.Client.MayReset()
			c.Server.MayReset()
			again.Server.MayReset()
			if moved {
				l.takeoverAtEnd(c)
			} else {
				l.Journal().Hold(false)
			}
			l.ask(again)
			goOn(again, gone-covered, false)
			l.until("the other one serves", c, func(_, _ script.State) bool { return l.svc.Counts().Failovers == 1 })
			again.Server.Send(script.Out{Flags: script.FIN | script.ACK, Seq: script.Next, Ack: asked, Win: 65535})
			l.until("the end", c, func(cl, _ script.State) bool { return cl.Fin && !cl.Dead })
		})
	}
}

// lacking is a connection of which the standby lacks what the client has, up to gone, and that of another server.
func (l *lost) lacking() (c, again *script.Conn) {
	l.t.Helper()
	l.more = nil
	c = l.opened(40000)
	again = l.Replica(c, second, 3000)
	l.loseDigest(c)
	send(c.Client, script.Next, 0, gone)
	return c, again
}

// takeoverAtEnd is one whose successor gets again what the standby lacked, and the server's end.
func (l *lost) takeoverAtEnd(c *script.Conn) {
	l.t.Helper()
	l.takeover()
	send(c.Server, covered, gone-covered, asked)
	c.Server.Send(script.Out{Flags: script.FIN | script.ACK, Seq: gone, Ack: asked, Win: 65535})
}

// A server that is dead, or that another one has overtaken, is replaced without waiting for that, and reset only when
// the standby holds what the client has: its kernel has it as well, and can send it again after a takeover.
func TestDeadServersKernelStaysWhileTheStandbyLacksSomething(t *testing.T) {
	for name, moved := range map[string]bool{"confirmed": false, "takeover": true} {
		t.Run(name, func(t *testing.T) {
			l := newLost(t, func(s *relay.Service) {
				if s.Pool.Ready() < 2 {
					spare(s)
				}
			})
			c, again := l.lacking()
			end(c.Server, script.FIN)
			l.until("a dial of the other server", again, func(_, s script.State) bool { return s.Received == 1 })
			l.settle()
			if s := c.Server.State(); s.Dead {
				t.Fatalf("the dead server's kernel is reset: %+v\n%s", s, l.Trace())
			}
			c.Server.MayReset()
			again.Server.MayReset()
			if moved {
				l.takeoverAtEnd(c)
			} else {
				l.Journal().Hold(false)
				l.until("the reset", c, func(_, s script.State) bool { return s.Dead })
			}
			l.ask(again)
			goOn(again, gone-covered+100, false)
			l.until("the other one serves", c, func(cl, _ script.State) bool { return cl.Received == gone+100 && !cl.Dead })
		})
	}
}

// Nor is one for its health check, which fails on a busy machine, too. When the standby knows it, or
// patience is over, it is: it may hang.
func TestFailingServerStaysWhileTheStandbyLacksSomething(t *testing.T) {
	for name, patience := range map[string]time.Duration{"confirmed": time.Hour, "takeover": time.Hour, "response ended": time.Hour, "patience": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			l := newLost(t, func(s *relay.Service) {
				if l := s.Pool.Ready(); l < 2 {
					spare(s)
				}
				s.Patience = patience
				s.Ask = func(_ int, _ uint64, done func(kept.Fate)) { done(kept.Alive) }
			})
			l.more = nil
			c := l.opened(40000)
			again := l.Replica(c, second, 3000)
			l.loseDigest(c)
			if name == "response ended" {
				end(c.Server, script.FIN)
				l.until("the end", c, func(cl, _ script.State) bool { return cl.Fin })
			}
			fails := func() { l.svc.Pool.Checked(0, false, "it does not answer") }
			if fails(); patience < time.Hour {
				c.Client.MayReset()
				c.Server.MayReset()
				send(c.Client, script.Next, 0, gone)
				l.until("it is given up", c, func(_, _ script.State) bool { return l.svc.Counts().Lost == 1 })
				return
			}
			stays := func() {
				t.Helper()
				send(c.Client, script.Next, 0, gone)
				l.settle()
				if s := c.Server.State(); s.Dead || again.Server.State().Received > 0 {
					t.Fatalf("the server is given up: %+v\n%s", s, l.Trace())
				}
				c.Server.MayReset()
			}
			switch stays(); name {
			case "response ended":
				l.Journal().Hold(false)
				send(c.Client, script.Next, 0, gone+1)
				l.until("it is given up", c, func(_, s script.State) bool { return s.Dead })
				return
			case "takeover":
				c.Server.MayReset()
				l.takeover()
				fails()
				stays() // the client has more than is known here
				send(c.Server, covered, gone-covered, asked)
			default:
				l.Journal().Hold(false)
			}
			l.ask(again)
			goOn(again, gone-covered+100, false)
			l.until("the other one serves", c, func(cl, _ script.State) bool { return cl.Received == gone+100 })
		})
	}
}

// spare gives a service a second server.
func spare(s *relay.Service) {
	s.Pool = pool.New(pool.Config{Servers: append(s.Pool.Servers(), second)})
}

// Which process a connection is to is known if it was dialled while that was watched, or if it
// has taken something that it was told after that.
func TestConnectionsProcess(t *testing.T) {
	const before, later = 5, 6
	for name, x := range map[string]struct {
		at   uint64 // the process when it is dialled
		tell func(l *lost, c *script.Conn, begin func())
		want uint64
	}{
		"from the beginning": {before, func(*lost, *script.Conn, func()) {}, before},
		"nobody watches":     {0, func(*lost, *script.Conn, func()) {}, 0},
		"it says nothing after that": {0, func(_ *lost, _ *script.Conn, begin func()) {
			begin()
		}, 0},
		"it takes what it was told before": {0, func(l *lost, c *script.Conn, begin func()) {
			c.Server.Away(true)
			send(c.Client, script.Next, 10, covered)
			l.until("the request is known", c, func(cl, _ script.State) bool { return cl.Acked == asked+10 })
			l.settle()
			begin()
			c.Server.Away(false)
			send(c.Server, script.Next, 0, asked+10)
		}, 0},
		"it takes what it was told after that": {0, func(l *lost, c *script.Conn, begin func()) {
			begin()
			l.more10(c, 10)
			l.more10(c, 20) // of the first it may not be known whether it was told before
		}, later},
		"it takes the client's FIN": {0, func(l *lost, c *script.Conn, begin func()) {
			begin()
			c.Client.Send(script.Out{Flags: script.FIN | script.ACK, Seq: script.Next, Ack: covered, Win: 65535})
			l.until("the FIN", c, func(_, s script.State) bool { return s.Fin })
			send(c.Server, script.Next, 0, asked+1)
			l.settle()
		}, 0},
		"another one was watched when it was dialled": {before, func(l *lost, c *script.Conn, begin func()) {
			begin()
			l.more10(c, 10)
			l.more10(c, 20)
		}, later},
	} {
		t.Run(name, func(t *testing.T) {
			asks := make(chan uint64, 1)
			var now atomic.Uint64
			now.Store(x.at)
			l := newLost(t, func(s *relay.Service) {
				s.Line = func(int) uint64 { return now.Load() }
				s.Ask = func(_ int, line uint64, done func(kept.Fate)) {
					asks <- line
					done(kept.Alive)
				}
			})
			c := l.opened(40000)
			x.tell(l, c, func() { now.Store(later) })
			c.Server.MayReset()
			c.Server.Send(script.Out{Flags: script.FIN | script.ACK, Seq: script.Next, Ack: script.Next, Win: 65535})
			select {
			case line := <-asks:
				if line != x.want {
					t.Errorf("process %d is asked for, want %d\n%s", line, x.want, l.Trace())
				}
			case <-time.After(limit):
				t.Fatalf("nobody asks\n%s", l.Trace())
			}
			l.until("the end", c, func(cl, _ script.State) bool { return cl.Fin })
		})
	}
}

// more10 is ten bytes more of the request, which the server takes: in that many in all.
func (l *lost) more10(c *script.Conn, in int64) {
	l.t.Helper()
	send(c.Client, script.Next, 10, covered)
	l.until("more of the request", c, func(_, s script.State) bool { return s.Received == asked+in })
	send(c.Server, script.Next, 0, asked+in)
	l.settle()
}

// A client's server is dialled when its process is watched, and without that soon all the same.
func TestDialAwaitsLine(t *testing.T) {
	for name, comes := range map[string]bool{"it comes": true, "it does not come": false} {
		t.Run(name, func(t *testing.T) {
			wakes := make(chan func(), 1)
			var now atomic.Uint64
			asks := make(chan uint64, 1)
			l := newLost(t, func(s *relay.Service) {
				s.Line = func(int) uint64 { return now.Load() }
				s.Ready = func(_ int, wake func()) bool { wakes <- wake; return false }
				s.Ask = func(_ int, line uint64, done func(kept.Fate)) { asks <- line; done(kept.Alive) }
			})
			go func() {
				if wake := <-wakes; comes {
					now.Store(3)
					wake()
				}
			}()
			c := l.opened(40000)
			c.Server.Send(script.Out{Flags: script.FIN | script.ACK, Seq: script.Next, Ack: asked, Win: 65535})
			l.until("the end", c, func(cl, _ script.State) bool { return cl.Fin })
			if line := <-asks; (line == 3) != comes {
				t.Errorf("process %d is asked for", line)
			}
		})
	}
}

// between is a protocol that is between two messages.
type between struct{ adapter.Raw }

func (between) Checkpoint() (uint64, bool) { return asked, true }
func (between) End() adapter.Verdict       { return adapter.Complete }

// Of a server that is killed with all its processes the one that holds the canaries may answer after
// the client's has gone: an end for which nobody waits is judged a while later.
func TestIdleEndSettles(t *testing.T) {
	for name, says := range map[string]kept.Fate{"alive": kept.Alive, "dead by then": kept.Dead} {
		t.Run(name, func(t *testing.T) {
			judged := make(chan time.Time, 1)
			l := newLost(t, func(s *relay.Service) {
				spare(s)
				s.NewAdapter = func() adapter.Adapter { return between{} }
				s.Ask = func(_ int, _ uint64, done func(kept.Fate)) {
					judged <- time.Now()
					done(says)
				}
			})
			c := l.opened(40000)
			c.Client.MayReset()
			c.Server.MayReset()
			begun := time.Now()
			end(c.Server, script.FIN)
			if after := (<-judged).Sub(begun); after < 300*time.Millisecond {
				t.Errorf("the end is judged after %v, while other processes of the server may still be dying", after)
			}
			if says == kept.Alive {
				l.until("the end", c, func(cl, _ script.State) bool { return cl.Fin })
				return
			}
			l.until("it is lost", c, func(cl, _ script.State) bool { return l.svc.Counts().Lost == 1 && !cl.Fin && !cl.Dead })
		})
	}
}

// A client that has sent its FIN waits for the server's, and no request can come any more.
func TestEndAfterClientsIsNotSettled(t *testing.T) {
	defer kept.SetEndSettles(time.Hour)()
	l := newLost(t, func(s *relay.Service) {
		s.NewAdapter = func() adapter.Adapter { return between{} }
		s.Ask = func(_ int, _ uint64, done func(kept.Fate)) { done(kept.Alive) }
	})
	c := l.opened(40000)
	c.Client.Send(script.Out{Flags: script.FIN | script.ACK, Seq: script.Next, Ack: covered, Win: 65535})
	l.until("the client's FIN", c, func(_, s script.State) bool { return s.Fin })
	c.Server.Send(script.Out{Flags: script.FIN | script.ACK, Seq: script.Next, Ack: script.Next, Win: 65535})
	l.until("the end", c, func(cl, _ script.State) bool { return cl.Fin })
}
