package stack

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/splice"
	"lockstep/tun"
)

var (
	spliceServer = netip.MustParseAddrPort("10.20.0.11:8080")
	spliceSpare  = netip.MustParseAddrPort("10.20.0.12:8081")
)

const (
	synFlag = header.TCPFlagSyn
	ackFlag = header.TCPFlagAck
	rstFlag = header.TCPFlagRst
	finFlag = header.TCPFlagFin
)

// passing is an engine whose clients' connections are passed on, and a handler that notes them.
type passing struct {
	*quietEngine
	all     []*Spliced
	turned  int
	revived int
}

func newPassing(t *testing.T, maxHalfOpen int) *passing {
	p := &passing{quietEngine: newQuietEngine(t, maxHalfOpen)}
	p.Engine.passer = p
	p.Pass(testVIP, func(netip.AddrPort) bool { return true })
	return p
}

func (p *passing) Passing(s *Spliced) { s.SetEvents(p); p.all = append(p.all, s) }
func (p *passing) Turned()            { p.turned++ }
func (p *passing) Revived()           { p.revived++ }

// in gives the engine a packet as the reader does.
func (p *passing) in(hdr, b []byte) {
	if !p.pass([][]byte{hdr, b, nil}, len(b), false) {
		pkt := packetOf(b)
		p.receive(hdr, pkt, len(b))
		pkt.DecRef()
	}
}

func (p *passing) client(port uint16, m made) {
	f := flowOf(testVIP, netip.AddrPortFrom(testClient, port))
	p.in(make([]byte, tun.VnetHeaderLen), f.build(make([]byte, maxMade), false, true, m))
}

func (p *passing) server(port uint16, from netip.AddrPort, m made) {
	f := flowOf(netip.AddrPortFrom(testClient, port), from)
	p.in(make([]byte, tun.VnetHeaderLen), f.build(make([]byte, maxMade), false, true, m))
}

// leaves checks the next segment that left.
func (p *passing) leaves(t *testing.T, what string, from, to uint16, flags header.TCPFlags, seq, ack uint32) {
	t.Helper()
	s := p.next(t)
	if s.SourcePort() != from || s.DestinationPort() != to || s.Flags() != flags || s.SequenceNumber() != seq || flags&ackFlag != 0 && s.AckNumber() != ack {
		t.Fatalf("%s: %d > %d %v seq %d ack %d left", what, s.SourcePort(), s.DestinationPort(), s.Flags(), s.SequenceNumber(), s.AckNumber())
	}
}

// open plays a handshake up to the server's SYN-ACK, which is held.
func (p *passing) open(t *testing.T, port uint16) *Spliced {
	t.Helper()
	p.client(port, made{flags: synFlag, seq: 1000, window: 65535})
	s := p.all[len(p.all)-1]
	if err := s.Dial(netip.AddrPortFrom(testClient, port), spliceServer); err != nil {
		t.Fatal(err)
	}
	p.leaves(t, "SYN", port, 8080, synFlag, 1000, 0)
	p.server(port, spliceServer, made{flags: synFlag | ackFlag, seq: 5000, ack: 1001, window: 65535})
	if !s.Answered() {
		t.Fatal("the server's answer is not told")
	}
	return s
}

// opened is open and the rest of the handshake.
func (p *passing) opened(t *testing.T, port uint16) *Spliced {
	t.Helper()
	s := p.open(t, port)
	s.Accept()
	p.leaves(t, "SYN-ACK", 80, port, synFlag|ackFlag, 5000, 1001)
	p.client(port, made{flags: ackFlag, seq: 1001, ack: 5001, window: 65535})
	p.leaves(t, "ACK", port, 8080, ackFlag, 1001, 5001)
	if !s.Opened() || p.HalfOpen() != 0 {
		t.Fatalf("opened %v, %d half-open", s.Opened(), p.HalfOpen())
	}
	return s
}

