package relay_test

import (
	"net/netip"
	"testing"
	"time"

	"lockstep/appliance/pool"
	"lockstep/appliance/relay"
	"lockstep/internal/script"
	"lockstep/replication"
)

var (
	passVIP     = netip.MustParseAddrPort("203.0.113.10:80")
	passClient  = netip.MustParseAddrPort("198.51.100.7:40000")
	passSecond  = netip.MustParseAddrPort("198.51.100.7:40001")
	passServer  = netip.MustParseAddrPort("10.20.0.11:8080")
	passServer2 = netip.MustParseAddrPort("10.20.0.12:8080")
)

// passRig is an appliance that passes connections on, whose peers' segments are said one by one.
type passRig struct {
	*script.Rig
	t   *testing.T
	svc *relay.Service
	out chan script.Segment
}

func newPassRig(t *testing.T, tune func(*relay.Service), light ...bool) *passRig {
	return passRigOf(t, tune, script.Options{Light: len(light) > 0})
}

func passRigOf(t *testing.T, tune func(*relay.Service), o script.Options) *passRig {
	p := &passRig{t: t, out: make(chan script.Segment, 1000)}
	o.Raw = func(hdr, pkt []byte) {
		if s, err := script.Decode(hdr, pkt); err == nil { // else it is a pong
			p.out <- s
		}
	}
	o.Tune = func(s *relay.Service) {
		p.svc, s.Pass = s, true
		s.Pool = pool.New(pool.Config{Servers: []netip.AddrPort{passServer, passServer2}, Retry: time.Hour})
		if tune != nil {
			tune(s)
		}
	}
	p.Rig = newRig(t, o)
	return p
}

// say lets a segment come.
func (p *passRig) say(from, to netip.AddrPort, flags uint8, seq, ack uint32) {
	p.t.Helper()
	if err := p.Inject(nil, segment(from, to, flags, seq, ack)); err != nil {
		p.t.Fatal(err)
	}
}

// again is say from within Wait.
func (p *passRig) again(from, to netip.AddrPort, flags uint8, seq, ack uint32) func() {
	return func() { go func() { _ = p.Inject(nil, segment(from, to, flags, seq, ack)) }() }
}

func segment(from, to netip.AddrPort, flags uint8, seq, ack uint32) []byte {
	s := script.Segment{Src: from, Dst: to, Flags: flags, Seq: seq, Ack: ack, Win: 65535, Opts: script.NoOpts}
	return s.Encode()
}

// gets awaits the next segment, which must be this one.
func (p *passRig) gets(what string, from, to netip.AddrPort, flags uint8, seq, ack uint32) {
	p.t.Helper()
	if s := p.next(what); s.Src != from || s.Dst != to || s.Flags != flags || s.Seq != seq || s.Ack != ack {
		p.t.Fatalf("%s: got %s", what, &s)
	}
}

// next awaits the next segment.
func (p *passRig) next(what string) (s script.Segment) {
	p.t.Helper()
	select {
	case s = <-p.out:
	case <-time.After(limit):
		p.t.Fatalf("%s: nothing comes", what)
	}
	return s
}

// speaks lets the client of open say where it is, again and again, until something has come of it.
func (p *passRig) speaks(what string, until func() bool) {
	p.t.Helper()
	if !p.Wait(limit, until, p.again(passClient, passVIP, script.ACK, 1001, 5001)) {
		p.t.Fatalf("%s: does not happen", what)
	}
}

// stay is are when nothing is to come that changes it.
func (p *passRig) stay(n int) {
	p.t.Helper()
	p.are(n)
	if p.Wait(50*time.Millisecond, func() bool { return p.svc.Conns() != n || p.svc.Passed() != n }, nil) {
		p.t.Fatalf("%d connections, %d of them passed on", p.svc.Conns(), p.svc.Passed())
	}
}

// open plays a handshake with the first server: the client's ISN is 1000, the server's 5000.
func (p *passRig) open(client netip.AddrPort) {
	p.t.Helper()
	p.say(client, passVIP, script.SYN, 1000, 0)
	s := p.next("SYN")
	if s.Src != client || s.Dst != passServer || s.Flags != script.SYN || s.Seq != 1000 {
		p.t.Fatalf("to the server: %s", &s)
	}
	p.say(passServer, client, script.SYN|script.ACK, 5000, 1001)
	p.gets("SYN-ACK", passVIP, client, script.SYN|script.ACK, 5000, 1001)
	p.say(client, passVIP, script.ACK, 1001, 5001)
	p.gets("ACK", client, passServer, script.ACK, 1001, 5001)
}

