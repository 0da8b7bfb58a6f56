package stack

import (
	"encoding/binary"
	stdslices "slices"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// netstack reports what has come out of order in ESTABLISHED only, though it keeps it in FIN-WAIT as well. A sender
// that has agreed on SACK takes a duplicate ACK without a block for no sign of loss (RFC 6675): whatever a flight
// to somebody who has closed his direction loses would wait for a time-out, hole by hole. So from our FIN on the
// wrap reports it.

// maxAhead is how many ranges are remembered; what is beyond is not reported until there is room.
const maxAhead = 16

// offsets of the peer's stream, [from, to).
type offsets struct{ from, to uint64 }

// comesAhead notes a segment that lies behind a hole. mu is held.
func (l *Leg) comesAhead(s *segment) {
	if l.txFin == 0 || s.payload == 0 || !l.p.SACK {
		return
	}
	off, ok := l.rxOffset(s.tcp.SequenceNumber())
	if !ok || off <= l.rxNxt {
		return
	}
	l.lieAhead(offsets{off, off + uint64(s.payload)})
}

// lieAhead adds a range, as the newest one. netstack keeps three quarters of its buffer of such bytes; half of the window is
// what is surely among them. mu is held.
func (l *Leg) lieAhead(r offsets) {
	apart := func(x offsets) bool { return x.from > r.to || r.from > x.to }
	whole, sum, n := r, uint64(0), 0
	for _, x := range l.ahead {
		if apart(x) {
			sum += x.to - x.from
			n++
		} else {
			whole = offsets{min(whole.from, x.from), max(whole.to, x.to)}
		}
	}
	if n == maxAhead || sum+whole.to-whole.from > l.engine.window/2 {
		return // what was reported stays: its sender takes it for arrived
	}
	l.ahead = stdslices.DeleteFunc(l.ahead, func(x offsets) bool { return !apart(x) })
	l.ahead = stdslices.Insert(l.ahead, 0, whole)
}

// sackSaid notes what netstack reports itself: in FIN-WAIT it does not any more. mu is held.
func (l *Leg) sackSaid(o []byte) {
	l.ahead = l.ahead[:0]
	for i := len(o) - 8; i >= 2; i -= 8 {
		from, ok1 := l.rxOffset(be32(o[i:]))
		to, ok2 := l.rxOffset(be32(o[i+4:]))
		if ok1 && ok2 && from < to {
			l.lieAhead(offsets{from, to})
		}
	}
}

// halfSACK is the SACK option for an acknowledgement of netstack's, or nil. mu is held.
func (l *Leg) halfSACK(ack uint64) []byte {
	if l.txFin == 0 || len(l.ahead) == 0 {
		return nil
	}
	l.ahead = stdslices.DeleteFunc(l.ahead, func(x offsets) bool { return x.from <= ack })
	n := 4
	if l.p.TS {
		n = 3
	}
	if n = min(n, len(l.ahead)); n == 0 {
		return nil
	}
	b := []byte{header.TCPOptionSACK, byte(2 + 8*n)}
	for _, x := range l.ahead[:n] {
		b = binary.BigEndian.AppendUint32(b, l.rxSeq(x.from))
		b = binary.BigEndian.AppendUint32(b, l.rxSeq(x.to))
	}
	return b
}

// withSACK makes the pure ACK tcp, which is in wire numbers and may leave, again with such an option; nil: there is
// nothing to report. ack is what netstack acknowledges. mu is held.
func (l *Leg) withSACK(tcp header.TCP) []byte {
	if l.txFin == 0 || len(l.ahead) == 0 {
		return nil
	}
	ack, ok := l.rxOffset(tcp.AckNumber())
	opts := []byte(tcp[header.TCPMinimumSize:tcp.DataOffset()])
	ts, sack, found := locateOptions(opts)
	if !ok || !found || sack >= 0 || tcp.Flags() != header.TCPFlagAck {
		return nil
	}
	o := l.halfSACK(max(ack, l.rxNxt))
	if o == nil {
		return nil
	}
	var ecr uint32
	if ts >= 0 {
		ecr = be32(opts[ts+6:])
	}
	return l.build(made{
		flags: header.TCPFlagAck, seq: tcp.SequenceNumber(), ack: tcp.AckNumber(), window: tcp.WindowSize(), opts: l.ackOptions(ecr, o),
	})
}
