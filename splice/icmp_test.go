package splice

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// icmpError is what a router says about a packet that it got.
func icmpError(router netip.Addr, about []byte, typ, code byte, mtu uint16, quoted int) []byte {
	about = about[:min(len(about), quoted)]
	src, _ := addressesOf(about[:min(len(about), 44)])
	n := 20
	if router.Is6() {
		n = 40
	}
	b := make([]byte, n+8, n+8+len(about))
	b[n], b[n+1] = typ, code
	put16(b[n+6:], mtu)
	b = append(b, about...)
	if n == 20 {
		b[0], b[8], b[9] = 0x45, 61, 1
		put16(b[2:], uint16(len(b)))
		copy(b[12:], router.AsSlice())
		copy(b[16:], src.Addr().AsSlice())
		put16(b[10:], ^sumOf(b[:20]))
		put16(b[22:], ^sumAll(b[20:]))
		return b
	}
	b[0], b[6], b[7] = 0x60, 58, 61
	put16(b[4:], uint16(len(b)-40))
	copy(b[8:], router.AsSlice())
	copy(b[24:], src.Addr().AsSlice())
	put16(b[42:], ^checksum.Checksum(b[40:], pseudo6(b)))
	return b
}

func pseudo6(b []byte) uint16 {
	return checksum.Combine(checksum.Checksum(b[8:40], 0), checksum.Combine(58, uint16(len(b)-40)))
}

// An error about what we have passed on reaches the end that sent it as one about its own packet.
func TestErrorIsTranslated(t *testing.T) {
	routers := map[bool]netip.Addr{false: netip.MustParseAddr("10.1.2.1"), true: netip.MustParseAddr("fd00::1")}
	for _, a := range []Addrs{addrs4, own4, addrs6, own6} {
		for _, sender := range []Side{Client, Server} {
			for _, quoted := range []int{28, 60, 1000} {
				r := newRig(t, a)
				r.open()
				v6 := a.VIP.Addr().Is6()
				typ, code := byte(3), byte(4)
				if v6 {
					quoted, typ, code = quoted+20, 2, 0
				}
				s := tcp{flags: flagACK, seq: cSeq, ack: sSeq, n: 1400, window: 512}
				if sender == Server {
					s.seq, s.ack = sSeq, cSeq
				}
				sent := packet(a, sender, s)
				r.want(0, sender, s)
				router := routers[v6]
				e := icmpError(router, r.out, typ, code, 1300, quoted)
				if v := r.ForwardError(sender, e); v != (Verdict{}) {
					t.Fatalf("%v %d: %v", a, sender, v)
				}
				ipLen := len(e) - min(quoted, len(sent)) - 8
				in := e[ipLen+8:]
				if !bytes.Equal(in, sent[:len(in)]) {
					t.Fatalf("quotes\n% x, sent was\n% x", in, sent[:len(in)])
				}
				src, dst := netip.AddrFrom4([4]byte(e[12:16])), netip.AddrFrom4([4]byte(e[16:20]))
				ok := checksum.Checksum(e[:20], 0) == 0xffff && checksum.Checksum(e[20:], 0) == 0xffff
				if v6 {
					src, dst = netip.AddrFrom16([16]byte(e[8:24])), netip.AddrFrom16([16]byte(e[24:40]))
					ok = checksum.Checksum(e[40:], pseudo6(e)) == 0xffff
				}
				want := map[Side][2]netip.Addr{Client: {a.VIP.Addr(), a.Client.Addr()}, Server: {a.Local.Addr(), a.Server.Addr()}}[sender]
				if sender == Server && a.Local == a.Client {
					want[0] = router
				}
				if !ok || src != want[0] || dst != want[1] || binary.BigEndian.Uint16(e[ipLen+6:]) != 1300 {
					t.Fatalf("from %v to %v, checksums %v: % x", src, dst, ok, e)
				}
			}
		}
	}
}

