package stack

import (
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/splice"
	"lockstep/tun/tuntest"
)

// otherPath is an Offload that passes nothing on: tests say what it has seen.
type otherPath struct {
	mu      sync.Mutex
	flows   []*otherFlow // that are there
	entered int
	now     time.Duration
	until   time.Duration
	waits   int
	fail    error // of all but Enter
	full    error // of Enter
	onWait  func()
}

// otherFlow is one connection there.
type otherFlow struct {
	path *otherPath
	seen splice.Offloaded
}

func (o *otherPath) Enter(k *splice.Offloaded) (OffloadedFlow, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.full != nil {
		return nil, o.full
	}
	f := &otherFlow{o, *k}
	o.flows = append(o.flows, f)
	o.entered++
	return f, nil
}

func (o *otherPath) Now() (time.Duration, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now, o.fail
}

func (o *otherPath) Allow(until time.Duration) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.until = until
	return o.fail
}

func (o *otherPath) Wait() error {
	o.waits++
	if o.onWait != nil {
		o.onWait()
	}
	return o.fail
}

func (f *otherFlow) Read(k *splice.Offloaded) error {
	*k = f.seen
	return f.path.fail
}

func (f *otherFlow) Leave(k *splice.Offloaded) error {
	f.path.mu.Lock()
	f.path.flows = nil
	f.path.mu.Unlock()
	return f.Read(k)
}

// server sends n bytes on the other path, which the client acknowledges, just now.
func (f *otherFlow) server(n uint32) {
	s, c := &f.seen.Ends[splice.Server], &f.seen.Ends[splice.Client]
	s.Next, s.Bytes, s.Delivered, s.Segments, s.Heard = s.Next+n, s.Bytes+uint64(n), s.Delivered+uint64(n), s.Segments+1, 0
	c.Ack, c.Edge, c.Segments, c.Heard = c.Ack+n, c.Edge+n, c.Segments+1, 0
	f.seen.Moved = 0
}

// newOffloading is passing with another path.
func newOffloading(t *testing.T) (*passing, *otherPath) {
	p, o := newPassing(t, 10), &otherPath{now: time.Hour}
	p.offload.to = o
	p.allowOffload()
	return p, o
}

const push = ackFlag | header.TCPFlagPsh

// request plays a client's segment of 10 bytes that the server acknowledges with its answer, and back.
func (p *passing) request(t *testing.T, at *uint32) {
	t.Helper()
	p.says(splice.Client, 40000, 10, made{flags: push, seq: 1001 + *at, ack: 5001 + *at, window: 65535})
	p.passes(t, "request", splice.Server, 10, 1001+*at, 5001+*at)
	p.says(splice.Server, 40000, 10, made{flags: push, seq: 5001 + *at, ack: 1011 + *at, window: 65535})
	p.passes(t, "answer", splice.Client, 10, 5001+*at, 1011+*at)
	*at += 10
}

// away is a connection that is away; at is how many bytes each side has sent.
func awayFlow(t *testing.T) (p *passing, o *otherPath, s *Spliced, at uint32) {
	t.Helper()
	p, o = newOffloading(t)
	s = p.opened(t, 40000)
	p.request(t, &at)
	if o.entered > 0 {
		t.Fatal("given away too early")
	}
	p.says(splice.Client, 40000, 10, made{flags: push, seq: 1001 + at, ack: 5001 + at, window: 65535})
	p.passes(t, "request", splice.Server, 10, 1001+at, 5001+at)
	if o.entered != 1 || p.C.Offloaded.Load() != 1 {
		t.Fatalf("given away %d times, %d are counted", o.entered, p.C.Offloaded.Load())
	}
	if k := o.flows[0].seen.Ends; k[splice.Client].Next != 1011+at || k[splice.Server].Next != 5001+at || k[splice.Client].Segments != 4 {
		t.Errorf("given away is %+v", k)
	}
	e := &o.flows[0].seen.Ends // the server acknowledges that
	e[splice.Server].Ack, e[splice.Server].Edge, e[splice.Client].Delivered = 1011+at, 1011+at+65535, uint64(at)+10
	at += 10
	o.flows[0].server(10)
	return p, o, s, at
}

