package stack

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/splice"
	"lockstep/tun"
)

// says gives the engine a segment with n bytes of payload, of the client (port) or of the server.
func (p *passing) says(side splice.Side, port uint16, n int, m made) {
	f := flowOf(testVIP, netip.AddrPortFrom(testClient, port))
	if side == splice.Server {
		f = flowOf(netip.AddrPortFrom(testClient, port), spliceServer)
	}
	b := f.build(make([]byte, maxMade), false, true, m)
	b = append(b, make([]byte, n)...)
	for i := len(b) - n; i < len(b); i++ {
		b[i] = byte(i)
	}
	ip, tcp := header.IPv4(b), header.TCP(b[header.IPv4MinimumSize:])
	ip.SetTotalLength(uint16(len(b)))
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	tcp.SetChecksum(0)
	tcp.SetChecksum(^checksum.Checksum(tcp, header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(tcp)))))
	p.in(make([]byte, tun.VnetHeaderLen), b)
	p.gro.Flush()
}

// passes checks the next segment that left, its checksum and that it has n bytes.
func (p *passing) passes(t *testing.T, what string, to splice.Side, n int, seq, ack uint32) header.TCP {
	t.Helper()
	s := p.next(t)
	src, dst := testVIP.Addr(), testClient
	if to == splice.Server {
		src, dst = testClient, spliceServer.Addr()
	}
	sum := checksum.Checksum(src.AsSlice(), checksum.Checksum(dst.AsSlice(), uint16(header.TCPProtocolNumber)))
	if len(s)-int(s.DataOffset()) != n || s.SequenceNumber() != seq || s.AckNumber() != ack ||
		checksum.Checksum(s, checksum.Combine(sum, uint16(len(s)))) != 0xffff {
		t.Fatalf("%s: %d bytes, seq %d, ack %d, flags %v, sum %x", what, len(s)-int(s.DataOffset()), s.SequenceNumber(), s.AckNumber(), s.Flags(), s.Checksum())
	}
	return s
}

// flying is a connection of which the server has 200 bytes in flight. The client, which has announced a window up
// to 70536, has space for no more.
func flying(t *testing.T) (*passing, *Spliced) {
	p := newPassing(t, 10)
	p.gro.Init(true) // the reader, which does that, does not run
	p.gro.Dispatcher = p.link.current()
	s := p.opened(t, 40000)
	p.says(splice.Server, 40000, 0, made{flags: ackFlag, seq: 5001, ack: 1001, window: 3000})
	p.passes(t, "the server's window", splice.Client, 0, 5001, 1001)
	for i := range uint32(2) {
		p.says(splice.Server, 40000, 100, made{flags: ackFlag, seq: 5001 + 100*i, ack: 1001, window: 3000})
		p.passes(t, "passed on", splice.Client, 100, 5001+100*i, 1001)
	}
	p.says(splice.Client, 40000, 0, made{flags: ackFlag, seq: 1001, ack: 5001, window: 200})
	p.passes(t, "the client's window", splice.Server, 0, 1001, 5001)
	return p, s
}

