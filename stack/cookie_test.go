package stack

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"pgregory.net/rapid"

	"lockstep/tun"
)

// cookieClient is a client that gets a cookie of the engine it talks to.
type cookieClient struct {
	f    flow
	v6   bool
	opts Params // what it offers
	isn  uint32
	seen Params // what the SYN-ACK says
	iss  uint32 // the cookie
	ts   uint32 // of the SYN-ACK
}

var cookieOffer = Params{MSS: 1460, PeerWS: 7, SACK: true, TS: true, PeerTS: 4000}

func newCookieClient(from netip.AddrPort, offer Params) *cookieClient {
	c := &cookieClient{v6: from.Addr().Is6(), opts: offer, isn: 0xfffffff0}
	c.f = flowOf(testVIP, from)
	if c.v6 {
		c.f = flowOf(testVIP6, from)
	}
	return c
}

func (c *cookieClient) syn(q *quietEngine) {
	o := &c.opts
	q.take(c.f.build(make([]byte, maxMade), c.v6, true, made{
		flags: header.TCPFlagSyn, seq: c.isn, window: 65535,
		opts: synOptions(make([]byte, header.TCPOptionsMaximumSize), o.MSS, o.PeerWS, o.SACK, o.TS, o.PeerTS, 0),
	}))
}

// ask gets the cookie.
func (c *cookieClient) ask(t *testing.T, q *quietEngine) {
	t.Helper()
	c.syn(q)
	s := segment{tcp: q.next(t), v6: c.v6}
	if s.tcp.Flags() != header.TCPFlagSyn|header.TCPFlagAck || s.tcp.AckNumber() != c.isn+1 || !c.seen.readSYN(&s) {
		t.Fatalf("SYN-ACK: flags %v ack %d", s.tcp.Flags(), s.tcp.AckNumber())
	}
	c.iss, c.ts = s.tcp.SequenceNumber(), c.seen.PeerTS
}

// answer gives the engine the client's ACK, whose number is off by wrong.
func (c *cookieClient) answer(q *quietEngine, wrong uint32) {
	m := made{flags: header.TCPFlagAck, seq: c.isn + 1, ack: c.iss + 1 + wrong, window: 500}
	if c.seen.TS {
		m.opts = tsOption(make([]byte, 12), c.opts.PeerTS+10, c.ts)
	}
	q.take(c.f.build(make([]byte, maxMade), c.v6, true, m))
}

func (q *quietEngine) accepted(t *testing.T) *Leg {
	t.Helper()
	if len(q.legs) == 0 {
		t.Fatalf("not accepted: %v", q.C.Drops())
	}
	return q.legs[len(q.legs)-1]
}

// A client that answers a cookie has a connection with the options of its SYN, and
// before that nothing is remembered of it.
func TestCookie(t *testing.T) {
	from4, from6 := netip.AddrPortFrom(testClient, 40000), netip.AddrPortFrom(testClient6, 40000)
	for name, c := range map[string]*cookieClient{
		"v4":         newCookieClient(from4, cookieOffer),
		"v6":         newCookieClient(from6, cookieOffer),
		"no options": newCookieClient(from4, Params{MSS: 1460, PeerWS: -1}),
		"no TS":      newCookieClient(from4, Params{MSS: 1460, PeerWS: 8, SACK: true}),
		"small":      newCookieClient(from4, Params{MSS: 576, PeerWS: 14, TS: true, PeerTS: 1}),
	} {
		t.Run(name, func(t *testing.T) {
			q := newQuietEngine(t, 0)
			c.ask(t, q)
			if c.seen.SACK != c.opts.SACK || c.seen.TS != c.opts.TS || (c.seen.PeerWS >= 0) != (c.opts.PeerWS >= 0) || c.seen.MSS != q.mss(c.v6) {
				t.Errorf("offered %+v, got %+v", c.opts, c.seen)
			}
			if q.Legs() != 0 || len(q.legs) != 0 {
				t.Fatalf("%d legs before the answer", q.Legs())
			}
			c.answer(q, 0)
			l := q.accepted(t)
			p := l.Params()
			if !l.Confirmed() || !l.Waiting() || q.HalfOpen() != 0 || q.C.CookiesAccepted.Load() != 1 {
				t.Errorf("accepted leg: %v", l)
			}
			if p.ISS != c.iss || p.IRS != c.isn || p.SACK != c.opts.SACK || p.TS != c.opts.TS || p.OurWS != c.seen.PeerWS {
				t.Errorf("parameters %+v", p)
			}
			if p.MSS > c.opts.MSS || p.PeerWS > c.opts.PeerWS || (p.PeerWS < 0) != (c.opts.PeerWS < 0) {
				t.Errorf("MSS %d, scale %d", p.MSS, p.PeerWS)
			}
			if ts := l.tsNow(); p.TS && (int32(ts-c.ts) < 0 || ts-c.ts > 5000) {
				t.Errorf("TSval %d after %d", ts, c.ts)
			}
			c.answer(q, 0) // again: it belongs to the leg
			if len(q.legs) != 1 {
				t.Errorf("%d connections", len(q.legs))
			}
		})
	}
}

