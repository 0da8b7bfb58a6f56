package stack

import (
	"errors"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/tun"
	"lockstep/tun/tuntest"
)

// quietEngine is an engine that nobody reads for: tests call receive and sweep
// themselves, and see what leaves.
type quietEngine struct {
	*Engine
	far  *tuntest.End
	out  chan header.TCP
	legs []*Leg
	woke map[*Leg]int
	mu   sync.Mutex
}

func (q *quietEngine) Incoming(l *Leg) {
	l.SetEvents(q)
	q.legs = append(q.legs, l)
}

func (q *quietEngine) Wake(l *Leg) {
	q.mu.Lock()
	q.woke[l]++
	q.mu.Unlock()
}

func (q *quietEngine) Delivered(*Leg, uint64) {}

var (
	testVIP    = netip.MustParseAddrPort("203.0.113.10:80")
	testClient = netip.MustParseAddr("198.51.100.7")

	testVIP6    = netip.MustParseAddrPort("[2001:db8:1::10]:80")
	testClient6 = netip.MustParseAddr("2001:db8:2::7")
)

func newQuietEngine(t *testing.T, maxHalfOpen int) *quietEngine {
	t.Helper()
	near, far := tuntest.Pipe()
	q := &quietEngine{far: far, out: make(chan header.TCP, 1000), woke: make(map[*Leg]int)}
	e, err := New(Options{Device: near, Handler: q, Addresses: []netip.Addr{testVIP.Addr(), testVIP6.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	q.Engine = e
	e.Listen(testVIP, maxHalfOpen, maxHalfOpen)
	e.Listen(testVIP6, maxHalfOpen, maxHalfOpen)
	e.SetActive(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		hdr, buf := make([]byte, tun.VnetHeaderLen), make([]byte, tun.MaxPacketLen)
		for {
			n, err := far.ReadV([][]byte{hdr, buf})
			if errors.Is(err, os.ErrClosed) {
				return
			}
			ip := header.IPv4MinimumSize
			if buf[0]>>4 == 6 {
				ip = header.IPv6MinimumSize
			}
			q.out <- header.TCP(append([]byte(nil), buf[ip:n]...))
		}
	}()
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		_ = far.Close()
		<-done
	})
	return q
}

// syn gives the engine a SYN from a client's port.
func (q *quietEngine) syn(port uint16) {
	f := flowOf(testVIP, netip.AddrPortFrom(testClient, port))
	b := f.build(make([]byte, maxMade), false, true, made{flags: header.TCPFlagSyn, seq: 1000, window: 65535})
	q.take(b)
}

func (q *quietEngine) take(b []byte) {
	pkt := packetOf(b)
	q.receive(make([]byte, tun.VnetHeaderLen), pkt, len(b))
	pkt.DecRef()
}

// next returns the next segment that left.
func (q *quietEngine) next(t *testing.T) header.TCP {
	t.Helper()
	select {
	case s := <-q.out:
		return s
	case <-time.After(10 * time.Second):
		t.Fatal("nothing leaves")
		return nil
	}
}

func (q *quietEngine) none(t *testing.T) {
	t.Helper()
	// Packets pass the pipe in order: a RST to a stranger comes after whatever
	// would have left before.
	f := flowOf(netip.AddrPortFrom(testVIP.Addr(), 81), netip.AddrPortFrom(testClient, 1))
	q.take(f.build(make([]byte, maxMade), false, true, made{flags: header.TCPFlagAck, seq: 1, ack: 777}))
	if s := q.next(t); s.Flags()&header.TCPFlagRst == 0 || s.SequenceNumber() != 777 {
		t.Fatalf("left: flags %v seq %d", s.Flags(), s.SequenceNumber())
	}
}

// A client that does not finish its handshake is answered again after 1, 2 and 4
// seconds, and given up 8 seconds later.
func TestSweepOfHalfOpen(t *testing.T) {
	q := newQuietEngine(t, 10)
	q.syn(40000)
	l := q.legs[0]
	start := q.now()
	q.sweep(start + time.Hour)
	q.none(t) // the server has not answered yet: that is the relay's business
	l.Accept()
	first := q.next(t)
	for i, gap := range []time.Duration{1, 2, 4} {
		l.mu.Lock()
		at := l.synAckAt
		l.mu.Unlock()
		q.sweep(at + gap*time.Second - time.Millisecond)
		q.none(t)
		q.sweep(at + gap*time.Second)
		s := q.next(t)
		if s.Flags() != header.TCPFlagSyn|header.TCPFlagAck || s.SequenceNumber() != first.SequenceNumber() || s.AckNumber() != 1001 {
			t.Fatalf("repetition %d: flags %v seq %d ack %d", i, s.Flags(), s.SequenceNumber(), s.AckNumber())
		}
	}
	if q.HalfOpen() != 1 || q.Legs() != 1 || l.Err() != nil {
		t.Fatalf("half-open %d, legs %d, %v", q.HalfOpen(), q.Legs(), l.Err())
	}
	l.mu.Lock()
	at := l.synAckAt
	l.mu.Unlock()
	q.sweep(at + 8*time.Second - time.Millisecond)
	if q.HalfOpen() != 1 {
		t.Fatal("given up too early")
	}
	q.sweep(at + 8*time.Second)
	q.none(t)
	if q.HalfOpen() != 0 || q.Legs() != 0 || !errors.Is(l.Err(), errTimeout) {
		t.Fatalf("half-open %d, legs %d, %v", q.HalfOpen(), q.Legs(), l.Err())
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.woke[l] == 0 {
		t.Error("the connection is not told")
	}
}

// Beyond the limit nothing is remembered of a SYN; one that ends makes room.
func TestHalfOpenLimit(t *testing.T) {
	q := newQuietEngine(t, 3)
	for p := range uint16(10) {
		q.syn(40000 + p)
	}
	if q.HalfOpen() != 3 || len(q.legs) != 3 || q.Legs() != 3 {
		t.Fatalf("half-open %d of %d", q.HalfOpen(), len(q.legs))
	}
	for range 7 {
		if s := q.next(t); s.Flags() != header.TCPFlagSyn|header.TCPFlagAck || s.AckNumber() != 1001 {
			t.Errorf("not the SYN-ACK of a cookie: flags %v ack %d", s.Flags(), s.AckNumber())
		}
	}
	if n := q.C.CookiesSent.Load(); n != 7 {
		t.Errorf("%d cookies counted", n)
	}
	q.none(t)
	q.legs[0].Drop()
	q.legs[1].Refuse()
	if s := q.next(t); s.Flags() != header.TCPFlagRst|header.TCPFlagAck || s.AckNumber() != 1001 || s.SequenceNumber() != 0 {
		t.Errorf("refusal: flags %v seq %d ack %d", s.Flags(), s.SequenceNumber(), s.AckNumber())
	}
	q.syn(40009)
	if q.HalfOpen() != 2 || q.Legs() != 2 {
		t.Errorf("half-open %d", q.HalfOpen())
	}
}

// Tombstones answer until their time is over, and are bounded.
func TestSweepOfTombstones(t *testing.T) {
	q := newQuietEngine(t, 10)
	params := func(i int) Params {
		return Params{
			Local: testVIP, Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 16), byte(i >> 8)}), uint16(1000+i&0xff)),
			ISS: 5000, IRS: 9000, MSS: 1460, PeerWS: -1, OurWS: -1,
		}
	}
	const n = tombstoneMax + 10
	begun := q.now()
	for i := range n {
		q.Bury(params(i), Resume{Received: 11, Sent: 21, PeerKnows: true})
	}
	if q.Tombstones() != tombstoneMax || q.Legs() != tombstoneMax {
		t.Fatalf("%d tombstones, %d legs", q.Tombstones(), q.Legs())
	}
	p := params(n - 1)
	f := flowOf(p.Local, p.Remote)
	q.take(f.build(make([]byte, maxMade), false, true, made{flags: header.TCPFlagFin | header.TCPFlagAck, seq: 9000 + 11, ack: 5000 + 22}))
	if s := q.next(t); s.Flags() != header.TCPFlagAck || s.AckNumber() != 9000+12 || s.SequenceNumber() != 5000+22 {
		t.Errorf("answer to the FIN: flags %v seq %d ack %d", s.Flags(), s.SequenceNumber(), s.AckNumber())
	}
	q.sweep(begun + tombstoneLife - 1) // however long it took to bury them
	if q.Tombstones() != tombstoneMax {
		t.Fatal("swept too early")
	}
	q.sweep(q.now() + tombstoneLife)
	if q.Tombstones() != 0 || q.Legs() != 0 {
		t.Fatalf("%d tombstones, %d legs", q.Tombstones(), q.Legs())
	}
}