// While a connection is taken up, what was in flight passes, and what comes behind it goes to the endpoints; nothing is
// acknowledged that its receiver has not acknowledged, and no window is told that its receiver has not, until the
// record is safe.
func TestTakeUp(t *testing.T) {
	p, s := flying(t)
	client, server, err := s.TakeUp(p, p)
	if err != nil {
		t.Fatal(err)
	}
	if client.Received() != 1 || server.Received() != 201 || p.Legs() != 4 {
		t.Fatalf("the endpoints begin at %d and %d, %d flows", client.Received(), server.Received(), p.Legs())
	}
	for _, l := range []*Leg{client, server} {
		if err := l.Attach(); err != nil {
			t.Fatal(err)
		}
	}
	p.says(splice.Server, 40000, 100, made{flags: ackFlag, seq: 5101, ack: 1001, window: 3000})
	p.passes(t, "in flight, again", splice.Client, 100, 5101, 1001)
	p.says(splice.Server, 40000, 300, made{flags: ackFlag, seq: 5201, ack: 1001, window: 2900})
	p.passes(t, "what the server says of the other stream", splice.Client, 0, 5201, 1001)
	await(t, "the endpoint has what is behind the point", func() bool { return server.Received() == 501 })
	p.none(t)
	p.says(splice.Client, 40000, 0, made{flags: ackFlag, seq: 1001, ack: 5101, window: 100})
	if a := p.passes(t, "the client's own word", splice.Server, 0, 1001, 5101); a.WindowSize() != 70536-5101 {
		t.Errorf("window %d", a.WindowSize())
	}
	if s.Drained() {
		t.Fatal("drained early")
	}
	p.says(splice.Client, 40000, 0, made{flags: ackFlag, seq: 1001, ack: 5201, window: 0})
	p.passes(t, "the last of it", splice.Server, 0, 1001, 5201)
	if !s.Drained() {
		t.Fatal("not drained")
	}
	s.TakenUp()
	if acked, _ := server.CloseGate(); acked != 201 || p.Legs() != 2 {
		t.Errorf("acknowledged to %d, %d flows", acked, p.Legs())
	}
	p.says(splice.Client, 40000, 0, made{flags: ackFlag, seq: 1001, ack: 5201, window: 0})
	p.none(t) // it is for the endpoint
	server.Permit(201)
	if a := p.passes(t, "the window, at last", splice.Server, 0, 1001, 5201); a.WindowSize() != 65535 {
		t.Errorf("window %d", a.WindowSize())
	}
	server.Permit(501)
	p.passes(t, "what the standby holds", splice.Server, 0, 1001, 5501)
}

// A reset comes while the worker makes the endpoints: none is left that nobody would end.
func TestTakeUpResetWhileAttaching(t *testing.T) {
	p, s := flying(t)
	client, server, err := s.TakeUp(p, p)
	if err != nil {
		t.Fatal(err)
	}
	p.says(splice.Client, 40000, 0, made{flags: rstFlag, seq: 1001})
	if p.Legs() != 2 {
		t.Fatalf("%d flows", p.Legs())
	}
	for _, l := range []*Leg{client, server} { // where Attach stands when it has looked at the state
		if err := l.connect(); !errors.Is(err, ErrReset) || l.ep != nil {
			t.Errorf("an endpoint: %s, %v", l, err)
		}
	}
}

// await waits for what other goroutines bring about.
func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in 20 s: %s", what)
		}
	}
}

// A segment that was for an endpoint when the connection was let go gets no answer, and passes to nobody: the connection lives.
func TestLetGoMeanwhile(t *testing.T) {
	p, s := flying(t)
	if _, _, err := s.TakeUp(p, p); err != nil {
		t.Fatal(err)
	}
	s.LetGo()
	f := [2]flow{flowOf(testVIP, netip.AddrPortFrom(testClient, 40000)), flowOf(netip.AddrPortFrom(testClient, 40000), spliceServer)}
	for i, m := range []made{{flags: ackFlag, seq: 1001, ack: 5001, window: 200}, {flags: ackFlag, seq: 5201, ack: 1001, window: 3000}} {
		b := f[i].build(make([]byte, maxMade), false, true, m)
		pkt := packetOf(b)
		p.receive(make([]byte, tun.VnetHeaderLen), pkt, len(b)) // as the reader does, the other half of which was before
		pkt.DecRef()
	}
	p.none(t)
	if n := p.C.drops[DropStaleSegment].Load(); n != 2 || p.C.Bypassed.Load() != 0 {
		t.Errorf("%d dropped, drops %v, %d bypassed", n, p.C.Drops(), p.C.Bypassed.Load())
	}
	p.says(splice.Server, 40000, 100, made{flags: ackFlag, seq: 5201, ack: 1001, window: 3000})
	p.passes(t, "passed on", splice.Client, 100, 5201, 1001)
}