// A connection is given away when it rests, and not while anything else of it is under way, its sender has more to say, or
// something of it is to be looked at.
func TestOffloadWhenItRests(t *testing.T) {
	awayFlow(t)
	p, o := newOffloading(t)
	p.opened(t, 40000)
	for i := range uint32(9) { // one after the other, without an answer
		p.says(splice.Client, 40000, 10, made{flags: push, seq: 1001 + 10*i, ack: 5001, window: 65535})
		p.passes(t, "one of many", splice.Server, 10, 1001+10*i, 5001)
	}
	for i := range uint32(9) { // with more to come, and nothing but acknowledgements
		p.says(splice.Server, 40000, 10, made{flags: ackFlag, seq: 5001 + 10*i, ack: 1091, window: 65535})
		p.passes(t, "not pushed", splice.Client, 10, 5001+10*i, 1091)
		p.says(splice.Client, 40000, 0, made{flags: ackFlag, seq: 1091, ack: 5011 + 10*i, window: 65535})
		p.passes(t, "acknowledged", splice.Server, 0, 1091, 5011+10*i)
	}
	if o.entered > 0 {
		t.Errorf("given away without resting, %d times", o.entered)
	}
}

// What comes here of a connection that is away brings it back, with all that was seen; it is given away again, but not at once.
func TestOffloadComesBack(t *testing.T) {
	p, o, s, at := awayFlow(t)
	o.flows[0].server(1000)
	p.says(splice.Client, 40000, 0, made{flags: ackFlag | finFlag, seq: 1001 + at, ack: 6001 + at, window: 65535})
	p.passes(t, "FIN", splice.Server, 0, 1001+at, 6001+at)
	if len(o.flows) > 0 || s.conn.State() != splice.HalfClosed || !s.conn.Believed(splice.Client) || p.C.TakenBack.Load() != 1 {
		t.Errorf("%d flows are away, %v, believed %v", len(o.flows), s.conn.State(), s.conn.Believed(splice.Client))
	}
	if k := s.conn.Position(splice.Server); k.Bytes != uint64(at)+1000 || k.Delivered != uint64(at)+1000 {
		t.Errorf("of the server is known %+v", k)
	}

	p, o, s, at = awayFlow(t)
	p.request(t, &at)
	if len(o.flows) > 0 {
		t.Fatal("away, though segments come here")
	}
	for range 5 {
		p.request(t, &at)
	}
	if o.entered != 1 && s.offered.pause < offloadAgain {
		t.Errorf("given away %d times, with a pause of %v", o.entered, s.offered.pause)
	}
	s.offered.again = 0
	pause := s.offered.pause
	p.request(t, &at)
	defer func() { // the third time it stays away for long
		s.offered.again = 0
		p.says(splice.Client, 40000, 0, made{flags: ackFlag, seq: 1001 + at, ack: 5001 + at, window: 65535})
		p.passes(t, "acknowledged", splice.Server, 0, 1001+at, 5001+at)
		p.request(t, &at)
		s.offered.since -= offloadSoon
		p.says(splice.Client, 40000, 10, made{flags: push, seq: 1001 + at, ack: 5001 + at, window: 65535})
		if o.entered != 3 || s.offered.pause != offloadAgain {
			t.Errorf("given away %d times, a pause of %v after a long time", o.entered, s.offered.pause)
		}
	}()
	if o.entered != 2 {
		t.Errorf("given away %d times after the pause", o.entered)
	}
	if s.offered.pause != 2*pause {
		t.Errorf("pauses of %v and %v", pause, s.offered.pause)
	}
}

// Whoever looks at a connection that is away knows of what was seen there.
func TestOffloadIsSeen(t *testing.T) {
	p, o, s, at := awayFlow(t)
	s.conn.Reclaim(&splice.Offloaded{}, 0) // nonsense: it must all be read
	o.flows[0].server(1000)
	s.Ask(0)
	p.leaves(t, "question", 80, 40000, ackFlag, 5001+at+1000-1, 1001+at)
	o.flows[0].server(1000)
	if k := s.ClientStall(); k.Next != 7001+at || k.Ack != 7001+at {
		t.Errorf("stall %+v", k)
	}
	o.flows[0].seen.Ends[splice.Client].TSVal = 77
	if c, _ := s.Params(); c.PeerTS != 77 {
		t.Errorf("record with TSval %d", c.PeerTS)
	}
	if k := s.Tend(true); k.Idle > time.Minute || len(o.flows) != 1 {
		t.Errorf("idle for %v, %d away", k.Idle, len(o.flows))
	}
	o.flows[0].server(1000)
	f := flowOf(testVIP, netip.AddrPortFrom(testClient, 40000))
	if !p.splicedError(&f, unreachable(&f, 8001+at)) || p.C.Drops()["icmp-error"] > 0 {
		t.Errorf("an ICMP error about what was sent there: %v", p.C.Drops())
	}
	p.next(t)
	o.flows[0].server(1000)
	s.Abort()
	p.leaves(t, "reset of the client", 80, 40000, rstFlag|ackFlag, 9001+at, 1001+at)
	p.leaves(t, "reset of the server", 40000, 8080, rstFlag|ackFlag, 1001+at, 9001+at)
	if len(o.flows) > 0 {
		t.Error("aborted, and away")
	}
	p, o, s, at = awayFlow(t)
	o.flows[0].server(1000)
	s.HangUp()
	p.leaves(t, "reset of a server alone", 40000, 8080, rstFlag|ackFlag, 1001+at, 6001+at)
}