// are awaits how many connections there are, in all three places where they are counted.
func (p *passRig) are(n int) {
	p.t.Helper()
	await(p.t, p.Rig, "number of connections", func() bool {
		open, _, _ := p.Relay().Counts()
		s := p.svc.Pool.Status()
		return open == n && p.svc.Conns() == n && p.svc.Passed() == n && s[0].Conns+s[1].Conns == n
	})
}

// A server that refuses is followed by the next one. It is not asked first any more.
func TestPassedRefused(t *testing.T) {
	p := newPassRig(t, nil)
	p.say(passClient, passVIP, script.SYN, 1000, 0)
	p.gets("SYN", passClient, passServer, script.SYN, 1000, 0)
	p.say(passServer, passClient, script.RST|script.ACK, 0, 1001)
	p.gets("SYN to the next", passClient, passServer2, script.SYN, 1000, 0)
	p.say(passServer2, passClient, script.SYN|script.ACK, 7000, 1001)
	p.gets("SYN-ACK", passVIP, passClient, script.SYN|script.ACK, 7000, 1001)
	if s := p.svc.Pool.Status(); s[0].Up || !s[1].Up {
		t.Errorf("%+v", s)
	}
	p.are(1)
	p.say(passServer2, passClient, script.RST, 7001, 0)
	p.gets("RST", passVIP, passClient, script.RST, 7001, 0)
	p.are(0)
	// The client hears of a refusal by the last one.
	p.say(passSecond, passVIP, script.SYN, 2000, 0)
	p.gets("SYN", passSecond, passServer2, script.SYN, 2000, 0)
	p.say(passServer2, passSecond, script.RST|script.ACK, 0, 2001)
	p.gets("SYN to the other", passSecond, passServer, script.SYN, 2000, 0)
	p.say(passServer, passSecond, script.RST|script.ACK, 0, 2001)
	p.gets("refusal", passVIP, passSecond, script.RST|script.ACK, 0, 2001)
	p.are(0)
}

// A silent server is told that nobody comes, and held for one that does not answer.
func TestPassedSilent(t *testing.T) {
	p := newPassRig(t, nil)
	p.say(passClient, passVIP, script.SYN, 1000, 0)
	next := func() bool {
		for len(p.out) > 0 {
			if s := <-p.out; s.Dst == passServer2 && s.Flags == script.SYN && s.Seq == 1000 {
				return true
			}
		}
		return false
	}
	if !p.Wait(limit, next, p.again(passClient, passVIP, script.SYN, 1000, 0)) {
		t.Fatal("the next one is not asked")
	}
	if s := p.svc.Pool.Status(); s[0].Up || !s[1].Up {
		t.Errorf("%+v", s)
	}
	p.are(1)
}

// An idle connection is reset on both sides.
func TestPassedIdle(t *testing.T) {
	p := newPassRig(t, func(s *relay.Service) { s.Idle = time.Second })
	p.open(passClient)
	for _, want := range []script.Segment{
		{Src: passVIP, Dst: passClient, Seq: 5001, Ack: 1001}, {Src: passClient, Dst: passServer, Seq: 1001, Ack: 5001},
	} {
		s := p.next("RST")
		for s.Flags == script.ACK && (s.Seq == 5000 || s.Seq == 1000) { // it has just paused: who is silent is asked
			s = p.next("RST")
		}
		if s.Src != want.Src || s.Dst != want.Dst || s.Flags != script.RST|script.ACK || s.Seq != want.Seq || s.Ack != want.Ack {
			t.Fatalf("RST: got %s", &s)
		}
	}
	p.are(0)
}

// A RST that its receiver does not believe ends nothing: the connection is one again.
func TestPassedRevived(t *testing.T) {
	p := newPassRig(t, nil)
	p.open(passClient)
	p.say(passServer, passClient, script.RST, 5001, 0)
	p.gets("RST", passVIP, passClient, script.RST, 5001, 0)
	p.are(0)
	p.speaks("life", func() bool { return p.svc.Conns() == 1 })
	p.are(1)
	await(t, p.Rig, "record", func() bool { return p.Journal().Active().Connections == 1 })
	p.say(passServer, passClient, script.RST, 5001, 0)
	p.are(0)
}

// One for which there is no room any more is counted as none, whatever comes of it.
func TestPassedRevivedBeyondLimit(t *testing.T) {
	p := newPassRig(t, func(s *relay.Service) { s.MaxConns = 1 })
	p.open(passClient)
	p.say(passServer, passClient, script.RST, 5001, 0)
	p.gets("RST", passVIP, passClient, script.RST, 5001, 0)
	p.are(0)
	p.open(passSecond)
	p.speaks("no room", func() bool { return p.Engine().C.Drops()["connection-limit"] > 0 })
	p.say(passServer, passClient, script.RST, 5001, 0)
	p.stay(1)
}