// What is no answer to a cookie is answered as a closed port does, and opens nothing.
func TestBadCookie(t *testing.T) {
	q := newQuietEngine(t, 0)
	c := newCookieClient(netip.AddrPortFrom(testClient, 40000), cookieOffer)
	c.answer(q, 0)
	q.next(t)
	if n := q.C.Drops()["bad-cookie"]; n != 0 {
		t.Errorf("looked for a cookie when none was sent: %d", n)
	}
	c.ask(t, q)
	c.ts += 1 << 30 // nothing that was said to it
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		c.answer(q, r.Uint32()|1)
		if s := q.next(t); s.Flags() != header.TCPFlagRst {
			t.Fatalf("guess %d: flags %v", i, s.Flags())
		}
	}
	if n := q.C.Drops()["bad-cookie"]; len(q.legs) != 0 || n != 2000 {
		t.Errorf("%d connections, %d bad", len(q.legs), n)
	}
	c.ts -= 1 << 30
	other := newCookieClient(netip.AddrPortFrom(testClient, 40001), cookieOffer)
	other.iss = c.iss // somebody else's
	other.answer(q, 0)
	c.isn++ // of another SYN
	c.answer(q, 0)
	if q.none(t); len(q.legs) != 0 {
		t.Error("a cookie that is not the client's is accepted")
	}
}

// say gives the engine a segment of the client's that begins at an offset of its stream.
func (c *cookieClient) say(q *quietEngine, off int32, payload int) {
	m := made{flags: header.TCPFlagAck, seq: c.isn + 1 + uint32(off), ack: c.iss + 1, window: 500}
	if c.seen.TS {
		m.opts = tsOption(make([]byte, 12), c.opts.PeerTS+10, c.ts)
	}
	b := append(c.f.build(make([]byte, maxMade), c.v6, true, m), make([]byte, payload)...)
	if c.v6 {
		header.IPv6(b).SetPayloadLength(uint16(len(b) - header.IPv6MinimumSize))
	} else {
		header.IPv4(b).SetTotalLength(uint16(len(b)))
	}
	pkt := packetOf(b)
	hdr := make([]byte, tun.VnetHeaderLen)
	hdr[0] = tun.FlagDataValid // as from a NIC that has verified the checksum
	q.receive(hdr, pkt, len(b))
	pkt.DecRef()
}

// What a client sent first may be lost with the appliance to which it went: its later
// segments do not prove its cookie, but they end nothing.
func TestSegmentBeforeCookiesAnswer(t *testing.T) {
	from4, from6 := netip.AddrPortFrom(testClient, 40000), netip.AddrPortFrom(testClient6, 40000)
	for name, c := range map[string]*cookieClient{
		"v4":    newCookieClient(from4, cookieOffer),
		"v6":    newCookieClient(from6, cookieOffer),
		"no TS": newCookieClient(from4, Params{MSS: 1460, PeerWS: 8, SACK: true}),
	} {
		t.Run(name, func(t *testing.T) {
			secret := []byte("what both know")
			a, b := newQuietEngine(t, 0), newQuietEngine(t, 0)
			a.SetCookieSecret(secret)
			b.SetCookieSecret(secret)
			shift := a.ClockMillis() - b.ClockMillis() + 5
			c.ask(t, a)
			b.ContinueCookies(shift)
			c.say(b, 10000, 1000)
			c.say(b, 11000, 0)
			b.none(t)
			if d := b.C.Drops(); len(b.legs) != 0 || d["early-segment"] != 2 || d["bad-cookie"] != 0 {
				t.Fatalf("%d legs, drops %v", len(b.legs), d)
			}
			c.say(b, 0, 1000)
			if l := b.accepted(t); l.Params().IRS != c.isn || b.cookies.early[c.f] != 0 {
				t.Errorf("accepted leg: %v", l)
			}
		})
	}
}

