package replication

import (
	"net/netip"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

// A record comes back from its small form as it was.
func TestCompactRecord(t *testing.T) {
	addr := rapid.OneOf(
		rapid.Just(netip.Addr{}),
		rapid.Custom(func(t *rapid.T) netip.Addr {
			return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "v4")))
		}),
		rapid.Custom(func(t *rapid.T) netip.Addr {
			return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "v6")))
		}),
		rapid.Just(netip.MustParseAddr("::ffff:192.0.2.1")),
	)
	leg := rapid.Custom(func(t *rapid.T) LegRecord {
		ap := func() netip.AddrPort {
			return netip.AddrPortFrom(addr.Draw(t, "address"), rapid.Uint16().Draw(t, "port"))
		}
		n := func(what string) uint32 { return rapid.Uint32().Draw(t, what) }
		return LegRecord{
			Local: ap(), Remote: ap(), ISS: n("iss"), IRS: n("irs"), MSS: uint16(n("mss")), OurMSS: uint16(n("ours")),
			PeerWS: rapid.Int8Range(-1, 14).Draw(t, "ws"), OurWS: rapid.Int8Range(-1, 14).Draw(t, "our ws"),
			SACK: rapid.Bool().Draw(t, "sack"), TS: rapid.Bool().Draw(t, "ts"),
			TSOffset: n("offset"), PeerTS: n("stamp"), RTTMicros: n("rtt"),
		}
	})
	var s standby
	s.init(&Limits{})
	rapid.Check(t, func(t *rapid.T) {
		r := Record{ID: 7, Service: rapid.SampledFrom([]string{"", "web", "mail"}).Draw(t, "service"), Client: leg.Draw(t, "client"), Server: leg.Draw(t, "server")}
		k := &kept{id: r.ID}
		s.setRecord(k, r.Service, &r.Client, &r.Server)
		if got := k.record(); got != r {
			t.Fatalf("%+v came back as %+v", r, got)
		}
	})
	if len(s.ends) > maxEnds {
		t.Errorf("%d ends are shared", len(s.ends))
	}
}

// What a million of are kept. The allocator's classes are 144, 160, 176, 192 and 208 bytes.
func TestIdleIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(kept{}); n > 192 {
		t.Errorf("a connection takes %d bytes on the standby", n)
	}
	if n := unsafe.Sizeof(conn{}); n > 160 {
		t.Errorf("a connection takes %d bytes in the active's table", n)
	}
}
