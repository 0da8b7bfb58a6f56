package stack

import (
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

func packetOf(b []byte) *stack.PacketBuffer {
	return stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(append([]byte(nil), b...))})
}

// FuzzOptions compares the two walks over a TCP header's options with each other
// and with what they promise, and reads them as a SYN's.
func FuzzOptions(f *testing.F) {
	f.Fuzz(func(t *testing.T, opts []byte) {
		if len(opts) > header.TCPOptionsMaximumSize {
			opts = opts[:header.TCPOptionsMaximumSize]
		}
		before := string(opts)
		seenTS, seenSACK, odd := -1, -1, false
		whole := walkOptions(opts, func(kind byte, o []byte) {
			at := cap(opts) - cap(o)
			if len(o) < 2 || int(o[1]) != len(o) || o[0] != kind {
				t.Fatalf("option %x of kind %d", o, kind)
			}
			switch kind {
			case header.TCPOptionTS:
				seenTS = at
				odd = odd || len(o) != header.TCPOptionTSLength
			case header.TCPOptionSACK:
				seenSACK = at
				odd = odd || (len(o)-2)%8 != 0
			}
		})
		ts, sack, ok := locateOptions(opts)
		if ok != (whole && !odd) {
			t.Fatalf("located %v, walked %v, odd lengths %v: %x", ok, whole, odd, opts)
		}
		if ok && (ts != seenTS || sack != seenSACK) {
			t.Fatalf("timestamps at %d and %d, SACK at %d and %d: %x", ts, seenTS, sack, seenSACK, opts)
		}
		if ok && ts >= 0 {
			_ = opts[ts : ts+header.TCPOptionTSLength]
		}
		if ok && sack >= 0 {
			_ = opts[sack : sack+int(opts[sack+1])]
		}
		readFuzzSYN(t, opts, whole)
		if string(opts) != before {
			t.Fatalf("changed from %x to %x", before, opts)
		}
	})
}

func readFuzzSYN(t *testing.T, opts []byte, whole bool) {
	tcp := make(header.TCP, header.TCPMinimumSize+len(opts))
	tcp.Encode(&header.TCPFields{SeqNum: 7, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn})
	copy(tcp[header.TCPMinimumSize:], opts)
	for _, v6 := range []bool{false, true} {
		var p Params
		if got := p.readSYN(&segment{tcp: tcp, v6: v6}); got != whole {
			t.Fatalf("SYN read: %v, options are whole: %v", got, whole)
		}
		if whole && (p.IRS != 7 || p.MSS < header.TCPMinimumSendMSS || p.PeerWS < -1 || p.PeerWS > header.MaxWndScale) {
			t.Fatalf("%+v of %x", p, opts)
		}
	}
}
