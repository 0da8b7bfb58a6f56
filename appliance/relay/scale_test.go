package relay_test

import (
	"net/netip"
	"testing"
	"time"

	"lockstep/appliance/pool"
	"lockstep/appliance/relay"
	"lockstep/replication"
	"lockstep/replication/wire"
	"lockstep/stack"
	"lockstep/tun/tuntest"
)

// nobody is a journal without a standby.
type nobody struct {
	relay.Journal
	continued, adopted func(replication.ConnID) // nil: nothing
}

func (n nobody) Continued(id replication.ConnID) {
	if n.continued != nil {
		n.continued(id)
	}
}

func (n nobody) Adopt(c *relay.Conn, _ replication.Record, _ [2]replication.StreamPos, _ *replication.Log) error {
	n.adopted(c.ID)
	return nil
}

func (nobody) Congested() bool                                 { return false }
func (nobody) MaySplice() bool                                 { return true }
func (nobody) Close(replication.ConnID, replication.CloseKind) {}

// restGateway is an address of the appliance towards its servers.
var restGateway = netip.MustParseAddr("10.20.0.1")

// manyPassed is what a standby hands out that holds n connections which are passed on; the servers see the clients'
// addresses, or that of the gateway.
func manyPassed(b testing.TB, n int, gateway ...netip.Addr) *replication.Core {
	return standbyOf(b, n, func(i int) replication.Record {
		r := passedRecord(i, manyClient(i))
		for _, a := range gateway {
			r.Server.Local = netip.AddrPortFrom(a, uint16(1024+i))
		}
		return r
	})
}

// passedRecord is that of the i-th connection, which is passed on.
func passedRecord(i int, client netip.AddrPort) replication.Record {
	leg := replication.LegRecord{Local: passVIP, Remote: client, ISS: uint32(i), IRS: uint32(i) * 3, MSS: 1460, OurMSS: 1460, PeerWS: 7, OurWS: 7, TS: true, SACK: true}
	r := replication.Record{ID: replication.ConnID(1<<32 + i + 1), Service: "web", Spliced: true, Client: leg, Server: leg}
	r.Server.Local, r.Server.Remote = client, passServer
	return r
}

// standbyOf is one that holds n connections and whose peer is lost.
func standbyOf(b testing.TB, n int, record func(i int) replication.Record) *replication.Core {
	a, s := replication.New(replication.Limits{MaxConns: n}), replication.New(replication.Limits{MaxConns: n})
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	must(a.SetRole(replication.RoleActive, 1))
	must(s.SetRole(replication.RoleStandby, 1))
	must(s.PeerJoined(0, wire.Version))
	must(a.PeerJoined(0, wire.Version))
	var buf []byte
	carry := func(from, to *replication.Core) {
		for from.Flushable() {
			buf = from.Flush(buf[:0])
			for rest := buf; len(rest) > 0; {
				l, err := wire.FrameLen(rest)
				must(err)
				must(to.Step(0, rest[:l]))
				rest = rest[l:]
			}
		}
	}
	for i := range n {
		r := record(i)
		must(a.Open(0, &r))
		if i%1000 == 999 || i == n-1 {
			carry(a, s)
			carry(s, a)
			a.Ready()
		}
	}
	carry(a, s)
	s.PeerLost()
	return s
}

// manyClient is the i-th of many.
func manyClient(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 22), byte(i >> 14)}), uint16(1024+i&0x3fff))
}

// newBare is a relay with an engine, and the other end of its wire.
func newBare(b testing.TB) (*relay.Relay, *stack.Engine, *tuntest.End) { return newBareOf(b, nobody{}) }

// newBareOf is newBare with such a journal.
func newBareOf(b testing.TB, j nobody) (*relay.Relay, *stack.Engine, *tuntest.End) {
	svc := &relay.Service{Name: "web", Listen: []netip.AddrPort{passVIP}, Settings: relay.Settings{MaxConns: 1 << 30}, MaxHalfOpen: 1 << 16, Pass: true}
	svc.Pool = pool.New(pool.Config{Servers: []netip.AddrPort{passServer}})
	r := relay.New([]*relay.Service{svc}, j)
	near, far := tuntest.PipeSize(tuntest.MTU, 1<<14)
	e, err := stack.New(stack.Options{Device: near, Handler: r, Addresses: []netip.Addr{passVIP.Addr(), restGateway}})
	if err != nil {
		b.Fatal(err)
	}
	r.SetEngine(e)
	b.Cleanup(func() {
		_ = far.Close()
		_ = e.Close()
		r.Close()
	})
	return r, e, far
}

// BenchmarkTakeoverPassed is a takeover of 200,000 connections that are passed on, from the standby's store to the table.
func BenchmarkTakeoverPassed(b *testing.B) {
	const n = 200_000
	for range b.N {
		b.StopTimer()
		core := manyPassed(b, n)
		r, _, _ := newBare(b)
		b.StartTimer()
		begin := time.Now()
		_, rest, err := core.TakeoverFirst(2)
		if err != nil || rest.Len() != n {
			b.Fatal(rest, err)
		}
		r.Rest(rest)
		b.ReportMetric(float64(time.Since(begin).Nanoseconds())/n, "ns/found")
		if left, err := r.RestoreSome(n); left > 0 || err != nil {
			b.Fatal(left, err)
		}
		b.ReportMetric(float64(time.Since(begin).Nanoseconds())/n, "ns/made")
	}
}
