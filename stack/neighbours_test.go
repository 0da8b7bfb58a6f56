package stack

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// SYNs with forged sources of our own network are answered a few a second, whatever becomes of them:
// each would cost the kernel a neighbour entry. Hosts that have asked for us, or have been here,
// and everybody beyond a router, are answered all the same.
func TestForgedNeighbours(t *testing.T) {
	q := newQuietEngine(t, 100_000)
	net := netip.MustParsePrefix("10.0.0.0/8")
	q.neighbours.onLink = net.Contains
	from := func(a netip.Addr, port uint16) {
		f := flowOf(testVIP, netip.AddrPortFrom(a, port))
		q.take(f.build(make([]byte, maxMade), false, true, made{flags: header.TCPFlagSyn, seq: 1000, window: 65535}))
	}
	forged := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}) }
	begin := q.now()
	const n = 5000
	for i := range n {
		from(forged(i), 1000)
	}
	most := strangersBurst + strangersEach*(q.now()-begin).Seconds() + 1
	answered := len(q.legs)
	if float64(answered) > most || answered < strangersBurst {
		t.Fatalf("%d of %d strangers get further; at most %.0f should", answered, n, most)
	}
	if d := q.C.Drops()[DropStranger.String()]; d != uint64(n-answered) {
		t.Errorf("%d counted, not %d", d, n-answered)
	}
	expect := func(what string, a netip.Addr, port uint16, more int) {
		t.Helper()
		before := len(q.legs)
		from(a, port)
		if got := len(q.legs) - before; got != more {
			t.Errorf("%s: %d handshakes begin, want %d", what, got, more)
		}
	}
	q.neighbours.tokens, q.neighbours.at = 0, q.now()+1e12 // no time passes
	expect("one more stranger", netip.MustParseAddr("10.8.0.1"), 1000, 0)
	expect("a stranger that has been answered", forged(0), 1001, 1)
	expect("somebody beyond a router", testClient, 1000, 1)
	q.Heard(netip.MustParseAddr("10.8.0.2"))
	expect("a host that has asked for us", netip.MustParseAddr("10.8.0.2"), 1000, 1)
	client := netip.MustParseAddrPort("10.8.0.3:1000")
	if _, err := q.Restore(Params{Local: testVIP, Remote: client, ISS: 1, IRS: 1, MSS: 1460, PeerWS: -1, OurWS: -1}, Resume{PeerKnows: true}, noEvents{}); err != nil {
		t.Fatal(err)
	}
	expect("a client whose connection was continued", client.Addr(), 1001, 1)
	// What is remembered is bounded, and the newest stay.
	for i := range 5 * acquaintances {
		q.Heard(netip.AddrFrom4([4]byte{10, 7, byte(i >> 8), byte(i)}))
	}
	if g := &q.neighbours.proven; len(g.now)+len(g.before) > 2*acquaintances || !g.has(netip.AddrFrom4([4]byte{10, 7, byte((5*acquaintances - 1) >> 8), 255})) {
		t.Errorf("%d and %d remembered", len(g.now), len(g.before))
	}
}

// Whoever has completed a handshake is no stranger any more.
func TestAcquaintance(t *testing.T) {
	q := newQuietEngine(t, 10)
	q.neighbours.onLink = func(netip.Addr) bool { return true }
	q.neighbours.tokens = 1
	q.syn(40000)
	q.legs[0].Accept()
	iss := q.next(t).SequenceNumber()
	f := flowOf(testVIP, netip.AddrPortFrom(testClient, 40000))
	q.take(f.build(make([]byte, maxMade), false, true, made{flags: header.TCPFlagAck, seq: 1001, ack: iss + 1}))
	if !q.neighbours.proven.has(testClient) {
		t.Error("its handshake does not count")
	}
}