// A change that is given up, or that a reset overtakes, leaves a connection that is passed on.
func TestTakeUpIsGivenUp(t *testing.T) {
	p, s := flying(t)
	take := func() {
		t.Helper()
		client, server, err := s.TakeUp(p, p)
		if err != nil || client.Attach() != nil || server.Attach() != nil {
			t.Fatal(err)
		}
		await(t, "both have endpoints", func() bool { return client.Established() && server.Established() })
	}
	take()
	p.says(splice.Server, 40000, 300, made{flags: ackFlag | 0x40, seq: 5201, ack: 1001, window: 3000})
	if b := p.passes(t, "bare", splice.Client, 0, 5201, 1001); b[13] != byte(ackFlag)|0x40 {
		t.Errorf("flags %x: what it says of congestion is lost", b[13])
	}
	if _, _, err := s.TakeUp(p, p); !errors.Is(err, errNotNow) {
		t.Errorf("taken up twice: %v", err)
	}
	s.LetGo()
	if p.Legs() != 2 {
		t.Errorf("%d flows", p.Legs())
	}
	p.says(splice.Server, 40000, 300, made{flags: ackFlag, seq: 5201, ack: 1001, window: 3000})
	p.passes(t, "the server sends it again", splice.Client, 300, 5201, 1001)
	take()
	p.says(splice.Client, 40000, 0, made{flags: rstFlag, seq: 1001})
	if r := p.next(t); r.Flags() != rstFlag || r.SequenceNumber() != 1001 || s.Ended() != EndedByReset || p.Legs() != 2 {
		t.Errorf("%v seq %d, ended %v, %d flows", r.Flags(), r.SequenceNumber(), s.Ended(), p.Legs())
	}
	if _, _, err := s.TakeUp(p, p); !errors.Is(err, errNotNow) {
		t.Errorf("taken up after its end: %v", err)
	}
	p.none(t)
}

// A reset that comes when all has arrived, before the connection is left to its legs, is the connection's end.
func TestTakenUpAfterReset(t *testing.T) {
	p, s := flying(t)
	client, server, err := s.TakeUp(p, p)
	if err != nil || client.Attach() != nil || server.Attach() != nil {
		t.Fatal(err)
	}
	if s.TakenUp() || s.Gone() {
		t.Fatal("taken up before all has arrived")
	}
	p.says(splice.Client, 40000, 0, made{flags: ackFlag, seq: 1001, ack: 5201, window: 0})
	if !s.Drained() {
		t.Fatal("not drained")
	}
	p.says(splice.Client, 40000, 0, made{flags: rstFlag, seq: 1001})
	if s.TakenUp() || s.Ended() != EndedByReset || s.Gone() || p.Legs() != 2 {
		t.Errorf("ended %v, gone %v, %d flows", s.Ended(), s.Gone(), p.Legs())
	}
}

// A segment that is on its way while the gate is closed acknowledges no more than the journal is told then: a
// standby that continues from there would ask its sender for what that has forgotten.
func TestTakeUpClosesTheGate(t *testing.T) {
	p, s := flying(t)
	client, server, err := s.TakeUp(p, p)
	if err != nil || client.Attach() != nil || server.Attach() != nil {
		t.Fatal(err)
	}
	p.says(splice.Client, 40000, 0, made{flags: ackFlag, seq: 1001, ack: 5101, window: 100})
	p.passes(t, "the client's own word", splice.Server, 0, 1001, 5101)
	if acked, _ := server.CloseGate(); acked != 101 {
		t.Fatalf("closed at %d", acked)
	}
	p.says(splice.Client, 40000, 0, made{flags: ackFlag, seq: 1001, ack: 5201, window: 0})
	p.passes(t, "what was on its way", splice.Server, 0, 1001, 5101)
	if acked, _ := server.CloseGate(); acked != 101 {
		t.Errorf("acknowledged to %d", acked)
	}
	server.Permit(201)
	for a := p.next(t); a.AckNumber() != 5201; a = p.next(t) { // the window may leave first, on its own
		if a.AckNumber() != 5101 || a.DestinationPort() != 8080 {
			t.Fatalf("ack %d to %d", a.AckNumber(), a.DestinationPort())
		}
	}
}

// A segment that no receiver would take raises no gate and no stamp, and its acknowledgement ends nothing.
func TestTakeUpForged(t *testing.T) {
	p, s := flying(t)
	if _, _, err := s.TakeUp(p, p); err != nil {
		t.Fatal(err)
	}
	p.says(splice.Client, 40000, 0, made{flags: ackFlag, seq: 1001 + 1<<20, ack: 5201, window: 1000})
	p.passes(t, "as it came", splice.Server, 0, 1001+1<<20, 5201) // the server judges
	if s.Drained() {
		t.Error("drained by a stranger")
	}
}