// One that has left the table under its worker's hands is found out.
func TestPassedVanished(t *testing.T) {
	p := newPassRig(t, nil)
	p.open(passClient)
	p.are(1)
	p.Relay().Each(func(c *relay.Conn) { relay.Passed(c).Drop() })
	p.are(0)
}

// An appliance that stops resets both ends, from wherever they are, and answers what they say to
// that; who comes then is refused.
func TestPassedEnd(t *testing.T) {
	p := newPassRig(t, nil)
	p.open(passClient)
	p.say(passClient, passVIP, script.FIN|script.ACK, 1001, 5001)
	p.gets("FIN", passClient, passServer, script.FIN|script.ACK, 1001, 5001)
	begin := time.Now()
	if n := p.Relay().End(limit); n != 1 {
		t.Errorf("%d connections", n)
	}
	if d := time.Since(begin); d < 200*time.Millisecond {
		t.Errorf("answers were waited for %v", d)
	}
	p.gets("RST", passVIP, passClient, script.RST|script.ACK, 5001, 1002)
	p.gets("RST from the middle", passClient, passServer, script.RST|script.ACK, 1001, 5001)
	p.gets("RST from the end", passClient, passServer, script.RST|script.ACK, 1002, 5001)
	p.say(passServer, passClient, script.ACK, 5001, 1001)
	p.gets("RST", passClient, passServer, script.RST, 1001, 0)
	for _, from := range []netip.AddrPort{passClient, passSecond} {
		p.say(from, passVIP, script.SYN, 3000, 0)
		p.gets("refusal", passVIP, from, script.RST|script.ACK, 0, 3001)
	}
	p.are(0)
}

// continued are two connections as a takeover hands them out, of which the handshake had the numbers of open.
func continued(finished bool) (all []replication.Continue) {
	leg := func(local, remote netip.AddrPort, iss, irs uint32) replication.LegRecord {
		return replication.LegRecord{Local: local, Remote: remote, ISS: iss, IRS: irs, MSS: 1460, OurMSS: 1460, PeerWS: -1, OurWS: -1}
	}
	for i, c := range []netip.AddrPort{passClient, passSecond} {
		all = append(all, replication.Continue{Finished: finished, Record: replication.Record{
			ID: replication.ConnID(100 + i), Service: "web", Spliced: true, Client: leg(passVIP, c, 5000, 1000), Server: leg(c, passServer, 1000, 5000),
		}})
	}
	return all
}

// A client that had not completed its handshake when its appliance died does not stay in the successor's table: the
// server is asked once, when it has given it up. Of one that speaks nobody is asked.
func TestPassedUnheard(t *testing.T) {
	p := newPassRig(t, nil, true)
	all := continued(false)
	for i := range all {
		p.Journal().Open(new(relay.Conn), all[i].Record)
	}
	await(t, p.Rig, "two records", func() bool { st, _ := p.Journal().Standby(); return st.Connections == 2 })
	conns, err := p.Relay().Restore(all, 0)
	if err != nil || len(conns) != 2 {
		t.Fatalf("%d connections, %v", len(conns), err)
	}
	p.say(passSecond, passVIP, script.ACK, 1001, 5001)
	p.gets("its word", passSecond, passServer, script.ACK, 1001, 5001)
	for _, ago := range []time.Duration{2 * time.Minute, 4 * time.Minute, 6 * time.Minute} {
		for _, c := range conns {
			relay.AskUnheard(c, ago)
		}
	}
	ask := p.next("question")
	if ask.Src != passClient || ask.Dst != passServer || ask.Flags != script.ACK {
		t.Fatalf("question: %s", &ask)
	}
	p.say(passServer, passClient, script.RST, ask.Ack, 0)
	p.gets("RST", passVIP, passClient, script.RST, ask.Ack, 0)
	p.are(1)
}

// What another appliance has seen end is counted as none, and its client comes again at once.
func TestPassedTombstone(t *testing.T) {
	p := newPassRig(t, nil, true)
	all := continued(true)
	if conns, err := p.Relay().Restore(all, 0); err != nil || len(conns) != 0 {
		t.Fatalf("%d connections, %v", len(conns), err)
	}
	p.say(passSecond, passVIP, script.FIN|script.ACK, 1500, 5500)
	p.gets("FIN", passSecond, passServer, script.FIN|script.ACK, 1500, 5500)
	p.say(passServer, passSecond, script.FIN|script.ACK, 5500, 1501)
	p.gets("FIN", passVIP, passSecond, script.FIN|script.ACK, 5500, 1501)
	p.say(passSecond, passVIP, script.ACK, 1501, 5501)
	p.gets("ACK", passSecond, passServer, script.ACK, 1501, 5501)
	p.say(passClient, passVIP, script.SYN, 90000, 0)
	p.gets("SYN", passClient, passServer, script.SYN, 90000, 0)
	p.stay(1)
}
