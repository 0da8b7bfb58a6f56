package splice

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A world of two ends that speak a small TCP, a network that loses, repeats and reorders on both
// sides of the gateway, somebody who forges segments without seeing any, and takeovers.

type modelEnd struct {
	side          Side
	isn           uint32
	una, nxt, rcv uint32 // SND.UNA, SND.NXT, RCV.NXT
	opened        bool
	finSent       bool
	finRcvd       bool
	reset         bool
	left          int // bytes that it has still to send
	saidAck       uint32
}

type model struct {
	*rig
	t     *rapid.T
	ends  [2]*modelEnd
	wires [2][]tcp // to each side, behind the gateway
	moved bool     // after a takeover
}

const modelWindow = 20000

// pass sends a segment of a true end through the gateway, which must not drop it.
func (m *model) pass(e *modelEnd, s tcp) Event {
	s.window = modelWindow
	v := m.send(e.side, s)
	if v.Drop != DropNone || v.Answer {
		m.t.Fatalf("%+v of side %d: %+v", s, e.side, v)
	}
	m.wires[e.side.Other()] = append(m.wires[e.side.Other()], s)
	return v.Event
}

func (m *model) ack(e *modelEnd) { m.say(e, tcp{flags: flagACK, seq: e.nxt, ack: e.rcv}) }

func (m *model) say(e *modelEnd, s tcp) {
	if after(s.ack, e.saidAck) {
		e.saidAck = s.ack
	}
	m.pass(e, s)
}

// act lets an end do something of its own.
func (m *model) act(e *modelEnd) {
	if !e.opened || e.reset {
		return
	}
	switch rapid.SampledFrom([]string{"send", "send", "again", "fin", "ack", "keepalive"}).Draw(m.t, "act") {
	case "send":
		n := min(rapid.IntRange(1, 3000).Draw(m.t, "n"), e.left, int(e.una+modelWindow-e.nxt))
		if n > 0 && !e.finSent {
			seq := e.nxt
			e.left -= n
			e.nxt += uint32(n)
			m.say(e, tcp{flags: flagACK, seq: seq, ack: e.rcv, n: n})
		}
	case "again":
		m.again(e)
	case "fin":
		if e.left == 0 && !e.finSent {
			e.finSent = true
			e.nxt++
			m.say(e, tcp{flags: flagACK | flagFIN, seq: e.nxt - 1, ack: e.rcv})
		}
	case "ack":
		m.ack(e)
	case "keepalive":
		m.say(e, tcp{flags: flagACK, seq: e.una - 1, ack: e.rcv})
	}
}

// again repeats what is not acknowledged.
func (m *model) again(e *modelEnd) {
	if e.una == e.nxt {
		return
	}
	n, s := int(e.nxt-e.una), tcp{flags: flagACK, seq: e.una, ack: e.rcv}
	if e.finSent {
		n--
		s.flags |= flagFIN
	}
	if n > 3000 {
		n, s.flags = 3000, flagACK
	}
	s.n = n
	m.say(e, s)
}

// arrive lets an end take one segment that is on its way to it.
func (m *model) arrive(e *modelEnd) {
	q := &m.wires[e.side]
	if len(*q) == 0 {
		return
	}
	i := 0
	if rapid.IntRange(0, 4).Draw(m.t, "order") == 0 {
		i = rapid.IntRange(0, len(*q)-1).Draw(m.t, "which")
	}
	s := (*q)[i]
	switch rapid.SampledFrom([]string{"take", "take", "take", "lose", "repeat"}).Draw(m.t, "fate") {
	case "take":
		*q = append((*q)[:i], (*q)[i+1:]...)
	case "lose":
		*q = append((*q)[:i], (*q)[i+1:]...)
		return
	}
	m.take(e, s)
}

