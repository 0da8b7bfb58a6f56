package stack

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// SYN cookies (RFC 4987, 3.6): a client beyond the limits of its listener gets a
// SYN-ACK of which nothing is remembered. What must be known is in its sequence
// number, with a keyed hash of it and of the addresses, ports and numbers of the
// handshake: whoever acknowledges it has received it. Only then is there a leg, and a
// server is dialled.
//
//	31                    7 6    5      3 2    0
//	hash, 25 bits          SACK  scale    MSS
//
// Other than in Linux the options need no timestamps, which many clients do not send.
// A guess is right once in 2^23 (two periods are good; so is a keepalive; in 2^22 for two
// minutes after a takeover, when the former active's clock is good, too; up to four times as often
// where several sessions of the pair have begun meanwhile, with a key each): it opens a
// connection for an address that does not answer, no more.

const (
	cookieBits = 7 // of options
	// cookiePeriod is how long cookies of one kind are sent; they are good for that and
	// the next one: longer than a client takes to answer.
	cookiePeriod = 1 << 16 * time.Millisecond
	// cookieKeys is how many keys are good at a time at most. Where the sync link is bad a session
	// follows another one within a second, and a client that nobody has answered lives longer.
	cookieKeys = 4
)

// What a cookie can say of a client's options: the largest value that is not more.
// Less than it has announced is safe, for the MSS and for the scale of its window, too.
var (
	cookieMSS   = [8]uint16{48, 256, 536, 1220, 1360, 1400, 1440, 1460}
	cookieScale = [8]int8{-1, 0, 2, 4, 6, 7, 8, 10}
)

// cookies is what one half of a pair must know to take a cookie of the other: the key,
// and its clock.
type cookies struct {
	keys       atomic.Pointer[[]*cookieKey] // the current one, those before
	former     atomic.Pointer[formerActive]
	onPressure func(netip.AddrPort)
	onFlood    func([]netip.AddrPort)
	early      map[flow]time.Duration // of the reader: since when, see overtaken
}

// cookieKey is a key, and whether cookies may have been made with it.
type cookieKey struct {
	key   [32]byte
	used  atomic.Bool
	until time.Duration // of SetCookieSecret: when the last of them is too old; 0: not known yet
}

// formerActive is the one that this engine continues.
type formerActive struct {
	shift uint32        // its millisecond clock less ours
	until time.Duration // when the last of its cookies is too old
}

func (c *cookies) init(secret []byte, o *Options) {
	c.keys.Store(&[]*cookieKey{{key: sha256.Sum256(secret)}})
	c.onPressure, c.onFlood = o.OnPressure, o.OnFlood
}

// SetCookieSecret gives the engine what it has in common with the other half of the
// pair. Cookies made with former secrets stay good, by us or, while we were mute, by the other
// half. Only the loop of roles calls it.
func (e *Engine) SetCookieSecret(secret []byte) {
	now := e.now()
	k := &cookieKey{key: sha256.Sum256(secret)}
	k.used.Store(!e.active.Load())
	list := append(make([]*cookieKey, 0, cookieKeys), k)
	for _, k := range *e.cookies.keys.Load() {
		if k.until == 0 {
			k.until = now + 2*cookiePeriod
		}
		if k.used.Load() && now < k.until && len(list) < cookieKeys {
			list = append(list, k)
		}
	}
	e.cookies.keys.Store(&list)
}

// ContinueCookies lets the engine take the cookies of an active that it continues, whose
// millisecond clock is ahead of ours by shift.
func (e *Engine) ContinueCookies(shift uint32) {
	until := e.now() + 2*cookiePeriod
	e.cookies.former.Store(&formerActive{shift: shift, until: until})
	e.mu.Lock()
	for _, ln := range e.listeners {
		ln.cookiesUntil = until
	}
	e.mu.Unlock()
}

// period counts cookiePeriods of a millisecond clock.
func period(millis uint32) uint16 { return uint16(millis >> 16) }

