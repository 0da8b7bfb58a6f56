package tun

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

var (
	macA = hwAddr{0x02, 0, 0, 0, 0, 0x0a}
	macB = hwAddr{0x02, 0, 0, 0, 0, 0x0b}
)

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(strings.NewReplacer(" ", "", "\n", "", "\t", "").Replace(s))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wantFrame(t *testing.T, got []byte, want string) {
	t.Helper()
	if w := unhex(t, want); !bytes.Equal(got, w) {
		t.Fatalf("frame\n got % x\nwant % x", got, w)
	}
}

func TestARPFrames(t *testing.T) {
	vip := netip.MustParseAddr("203.0.113.10")
	g := gratuitousARP(arpRequest, macA, vip)
	wantFrame(t, g.append(nil), `ffffffffffff 02000000000a 0806 0001 0800 06 04 0001
		02000000000a cb00710a 000000000000 cb00710a`)
	g = gratuitousARP(arpReply, macA, vip)
	wantFrame(t, g.append(nil), `ffffffffffff 02000000000a 0806 0001 0800 06 04 0002
		02000000000a cb00710a 02000000000a cb00710a`)

	// A probe (sender 0.0.0.0) with Ethernet padding behind it.
	probe, err := parseARP(unhex(t, `ffffffffffff 02000000000b 0806 0001 0800 06 04 0001
		02000000000b 00000000 000000000000 cb00710a`+strings.Repeat("00", 18)))
	if err != nil {
		t.Fatal(err)
	}
	r := probe.reply(macA)
	wantFrame(t, r.append(nil), `02000000000b 02000000000a 0806 0001 0800 06 04 0002
		02000000000a cb00710a 02000000000b 00000000`)
}

func TestNDFrames(t *testing.T) {
	vip, peer := netip.MustParseAddr("2001:db8::10"), netip.MustParseAddr("2001:db8::1")
	if g := solicitedNode(vip); g != netip.MustParseAddr("ff02::1:ff00:10") {
		t.Fatalf("solicited-node group %s", g)
	}
	una := (&ndFrame{target: vip}).advertise(macA)
	b := una.append(nil)
	checkICMPv6(t, b)
	b[56], b[57] = 0, 0 // the checksum was verified by another implementation
	wantFrame(t, b, `333300000001 02000000000a 86dd 60000000 0020 3a ff
		20010db8000000000000000000000010 ff020000000000000000000000000001
		88 00 0000 a0000000 20010db8000000000000000000000010 02 01 02000000000a`)

	ns := ndFrame{
		ethDst: multicastHW(solicitedNode(vip)), ethSrc: macB, src: peer, dst: solicitedNode(vip),
		typ: ndSolicit, target: vip, linkAddr: macB, hasLink: true,
	}
	got, err := parseND(ns.append(nil))
	if err != nil || got != ns {
		t.Fatalf("parsed %+v, %v", got, err)
	}
	na := got.advertise(macA)
	checkICMPv6(t, na.append(nil))
	if na.ethDst != macB || na.dst != peer || na.flags != naRouter|naSolicited|naOverride {
		t.Fatalf("answer %+v", na)
	}

	dad := ndFrame{ethDst: ns.ethDst, ethSrc: macB, src: netip.IPv6Unspecified(), dst: ns.dst, typ: ndSolicit, target: vip}
	got, err = parseND(dad.append(nil))
	if err != nil {
		t.Fatal(err)
	}
	na = got.advertise(macA)
	if na.dst != allNodes || na.ethDst != (hwAddr{0x33, 0x33, 0, 0, 0, 1}) || na.flags != naRouter|naOverride {
		t.Fatalf("answer to a probe %+v", na)
	}
}

// checkICMPv6 lets gVisor judge header and checksum.
func checkICMPv6(t *testing.T, frame []byte) {
	t.Helper()
	ip := header.IPv6(frame[ethHeaderLen:])
	if !ip.IsValid(len(ip)) || ip.HopLimit() != header.NDPHopLimit {
		t.Fatalf("bad IPv6 header % x", []byte(ip))
	}
	icmp := header.ICMPv6(ip.Payload())
	sum := header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
		Header: icmp, Src: tcpip.Address(ip.SourceAddress()), Dst: ip.DestinationAddress(),
		PayloadCsum: checksum.Checksum(nil, 0),
	})
	if sum != icmp.Checksum() {
		t.Fatalf("checksum %#x, want %#x", icmp.Checksum(), sum)
	}
}

