package script

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"lockstep/replication"
)

// schedule turns bytes into an exchange of valid, odd and damaged segments in
// both directions, with a sync link that comes and goes and perhaps a takeover.
// All bytes that count are those of the pattern, so that every order in which the
// appliance may accept them gives the same streams; segments with other bytes are
// such that nobody may accept them.
type schedule struct {
	rig  *Rig
	conn *Conn
	in   []byte
}

const (
	scheduleSteps = 80
	scheduleBytes = 100_000 // per stream
)

func (s *schedule) next() int {
	if len(s.in) == 0 {
		return 0
	}
	b := s.in[0]
	s.in = s.in[1:]
	return int(b)
}

func (s *schedule) run() error {
	for n := 0; n < scheduleSteps && len(s.in) > 0 && !s.rig.broken(); n++ {
		op := s.next()
		p := s.conn.Client
		if op&1 != 0 {
			p = s.conn.Server
		}
		a, b := s.next(), s.next()
		if err := s.step(op>>1, p, a, b); err != nil {
			return err
		}
	}
	return s.heal()
}

func (s *schedule) step(op int, p *Peer, a, b int) error {
	j := s.rig.Journal()
	switch op % 16 {
	case 8:
		j.Hold(a%2 == 0)
	case 9:
		if !s.rig.moved {
			j.Deliver()
		}
	case 10:
		if !s.rig.moved {
			j.deliverAndConfirm()
		}
	case 11:
		j.Advance(replication.Nanos(a) * 1_000_000)
	case 12:
		s.rig.barrier()
	case 13:
		if a < 100 && !s.rig.moved {
			return s.rig.Takeover()
		}
	default:
		s.rig.mu.Lock()
		defer s.rig.mu.Unlock()
		s.segment(op%16, p, int64(a), int64(b))
	}
	return nil
}

// segment sends one segment. Rig.mu is held.
func (s *schedule) segment(op int, p *Peer, a, b int64) {
	if p.state != peerOpen {
		return
	}
	seq, n := p.nxt, 1+(a*b)%1400
	fits := func() bool { return seq >= 1 && seq+n <= p.edge && seq+n < scheduleBytes }
	o := Out{Flags: ACK, Ack: Next, Win: Next}
	switch op {
	case 0: // in order
		o.Flags |= PSH
	case 1: // over what was sent before
		seq = max(1, p.nxt-8*a)
	case 2: // beyond a gap
		seq += 16 * a
	case 3: // acknowledge everything, with some window
		p.catchUp()
		p.send(Out{Flags: ACK, Seq: Next, Ack: Next, Win: []int{0, 1, 50, 65535}[b%4]}, true)
		return
	case 4: // again
		p.retransmit()
		return
	case 5: // damaged on the way
		o.BadCksum, o.Alt = true, true
	case 6: // far outside, any flags
		far := p.nxt + []int64{-1 << 30, 1 << 30, -20 << 20, p.edge + 1<<20}[b%4]
		e := NoOpts
		e.TS = a&64 != 0
		f := Segment{Src: p.self, Dst: p.to, Flags: uint8(a) & 0x1f, Seq: p.isn + uint32(far), Ack: p.irs + uint32(p.acked), Win: 0, Opts: e, Payload: []byte("far away")}
		s.rig.tracef("%s> (forged) %s", p.name, &f)
		s.rig.inject(f.Encode())
		return
	case 7: // options that lie
		raw := [][]byte{{8, 12, 0, 0}, {5, 1}, {1, 1, 1, 8}, {5, 5, 0, 0, 0}, {254, 0, 0, 0}}[b%5]
		o.Opts = &Opts{Raw: raw}
	case 14: // keepalive probe
		seq, n = p.nxt-1, 0
		if seq < 1 {
			return
		}
	case 15: // a timestamp from the past
		o.Opts = &Opts{WScale: -1, TS: true, TSVal: 1, TSEcr: p.tsMax}
	}
	if n > 0 && !fits() {
		return
	}
	o.Seq, o.Len = seq, int(n)
	p.send(o, !o.BadCksum)
}

// heal lets the link and the peers work as they should, and demands that all
// bytes arrive and the connection ends in order.
func (s *schedule) heal() error {
	s.rig.Journal().Hold(false)
	c, v := s.conn.Client, s.conn.Server
	s.rig.mu.Lock()
	for _, p := range []*Peer{c, v} {
		p.win = 65535
		for at := p.una; at < p.nxt; { // the gaps, too
			n := min(1400, p.nxt-at)
			p.sent = append(p.sent, Out{Flags: ACK, Seq: at, Len: int(n), Ack: Next, Win: Next})
			at += n
		}
		p.catchUp()
		p.ack()
		p.retransmit()
	}
	s.rig.mu.Unlock()
	again := func() {
		for _, p := range []*Peer{c, v} {
			p.retransmit()
			p.ack()
		}
	}
	await := func(what string, cond func() bool) error {
		if !s.rig.Wait(waitLimit, cond, again) {
			return fmt.Errorf("%s: %v %v\n%v", what, c, v, s.rig.Err())
		}
		return nil
	}
	if err := await("bytes do not arrive", func() bool {
		return c.una == c.nxt && v.una == v.nxt && c.rcv == v.nxt && v.rcv == c.nxt
	}); err != nil {
		return err
	}
	c.Send(Out{Flags: FIN | ACK, Seq: Next, Ack: Next, Win: Next})
	if err := await("the client's FIN does not arrive", func() bool { return v.theirFin > 0 && v.rcv > v.theirFin }); err != nil {
		return err
	}
	s.rig.mu.Lock()
	v.catchUp()
	v.send(Out{Flags: FIN | ACK, Seq: Next, Ack: Next, Win: Next}, true)
	s.rig.mu.Unlock()
	return await("the connection does not end", func() bool {
		e := s.rig.gen.engine
		open, _, _ := s.rig.gen.relay.Counts()
		return c.una == c.nxt && v.una == v.nxt && c.rcv == v.nxt && v.rcv == c.nxt && open == 0 && e.Legs() == e.Tombstones()
	})
}

// playSchedule runs one schedule in a rig of its own.
func playSchedule(in []byte, v6 bool) error {
	rig, err := New(Options{V6: v6, Window: 256 << 10})
	if err != nil {
		return err
	}
	s := schedule{rig: rig, conn: rig.Dial(40000, 4_294_960_000, 77), in: in}
	if err = s.conn.Handshake(nil, nil); err == nil {
		err = s.run()
	}
	rig.checkShipped()
	if cerr := rig.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = rig.Err()
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, rig.Trace())
	}
	return nil
}

func FuzzSchedule(f *testing.F) {
	f.Fuzz(func(t *testing.T, in []byte, v6 bool) {
		if err := playSchedule(in, v6); err != nil {
			t.Error(err)
		}
	})
}

var (
	firstSeed = flag.Uint64("seed", 1, "TestSchedules: the first seed")
	seeds     = flag.Int("seeds", 60, "TestSchedules: how many seeds")
)

// Random schedules, each named by its seed. The input follows from the seed, the
// timing does not.
func TestSchedules(t *testing.T) {
	for i := range *seeds {
		seed := *firstSeed + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 0))
			in := make([]byte, 30+rnd.IntN(200))
			for k := range in {
				in[k] = byte(rnd.Uint32())
			}
			if err := playSchedule(in, seed%2 == 0); err != nil {
				t.Error(err)
			}
		})
	}
}