func (m *model) take(e *modelEnd, s tcp) {
	switch {
	case s.flags&flagSYN != 0:
		switch {
		case e.side == Server && !e.opened:
			e.rcv, e.saidAck = s.seq+1, s.seq+1
			m.pass(e, tcp{flags: flagSYN | flagACK, seq: e.isn, ack: e.rcv})
		case e.side == Client && !e.opened:
			e.opened, e.rcv, e.una, e.saidAck = true, s.seq+1, s.ack, s.seq+1
			m.ack(e)
		case e.side == Client:
			m.ack(e)
		}
		return
	case s.flags&flagRST != 0:
		if s.seq == e.rcv {
			e.reset = true
		} else if !after(e.rcv, s.seq) && !after(s.seq, e.rcv+modelWindow) {
			m.ack(e) // RFC 5961
		}
		return
	case e.reset:
		m.pass(e, tcp{flags: flagRST, seq: s.ack})
		return
	case e.side == Client && !e.opened:
		return
	}
	end := s.seq + uint32(s.n)
	if s.flags&flagFIN != 0 {
		end++
	}
	if after(e.saidAck, end) || after(s.seq, e.rcv+modelWindow) {
		m.ack(e)
		return
	}
	if after(s.ack, e.nxt) {
		return
	}
	e.opened = true
	if after(s.ack, e.una) {
		e.una = s.ack
	}
	if !after(s.seq, e.rcv) && after(end, e.rcv) {
		e.rcv = end
		e.finRcvd = e.finRcvd || s.flags&flagFIN != 0
	}
	if end != s.seq {
		m.ack(e)
	}
}

// forge sends what only guesses, far from the true numbers in one respect at least.
func (m *model) forge() {
	from := rapid.SampledFrom([]Side{Client, Server}).Draw(m.t, "forged from")
	e, r := m.ends[from], m.ends[from.Other()]
	far := rapid.Uint32Range(1<<21, 1<<32-1<<21).Draw(m.t, "far")
	s := tcp{
		flags: rapid.SampledFrom([]uint8{flagACK, flagACK | flagFIN, flagRST, flagRST | flagACK, 0}).Draw(m.t, "forged flags"),
		seq:   e.nxt + far, ack: r.nxt, n: rapid.IntRange(0, 2000).Draw(m.t, "forged n"), window: 65535,
	}
	if s.flags&flagRST == 0 && rapid.Bool().Draw(m.t, "right place") {
		s.seq, s.ack = e.nxt, r.nxt+rapid.Uint32Range(1<<21, 1<<30).Draw(m.t, "far ack")
	}
	if v := m.send(from, s); v.Event != EventNone && !m.moved || v.Drop != DropNone {
		m.t.Fatalf("forged %+v: %+v", s, v)
	}
}

// holds compares the tracker with the ends.
func (m *model) holds() {
	client, server := m.ends[Client], m.ends[Server]
	if !m.opened() {
		return
	}
	if m.State() >= Closed && m.moved && !m.proven {
		return // to be asked about, see contradict
	}
	if m.State() == Closed && !(client.finSent && server.finSent && client.finRcvd && server.finRcvd) {
		m.t.Fatalf("closed before the ends have: %+v %+v", client, server)
	}
	if m.State() == Reset {
		m.t.Fatalf("reset by nobody")
	}
	if m.moved {
		return
	}
	for s, e := range m.ends {
		p := m.Position(Side(s))
		if p.Next != e.nxt || p.Ack != e.saidAck {
			m.t.Fatalf("side %d is at %d, %d, seen as %d, %d", s, e.nxt, e.saidAck, p.Next, p.Ack)
		}
		if p.HasFIN != e.finSent {
			m.t.Fatalf("side %d: FIN %v, seen %v", s, e.finSent, p.HasFIN)
		}
	}
}

func (m *model) opened() bool { return m.State() != Opening }