// cookie is the ISN for a client's SYN with that ISN, and the options with that index.
func cookie(key *[32]byte, f *flow, irs uint32, at uint16, index uint32) uint32 {
	var b [32 + 16 + 16 + 2 + 2 + 4 + 2 + 1]byte
	copy(b[:], key[:])
	copy(b[32:], f.local[:])
	copy(b[48:], f.remote[:])
	binary.BigEndian.PutUint16(b[64:], f.localPort)
	binary.BigEndian.PutUint16(b[66:], f.remotePort)
	binary.BigEndian.PutUint32(b[68:], irs)
	binary.BigEndian.PutUint16(b[72:], at)
	b[74] = byte(index)
	h := sha256.Sum256(b[:])
	return binary.BigEndian.Uint32(h[:])<<cookieBits | index
}

// cookieTSOffset is the TSOffset of a leg that a cookie opens.
func cookieTSOffset(key *[32]byte, f *flow) uint32 {
	return cookie(key, f, 0, 0, 1<<cookieBits) // no cookie has that index
}

// cookieIndex says of a client's options what a cookie can say.
func cookieIndex(p *Params) uint32 {
	var n uint32
	for i, mss := range cookieMSS {
		if mss <= p.MSS {
			n = uint32(i)
		}
	}
	for i, ws := range cookieScale {
		if ws <= p.PeerWS {
			n = n&7 | uint32(i)<<3
		}
	}
	if p.SACK {
		n |= 1 << (cookieBits - 1)
	}
	return n
}

// sendCookie answers a SYN without remembering it. first: the last one of that address is
// no longer good.
func (e *Engine) sendCookie(s *segment, first bool) {
	var p Params
	if !p.readSYN(s) {
		e.C.drop(DropOptions)
		return
	}
	delete(e.cookies.early, s.flow) // of a connection before this one
	if first && e.cookies.onPressure != nil {
		e.cookies.onPressure(addrPort(s.flow.local, s.flow.localPort))
	}
	current := (*e.cookies.keys.Load())[0]
	current.used.Store(true)
	key := &current.key
	p.OurMSS, p.OurWS = e.mss(s.v6), -1
	if p.PeerWS >= 0 {
		p.OurWS = int8(e.windowScale)
	}
	var ts uint32
	if p.TS {
		ts = e.ClockMillis() + cookieTSOffset(key, &s.flow)
	}
	var opts [header.TCPOptionsMaximumSize]byte
	var b [maxMade]byte
	e.C.CookiesSent.Add(1)
	e.emitMade(s.flow.build(b[:], s.v6, false, made{
		flags: header.TCPFlagSyn | header.TCPFlagAck, ack: p.IRS + 1, window: e.firstWindow(p.OurMSS),
		seq:  cookie(key, &s.flow, p.IRS, period(e.ClockMillis()), cookieIndex(&p)),
		opts: synOptions(opts[:], p.OurMSS, p.OurWS, p.SACK, p.TS, ts, p.PeerTS),
	}))
}

// cookieKey returns the key with which the cookie was made that a segment acknowledges,
// and the client's ISN; nil if it acknowledges none of ours.
func (e *Engine) cookieKey(s *segment) (key *[32]byte, irs uint32) {
	seq := s.tcp.SequenceNumber()
	if key = e.cookieKeyFor(s, seq-1); key == nil && s.payload <= 1 {
		// A keepalive (RFC 1122, 4.2.3.6): the ACK of a client that only listens was lost.
		return e.cookieKeyFor(s, seq), seq
	}
	return key, seq - 1
}

func (e *Engine) cookieKeyFor(s *segment, irs uint32) *[32]byte {
	isn := s.tcp.AckNumber() - 1
	now := period(e.ClockMillis())
	at := append(make([]uint16, 0, 4), now, now-1)
	if f := e.cookies.former.Load(); f != nil && e.now() < f.until {
		now = period(e.ClockMillis() + f.shift)
		at = append(at, now, now-1)
	}
	for _, k := range *e.cookies.keys.Load() {
		for _, n := range at {
			if cookie(&k.key, &s.flow, irs, n, isn&(1<<cookieBits-1)) == isn {
				return &k.key
			}
		}
	}
	return nil
}

