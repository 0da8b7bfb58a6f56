package stack

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/internal/clock"
	"lockstep/splice"
	"lockstep/tun"
)

// putForward is a clock that a test puts forward. Nothing but the test's goroutine asks it.
type putForward struct {
	clock.Clock
	by time.Duration
}

func (c *putForward) Since(t time.Time) time.Duration { return c.Clock.Since(t) + c.by }

// outage is an engine whose prober is turned by the test.
type outage struct {
	*passing
	clock *putForward
}

func newOutage(t *testing.T) *outage {
	o := &outage{passing: newPassing(t, 100)}
	o.clock = &putForward{Clock: o.Engine.clock.read}
	o.Engine.clock.read = o.clock
	return o
}

// turn lets some time go by, and the prober look.
func (o *outage) turn(d time.Duration) {
	o.clock.by += d
	o.muteTurn()
}

// asked is how many ends are being asked.
func (o *outage) asked() int { return len(o.Engine.mute.ends) }

// data gives the engine a segment with payload of one side.
func (o *outage) data(from splice.Side, port uint16, seq, ack uint32, n int) {
	f, local := flowOf(testVIP, netip.AddrPortFrom(testClient, port)), netip.AddrPortFrom(testClient, port)
	if from == splice.Server {
		f = flowOf(local, spliceServer)
	}
	b := append(f.build(make([]byte, maxMade), false, true, made{flags: ackFlag, seq: seq, ack: ack, window: 65535}), make([]byte, n)...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	ip := header.IPv4(b)
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	hdr := make([]byte, tun.VnetHeaderLen)
	hdr[0] = tun.FlagDataValid
	o.in(hdr, b)
}

// icmp expects ICMP errors that quote a segment.
func (o *outage) icmp(t *testing.T, n int, seq uint32) {
	t.Helper()
	for range n {
		b := o.next(t)
		if b[0] != uint8(header.ICMPv4DstUnreachable) || b[1] != uint8(header.ICMPv4HostUnreachable) || be32(b[8+20+4:]) != seq {
			t.Fatalf("no ICMP error about %d: % x", seq, []byte(b))
		}
	}
}

// A server that says nothing to what comes again is asked until it speaks. What it then says passes; the client, which has
// sent in vain, is told once more what the server has, and has its time-out taken back.
func TestSplicedOutage(t *testing.T) {
	o := newOutage(t)
	o.opened(t, 40000)
	o.data(splice.Client, 40000, 1001, 5001, 500)
	o.leaves(t, "data", 40000, 8080, ackFlag, 1001, 5001)
	o.clock.by += 300 * time.Millisecond
	o.data(splice.Client, 40000, 1001, 5001, 500)
	o.leaves(t, "again", 40000, 8080, ackFlag, 1001, 5001)
	for range 8 {
		o.turn(askEvery)
		o.leaves(t, "question", 40000, 8080, ackFlag, 1000, 5001)
		o.turn(askEvery / 2)
		o.none(t)
	}
	o.server(40000, spliceServer, made{flags: ackFlag, seq: 5001, ack: 1101, window: 65535})
	o.leaves(t, "answer", 80, 40000, ackFlag, 5001, 1101)
	o.turn(0)
	o.leaves(t, "what the server has", 80, 40000, ackFlag, 5001, 1101)
	o.icmp(t, reverts, 1101)
	o.none(t)
	o.turn(time.Minute)
	o.none(t)
	if o.asked() != 0 {
		t.Errorf("%d are asked", o.asked())
	}
	if _, _, ok := o.probes.cameBack(o.now()); !ok {
		t.Error("nobody else is asked")
	}
}

// One that answers at once has lost a segment, and that was no outage.
func TestSplicedLostSegment(t *testing.T) {
	o := newOutage(t)
	o.opened(t, 40000)
	o.data(splice.Client, 40000, 1001, 5001, 500)
	o.next(t)
	o.clock.by += 300 * time.Millisecond
	o.data(splice.Client, 40000, 1001, 5001, 500)
	o.next(t)
	o.turn(0)
	o.leaves(t, "question", 40000, 8080, ackFlag, 1000, 5001)
	o.server(40000, spliceServer, made{flags: ackFlag, seq: 5001, ack: 1001, window: 65535})
	o.leaves(t, "answer", 80, 40000, ackFlag, 5001, 1001)
	o.turn(0)
	o.none(t)
	if _, _, ok := o.probes.cameBack(o.now()); ok || o.asked() != 0 {
		t.Errorf("others are asked: %v; %d ends", ok, o.asked())
	}
}

// What acknowledges after an outage has no echo: its time would be taken for a round trip.
func TestSplicedOutageLeavesNoEcho(t *testing.T) {
	o := newOutage(t)
	s := o.opened(t, 40000)
	stamp := func(val, ecr byte) []byte { return []byte{1, 1, 8, 10, 0, 0, 0, val, 0, 0, 0, ecr} }
	o.server(40000, spliceServer, made{flags: ackFlag, seq: 5001, ack: 1001, window: 65535, opts: stamp(7, 5)})
	if got := o.next(t).Options(); string(got) != string(stamp(7, 5)) {
		t.Errorf("before: % x", got)
	}
	s.mu.Lock()
	o.clock.by += time.Second
	s.suspect(splice.Server, o.now())
	s.mu.Unlock()
	o.server(40000, spliceServer, made{flags: ackFlag, seq: 5001, ack: 1001, window: 65535, opts: stamp(8, 5)})
	b := o.next(t)
	if got := b.Options(); string(got) != string(stamp(8, 0)) {
		t.Errorf("after: % x", got)
	}
	f := flowOf(testVIP, netip.AddrPortFrom(testClient, 40000))
	whole := f.build(make([]byte, maxMade), false, false, made{flags: ackFlag, seq: 5001, ack: 1001, window: 65535, opts: stamp(8, 0)})
	if want := header.TCP(whole[header.IPv4MinimumSize:]).Checksum(); b.Checksum() != want {
		t.Errorf("checksum %#x, want %#x", b.Checksum(), want)
	}
}

// When somebody has come back, those that fell silent with him are asked, one end after the other: what they
// have sent in vain nobody here knows of, until they answer. Those that have rested are not.
func TestSplicedOthersAfterOutage(t *testing.T) {
	o := newOutage(t)
	o.opened(t, 40001)
	o.clock.by += time.Minute
	o.opened(t, 40000)
	since := o.now()
	o.clock.by += 2 * time.Second
	o.Engine.askPassed(since)
	o.turn(0)
	o.leaves(t, "to the client", 80, 40000, ackFlag, 5000, 1001)
	o.none(t)
	o.client(40000, made{flags: ackFlag, seq: 1501, ack: 5001, window: 65535})
	o.leaves(t, "answer", 40000, 8080, ackFlag, 1501, 5001)
	o.turn(0)
	o.leaves(t, "what the server has", 80, 40000, ackFlag, 5001, 1001)
	o.icmp(t, reverts, 1001)
	o.turn(otherEnd)
	o.leaves(t, "to the server", 40000, 8080, ackFlag, 1000, 5001)
	o.server(40000, spliceServer, made{flags: ackFlag, seq: 5001, ack: 1501, window: 65535})
	o.leaves(t, "answer", 80, 40000, ackFlag, 5001, 1501)
	o.turn(0)
	o.none(t)
	if o.asked() != 0 {
		t.Errorf("%d are asked", o.asked())
	}
}

// A connection that pauses is asked, within a budget: what it has said last may be lost. One that rests is not.
func TestSplicedPause(t *testing.T) {
	o := newOutage(t)
	const n = guesses
	for i := range uint16(n) {
		o.opened(t, 40000+i)
	}
	tend := func() {
		for _, s := range o.all {
			s.Tend(true)
		}
	}
	if tend(); o.asked() != 0 {
		t.Errorf("%d ends are asked of connections that move", o.asked())
	}
	o.clock.by += splice.Silence
	if tend(); o.asked() != guesses {
		t.Errorf("%d ends are asked, want %d", o.asked(), guesses)
	}
	o.clock.by += time.Minute
	for _, s := range o.all {
		s.Drop()
	}
	if o.turn(0); o.asked() != 0 {
		t.Errorf("%d ends of what is gone are asked", o.asked())
	}
	s := o.opened(t, 50000)
	o.clock.by += time.Minute
	if s.Tend(true); o.asked() != 0 {
		t.Errorf("an idle connection is asked")
	}
}

// An end that is dead is given up, until it speaks.
func TestSplicedOutageOfADeadEnd(t *testing.T) {
	o := newOutage(t)
	o.opened(t, 40000)
	again := func() {
		o.data(splice.Client, 40000, 1001, 5001, 500)
		o.leaves(t, "data", 40000, 8080, ackFlag, 1001, 5001)
		o.clock.by += time.Second
	}
	again()
	again()
	for range muteQuick + muteSlow {
		o.turn(askSlowly)
		o.leaves(t, "question", 40000, 8080, ackFlag, 1000, 5001)
	}
	again()
	o.turn(askSlowly)
	o.none(t)
	if o.asked() != 0 {
		t.Errorf("%d ends are asked", o.asked())
	}
	o.server(40000, spliceServer, made{flags: ackFlag, seq: 5001, ack: 1001, window: 65535})
	o.leaves(t, "its word", 80, 40000, ackFlag, 5001, 1001)
	o.clock.by += time.Second
	again()
	o.turn(0)
	o.leaves(t, "question", 40000, 8080, ackFlag, 1000, 5001)
}

// In the middle of a handshake the SYN is sent again, and the SYN-ACK.
func TestSplicedHandshakeInOutage(t *testing.T) {
	o := newOutage(t)
	syn := made{flags: synFlag, seq: 1000, window: 65535}
	o.client(40000, syn)
	s := o.all[0]
	if err := s.Dial(netip.AddrPortFrom(testClient, 40000), spliceServer); err != nil {
		t.Fatal(err)
	}
	o.leaves(t, "SYN", 40000, 8080, synFlag, 1000, 0)
	o.turn(time.Second)
	o.none(t)
	o.client(40000, syn)
	o.leaves(t, "the client's second", 40000, 8080, synFlag, 1000, 0)
	for range 3 {
		o.turn(askEvery)
		o.leaves(t, "once more", 40000, 8080, synFlag, 1000, 0)
	}
	answer := made{flags: synFlag | ackFlag, seq: 5000, ack: 1001, window: 65535}
	o.server(40000, spliceServer, answer)
	o.turn(askEvery)
	o.none(t)
	s.Accept()
	o.leaves(t, "SYN-ACK", 80, 40000, synFlag|ackFlag, 5000, 1001)
	o.clock.by += time.Second
	o.server(40000, spliceServer, answer)
	o.leaves(t, "the server's second", 80, 40000, synFlag|ackFlag, 5000, 1001)
	for range 3 {
		o.turn(askEvery)
		o.leaves(t, "once more", 80, 40000, synFlag|ackFlag, 5000, 1001)
	}
	if _, _, ok := o.probes.cameBack(o.now()); ok {
		t.Error("a server that answers late is taken for the end of an outage")
	}
	o.client(40000, made{flags: ackFlag, seq: 1001, ack: 5001, window: 65535})
	o.leaves(t, "ACK", 40000, 8080, ackFlag, 1001, 5001)
	o.turn(time.Minute)
	o.none(t)
	if o.asked() != 0 {
		t.Errorf("%d ends are asked", o.asked())
	}
}

// Clients that are not there, of which there may be many, are told no more than a budget has, however long they are asked.
func TestSplicedHandshakesAreNotPressed(t *testing.T) {
	o := newOutage(t)
	const n = 2 * guesses
	for i := range uint16(n) {
		s := o.open(t, 40000+i)
		s.Accept()
		o.next(t)
	}
	o.clock.by += time.Second
	for i := range uint16(n) {
		o.server(40000+i, spliceServer, made{flags: synFlag | ackFlag, seq: 5000, ack: 1001, window: 65535})
		o.next(t)
	}
	o.turn(0)
	for range guesses {
		if s := o.next(t); s.Flags() != synFlag|ackFlag {
			t.Fatalf("%v left", s.Flags())
		}
	}
	o.none(t)
}

// A connection of which an end is asked is passed on here, where echoes are taken out, until that end has spoken.
func TestSplicedOutageOfOffloaded(t *testing.T) {
	p, path, s, at := awayFlow(t)
	s.mu.Lock()
	s.suspect(splice.Server, p.now())
	s.offered.again = 0
	s.mu.Unlock()
	if len(path.flows) != 0 {
		t.Error("it is away")
	}
	n := path.entered
	for range 2 * offloadAfter {
		p.says(splice.Client, 40000, 10, made{flags: push, seq: 1001 + at, ack: 5001 + at, window: 65535})
		p.passes(t, "request", splice.Server, 10, 1001+at, 5001+at)
	}
	if path.entered != n {
		t.Error("it is given away while it is asked")
	}
}

// Of a connection that stands still a segment comes again in a moment in which we may not speak: its ends are asked, and its sender
// is made to send it once more.
func TestSplicedRefusedInShortSilence(t *testing.T) {
	o := newOutage(t)
	o.opened(t, 40000)
	o.data(splice.Client, 40000, 1001, 5001, 500)
	o.leaves(t, "data", 40000, 8080, ackFlag, 1001, 5001)
	o.clock.by += 5 * time.Second
	moment := func(in func()) {
		o.SetLease(o.Engine.clock.born.Add(o.now()))
		in()
		o.SetLease(Forever)
		o.probeTurn()
		o.turn(otherEnd)
	}
	if moment(func() {}); o.asked() != 0 {
		t.Errorf("%d are asked, and nothing was refused", o.asked())
	}
	moment(func() { o.data(splice.Client, 40000, 1001, 5001, 500) })
	o.leaves(t, "question to the client", 80, 40000, ackFlag, 5000, 1001)
	o.leaves(t, "question to the server", 40000, 8080, ackFlag, 1000, 5001)
	o.server(40000, spliceServer, made{flags: ackFlag, seq: 5001, ack: 1001, window: 65535})
	o.leaves(t, "answer", 80, 40000, ackFlag, 5001, 1001)
	o.turn(0)
	o.leaves(t, "what the server has", 80, 40000, ackFlag, 5001, 1001)
	o.icmp(t, reverts, 1001)
	o.none(t)
}