// Who does not see the segments makes no error that passes.
func TestForgedError(t *testing.T) {
	r := newRig(t, own6)
	r.open()
	r.want(0, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, n: 500, window: 512})
	r.want(0, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq + 200, window: 512})
	router := netip.MustParseAddr("fd00::1")
	about := func(seq uint32) []byte {
		var c Conn
		c.Init(own6, 0)
		b := packet(own6, Client, tcp{flags: flagACK, seq: seq, n: 100})
		c.Forward(Client, []byte{0}, b, 40, len(b), 0)
		return b
	}
	for name, x := range map[string]struct {
		b    []byte
		want Reason
	}{
		"in flight":         {icmpError(router, about(cSeq+300), 2, 0, 1400, 100), DropNone},
		"acknowledged":      {icmpError(router, about(cSeq+100), 2, 0, 1400, 100), DropICMP},
		"not sent":          {icmpError(router, about(cSeq+501), 2, 0, 1400, 100), DropICMP},
		"nobody's MTU":      {icmpError(router, about(cSeq+300), 2, 0, 1279, 100), DropICMP},
		"time exceeded":     {icmpError(router, about(cSeq+300), 3, 0, 0, 100), DropNone},
		"an echo":           {icmpError(router, about(cSeq+300), 128, 0, 0, 100), DropICMP},
		"cut":               {icmpError(router, about(cSeq+300), 2, 0, 1400, 47), DropICMP},
		"of another length": {append(icmpError(router, about(cSeq+300), 2, 0, 1400, 100), 0), DropICMP},
	} {
		if v := r.ForwardError(Client, x.b); v.Drop != x.want {
			t.Errorf("%s: %q", name, v.Drop)
		}
	}
	if v := r.ForwardError(Server, icmpError(router, about(cSeq+300), 2, 0, 1400, 100)); v.Drop != DropICMP {
		t.Errorf("the other's segment: %q", v.Drop)
	}
	// After a takeover the ends judge.
	var c Conn
	c.Restore(own6, r.Params(), 0)
	if v := c.ForwardError(Client, icmpError(router, about(cSeq+501), 2, 0, 1400, 100)); v.Drop != DropNone {
		t.Errorf("after a takeover: %q", v.Drop)
	}
}

// A server's host that says that there is no such port refuses the client.
func TestErrorRefuses(t *testing.T) {
	r := newRig(t, addrs4)
	r.want(EventSYN, Client, tcp{flags: flagSYN, seq: cISN})
	e := icmpError(addrs4.Server.Addr(), r.out, 3, 3, 0, 28)
	if v := r.ForwardError(Client, e); v != (Verdict{Event: EventRefused}) || !bytes.Equal(e[12:16], addrs4.VIP.Addr().AsSlice()) {
		t.Fatalf("%+v, % x", v, e)
	}
}

// A quoted fragment that is not the first has no ports.
func TestParseErrorOfFragment(t *testing.T) {
	b := packet(addrs4, Client, tcp{flags: flagACK, n: 100})
	header.IPv4(b).SetFlagsFragmentOffset(0, 80)
	if _, ok := ParseError(icmpError(addrs4.Server.Addr(), b, 11, 1, 0, 60)); ok {
		t.Fatal("taken for a segment")
	}
}

func FuzzForwardError(f *testing.F) {
	b := packet(own4, Server, tcp{flags: flagACK, seq: sSeq, n: 40})
	f.Add(icmpError(own4.Client.Addr(), b, 3, 4, 1000, 28), true)
	f.Add(icmpError(own6.Client.Addr(), packet(own6, Client, tcp{n: 40}), 2, 0, 1400, 70), false)
	f.Fuzz(func(t *testing.T, b []byte, client bool) {
		for _, a := range []Addrs{own4, own6} {
			// Addresses that fit to whatever is quoted, so that it gets further.
			q, ok := ParseError(b)
			if !ok {
				return
			}
			var c Conn
			c.Restore(a, Params{}, 0)
			sender := Server
			c.client.local, c.client.remote, c.client.localPort, c.client.remotePort = q.Src, q.Dst, q.SrcPort, q.DstPort
			if client {
				sender = Client
				c.server, c.client = c.client, c.server
			}
			c.v6 = b[0]>>4 == 6
			p := bytes.Clone(b)
			if v := c.ForwardError(sender, p); v.Drop != DropNone {
				continue
			}
			if msg := p[q.icmp:]; !c.v6 && checksum.Checksum(msg, 0) != 0xffff || c.v6 && checksum.Checksum(msg, pseudo6(p)) != 0xffff {
				t.Fatalf("checksum of % x", p)
			}
		}
	})
}