// A connection that is lost is told so under pressure, too: if it cannot be one of a
// cookie's at once, else when its first segment would have come again.
func TestLostIsToldUnderPressure(t *testing.T) {
	for _, ts := range []bool{true, false} {
		q := newQuietEngine(t, 0)
		newCookieClient(netip.AddrPortFrom(testClient, 40000), cookieOffer).ask(t, q)
		c := newCookieClient(netip.AddrPortFrom(testClient, 40001), cookieOffer)
		c.iss, c.ts, c.seen.TS = 5000, 6000, ts
		c.say(q, 1000, 100)
		if !ts {
			q.none(t)
			q.cookies.early[c.f] -= earlyWait
			c.say(q, 1000, 100)
		}
		if s := q.next(t); s.Flags() != header.TCPFlagRst || s.SequenceNumber() != c.iss+1 {
			t.Errorf("timestamps %v: flags %v, SEQ %d", ts, s.Flags(), s.SequenceNumber())
		}
	}
}

// A client that only listens, and whose ACK was lost, proves its cookie by a keepalive.
func TestKeepaliveAnswersCookie(t *testing.T) {
	for payload := range 2 {
		q := newQuietEngine(t, 0)
		c := newCookieClient(netip.AddrPortFrom(testClient, 40000), cookieOffer)
		c.ask(t, q)
		c.say(q, -1, payload)
		if l := q.accepted(t); l.Params().IRS != c.isn || !l.Confirmed() {
			t.Errorf("%d bytes: %v", payload, l)
		}
	}
}

// A cookie is good for one to two periods.
func TestOldCookie(t *testing.T) {
	for periods, good := range []bool{true, true, false} {
		q := newQuietEngine(t, 0)
		c := newCookieClient(netip.AddrPortFrom(testClient, 40000), cookieOffer)
		c.ask(t, q)
		// As if it had been sent so long ago.
		key := &(*q.cookies.keys.Load())[0].key
		at := period(q.ClockMillis()) - uint16(periods)
		c.iss = cookie(key, &c.f, c.isn, at, c.iss&(1<<cookieBits-1))
		c.answer(q, 0)
		if got := len(q.legs) == 1; got != good {
			t.Errorf("%d periods old: accepted %v", periods, got)
		}
	}
}

// The other half of the pair takes the cookies of the one that it continues, and its
// TSvals go on from there.
func TestCookieOfFormerActive(t *testing.T) {
	secret := []byte("what both know")
	a, b := newQuietEngine(t, 0), newQuietEngine(t, 0)
	a.SetCookieSecret(secret)
	b.SetActive(false)
	b.SetCookieSecret(secret)
	b.SetActive(true)
	const shift = 200 << 16 // b's clock is far behind
	b.ContinueCookies(shift)
	c := newCookieClient(netip.AddrPortFrom(testClient, 40000), cookieOffer)
	c.ask(t, a)
	c.iss = cookie(&(*a.cookies.keys.Load())[0].key, &c.f, c.isn, period(b.ClockMillis()+shift), c.iss&(1<<cookieBits-1))
	c.ts += shift
	c.answer(b, 0)
	l := b.accepted(t)
	if d := l.tsNow() - c.ts; int32(d) < 0 || d > 5000 {
		t.Errorf("TSval is %d ahead of what the client has seen", int32(d))
	}
	// Sessions that come in quick succession; in none of them has b sent a cookie.
	for range 2 * cookieKeys {
		b.SetCookieSecret([]byte("of the next session"))
	}
	c2 := newCookieClient(netip.AddrPortFrom(testClient, 40001), cookieOffer)
	c2.ask(t, a)
	c2.answer(b, 0)
	if len(b.legs) != 2 {
		t.Fatal("the former active's secret is forgotten at once")
	}
	// In these it has, or the other half may have.
	for i := range uint16(2 * cookieKeys) {
		b.SetCookieSecret([]byte{byte(i)})
		newCookieClient(netip.AddrPortFrom(testClient, 40002+i), cookieOffer).ask(t, b)
		if n := len(*b.cookies.keys.Load()); n > cookieKeys {
			t.Fatalf("%d keys", n)
		}
	}
	c3 := newCookieClient(netip.AddrPortFrom(testClient, 41000), cookieOffer)
	c3.ask(t, a)
	c3.answer(b, 0)
	if len(b.legs) != 2 {
		t.Error("a secret is good for ever")
	}
}

// Nobody's SYNs, and those in our own name, get no answer.
func TestSynFromNobody(t *testing.T) {
	q := newQuietEngine(t, 0)
	for _, from := range []netip.Addr{testVIP.Addr(), netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("0.0.0.0"), broadcast} {
		newCookieClient(netip.AddrPortFrom(from, 40000), cookieOffer).syn(q)
	}
	q.none(t)
	if n := q.C.Drops()["unknown-flow"]; n != 4 {
		t.Errorf("%d drops", n)
	}
}

