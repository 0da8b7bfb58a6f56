package kept_test

import (
	"encoding/binary"
	"testing"

	"lockstep/appliance/adapter"
	"lockstep/appliance/relay"
	"lockstep/internal/script"
)

// dated is headed with a field in its head that differs between servers, on either side of the
// middle.
type dated struct{ headed }

const dateFrom, dateTo = 50, 150

func (d *dated) Mask(dst [][2]int, b []byte) [][2]int {
	lo, hi := max(headAt+dateFrom-d.at, 0), min(headAt+dateTo-d.at, len(b))
	if lo < hi {
		dst = append(dst, [2]int{lo, hi})
	}
	return dst
}

func (d *dated) State(dst []byte) []byte { return binary.BigEndian.AppendUint32(dst, uint32(d.at)) }

func (d *dated) Restore(state []byte, _ uint64) error {
	if len(state) > 0 {
		d.at = int(binary.BigEndian.Uint32(state))
	}
	return nil
}

func datedHead(t *testing.T, tune func(*relay.Service)) (*lost, *script.Conn) {
	l, c := half(t, func(s *relay.Service) {
		tune(s)
		s.NewAdapter = func() adapter.Adapter { return &dated{} }
	})
	c.Server.Differs(covered+dateFrom, covered+dateTo)
	return l, c
}

// ofOne fails if the client has got a head of two servers.
func (l *lost) ofOne(c *script.Conn, want string) {
	l.t.Helper()
	if own, others := c.Client.Got(); own > 0 && others > 0 || want == "own" && own == 0 || want == "others" && others == 0 {
		l.t.Fatalf("%d bytes of the one server's date, %d of the other's, wanted is one of %s; %+v\n%s", own, others, want, l.svc.Counts(), l.Trace())
	}
}

// answersDated makes another server send its head, whose date is another one, in two pieces,
// and more behind it.
func answersDated(r *script.Conn, n int) {
	for _, piece := range [][2]int{{0, dateFrom}, {dateFrom, dateTo}, {dateTo, headLen + 100}} {
		if to := min(piece[1], n); to > piece[0] {
			goOn(r, to-piece[0], piece[0] == dateFrom)
		}
	}
}

// A server dies of whose head the standby has the first half. The next one's has another date.
// The client gets one head, of one server, wherever the appliance dies.
func TestNoHeadOfTwoServers(t *testing.T) {
	for name, x := range map[string]struct {
		says   int  // what the other server has sent when the appliance dies
		held   bool // what the standby is told then does not get there
		before bool // there is a takeover before the first server dies
	}{
		"nothing yet":             {says: 0},
		"half a head":             {says: headLen / 2},
		"the head":                {says: headLen},
		"more":                    {says: headLen + 50},
		"the head, not confirmed": {says: headLen, held: true},
		"after a takeover":        {says: headLen, before: true},
	} {
		t.Run(name, func(t *testing.T) {
			l, c := datedHead(t, spare)
			l.more = nil
			c.Client.MayReset()
			if x.before {
				l.takeover()
			}
			r := l.Replica(c, second, 3000)
			if x.held {
				l.Journal().Hold(true)
			}
			end(c.Server, script.RST)
			l.ask(r)
			r.Server.MayReset()
			answersDated(r, x.says)
			l.until("another one serves", c, func(_, _ script.State) bool { return l.svc.Counts().Failovers == 1 })
			l.settle()
			l.ofOne(c, "either")
			if x.held {
				l.has(c, covered, "the standby may have the former one's half of it")
			}
			if x.before {
				l.until("the other one's head", c, func(cl, _ script.State) bool { return cl.Received == covered+headLen })
				l.ofOne(c, "others")
				return
			}
			if x.says >= headLen && !x.held {
				l.until("the other one's head", c, func(cl, _ script.State) bool { return cl.Received >= covered+headLen })
				l.ofOne(c, "others")
				if st, _ := l.Journal().Standby(); st.Connections != 0 {
					t.Errorf("the standby would continue it: %+v", st)
				}
				return
			}
			l.takeover()
			l.settle()
			l.ofOne(c, "either")
		})
	}
}

// The server and its appliance die when the client has a part of a head, which nobody else has. Another
// server's date, of which only the place is compared, must not follow the first one's beginning of it.
func TestHeadOfTheDeadIsNotContinued(t *testing.T) {
	for name, x := range map[string]struct {
		has  int64 // of the head
		goes bool
	}{
		"none":                 {0, true},
		"what is before it":    {dateFrom - 10, false}, // what else there was of the head is unknown
		"half of it":           {headLen / 2, false},
		"all that is masked":   {dateTo, true},
		"all but its last two": {headLen - 2, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLost(t, func(s *relay.Service) {
				s.NewAdapter = func() adapter.Adapter { return &dated{} }
			})
			opts := script.DefaultOpts
			opts.WScale = -1 // so that its window ends in the middle of a head
			c := l.openedWith(40000, &opts)
			c.Client.MayReset()
			c.Server.Differs(covered+dateFrom, covered+dateTo)
			c.Client.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: covered, Win: int(x.has)})
			l.settle()
			send(c.Server, script.Next, headLen, asked)
			l.until("a part of the head", c, func(cl, _ script.State) bool { return cl.Received == covered+x.has })
			if x.has > 0 {
				c.Client.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: covered + x.has, Win: 0})
			}
			l.takeover()
			r := l.Replica(c, second, 3000)
			r.Server.MayReset()
			end(c.Server, script.RST)
			l.ask(r)
			answersDated(r, headLen+100)
			c.Client.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: covered + x.has, Win: 65535})
			if !x.goes {
				l.until("the reset", c, func(cl, _ script.State) bool { return cl.Dead })
				if n := l.svc.Counts().Unverified; n != 1 {
					t.Errorf("%d are unverified", n)
				}
			} else {
				l.until("the rest", c, func(cl, _ script.State) bool { return cl.Received == covered+headLen+100 })
			}
			l.ofOne(c, "either")
		})
	}
}