func TestMalformedFrames(t *testing.T) {
	vip := netip.MustParseAddr("2001:db8::10")
	nd := func(change func(f *ndFrame)) []byte {
		f := ndFrame{
			ethDst: multicastHW(solicitedNode(vip)), ethSrc: macB, src: netip.MustParseAddr("2001:db8::1"),
			dst: solicitedNode(vip), typ: ndSolicit, target: vip, linkAddr: macB, hasLink: true,
		}
		change(&f)
		return f.append(nil)
	}
	same := func(*ndFrame) {}
	patched := func(b []byte, at int, v byte) []byte { b[at] = v; return b }
	for _, c := range []struct {
		name  string
		frame []byte
		want  error
	}{
		{"short", nd(same)[:70], errFrameShort},
		{"ethertype", patched(nd(same), 13, 0), errFrameType},
		{"extension header", patched(nd(same), 20, 0), errNDNext},
		{"hop limit", patched(nd(same), 21, 254), errNDHops},
		{"length over the frame", patched(nd(same), 19, 200), errNDLength},
		{"length below the fixed part", patched(nd(same), 19, 23), errNDLength},
		{"type", nd(func(f *ndFrame) { f.typ = 133 }), errNDType},
		{"code", patched(nd(same), 55, 1), errNDCode},
		{"checksum", patched(nd(same), 57, nd(same)[57]^1), errNDChecksum},
		{"multicast target", nd(func(f *ndFrame) { f.target = allNodes }), errNDTarget},
		{"multicast sender", nd(func(f *ndFrame) { f.ethSrc = broadcastHW }), errBadSender},
		{"multicast link address", nd(func(f *ndFrame) { f.linkAddr = broadcastHW }), errBadSender},
		{"probe with link address", nd(func(f *ndFrame) { f.src = netip.IPv6Unspecified() }), errNDProbe},
		{"solicited to all nodes", nd(func(f *ndFrame) { f.typ, f.flags, f.dst = ndAdvertise, naSolicited, allNodes }), errNDSolicited},
	} {
		if _, err := parseND(c.frame); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	for _, o := range [][]byte{{1, 0, 0, 0, 0, 0, 0, 0}, {1, 2, 0, 0, 0, 0, 0, 0}, {1}} {
		if err := (&ndFrame{typ: ndSolicit}).parseOptions(o); !errors.Is(err, errNDOption) {
			t.Errorf("option % x: %v", o, err)
		}
	}
	arp := func() []byte {
		f := gratuitousARP(arpRequest, macB, netip.MustParseAddr("10.0.0.1"))
		return f.append(nil)
	}
	for _, c := range []struct {
		name  string
		frame []byte
		want  error
	}{
		{"short", arp()[:41], errFrameShort},
		{"ethertype", patched(arp(), 13, 0), errFrameType},
		{"protocol", patched(arp(), 16, 9), errARPFormat},
		{"lengths", patched(arp(), 18, 8), errARPFormat},
		{"operation", patched(arp(), 21, 3), errARPOp},
		{"multicast sender", patched(arp(), 22, 3), errBadSender},
	} {
		if _, err := parseARP(c.frame); !errors.Is(err, c.want) {
			t.Errorf("ARP %s: %v, want %v", c.name, err, c.want)
		}
	}
}

// FuzzFrames: no input panics a parser, and what is accepted can be answered by
// a frame that the parser accepts in turn.
func FuzzFrames(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := parseARP(b); err == nil {
			r := a.reply(macA)
			if _, err := parseARP(r.append(nil)); err != nil {
				t.Fatalf("own reply refused: %v", err)
			}
		}
		if n, err := parseND(b); err == nil {
			if n.target.IsMulticast() || n.typ != ndSolicit && n.typ != ndAdvertise {
				t.Fatalf("accepted %+v", n)
			}
			if n.src.IsMulticast() || n.typ != ndSolicit {
				return
			}
			r := n.advertise(macA)
			if _, err := parseND(r.append(nil)); err != nil {
				t.Fatalf("own answer refused: %v", err)
			}
		}
	})
}