// unreachable is an ICMP error about a segment of ours.
func unreachable(f *flow, seq uint32) []byte {
	quoted := f.build(make([]byte, maxMade), false, false, made{flags: ackFlag, seq: seq})
	b := append(make([]byte, 28), quoted...)
	ip, icmp := header.IPv4(b), header.ICMPv4(b[20:])
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: 64, Protocol: uint8(header.ICMPv4ProtocolNumber),
		SrcAddr: tcpip.AddrFrom4([4]byte{198, 51, 100, 1}), DstAddr: tcpip.AddrFrom4(testVIP.Addr().As4())})
	ip.SetChecksum(^ip.CalculateChecksum())
	icmp.SetType(header.ICMPv4DstUnreachable)
	icmp.SetChecksum(^checksum.Checksum(icmp, 0))
	return b
}

// What may happen to a connection between its segment's leaving and its being given away prevents that.
func TestOffloadOnlyWhatIsHere(t *testing.T) {
	for what, change := range map[string]func(p *passing, s *Spliced){
		"dropped":  func(_ *passing, s *Spliced) { s.Drop() },
		"given up": func(_ *passing, s *Spliced) { s.ended.Store(uint32(EndedUnproven)) },
		"taken up": func(p *passing, s *Spliced) {
			if _, _, err := s.TakeUp(p, p); err != nil {
				t.Error(err)
			}
		},
		"its stamps are raised": func(_ *passing, s *Spliced) { s.floors = true },
		"not accepted":          func(_ *passing, s *Spliced) { s.accepted = false },
		"in doubt": func(p *passing, s *Spliced) {
			p.says(splice.Server, 40000, 0, made{flags: rstFlag, seq: 5100})
		},
		"given away": nil,
	} {
		p, o := newOffloading(t)
		s := p.opened(t, 40000)
		at := uint32(0)
		p.request(t, &at)
		side := splicedSide{s, splice.Server}
		f := flowOf(netip.AddrPortFrom(testClient, 40000), spliceServer)
		b := append(f.build(make([]byte, maxMade), false, true, made{flags: push}), make([]byte, 10)...)
		header.IPv4(b).SetTotalLength(uint16(len(b)))
		var seg segment
		seg.parse(b, len(b))
		if change != nil {
			change(p, s)
			side.offer(&seg, true)
		}
		want := 0
		if change == nil {
			want = 1
			side.offer(&seg, true)
			side.offer(&seg, true)
		}
		if o.entered != want {
			t.Errorf("%s: given away %d times", what, o.entered)
		}
	}
}

// The janitor says again and again until when.
func TestOffloadIsAllowedAgain(t *testing.T) {
	near, _ := tuntest.Pipe()
	o := &otherPath{now: time.Hour}
	e, err := New(Options{Device: near, Handler: &quietEngine{woke: make(map[*Leg]int)}, Addresses: []netip.Addr{testVIP.Addr()}, Offload: o})
	if err != nil {
		t.Fatal(err)
	}
	e.SetActive(true)
	e.Run()
	o.mu.Lock()
	o.now += time.Hour
	o.mu.Unlock()
	await(t, "allowed until later", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.until == o.now+offloadMost
	})
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if o.until != 0 {
		t.Errorf("closed, and allowed until %v", o.until)
	}
}

// However a connection ends, or is taken up, it is not away any more.
func TestOffloadEnds(t *testing.T) {
	for what, end := range map[string]func(p *passing, s *Spliced, at uint32){
		"finished": func(_ *passing, s *Spliced, _ uint32) { s.Finish() },
		"dropped":  func(_ *passing, s *Spliced, _ uint32) { s.Drop() },
		"hung up":  func(_ *passing, s *Spliced, _ uint32) { s.HangUp() },
		"taken up": func(p *passing, s *Spliced, _ uint32) {
			if _, _, err := s.TakeUp(p, p); err != nil {
				t.Error(err)
			}
		},
		"reset": func(p *passing, _ *Spliced, at uint32) {
			p.says(splice.Server, 40000, 0, made{flags: rstFlag, seq: 5001 + at})
		},
		"long idle": func(p *passing, s *Spliced, _ uint32) {
			s.offered.flow.(*otherFlow).seen.Moved = -1
			s.engine.clock.born = s.engine.clock.born.Add(-offloadIdle)
			s.Tend(true)
		},
	} {
		p, o, s, at := awayFlow(t)
		end(p, s, at)
		if len(o.flows) > 0 || s.isAway() {
			t.Errorf("%s: it is away", what)
		}
	}
}