// Stamps: netstack's follow those of the end in whose name it speaks, and none that are older leave afterwards; an end
// whose stamps do not count milliseconds keeps its connection passed on.
func TestTakeUpStamps(t *testing.T) {
	p := newPassing(t, 10)
	stamp := func(val, ecr uint32) []byte { return tsOption(make([]byte, 12), val, ecr) }
	syn := func(val, ecr uint32) []byte {
		return synOptions(make([]byte, header.TCPOptionsMaximumSize), 1460, -1, false, true, val, ecr)
	}
	p.client(40000, made{flags: synFlag, seq: 1000, window: 65535, opts: syn(100, 0)})
	s := p.all[0]
	if err := s.Dial(netip.AddrPortFrom(testClient, 40000), spliceServer); err != nil {
		t.Fatal(err)
	}
	p.next(t)
	p.server(40000, spliceServer, made{flags: synFlag | ackFlag, seq: 5000, ack: 1001, window: 65535, opts: syn(900, 100)})
	s.Accept()
	p.next(t)
	p.says(splice.Client, 40000, 0, made{flags: ackFlag, seq: 1001, ack: 5001, window: 1000, opts: stamp(101, 900)})
	p.next(t)
	s.ClientStall()
	p.says(splice.Server, 40000, 100, made{flags: ackFlag, seq: 5001, ack: 1001, window: 1000, opts: stamp(901, 101)})
	p.next(t)
	if _, _, err := s.TakeUp(p, p); !errors.Is(err, errNotNow) {
		t.Fatalf("nothing is known of the clocks: %v", err)
	}
	s.mu.Lock()
	for i := range s.stamps.at { // they have been watched for ten seconds
		s.stamps.at[i] -= 10 * time.Second
		s.stamps.val[i] -= 1000
	}
	s.mu.Unlock()
	if _, _, err := s.TakeUp(p, p); !errors.Is(err, errNotNow) {
		t.Fatalf("its clock is ten times too slow: %v", err)
	}
	s.mu.Lock()
	for i := range s.stamps.val {
		s.stamps.val[i] -= 9000
	}
	s.mu.Unlock()
	if _, _, err := s.TakeUp(p, p); err != nil {
		t.Fatal(err)
	}
	p.says(splice.Server, 40000, 100, made{flags: ackFlag, seq: 5001, ack: 1001, window: 1000, opts: stamp(100_901, 101)}) // in flight, and from the future
	ts := func(s header.TCP) uint32 { return be32(s[header.TCPMinimumSize+4:]) }
	if got := ts(p.passes(t, "again", splice.Client, 100, 5001, 1001)); got < 100_901 {
		t.Errorf("stamp %d", got)
	}
	s.LetGo()
	p.says(splice.Server, 40000, 100, made{flags: ackFlag, seq: 5001, ack: 1001, window: 1000, opts: stamp(100_905, 101)})
	first := ts(p.passes(t, "after it was given up", splice.Client, 100, 5001, 1001))
	if first < 100_901 {
		t.Errorf("stamp %d", first)
	}
	p.says(splice.Server, 40000, 100, made{flags: ackFlag, seq: 5001, ack: 1001, window: 1000, opts: stamp(200_000, 101)})
	if got := ts(p.passes(t, "its own again", splice.Client, 100, 5001, 1001)); got != 200_000 {
		t.Errorf("stamp %d", got)
	}
}

// A field that is changed, at an odd place as well, leaves the checksum right.
func TestFields(t *testing.T) {
	for at := header.TCPMinimumSize; at < header.TCPMinimumSize+4; at++ {
		tcp := header.TCP(make([]byte, 32))
		for i := range tcp {
			tcp[i] = byte(7 * i)
		}
		tcp.SetChecksum(0)
		tcp.SetChecksum(^checksum.Checksum(tcp, 0))
		f := fields{tcp: append(header.TCP(nil), tcp...), sums: true}
		f.put(at, be(0xfedcba98))
		if checksum.Checksum(f.tcp, 0) != 0xffff || be32(f.tcp[at:]) != 0xfedcba98 {
			t.Errorf("at %d: % x", at, f.tcp)
		}
	}
}
