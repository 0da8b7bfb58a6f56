package splice

import (
	"encoding/binary"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Both kinds of source, both families.
var (
	addrs4 = Addrs{ap("198.51.100.7:40000"), ap("192.0.2.80:80"), ap("198.51.100.7:40000"), ap("10.1.2.3:8080")}
	addrs6 = Addrs{ap("[2001:db8:1::7]:40000"), ap("[2001:db8:2::80]:80"), ap("[2001:db8:1::7]:40000"), ap("[fd00::3]:8080")}
	own4   = Addrs{addrs4.Client, addrs4.VIP, ap("10.1.2.254:50000"), addrs4.Server}
	own6   = Addrs{addrs6.Client, addrs6.VIP, ap("[fd00::fe]:50000"), addrs6.Server}
)

// tb is a test, or one case of a property.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
}

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// what a test says of a segment; the rest follows.
type tcp struct {
	flags    uint8
	seq, ack uint32
	window   uint16
	opts     []byte
	n        int // bytes of payload
	vnet     byte
}

// packet makes a segment as it comes in from one side.
func packet(a Addrs, from Side, t tcp) []byte {
	src, dst := a.Client, a.VIP
	if from == Server {
		src, dst = a.Server, a.Local
	}
	ipLen, opts := 20, t.opts
	if src.Addr().Is6() {
		ipLen = 40
	}
	for len(opts)%4 != 0 {
		opts = append(opts, 1)
	}
	b := make([]byte, ipLen+20+len(opts)+t.n)
	h := header.TCP(b[ipLen:])
	h.Encode(&header.TCPFields{
		SrcPort: src.Port(), DstPort: dst.Port(), SeqNum: t.seq, AckNum: t.ack,
		DataOffset: uint8(20 + len(opts)), Flags: header.TCPFlags(t.flags), WindowSize: t.window,
	})
	b[ipLen+13] = t.flags // with ECN's bits
	copy(h[20:], opts)
	for i := range t.n {
		h[20+len(opts)+i] = byte(int(t.seq) + i)
	}
	if ipLen == 20 {
		b[0], b[6], b[8], b[9] = 0x45, 0x40, 57, 6
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		copy(b[12:], src.Addr().AsSlice())
		copy(b[16:], dst.Addr().AsSlice())
		ip := header.IPv4(b)
		ip.SetChecksum(^ip.CalculateChecksum())
	} else {
		b[0], b[6], b[7] = 0x60, 6, 57
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		copy(b[8:], src.Addr().AsSlice())
		copy(b[24:], dst.Addr().AsSlice())
	}
	if h.SetChecksum(pseudo(b, ipLen)); t.vnet&vnetNeedsCsum == 0 {
		h.SetChecksum(0)
		h.SetChecksum(^checksum.Checksum(h, pseudo(b, ipLen)))
	}
	return b
}

// pseudo is the sum of the pseudo header.
func pseudo(b []byte, ipLen int) uint16 {
	x := checksum.Combine(6, uint16(len(b)-ipLen))
	if b[0]>>4 == 6 {
		return checksum.Combine(x, checksum.Checksum(b[8:40], 0))
	}
	return checksum.Combine(x, checksum.Checksum(b[12:20], 0))
}

// whole reports whether a packet's checksums are right.
func whole(t tb, b []byte, vnet byte) {
	t.Helper()
	ipLen := 40
	if b[0]>>4 == 4 {
		ipLen = int(b[0]&15) * 4
		if checksum.Checksum(b[:ipLen], 0) != 0xffff {
			t.Fatalf("IP checksum wrong in % x", b[:ipLen])
		}
	}
	h := header.TCP(b[ipLen:])
	if vnet&vnetNeedsCsum != 0 {
		if x := pseudo(b, ipLen); h.Checksum() != x && h.Checksum()+x != 0xffff {
			t.Fatalf("partial checksum %#x, want %#x", h.Checksum(), x)
		}
	} else if checksum.Checksum(h, pseudo(b, ipLen)) != 0xffff {
		t.Fatalf("TCP checksum wrong in % x", b[:ipLen+20])
	}
}

// rig is a connection whose packets are looked at.
type rig struct {
	Conn
	t   tb
	a   Addrs
	now time.Duration
	out []byte // the newest packet that passed
}

func newRig(t tb, a Addrs) *rig {
	r := &rig{t: t, a: a, now: time.Hour}
	r.Init(a, 0)
	return r
}

// send passes a segment and checks its translation.
func (r *rig) send(from Side, s tcp) Verdict {
	r.t.Helper()
	b := packet(r.a, from, s)
	was := string(b)
	ipLen := 20
	if b[0]>>4 == 6 {
		ipLen = 40
	}
	v := r.Forward(from, []byte{s.vnet}, b, ipLen, len(b), r.now)
	if v.Drop != DropNone || v.Answer || v.Event == EventReused {
		if (v.Event == EventReused || v.Answer) && string(b) != was {
			r.t.Fatalf("%v changed the packet", v)
		}
		return v
	}
	whole(r.t, b, s.vnet)
	src, dst := addressesOf(b)
	if want := [2]netip.AddrPort{r.a.Local, r.a.Server}; from == Client && (src != want[0] || dst != want[1]) {
		r.t.Fatalf("%v -> %v, want %v", src, dst, want)
	}
	if want := [2]netip.AddrPort{r.a.VIP, r.a.Client}; from == Server && (src != want[0] || dst != want[1]) {
		r.t.Fatalf("%v -> %v, want %v", src, dst, want)
	}
	r.out = b
	return v
}

func addressesOf(b []byte) (src, dst netip.AddrPort) {
	if b[0]>>4 == 4 {
		n := int(b[0]&15) * 4
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), be16(b[n:])),
			netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[16:20])), be16(b[n+2:]))
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), be16(b[40:])),
		netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[24:40])), be16(b[42:]))
}

// want sends a segment that must pass with an event.
func (r *rig) want(e Event, from Side, s tcp) {
	r.t.Helper()
	if v := r.send(from, s); v != (Verdict{Event: e}) {
		r.t.Fatalf("%v %+v: %+v, want %q", from, s, v, e)
	}
}

func (r *rig) state(s State) {
	r.t.Helper()
	if r.State() != s {
		r.t.Fatalf("state %v, want %v", r.State(), s)
	}
}

// Initial sequence numbers, the client's about to wrap; variables, so that they can.
var (
	cISN uint32 = 0xfffffff0
	sISN uint32 = 0x7fffff00
	cSeq        = cISN + 1
	sSeq        = sISN + 1
)

// open makes the handshake, with window scale 7 at both ends.
func (r *rig) open() {
	r.t.Helper()
	opts := []byte{2, 4, 5, 0xb4, 1, 3, 3, 7}
	r.want(EventSYN, Client, tcp{flags: flagSYN, seq: cISN, window: 64240, opts: opts})
	r.want(EventSYNACK, Server, tcp{flags: flagSYN | flagACK, seq: sISN, ack: cSeq, window: 65160, opts: opts})
	r.want(EventOpened, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, window: 512})
	r.state(Open)
}