// The server's SYN-ACK leaves when the worker says so, not before, however often the server repeats
// it (invariant 1); everything else is passed on with its own numbers.
func TestSplicedWaitsForItsRecord(t *testing.T) {
	p := newPassing(t, 10)
	s := p.open(t, 40000)
	p.server(40000, spliceServer, made{flags: synFlag | ackFlag, seq: 5000, ack: 1001, window: 65535})
	p.none(t)
	if s.Opened() || p.HalfOpen() != 1 || p.C.Waited.Load() != 2 {
		t.Errorf("opened %v, half-open %d, waited %d", s.Opened(), p.HalfOpen(), p.C.Waited.Load())
	}
	client, server := s.Params()
	if client.Remote != netip.AddrPortFrom(testClient, 40000) || client.Local != testVIP || server.Remote != spliceServer ||
		server.Local != client.Remote || client.IRS != 1000 || client.ISS != 5000 || server.ISS != 1000 || server.IRS != 5000 {
		t.Errorf("client %+v, server %+v", client, server)
	}
	s.Accept()
	p.leaves(t, "SYN-ACK", 80, 40000, synFlag|ackFlag, 5000, 1001)
	p.client(40000, made{flags: ackFlag, seq: 1001, ack: 5001, window: 65535})
	p.leaves(t, "ACK", 40000, 8080, ackFlag, 1001, 5001)
	// It ends in order: each FIN and each ACK is the peers' own.
	p.server(40000, spliceServer, made{flags: finFlag | ackFlag, seq: 5001, ack: 1001})
	p.leaves(t, "FIN", 80, 40000, finFlag|ackFlag, 5001, 1001)
	p.client(40000, made{flags: finFlag | ackFlag, seq: 1001, ack: 5002})
	p.leaves(t, "FIN", 40000, 8080, finFlag|ackFlag, 1001, 5002)
	p.server(40000, spliceServer, made{flags: ackFlag, seq: 5002, ack: 1002})
	p.leaves(t, "ACK", 80, 40000, ackFlag, 5002, 1002)
	if s.Ended() != EndedInOrder {
		t.Fatalf("ended: %v", s.Ended())
	}
	s.Finish()
	if p.Tombstones() != 1 {
		t.Errorf("%d tombstones", p.Tombstones())
	}
	// The last ACK was lost: FIN and ACK pass once more.
	p.client(40000, made{flags: finFlag | ackFlag, seq: 1001, ack: 5002})
	p.leaves(t, "FIN again", 40000, 8080, finFlag|ackFlag, 1001, 5002)
	p.sweepSpliced(p.now() + TombstoneLife/2)
	if p.Tombstones() != 1 {
		t.Error("the tombstone went early")
	}
	p.sweepSpliced(p.now() + 2*TombstoneLife)
	if p.Tombstones() != 0 || p.Legs() != 0 {
		t.Errorf("%d tombstones, %d flows", p.Tombstones(), p.Legs())
	}
}

// A server that still has a connection from the same address and port, which everybody else has lost,
// answers the SYN by a challenge ACK. The client resets that connection, and its next SYN begins its own.
func TestSplicedOldConnection(t *testing.T) {
	p := newPassing(t, 10)
	p.client(40000, made{flags: synFlag, seq: 1000, window: 65535})
	s := p.all[0]
	if err := s.Dial(netip.AddrPortFrom(testClient, 40000), spliceServer); err != nil {
		t.Fatal(err)
	}
	p.leaves(t, "SYN", 40000, 8080, synFlag, 1000, 0)
	p.server(40000, spliceServer, made{flags: ackFlag, seq: 777, ack: 333, window: 65535})
	p.leaves(t, "challenge ACK", 80, 40000, ackFlag, 777, 333)
	p.client(40000, made{flags: rstFlag, seq: 333})
	p.leaves(t, "RST", 40000, 8080, rstFlag, 333, 0)
	if s.Ended() != NotEnded || s.Answered() || s.Refused() {
		t.Fatalf("ended %v, answered %v, refused %v", s.Ended(), s.Answered(), s.Refused())
	}
	p.client(40000, made{flags: synFlag, seq: 1000, window: 65535})
	p.leaves(t, "SYN again", 40000, 8080, synFlag, 1000, 0)
	p.server(40000, spliceServer, made{flags: synFlag | ackFlag, seq: 5000, ack: 1001, window: 65535})
	p.none(t) // it is held
	s.Accept()
	p.leaves(t, "SYN-ACK", 80, 40000, synFlag|ackFlag, 5000, 1001)
}