// ownCookie reports whether a segment acknowledges a cookie of ours.
func (e *Engine) ownCookie(s *segment) bool {
	key, _ := e.cookieKey(s)
	return key != nil
}

// fromCookie makes the leg of a client that has answered a cookie; nil if it has not.
func (e *Engine) fromCookie(s *segment) *Leg {
	key, irs := e.cookieKey(s)
	if key == nil {
		return nil
	}
	delete(e.cookies.early, s.flow)
	l := &Leg{engine: e, flow: s.flow, v6: s.v6, state: stWaiting}
	l.confirmed = true
	p := &l.p
	p.Local, p.Remote = addrPort(s.flow.local, s.flow.localPort), addrPort(s.flow.remote, s.flow.remotePort)
	p.ISS, p.IRS = s.tcp.AckNumber()-1, irs
	p.MSS, p.PeerWS = cookieMSS[p.ISS&7], cookieScale[p.ISS>>3&7]
	p.SACK = p.ISS>>(cookieBits-1)&1 != 0
	p.OurMSS, p.OurWS = e.mss(s.v6), -1
	if p.PeerWS >= 0 {
		p.OurWS, l.ws = int8(e.windowScale), e.windowScale
	}
	l.rxEdge = uint64(e.firstWindow(p.OurMSS))
	l.cookieTS(s, key)
	e.Heard(p.Remote.Addr())
	l.tsKnown, l.tsAt, l.peerWndMax = true, e.now(), s.tcp.WindowSize()
	return l
}

// cookieTS takes the timestamps from a client's answer to a cookie: it sends them if
// both have agreed on them (RFC 7323, 3.2).
func (l *Leg) cookieTS(s *segment, key *[32]byte) {
	opts := s.tcp[header.TCPMinimumSize:]
	ts, _, ok := locateOptions(opts)
	if !ok || ts < 0 {
		return
	}
	l.p.TS, l.p.PeerTS = true, be32(opts[ts+2:])
	l.p.TSOffset = cookieTSOffset(key, &s.flow)
	echo := be32(opts[ts+6:])
	since := l.tsNow() - echo
	switch {
	case since < 10_000:
		l.p.RTTMicros = since * 1000
	case since > uint32(2*cookiePeriod/time.Millisecond):
		// Another appliance's clock. TSval must not be less than what the client has
		// seen (RFC 7323, 5.3), which may be a later SYN-ACK than the one that it echoes.
		l.p.TSOffset += echo - l.tsNow() + 1000
	}
}

const (
	earlyMax = 1 << 12
	// earlyWait is how long a client's later segments may come before the first one: until
	// its retransmission time-out has sent that again.
	earlyWait = 3 * time.Second
)

// overtaken reports whether a segment that acknowledges no cookie may be a later one of
// a client that has one: what came before it was lost, with the appliance to which it
// went, say. Only the first byte's segment proves the cookie, and is sent again until it
// is acknowledged; a RST would end a connection that its client takes for open.
func (e *Engine) overtaken(s *segment) bool {
	ts, _, ok := locateOptions(s.tcp[header.TCPMinimumSize:])
	if !ok || ts >= 0 && !e.cookieEcho(&s.flow, s.tsEcr()) {
		return false // it echoes something that no cookie's SYN-ACK said
	}
	now := e.now()
	since, known := e.cookies.early[s.flow]
	if known && now-since < 2*cookiePeriod {
		return now-since < earlyWait
	}
	if e.cookies.early == nil || len(e.cookies.early) >= earlyMax {
		e.cookies.early = make(map[flow]time.Duration) // those in it are waited for once more
	}
	e.cookies.early[s.flow] = now
	return true
}

// cookieEcho reports whether the SYN-ACK of a cookie that is still good can have had a
// timestamp.
func (e *Engine) cookieEcho(f *flow, echo uint32) bool {
	const life = uint32(2 * cookiePeriod / time.Millisecond)
	now := e.ClockMillis()
	former := e.cookies.former.Load()
	for _, k := range *e.cookies.keys.Load() {
		age := now + cookieTSOffset(&k.key, f) - echo
		if age <= life || former != nil && e.now() < former.until && age+former.shift <= life {
			return true
		}
	}
	return false
}
