package stack_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"lockstep/internal/script"
	"lockstep/tun"
)

// receiveTarget is an active appliance with one established connection.
type receiveTarget struct {
	rig  *script.Rig
	conn *script.Conn
	runs int
}

// targetPort is the client's; the seeds know it, and the addresses.
const targetPort = 40000

// newReceiveTarget opens a connection whose numbers no input can know.
func newReceiveTarget(t *testing.T) *receiveTarget {
	t.Helper()
	r, err := script.New(script.Options{Foreign: true, Window: 256 << 10, HalfOpen: 4, Cookies: true})
	if err != nil {
		t.Fatal(err)
	}
	x := &receiveTarget{rig: r, conn: r.Dial(targetPort, rand.Uint32(), rand.Uint32())}
	if err := x.conn.Handshake(nil, nil); err != nil {
		t.Fatal(err)
	}
	return x
}

func (x *receiveTarget) close(t *testing.T) {
	t.Helper()
	if err := x.rig.Close(); err != nil {
		t.Fatal(err)
	}
}

// exchange sends some bytes in both directions and waits until they are there
// and acknowledged. That they are right is the peers' own check.
func (x *receiveTarget) exchange(t *testing.T) {
	t.Helper()
	c, s := x.conn.Client, x.conn.Server
	before, beforeS := c.State(), s.State()
	c.Send(script.Out{Flags: script.ACK | script.PSH, Seq: script.Next, Len: 61, Ack: before.Received, Win: 65535})
	s.Send(script.Out{Flags: script.ACK | script.PSH, Seq: script.Next, Len: 67, Ack: beforeS.Received, Win: 65535})
	arrived := func(cs, ss script.State) bool {
		return cs.Received >= before.Received+67 && ss.Received >= beforeS.Received+61
	}
	if !x.conn.Await(arrived, nil) {
		t.Fatalf("bytes do not arrive: %v %v\n%v\n%s", c, s, x.rig.Err(), x.rig.Trace())
	}
	c.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: c.State().Received, Win: 65535})
	s.Send(script.Out{Flags: script.ACK, Seq: script.Next, Ack: s.State().Received, Win: 65535})
	if !x.conn.Await(func(cs, ss script.State) bool { return cs.Acked == cs.Sent && ss.Acked == ss.Sent }, nil) {
		t.Fatalf("bytes are not acknowledged: %v %v\n%v\n%s", c, s, x.rig.Err(), x.rig.Trace())
	}
	if err := x.rig.Err(); err != nil {
		t.Fatalf("%v\n%s", err, x.rig.Trace())
	}
}

// touches reports whether a packet is of the connection and so near to where it
// stands that it may lawfully change something. It reads loosely: rather once too
// often than too seldom.
func (x *receiveTarget) touches(pkt []byte) bool {
	if len(pkt) < 20 {
		return false
	}
	off := int(pkt[0]&0xf) * 4
	if pkt[0]>>4 != 4 || pkt[9] != 6 || len(pkt) < off+8 {
		return false
	}
	sport, dport := binary.BigEndian.Uint16(pkt[off:]), binary.BigEndian.Uint16(pkt[off+2:])
	if sport != targetPort && dport != targetPort {
		return false
	}
	seq := binary.BigEndian.Uint32(pkt[off+4:])
	c, s := x.conn.Client, x.conn.Server
	for _, p := range []*script.Peer{c, s} {
		next := p.Forged(0, p.State().Sent, 0, 0, script.NoOpts, nil).Seq
		if d := int32(seq - next); d > -(64<<20) && d < 64<<20 {
			return true
		}
	}
	return false
}

// FuzzReceive throws packets, each with its virtio-net header, at an active
// appliance with one established connection. Nothing of that may end it or
// change a byte of its two streams.
func FuzzReceive(f *testing.F) {
	var x *receiveTarget
	f.Fuzz(func(t *testing.T, hdr, pkt []byte) {
		if x == nil {
			x = newReceiveTarget(t)
			x.exchange(t)
		}
		h := make([]byte, tun.VnetHeaderLen)
		copy(h, hdr)
		if len(pkt) > tun.MaxPacketLen {
			pkt = pkt[:tun.MaxPacketLen]
		}
		touched := x.touches(pkt)
		if err := x.rig.Inject(h, pkt); err != nil {
			t.Fatal(err)
		}
		if !touched {
			x.exchange(t)
		}
		// A fresh one now and then: peers keep everything that they have seen.
		if x.runs++; touched || x.runs > 500 {
			x.close(t)
			x = nil
		}
	})
	if x != nil {
		_ = x.rig.Close()
	}
}

// What FuzzReceive's packets would do without the random numbers: segments of the
// connection with numbers just outside of what may be accepted.
func TestOutsideSegmentsChangeNothing(t *testing.T) {
	x := newReceiveTarget(t)
	defer x.close(t)
	x.exchange(t)
	for _, p := range []*script.Peer{x.conn.Client, x.conn.Server} {
		for _, flags := range []uint8{script.ACK, script.ACK | script.RST, script.RST, script.ACK | script.FIN, script.SYN, script.SYN | script.ACK, 0} {
			for _, seq := range []int64{-1 << 30, -70000, p.State().Edge + 512<<10, p.State().Edge + 1<<20, 1 << 30} {
				o := script.NoOpts
				o.TS, o.TSVal = true, uint32(time.Now().UnixMilli())
				s := p.Forged(flags, seq, p.State().Received, 1000, o, []byte("evil evil evil"))
				if err := x.rig.Inject(nil, s.Encode()); err != nil {
					t.Fatal(err)
				}
				x.exchange(t)
			}
		}
	}
}
