package kept_test

import (
	"strings"
	"sync"
	"testing"

	"lockstep/appliance/kept"
	"lockstep/appliance/relay"
	"lockstep/internal/script"
)

// told collects what differs.
type told struct {
	mu  sync.Mutex
	all []kept.Divergence
}

func (x *told) note(d kept.Divergence) {
	x.mu.Lock()
	x.all = append(x.all, d)
	x.mu.Unlock()
}

func (x *told) last() (d kept.Divergence, n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if n = len(x.all); n > 0 {
		d = x.all[n-1]
	}
	return d, n
}

// A server that says something else is named with the first byte that differs, and what
// either side has there.
func TestDivergenceIsTold(t *testing.T) {
	var x told
	l := newLost(t, func(s *relay.Service) { s.Hot, s.OnDivergence = true, x.note })
	c := l.opened(40000)
	l.takeover()
	r := l.Replica(c, second, 3000)
	r.Server.MayReset()
	send(c.Server, script.Next, gone-covered, asked)
	l.until("more of the response", c, func(cl, _ script.State) bool { return cl.Received == gone })
	l.ask(r)
	send(r.Server, script.Next, 99, asked)
	goOn(r, gone-covered-99, true)
	l.until("the divergence is told", c, func(_, _ script.State) bool {
		_, n := x.last() // after it was counted
		return n > 0 && l.svc.Counts().Diverged == 1
	})
	d, n := x.last()
	// Positions of the script count the SYN.
	if want := uint64(covered - 1 + 99); n != 1 || d.Server != 1 || !d.Exact || d.Offset != want {
		t.Fatalf("told %d times, %+v, want an exact difference at %d", n, d, want)
	}
	if d.Client == "" || d.Sent == "" || d.Client == d.Sent || len(d.Client)+len(d.Sent) > 4*2*(16+24)+4 {
		t.Errorf("the two sides: %s and %s", d.Client, d.Sent)
	}
	if s := d.String(); !strings.Contains(s, "differs at byte 599 of the response: the client has \"") {
		t.Errorf("in words: %s", s)
	}
}

// A server that is told the request again and hangs up before the point that the client
// has reached is named, with its last words; it is not dialled without a word for ever.
func TestRefusedReplayIsTold(t *testing.T) {
	var x told
	l := newLost(t, func(s *relay.Service) { s.OnDivergence = x.note })
	c := l.opened(40000)
	l.takeover()
	r := l.Replica(c, second, 3000)
	r.Server.MayReset()
	c.Server.MayReset()
	c.Server.Send(script.Out{Flags: script.RST, Seq: covered})
	l.until("a dial of another server", r, func(_, s script.State) bool { return s.Received == 1 })
	r.Server.Send(script.Out{Flags: script.SYN | script.ACK, Ack: 1, Win: 65535, Opts: &script.DefaultOpts})
	l.until("the request at another server", r, func(_, s script.State) bool { return s.Received == asked })
	r.Server.Send(script.Out{Flags: script.ACK | script.FIN, Seq: script.Next, Len: 100, Ack: asked, Win: 65535, Alt: true})
	l.until("the refusal is told", c, func(_, _ script.State) bool {
		_, n := x.last() // after it was counted
		return n > 0 && l.svc.Counts().Refused >= 1
	})
	d, n := x.last()
	if n != 1 || d.Server != 1 || d.Ended != "ended" || d.Offset != 100 || d.Sent == "" {
		t.Fatalf("told %d times, %+v", n, d)
	}
	if s := d.String(); !strings.HasPrefix(s, "ended at byte 100 of the response: the server sent \"") {
		t.Errorf("in words: %s", s)
	}
}

// A replica that is killed within its replay, however often, is none that differs: what it had sent
// is what the client has. One that has said something else each time is.
func TestKilledReplicaDoesNotDiffer(t *testing.T) {
	for name, x := range map[string]struct {
		flags uint8
		alt   bool
	}{"killed, FIN": {script.FIN, false}, "killed, RST": {script.RST, false}, "says something else": {script.FIN, true}} {
		t.Run(name, func(t *testing.T) {
			var told told
			l := newLost(t, func(s *relay.Service) { s.Hot, s.OnDivergence = true, told.note })
			c := l.opened(40000)
			l.takeover()
			r := l.Replica(c, second, 3000)
			r.Server.MayReset()
			send(c.Server, script.Next, gone-covered, asked)
			l.until("more of the response", c, func(cl, _ script.State) bool { return cl.Received == gone })
			for n := range uint64(3) {
				l.ask(r)
				goOn(r, 50, x.alt)
				l.settle()
				end(r.Server, x.flags)
				l.until("its end", c, func(_, _ script.State) bool { return l.svc.Counts().Refused == n+1 })
			}
			l.settle()
			d, n := told.last()
			if n != 1 || d.Short == x.alt || d.Ended == "" || (l.svc.Counts().Diverged == 1) != x.alt {
				t.Errorf("told %d times, %+v; %+v", n, d, l.svc.Counts())
			}
		})
	}
}