// One network's SYNs leave room for the others.
func TestHalfOpenPerSource(t *testing.T) {
	q := newQuietEngine(t, 10)
	for _, ln := range q.listeners {
		ln.maxSource = 2
	}
	at := func(a string, port uint16) {
		newCookieClient(netip.AddrPortFrom(netip.MustParseAddr(a), port), cookieOffer).syn(q)
	}
	for i, a := range []string{"198.51.100.7", "198.51.100.8", "198.51.100.250", "2001:db8:2::1", "2001:db8:2::ffff:1", "2001:db8:2:0:1::1"} {
		at(a, uint16(40000+i))
	}
	if len(q.legs) != 4 || q.C.CookiesSent.Load() != 2 {
		t.Fatalf("%d legs, %d cookies", len(q.legs), q.C.CookiesSent.Load())
	}
	at("198.51.101.7", 40000)
	at("2001:db8:2:1::1", 40000)
	if len(q.legs) != 6 {
		t.Errorf("other networks are shut out: %d legs", len(q.legs))
	}
	q.legs[0].Drop()
	at("198.51.100.9", 40009)
	if len(q.legs) != 7 {
		t.Error("one that ends makes no room")
	}
	for _, l := range q.legs {
		l.Drop()
	}
	for addr, ln := range q.listeners {
		if len(ln.sources) != 0 {
			t.Errorf("%s: %v remain", addr, ln.sources)
		}
	}
}

// A client may answer a cookie when a later copy of its SYN was remembered.
func TestCookieAnswersHalfOpenLeg(t *testing.T) {
	for _, accept := range []bool{false, true} {
		q := newQuietEngine(t, 0)
		c := newCookieClient(netip.AddrPortFrom(testClient, 40000), cookieOffer)
		c.ask(t, q)
		for _, ln := range q.listeners {
			ln.max, ln.maxSource = 10, 10
		}
		c.syn(q)
		half := q.accepted(t)
		if accept {
			half.Accept()
			q.next(t)
		}
		c.answer(q, 0)
		if l := q.accepted(t); l == half || !l.Confirmed() || half.Err() == nil || q.Legs() != 1 || q.HalfOpen() != 0 {
			t.Errorf("accept %v: %v, %d legs", accept, l, q.Legs())
		}
	}
}

// What a cookie says of a client's options is never more than it has offered.
func TestCookieIndex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Params{
			MSS: uint16(rapid.IntRange(48, 65535).Draw(t, "MSS")), PeerWS: int8(rapid.IntRange(-1, 14).Draw(t, "scale")),
			SACK: rapid.Bool().Draw(t, "SACK"),
		}
		n := cookieIndex(&p)
		mss, ws := cookieMSS[n&7], cookieScale[n>>3&7]
		if n>>cookieBits != 0 || mss > p.MSS || ws > p.PeerWS || (ws < 0) != (p.PeerWS < 0) || n>>6 != 0 != p.SACK {
			t.Fatalf("%+v: index %d, MSS %d, scale %d", p, n, mss, ws)
		}
	})
}

// BenchmarkCookie is what a SYN costs that gets a cookie, but for the device's writing.
func BenchmarkCookie(b *testing.B) {
	f := flowOf(testVIP, netip.AddrPortFrom(testClient, 40000))
	var key [32]byte
	b.ReportAllocs()
	for i := range b.N {
		cookie(&key, &f, uint32(i), 7, 33)
	}
}

// A session that has begun while we were active: after a switchover the other half makes cookies with its key, until the
// next session begins. We must not forget it then.
func TestCookieKeyOfSwitchover(t *testing.T) {
	secret := []byte("what both know")
	a, b := newQuietEngine(t, 0), newQuietEngine(t, 0)
	a.SetActive(false)
	a.SetCookieSecret(secret)
	b.SetCookieSecret(secret) // b is active: a has joined
	b.SetActive(false)        // switchover: a is active
	a.SetActive(true)
	c := newCookieClient(netip.AddrPortFrom(testClient, 40001), cookieOffer)
	c.ask(t, a)
	b.SetCookieSecret([]byte("of the next session")) // b joins a as its standby
	b.SetActive(true)                                // a is dead
	b.ContinueCookies(0)
	c.answer(b, 0)
	if len(b.legs) != 1 {
		t.Error("the secret with which the former active has answered is forgotten at once")
	}
}