func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{t: t, rig: &rig{t: t, a: own4, now: time.Hour}}
		m.Init(own4, 0)
		for s := range m.ends {
			isn := rapid.OneOf(rapid.Uint32(), rapid.Uint32Range(1<<32-5000, 1<<32-1)).Draw(t, "isn")
			m.ends[s] = &modelEnd{side: Side(s), isn: isn, una: isn, nxt: isn + 1, left: rapid.IntRange(0, 60000).Draw(t, "bytes")}
		}
		client := m.ends[Client]
		m.pass(client, tcp{flags: flagSYN, seq: client.isn})
		takeovers := rapid.IntRange(0, 2).Draw(t, "takeovers")
		for range rapid.IntRange(20, 300).Draw(t, "steps") {
			m.now += 10 * time.Millisecond
			e := m.ends[rapid.IntRange(0, 1).Draw(t, "side")]
			switch rapid.IntRange(0, 20).Draw(t, "step") {
			case 0:
				if m.opened() { // before that a RST needs only the right ACK
					m.forge()
				}
			case 1:
				if m.opened() && m.State() < Closed && takeovers > 0 {
					takeovers--
					m.Restore(own4, m.Params(), 0)
					m.moved = true
				}
			case 2, 3, 4, 5, 6, 7, 8:
				m.act(e)
			default:
				m.arrive(e)
			}
			m.holds()
		}
		m.contradict()
		m.finish()
	})
}

// contradict lets the ends be asked: whatever was forged after a takeover, a connection that stands is
// taken for one again.
func (m *model) contradict() {
	if m.State() < Closed || m.ends[Client].finRcvd && m.ends[Server].finRcvd {
		return
	}
	buf := make([]byte, MaxMade)
	for range 3 {
		m.now += askAgain + time.Millisecond
		if to, ask := m.Ask(m.now); ask {
			m.Probe(to, buf)
			m.ack(m.ends[to])
		}
	}
	if m.State() >= Closed {
		m.t.Fatalf("%v, though both live", m.State())
	}
}

// finish lets the network be good and both ends close.
func (m *model) finish() {
	client := m.ends[Client]
	for round := 0; ; round++ {
		if round > 200 {
			m.t.Fatalf("does not come to an end: %v\n%+v\n%+v", m.State(), client, m.ends[Server])
		}
		m.now += 10 * time.Millisecond
		for !client.opened && len(m.wires[0])+len(m.wires[1]) == 0 {
			m.pass(client, tcp{flags: flagSYN, seq: client.isn})
		}
		done := true
		for _, e := range m.ends {
			for len(m.wires[e.side]) > 0 {
				s := m.wires[e.side][0]
				m.wires[e.side] = m.wires[e.side][1:]
				m.take(e, s)
			}
			if n := min(e.left, int(e.una+modelWindow-e.nxt)); e.opened && n > 0 {
				e.left -= n
				e.nxt += uint32(n)
				m.say(e, tcp{flags: flagACK, seq: e.nxt - uint32(n), ack: e.rcv, n: n})
			} else if e.opened && e.left == 0 && !e.finSent {
				e.finSent = true
				e.nxt++
				m.say(e, tcp{flags: flagACK | flagFIN, seq: e.nxt - 1, ack: e.rcv})
			} else if e.opened {
				m.again(e)
			}
			done = done && e.finSent && e.finRcvd && e.una == e.nxt
		}
		m.holds()
		if done && len(m.wires[0])+len(m.wires[1]) == 0 {
			break
		}
	}
	if !m.moved && m.State() != Closed {
		m.t.Fatalf("both have ended, it is %v", m.State())
	}
	if p, q := m.Position(Client), m.Position(Server); !m.moved && (p.Bytes != p.Delivered || q.Bytes != q.Delivered ||
		p.Bytes != uint64(m.ends[Client].nxt-m.ends[Client].isn-2) || q.Bytes != uint64(m.ends[Server].nxt-m.ends[Server].isn-2)) {
		m.t.Fatalf("bytes: %+v %+v", p, q)
	}
}
