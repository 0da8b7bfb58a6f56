package splice

import (
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// What comes again, to an end that has been silent and has not acknowledged it, is told; nothing else is.
func TestUnanswered(t *testing.T) {
	r := newRig(t, addrs4)
	r.open()
	told := func(want bool, from Side, s tcp) {
		t.Helper()
		if v := r.send(from, s); v.Unanswered != want {
			t.Fatalf("%v %+v: %+v", from, s, v)
		}
	}
	data := tcp{flags: flagACK, seq: cSeq, ack: sSeq, window: 512, n: 100}
	told(false, Client, data)
	r.now += Silence - time.Millisecond
	told(false, Client, data)
	r.now += time.Millisecond
	told(true, Client, data)
	told(false, Client, tcp{flags: flagACK, seq: cSeq + 100, ack: sSeq, window: 512, n: 100}) // new
	told(false, Client, tcp{flags: flagACK, seq: cSeq - 1, ack: sSeq, window: 512})           // a keepalive
	told(false, Client, tcp{flags: flagACK, seq: cSeq + 200, ack: sSeq, window: 512})         // an acknowledgement
	told(false, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq + 100, window: 512})
	r.now += Silence
	told(false, Client, data) // acknowledged, which was lost
	told(true, Client, tcp{flags: flagACK, seq: cSeq + 100, ack: sSeq, window: 512, n: 100})
	r.now += time.Minute
	told(false, Server, tcp{flags: flagACK | flagFIN, seq: sSeq, ack: cSeq + 200, window: 512})
	r.now += time.Minute
	told(true, Server, tcp{flags: flagACK | flagFIN, seq: sSeq, ack: cSeq + 200, window: 512})
}

// Of handshakes, too: a SYN that no server has answered for so long, and a SYN-ACK.
func TestUnansweredSYN(t *testing.T) {
	r := newRig(t, addrs6)
	syn := tcp{flags: flagSYN, seq: cISN, window: 64240}
	answer := tcp{flags: flagSYN | flagACK, seq: sISN, ack: cSeq, window: 65160}
	told := func(want bool, from Side, s tcp) {
		t.Helper()
		if v := r.send(from, s); v.Unanswered != want {
			t.Fatalf("%v %+v: %+v", from, s, v)
		}
	}
	told(false, Client, syn)
	told(false, Client, syn)
	r.now += time.Second
	told(true, Client, syn)
	told(false, Server, answer)
	r.now += time.Second
	told(true, Server, answer)
	r.want(EventOpened, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, window: 512})
}

// What an end is told after an outage: what the other one has acknowledged, and no more, without an echo; and an ICMP error
// about its first segment beyond that.
func TestAfterOutage(t *testing.T) {
	for _, a := range []Addrs{addrs4, own4, addrs6, own6} {
		r := newRig(t, a)
		opts := []byte{2, 4, 5, 0xb4, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0}
		stamp := func(val, ecr byte) []byte { return []byte{1, 1, 8, 10, 0, 0, 0, val, 0, 0, 0, ecr} }
		r.want(EventSYN, Client, tcp{flags: flagSYN, seq: cISN, window: 64240, opts: opts})
		r.want(EventSYNACK, Server, tcp{flags: flagSYN | flagACK, seq: sISN, ack: cSeq, window: 65160, opts: opts})
		r.want(EventOpened, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, window: 512, opts: stamp(2, 1)})
		r.want(EventNone, Client, tcp{flags: flagACK, seq: cSeq, ack: sSeq, window: 512, n: 300, opts: stamp(3, 1)})
		r.want(EventNone, Server, tcp{flags: flagACK, seq: sSeq, ack: cSeq + 100, window: 500, opts: stamp(4, 3)})
		if !r.Lacks(Server) || r.Lacks(Client) {
			t.Fatalf("the server lacks something: %v, the client: %v", r.Lacks(Server), r.Lacks(Client))
		}
		b := r.Repeat(Client, make([]byte, MaxMade))
		whole(t, b, 0)
		src, dst := addressesOf(b)
		ip := 20
		if b[0]>>4 == 6 {
			ip = 40
		}
		h := header.TCP(b[ip:])
		if src != a.VIP || dst != a.Client || uint8(h.Flags()) != flagACK || h.SequenceNumber() != sSeq || h.AckNumber() != cSeq+100 || h.WindowSize() != 500 ||
			string(h.Options()) != string(stamp(4, 0)) {
			t.Errorf("%v > %v: %v seq %d ack %d win %d % x", src, dst, h.Flags(), h.SequenceNumber(), h.AckNumber(), h.WindowSize(), h.Options())
		}
		for side, want := range [2]uint32{cSeq + 100, sSeq} {
			b := r.Unreachable(Side(side), make([]byte, MaxError))
			q, ok := ParseError(b)
			f := &r.client
			if Side(side) == Server {
				f = &r.server
			}
			if !ok || q.Seq != want || q.TooBig || q.Src != f.remote || q.Dst != f.local || q.SrcPort != f.remotePort || q.DstPort != f.localPort {
				t.Errorf("to %d: %v, %+v", side, ok, q)
			}
			if !wholeIP(b, r.v6) {
				t.Errorf("to %d: length", side)
			}
			x := uint16(0)
			if r.v6 {
				x = checksum.Combine(checksum.Checksum(b[8:40], uint16(header.ICMPv6ProtocolNumber)), uint16(len(b)-40))
			}
			if checksum.Checksum(b[ip:], x) != 0xffff || ip == 20 && checksum.Checksum(b[:ip], 0) != 0xffff {
				t.Errorf("to %d: checksum", side)
			}
		}
	}
}