// A server that refuses is not heard by the client as long as another one may be tried.
func TestSplicedNextServer(t *testing.T) {
	p := newPassing(t, 10)
	p.client(40000, made{flags: synFlag, seq: 1000, window: 65535})
	s := p.all[0]
	at := netip.AddrPortFrom(testClient, 40000)
	if err := s.Dial(at, spliceServer); err != nil {
		t.Fatal(err)
	}
	p.leaves(t, "SYN", 40000, 8080, synFlag, 1000, 0)
	p.client(40000, made{flags: synFlag, seq: 1000, window: 65535})
	p.leaves(t, "SYN again", 40000, 8080, synFlag, 1000, 0)
	if s.Asked() != 1 {
		t.Errorf("asked %d times", s.Asked())
	}
	p.server(40000, spliceServer, made{flags: rstFlag | ackFlag, ack: 1001})
	p.none(t)
	if !s.Refused() || s.Ended() != NotEnded {
		t.Fatalf("refused %v, ended %v", s.Refused(), s.Ended())
	}
	if err := s.Dial(at, spliceSpare); err != nil {
		t.Fatal(err)
	}
	p.leaves(t, "SYN to the next", 40000, 8081, synFlag, 1000, 0)
	p.server(40000, spliceSpare, made{flags: rstFlag | ackFlag, ack: 1001})
	p.none(t)
	s.Refuse()
	p.leaves(t, "refusal", 80, 40000, rstFlag|ackFlag, 0, 1001)
	if p.Legs() != 0 || p.HalfOpen() != 0 {
		t.Errorf("%d flows, %d half-open", p.Legs(), p.HalfOpen())
	}
}

// A silent server that is given up is told so.
func TestSplicedSilentServer(t *testing.T) {
	p := newPassing(t, 10)
	p.client(40000, made{flags: synFlag, seq: 1000, window: 65535})
	at := netip.AddrPortFrom(testClient, 40000)
	for _, server := range []netip.AddrPort{spliceServer, spliceSpare} {
		if err := p.all[0].Dial(at, server); err != nil {
			t.Fatal(err)
		}
	}
	p.leaves(t, "SYN", 40000, 8080, synFlag, 1000, 0)
	if r := p.next(t); r.Flags()&rstFlag == 0 || r.DestinationPort() != 8080 || r.SequenceNumber() != 1001 {
		t.Fatalf("to the silent server: %v seq %d", r.Flags(), r.SequenceNumber())
	}
	p.leaves(t, "SYN", 40000, 8081, synFlag, 1000, 0)
}