// A client may come again from the same port at once. If the appliance takes over then, the new
// connection is continued, whatever is left of the former one; and of two that have ended the later
// one is answered for.
func TestTombstoneGivesWay(t *testing.T) {
	q := newQuietEngine(t, 10)
	params := func(irs uint32) Params {
		return Params{Local: testVIP, Remote: netip.MustParseAddrPort("10.1.0.1:1000"), ISS: 5000, IRS: irs, MSS: 1460, PeerWS: -1, OurWS: -1}
	}
	q.Bury(params(9000), Resume{Received: 11, Sent: 21, PeerKnows: true})
	q.Bury(params(19000), Resume{Received: 11, Sent: 21, PeerKnows: true})
	f := flowOf(params(0).Local, params(0).Remote)
	q.take(f.build(make([]byte, maxMade), false, true, made{flags: header.TCPFlagFin | header.TCPFlagAck, seq: 19000 + 11, ack: 5000 + 22}))
	if s := q.next(t); s.AckNumber() != 19000+12 {
		t.Errorf("answer to the later one's FIN: ack %d", s.AckNumber())
	}
	l, err := q.Restore(params(29000), Resume{Received: 1, Sent: 1, PeerKnows: true}, noEvents{})
	if err != nil || q.Legs() != 1 {
		t.Fatalf("continue beside a tombstone: %v, %d legs", err, q.Legs())
	}
	q.Bury(params(9000), Resume{Received: 11, Sent: 21, PeerKnows: true})
	if _, err := q.Restore(params(39000), Resume{PeerKnows: true}, noEvents{}); !errors.Is(err, ErrAddrInUse) {
		t.Errorf("in the place of a living connection: %v", err)
	}
	q.sweep(q.now() + tombstoneLife)
	if q.Tombstones() != 0 || q.Legs() != 1 || q.table.get(&f) != l {
		t.Errorf("%d tombstones, %d legs", q.Tombstones(), q.Legs())
	}
}

// A muted engine takes nothing in and lets nothing out (invariant 4).
func TestMuted(t *testing.T) {
	q := newQuietEngine(t, 10)
	q.syn(40000)
	q.SetActive(false)
	q.syn(40001)
	q.legs[0].Accept()
	if len(q.legs) != 1 || q.C.PacketsOut.Load() != 0 {
		t.Errorf("%d legs, %d packets", len(q.legs), q.C.PacketsOut.Load())
	}
	d := q.C.Drops()
	if d[DropNotActive.String()] != 1 || d[DropMuted.String()] != 1 {
		t.Errorf("drops %v", d)
	}
}