// Nobody is given away, or is at a loss, where the other path fails.
func TestOffloadFails(t *testing.T) {
	p, o, s, at := awayFlow(t)
	o.fail = errors.New("no")
	s.Tend(true)
	if s.isAway() || s.conn.Located() || len(o.flows) > 0 {
		t.Errorf("away %v, its ends are known: %v", s.isAway(), s.conn.Located())
	}
	p.says(splice.Client, 40000, 10, made{flags: push, seq: 1001 + at, ack: 5001 + at, window: 65535})
	p.passes(t, "after that", splice.Server, 10, 1001+at, 5001+at)
	p.allowOffload()
	o.fail, s.offered.again, s.rested = nil, 0, offloadAfter
	p.request(t, &at)
	p.request(t, &at)
	if o.entered != 1 {
		t.Error("given away to who has failed to stop")
	}
	if s.offered.pause != offloadAgainMost {
		t.Errorf("a pause of %v after a failure", s.offered.pause)
	}
	p, o, _, _ = awayFlow(t)
	o.fail = errors.New("no")
	p.SetActive(false)
	o.fail = nil
	p.SetActive(true)
	if o.until != 0 {
		t.Errorf("allowed again until %v, though it would not stop", o.until)
	}
	p, o = newOffloading(t)
	s = p.opened(t, 40000)
	o.full = errors.New("full")
	at = 0
	for range 5 {
		p.request(t, &at)
	}
	if s.offered.again < offloadAgainMost || s.isAway() {
		t.Errorf("not again before %v", s.offered.again)
	}
}

// The other path passes on while the engine may speak, and no longer than its lease and a second; when it is muted nothing leaves there any more.
func TestOffloadSpeaksAsTheEngine(t *testing.T) {
	p, o, s, _ := awayFlow(t)
	if o.until != o.now+offloadMost {
		t.Errorf("allowed until %v, at %v", o.until, o.now)
	}
	p.SetLease(time.Now().Add(300 * time.Millisecond))
	if d := o.until - o.now; d > 300*time.Millisecond || d <= 0 && !p.LeaseOver() {
		t.Errorf("with a lease of 300 ms: allowed for %v", d)
	}
	p.SetLease(time.Now().Add(-time.Millisecond))
	if o.until != 0 {
		t.Errorf("without a lease: until %v", o.until)
	}
	p.SetLease(Forever)
	o.now += time.Hour
	p.allowOffload() // as the janitor does
	if o.until != o.now+offloadMost {
		t.Errorf("again: until %v, at %v", o.until, o.now)
	}
	for range 2 {
		waits := o.waits
		o.onWait = func() {
			if p.Active() || o.until != 0 {
				t.Errorf("it is waited for what is still allowed until %v (active: %v)", o.until, p.Active())
			}
			p.HandOn(0)         // and who reads, or says a lease, goes on
			p.SetLease(Forever) //
		}
		p.SetActive(false)
		p.allowOffload()
		if o.waits != waits+1 || o.until != 0 {
			t.Errorf("muted: waited %d times, until %v", o.waits-waits, o.until)
		}
		p.SetActive(true)
		if o.until != o.now+offloadMost {
			t.Errorf("unmuted: until %v, at %v", o.until, o.now)
		}
	}
	if !s.isAway() {
		t.Error("it has come back")
	}
}

// Before it hands over the engine passes everything on itself, and need not wait then; if it is not muted it gives away again.
func TestOffloadPassHere(t *testing.T) {
	p, o, _, _ := awayFlow(t)
	p.PassHere(time.Second)
	if o.until != 0 || o.waits != 1 || !p.Active() {
		t.Errorf("until %v, waited %d times, active: %v", o.until, o.waits, p.Active())
	}
	p.SetLease(Forever)
	if o.until != 0 {
		t.Errorf("allowed until %v by a lease", o.until)
	}
	p.SetActive(false)
	if o.waits != 1 {
		t.Error("waited again for nothing")
	}
	p.SetActive(true)
	if o.until != o.now+offloadMost {
		t.Errorf("active again: until %v, at %v", o.until, o.now)
	}
	p.PassHere(time.Second)
	if o.waits != 2 {
		t.Errorf("waited %d times", o.waits)
	}
	p.clock.born = p.clock.born.Add(-time.Second)
	p.allowOffload()
	if o.until != o.now+offloadMost {
		t.Errorf("a second later: until %v, at %v", o.until, o.now)
	}
	o.fail = errors.New("no")
	p.SetActive(false)
	o.fail = nil
	p.SetActive(true)
	if o.until != 0 {
		t.Errorf("allowed until %v, though it cannot be waited for", o.until)
	}
}