// A server that answers while the worker gives it up is not taken for the next one, whether its SYN-ACK came before the next
// was dialled or was in the reader's hands then.
func TestSplicedLateAnswer(t *testing.T) {
	synAck := made{flags: synFlag | ackFlag, seq: 5000, ack: 1001, window: 65535}
	for _, early := range []bool{true, false} {
		p := newPassing(t, 10)
		p.client(40000, made{flags: synFlag, seq: 1000, window: 65535})
		s, at := p.all[0], netip.AddrPortFrom(testClient, 40000)
		if err := s.Dial(at, spliceServer); err != nil {
			t.Fatal(err)
		}
		p.leaves(t, "SYN", 40000, 8080, synFlag, 1000, 0)
		f := flowOf(at, spliceServer)
		found := p.table.spliced(&f)
		if early {
			p.server(40000, spliceServer, synAck)
		}
		if err := s.Dial(at, spliceSpare); err != nil {
			t.Fatal(err)
		}
		if r := p.next(t); r.Flags()&rstFlag == 0 || r.DestinationPort() != 8080 {
			t.Fatalf("the first server is told %v", r.Flags())
		}
		p.leaves(t, "SYN to the next", 40000, 8081, synFlag, 1000, 0)
		if !early {
			b := f.build(make([]byte, maxMade), false, true, synAck)
			var seg segment
			if seg.parse(b, len(b)) != parsedTCP || !found.take(&seg, make([]byte, tun.VnetHeaderLen), b, nil, false) {
				t.Fatal("not taken")
			}
			if n := p.C.drops[DropStaleSegment].Load(); n != 1 {
				t.Errorf("%d dropped", n)
			}
		}
		if s.Answered() || s.Refused() {
			t.Fatalf("early %v: the next server has not said a word: answered %v, refused %v", early, s.Answered(), s.Refused())
		}
		p.server(40000, spliceSpare, made{flags: synFlag | ackFlag, seq: 9000, ack: 1001, window: 65535})
		if _, server := s.Params(); !s.Answered() || server.IRS != 9000 {
			t.Fatalf("answered %v, the record says %d", s.Answered(), server.IRS)
		}
		s.Accept()
		p.leaves(t, "SYN-ACK", 80, 40000, synFlag|ackFlag, 9000, 1001)
	}
}

// A RST that is no answer to this SYN, forged or an old connection's, does not take the held SYN-ACK's place.
func TestSplicedOddRST(t *testing.T) {
	p := newPassing(t, 10)
	s := p.open(t, 40000)
	p.server(40000, spliceServer, made{flags: rstFlag, seq: 12345})
	p.none(t)
	s.Accept()
	p.leaves(t, "SYN-ACK", 80, 40000, synFlag|ackFlag, 5000, 1001)
}

// A server that refuses, and answers the next SYN while the worker ends the connection: its SYN-ACK does not leave
// in the refusal's place, since the standby has no record (invariant 1).
func TestSplicedRefusedThenAnswered(t *testing.T) {
	p := newPassing(t, 10)
	p.client(40000, made{flags: synFlag, seq: 1000, window: 65535})
	s := p.all[0]
	if err := s.Dial(netip.AddrPortFrom(testClient, 40000), spliceServer); err != nil {
		t.Fatal(err)
	}
	p.leaves(t, "SYN", 40000, 8080, synFlag, 1000, 0)
	p.server(40000, spliceServer, made{flags: rstFlag | ackFlag, ack: 1001})
	if !s.Refused() {
		t.Fatal("the refusal is not told")
	}
	p.server(40000, spliceServer, made{flags: synFlag | ackFlag, seq: 5000, ack: 1001, window: 65535})
	s.Refuse()
	p.none(t)
}

// Forged SYNs are half-open connections at the server at most, no more of them than the limit, and not for
// longer than a client may be silent. The others get a cookie.
func TestSplicedFlood(t *testing.T) {
	p := newPassing(t, 2)
	for port := range uint16(2) {
		p.open(t, 40000+port).Accept()
		p.next(t)
	}
	p.client(40002, made{flags: synFlag, seq: 7, window: 65535})
	if c := p.next(t); c.Flags() != synFlag|ackFlag || len(p.all) != 2 || p.C.CookiesSent.Load() != 1 {
		t.Fatalf("%v, %d passed on, %d cookies", c.Flags(), len(p.all), p.C.CookiesSent.Load())
	}
	p.sweepSpliced(p.now() + splicedHalfOpen/2)
	if p.all[0].Ended() != NotEnded {
		t.Error("given up early")
	}
	p.sweepSpliced(p.now() + splicedHalfOpen)
	for i, s := range p.all {
		if s.Ended() != EndedUnproven {
			t.Fatalf("ended: %v", s.Ended())
		}
		s.HangUp()
		if r := p.next(t); r.Flags()&rstFlag == 0 || r.DestinationPort() != 8080 || r.SequenceNumber() != 1001 {
			t.Fatalf("server %d is told %v seq %d", i, r.Flags(), r.SequenceNumber())
		}
	}
	p.none(t) // nothing to the clients
	if p.HalfOpen() != 0 || p.Legs() != 0 {
		t.Errorf("%d half-open, %d flows", p.HalfOpen(), p.Legs())
	}
}

