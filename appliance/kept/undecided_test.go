package kept_test

import (
	"testing"
	"time"

	"lockstep/appliance/kept"
	"lockstep/appliance/pool"
	"lockstep/appliance/relay"
	"lockstep/internal/script"
)

// Without a standby a server's FIN is acknowledged at once, and decided later. What becomes of a
// connection in that state when a standby joins?

// undecided is such a connection, and what the probe is asked.
type undecided struct {
	*lost
	c    *script.Conn
	r    *script.Conn // to another server
	asks chan func(kept.Fate)
}

// newUndecided is a connection without a standby whose server has ended.
func newUndecided(t *testing.T) *undecided {
	u := &undecided{asks: make(chan func(kept.Fate), 1)}
	u.lost = newLost(t, func(s *relay.Service) {
		s.Pool = pool.New(pool.Config{Servers: append(s.Pool.Servers(), second)})
		s.Ask = func(_ int, _ uint64, done func(kept.Fate)) {
			select {
			case u.asks <- done:
			default: // of the next active
			}
		}
	})
	u.Journal().Lose()
	u.c = u.opened(40000)
	u.r = u.Replica(u.c, second, 3000)
	u.c.Server.MayReset()
	return u
}

// end makes the server end.
func (u *undecided) end() {
	u.t.Helper()
	u.c.Server.Send(script.Out{Flags: script.FIN | script.ACK, Seq: script.Next, Ack: asked, Win: 65535})
	u.until("the ACK of the server's FIN", u.c, func(_, s script.State) bool { return s.Acked == s.Sent })
}

func (u *undecided) answer(f kept.Fate) {
	u.t.Helper()
	select {
	case done := <-u.asks:
		done(f)
	case <-time.After(limit):
		u.t.Fatalf("nobody asks\n%s", u.Trace())
	}
}

func (u *undecided) rejoin() {
	u.t.Helper()
	if err := u.Rejoin(); err != nil {
		u.t.Fatal(err)
	}
}

func (u *undecided) synced() {
	u.t.Helper()
	u.await("a standby that could take over", u.InSync)
}

// goesOn lets the other server answer, and go on: what it says is acknowledged.
func (u *undecided) goesOn() {
	u.t.Helper()
	u.ask(u.r)
	goOn(u.r, further-covered, false)
	u.until("more of the response", u.c, func(cl, _ script.State) bool { return cl.Received == further })
	send(u.c.Client, script.Next, 0, further)
	u.until("the other server's ACK", u.r, func(_, s script.State) bool { return s.Acked == further })
}

// The probe takes its time. The standby joins without the connection, which goes on with another
// server.
func TestUndecidedEndDoesNotKeepAStandbyOut(t *testing.T) {
	u := newUndecided(t)
	u.end()
	u.rejoin()
	u.synced()
	u.answer(kept.Dead)
	u.goesOn()
	if st, _ := u.Journal().Standby(); st.Connections != 0 {
		t.Errorf("the standby was told of the end: %+v", st)
	}
}

// The probe's answer is waited for: then the standby gets the connection as it is.
func TestUndecidedEndIsDecided(t *testing.T) {
	for name, fate := range map[string]kept.Fate{"alive": kept.Alive, "dead": kept.Dead} {
		t.Run(name, func(t *testing.T) {
			u := newUndecided(t)
			u.end()
			began := time.Now()
			u.rejoin()
			u.settle()
			u.answer(fate)
			if fate == kept.Dead {
				u.goesOn()
			} else {
				u.until("the end", u.c, func(cl, _ script.State) bool { return cl.Fin })
			}
			u.synced()
			// Unless this machine has taken longer than the patience there is.
			if st, _ := u.Journal().Standby(); st.Connections != 1 && time.Since(began) < time.Second {
				t.Errorf("the standby has no connection: %+v", st)
			}
		})
	}
}

// The FIN is behind bytes that the client does not take. The standby joins without it, or would
// believe it unasked when it takes over.
func TestUndecidedEndBehindASlowClient(t *testing.T) {
	u := newUndecided(t)
	u.c.Client.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: covered, Win: 0})
	u.settle()
	send(u.c.Server, script.Next, further-covered, asked)
	u.end()
	u.rejoin()
	u.synced()
	if st, _ := u.Journal().Standby(); st.Connections != 0 {
		t.Errorf("the standby was told of the end: %+v", st)
	}
	send(u.c.Client, script.Next, 0, covered)
	u.until("what the server has said", u.c, func(cl, _ script.State) bool { return cl.Received == further })
	send(u.c.Client, script.Next, 0, further)
	u.answer(kept.Alive)
	u.until("the end", u.c, func(cl, _ script.State) bool { return cl.Fin })
}