// A client that begins anew from the same port has its former attempt ended, and a former connection's
// tombstone is no hindrance.
func TestSplicedReplaced(t *testing.T) {
	p := newPassing(t, 10)
	first := p.open(t, 40000)
	p.client(40000, made{flags: synFlag, seq: 90000, window: 65535})
	if r := p.next(t); r.Flags()&rstFlag == 0 || r.DestinationPort() != 8080 {
		t.Fatalf("the server is told %v", r.Flags())
	}
	if first.Ended() != EndedReplaced || len(p.all) != 2 {
		t.Fatalf("ended %v, %d connections", first.Ended(), len(p.all))
	}
	p.all[1].Drop()
	second := p.opened(t, 40000)
	second.Abort()
	for range 2 { // both ends are told
		if r := p.next(t); r.Flags()&rstFlag == 0 {
			t.Fatalf("%v", r.Flags())
		}
	}
	p.client(40000, made{flags: ackFlag, seq: 1101, ack: 5101, window: 65535})
	p.leaves(t, "answer of a closed port", 80, 40000, rstFlag, 5101, 0)
	p.opened(t, 40000)
	if p.Legs() != 2 {
		t.Errorf("%d flows", p.Legs())
	}
}

// What another appliance has passed on goes on with two flows in the table, and nothing leaves by itself. A second
// connection of the same client is not mixed up with it.
func TestSplicedRestored(t *testing.T) {
	p := newPassing(t, 10)
	was := p.opened(t, 40000)
	client, server := was.Params()
	if _, err := p.RestoreSpliced(client, server, false, p); !errors.Is(err, ErrAddrInUse) {
		t.Fatalf("restored over a live one: %v", err)
	}
	was.Drop()
	s, err := p.RestoreSpliced(client, server, false, p)
	if err != nil {
		t.Fatal(err)
	}
	p.none(t)
	p.server(40000, spliceServer, made{flags: ackFlag, seq: 8000, ack: 1500})
	p.leaves(t, "segment", 80, 40000, ackFlag, 8000, 1500)
	p.client(40000, made{flags: ackFlag, seq: 1500, ack: 8000})
	p.leaves(t, "segment", 40000, 8080, ackFlag, 1500, 8000)
	p.SetActive(false)
	p.client(40000, made{flags: ackFlag, seq: 1500, ack: 8000})
	p.SetActive(true)
	p.none(t)
	if n := p.C.drops[DropNotActive].Load(); n != 1 {
		t.Errorf("%d dropped while muted", n)
	}
	s.Drop()
	if _, err := p.RestoreSpliced(client, server, true, noSpliced{}); err != nil || p.Tombstones() != 1 {
		t.Fatalf("%v, %d tombstones", err, p.Tombstones())
	}
	p.client(40000, made{flags: finFlag | ackFlag, seq: 1500, ack: 8000})
	p.leaves(t, "FIN", 40000, 8080, finFlag|ackFlag, 1500, 8000)
	if _, err := p.RestoreSpliced(client, server, false, p); err != nil {
		t.Errorf("over a tombstone: %v", err)
	}
}

type noSpliced struct{}

func (noSpliced) Turned()  {}
func (noSpliced) Revived() {}

// Who forges both ends after a takeover, a RST and a SYN begins nothing in the connection's place: first
// its other end is asked.
func TestSplicedForgedEnd(t *testing.T) {
	p := newPassing(t, 10)
	was := p.opened(t, 40000)
	client, server := was.Params()
	was.Drop()
	s, err := p.RestoreSpliced(client, server, false, p)
	if err != nil {
		t.Fatal(err)
	}
	p.client(40000, made{flags: ackFlag, seq: 1 << 30, ack: 3 << 30})
	p.server(40000, spliceServer, made{flags: ackFlag, seq: 3 << 30, ack: 1 << 30})
	p.client(40000, made{flags: rstFlag, seq: 1 << 30})
	for range 3 {
		p.next(t)
	}
	if s.Ended() != EndedByReset {
		t.Fatalf("ended: %v", s.Ended())
	}
	s.Finish()
	p.client(40000, made{flags: synFlag, seq: 7, window: 65535})
	p.none(t)
	if n := p.C.drops[DropStaleSegment].Load(); n != 1 || len(p.all) != 1 || p.Tombstones() != 1 {
		t.Fatalf("%d dropped, %d begun, %d tombstones", n, len(p.all), p.Tombstones())
	}
	p.sweepSpliced(p.now() + 2*passedSweep)
	if q := p.next(t); q.Flags() != ackFlag || q.DestinationPort() != 8080 {
		t.Fatalf("to %d: %v", q.DestinationPort(), q.Flags())
	}
}

// A connection without a byte is idle, though its ends assure each other that they are there.
func TestSplicedIdle(t *testing.T) {
	p := newPassing(t, 10)
	s := p.opened(t, 40000)
	later := p.now() + time.Hour // as the engine's clock will be then: what comes at that time is "ahead"
	f := flowOf(testVIP, netip.AddrPortFrom(testClient, 40000))
	idle := func(m made) time.Duration {
		b := f.build(make([]byte, maxMade), false, true, m)
		s.conn.Forward(splice.Client, make([]byte, tun.VnetHeaderLen), b, header.IPv4MinimumSize, len(b), later)
		return s.Tend(true).Idle
	}
	if d := idle(made{flags: ackFlag, seq: 1000, ack: 5001, window: 65535}); d < 0 {
		t.Errorf("a keepalive ends idleness: %v", d)
	}
	if d := idle(made{flags: ackFlag | finFlag, seq: 1001, ack: 5001, window: 65535}); d > 0 {
		t.Errorf("a FIN does not: %v", d)
	}
}

// A packet that could take no further hop leaves all the same, with its header's checksum right.
func TestSplicedLastHop(t *testing.T) {
	f := flowOf(testVIP, netip.AddrPortFrom(testClient, 1))
	b := f.build(make([]byte, maxMade), false, true, made{flags: ackFlag})
	for _, ttl := range []uint8{1, 2, 255} {
		ip := header.IPv4(b)
		ip.SetTTL(ttl)
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		lastHop(b)
		want := ttl
		if ttl == 1 {
			want = 64
		}
		if ip.TTL() != want || ip.CalculateChecksum() != 0xffff {
			t.Errorf("%d becomes %d", ttl, ip.TTL())
		}
	}
}

// What is wrong with a packet is counted as of any other.
func TestSplicedDrops(t *testing.T) {
	for r, want := range map[splice.Reason]Drop{
		splice.DropMalformed: DropMalformed, splice.DropOptions: DropOptions, splice.DropSigned: DropSigned,
		splice.DropStale: DropStaleSegment, splice.DropICMP: DropICMP,
	} {
		if got := dropOf(r); got != want || r.String() != want.String() {
			t.Errorf("%v is counted as %v", r, got)
		}
	}
	p := newPassing(t, 10)
	p.opened(t, 40000)
	f := flowOf(testVIP, netip.AddrPortFrom(testClient, 40000))
	b := f.build(make([]byte, maxMade), false, true, made{flags: ackFlag, seq: 1001, ack: 5001})
	b[len(b)-1]++ // urgent pointer: the checksum is wrong now
	p.in(make([]byte, tun.VnetHeaderLen), b)
	p.none(t)
	if n := p.C.drops[DropChecksum].Load(); n != 1 {
		t.Errorf("%d dropped", n)
	}
}
