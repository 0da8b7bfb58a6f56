package steer_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/splice"
	"lockstep/tun"
	"lockstep/tun/steer"
)

const (
	tcxNext     = 0xffffffff
	tcxRedirect = 7
)

// flowRig is a rig with one connection, of which the tests make the packets.
type flowRig struct {
	*rig
	flows *steer.Flows
	entry steer.Entry
	conn  splice.Conn
	addrs splice.Addrs
	now   time.Duration
	left  splice.Offloaded
	taken int

	offload bool // a checksum of sumPartial is still to be made
}

// ends are the connections that the tests have: both families, both kinds of source.
func flowAddrs() map[string]splice.Addrs {
	return map[string]splice.Addrs{
		"IPv4":          {Client: client4, VIP: vip4, Local: client4, Server: server4},
		"IPv6":          {Client: client6, VIP: vip6, Local: client6, Server: server6},
		"IPv4, gateway": {Client: client4, VIP: vip4, Local: gateway4, Server: server4},
		"IPv6, gateway": {Client: client6, VIP: vip6, Local: gateway6, Server: server6},
	}
}

var gateway6 = netip.MustParseAddrPort("[fd20::1]:5000")

// said is one segment.
type said struct {
	from        splice.Side
	flags       header.TCPFlags
	seq, ack    uint32
	window      uint16
	opts        []byte
	payload     int
	class, hops byte
	mark        uint32
	gso         int  // bytes of payload in a segment of a superpacket; 0: it is none
	sum         byte // how its checksum is: see the constants
	words       byte // length of the header, if other than it is
}

const (
	sumPartial byte = iota // that of the pseudo header
	sumWhole               // right, and nobody has looked
	sumWrong
)

func (c *flowRig) packet(s *said) []byte {
	from, to := c.addrs.Client, c.addrs.VIP
	if s.from == splice.Server {
		from, to = c.addrs.Server, c.addrs.Local
	}
	b := segment(from, to, s.flags, len(s.opts)+s.payload)
	at := len(b) - header.TCPMinimumSize - len(s.opts) - s.payload
	tcp := b[at:]
	binary.BigEndian.PutUint32(tcp[4:], s.seq)
	binary.BigEndian.PutUint32(tcp[8:], s.ack)
	tcp[12] = byte(header.TCPMinimumSize+len(s.opts)) / 4 << 4
	binary.BigEndian.PutUint16(tcp[14:], s.window)
	if s.words > 0 {
		tcp[12] = s.words << 4
	}
	copy(tcp[20:], s.opts)
	for i := range tcp[20+len(s.opts):] {
		tcp[20+len(s.opts)+i] = byte(i)*7 + byte(s.seq)
	}
	if b[0]>>4 == 6 {
		b[7] = s.hops
		b[0], b[1] = 6<<4|s.class>>4, s.class<<4
	} else {
		b[8], b[1] = s.hops, s.class
		sum4(b)
	}
	c.checksum(s, b, tcp)
	return b
}

func (c *flowRig) checksum(s *said, b, tcp []byte) {
	binary.BigEndian.PutUint16(tcp[16:], 0)
	var x uint32
	add := func(b []byte) {
		for i := 0; i+1 < len(b); i += 2 {
			x += uint32(b[i])<<8 | uint32(b[i+1])
		}
		if len(b)%2 == 1 {
			x += uint32(b[len(b)-1]) << 8
		}
	}
	if b[0]>>4 == 6 {
		add(b[8:40])
	} else {
		add(b[12:20])
	}
	x += 6 + uint32(len(tcp))
	if s.sum != sumPartial {
		add(tcp)
	}
	for x>>16 > 0 {
		x = x&0xffff + x>>16
	}
	if s.sum != sumPartial {
		x = ^x & 0xffff
	}
	if s.sum == sumWrong {
		x ^= 0x0100
	}
	binary.BigEndian.PutUint16(tcp[16:], uint16(x))
}

// forward is what the process does: it reports whether the packet is written.
func (c *flowRig) forward(s *said, b []byte) bool {
	ipLen := 20
	if b[0]>>4 == 6 {
		ipLen = 40
	}
	c.now += time.Millisecond
	vnet := make([]byte, tun.VnetHeaderLen)
	if c.offload && s.sum == sumPartial { // BPF_PROG_RUN has none: the field is changed as if it were a whole one
		vnet[0] = tun.FlagNeedsCsum
	}
	v := c.conn.Forward(s.from, vnet, b, ipLen, len(b), c.now)
	return v.Drop == splice.DropNone && !v.Answer && v.Event != splice.EventReused
}

// open is the handshake. ts: with timestamps.
func (c *flowRig) open(a splice.Addrs, ts bool, isn [2]uint32) {
	c.addrs = a
	c.conn.Init(a, 0)
	opts := []byte{2, 4, 5, 180, 1, 3, 3, 7, 4, 2, 1, 1}
	stamp := func(val uint32) []byte {
		if !ts {
			return nil
		}
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte{1, 1, 8, 10}, val), 0)
	}
	for _, s := range []said{
		{from: splice.Client, flags: syn, seq: isn[0], window: 60000, opts: append(bytes.Clone(opts), stamp(1000)...)},
		{from: splice.Server, flags: syn | ack, seq: isn[1], ack: isn[0] + 1, window: 60000, opts: append(bytes.Clone(opts), stamp(5000)...)},
		{from: splice.Client, flags: ack, seq: isn[0] + 1, ack: isn[1] + 1, window: 500, opts: stamp(1001)},
		{from: splice.Server, flags: ack, seq: isn[1] + 1, ack: isn[0] + 1, window: 500, opts: stamp(5001)},
	} {
		s.hops = 64
		if !c.forward(&s, c.packet(&s)) {
			c.t.Fatalf("handshake: %+v is not passed on", s)
		}
	}
	if c.conn.State() != splice.Open {
		c.t.Fatalf("after the handshake: %v", c.conn.State())
	}
}

func (c *flowRig) enter() bool {
	c.t.Helper()
	if !c.conn.Offload(&c.left) {
		return false
	}
	var err error
	c.entry, err = c.flows.Enter(&c.left)
	c.must(err)
	return true
}

func (c *flowRig) leave() {
	c.t.Helper()
	c.must(c.flows.Leave(c.entry, &c.left))
	c.entry = steer.Entry{}
	c.conn.Reclaim(&c.left, c.now)
}

// run lets the kernel's program have a packet, and returns what it does and makes of it.
func (c *flowRig) run(s *said, b []byte) (verdict uint32, out []byte) {
	c.t.Helper()
	hook, nic := steer.Front, front
	if s.from == splice.Server {
		hook, nic = steer.Back, back
	}
	ctx := make([]byte, 192) // struct __sk_buff
	binary.NativeEndian.PutUint32(ctx[8:], s.mark)
	binary.NativeEndian.PutUint32(ctx[40:], uint32(c.nics[nic].Attrs().Index))
	binary.NativeEndian.PutUint32(ctx[176:], uint32(s.gso))
	opts := ebpf.RunOptions{Data: c.frame(nic, b), DataOut: make([]byte, len(b)+100), Context: ctx}
	verdict, err := c.steering.Program(hook).Run(&opts)
	c.must(err)
	return verdict, opts.DataOut[14:]
}

func newFlowRig(t *testing.T, n int) *flowRig {
	cfg := config()
	cfg.Flows = n
	cfg.Gateways = append(cfg.Gateways, gateway6.Addr())
	c := &flowRig{rig: newRig(t, cfg)}
	c.flows = c.steering.Flows()
	c.allow(time.Hour)
	return c
}

func (c *flowRig) allow(d time.Duration) {
	c.t.Helper()
	now, err := c.flows.Now()
	c.must(err)
	c.must(c.flows.Allow(now + d))
}

// twoFewer is a packet with two hops taken off.
func twoFewer(b []byte) []byte { return fewer(b, 2) }

// The program makes of a packet what the process and two hops make of it, notes what the process notes, and takes
// nothing but what is plain: of generated segments, some of which are old, beyond the window, without sense, or have something to be looked at.
func TestFlowsAsTheProcess(t *testing.T) {
	isolated(t, func(t *testing.T) {
		c := newFlowRig(t, 4)
		for name, a := range flowAddrs() {
			for _, ts := range []bool{true, false} {
				for seed := range uint64(25) {
					c.walk(fmt.Sprintf("%s, timestamps %v, seed %d", name, ts, seed), a, ts, rand.New(rand.NewPCG(seed, 1)))
				}
			}
		}
		if n := c.steering.Packets()["flows"]; n != uint64(c.taken) {
			t.Errorf("%d segments are counted, %d were taken", n, c.taken)
		}
		t.Logf("%d segments were taken", c.taken)
	})
}

// walk plays one connection.
func (c *flowRig) walk(what string, a splice.Addrs, ts bool, r *rand.Rand) {
	c.t.Helper()
	c.open(a, ts, [2]uint32{r.Uint32(), r.Uint32()})
	taken := 0
	for step := range 60 {
		s := c.generate(ts, r)
		b := c.packet(&s)
		if !c.entry.Is() && !c.enter() { // its tracker is at a loss
			c.forward(&s, b)
			continue
		}
		plain := c.plain(&s, ts)
		verdict, got := c.run(&s, b)
		where := fmt.Sprintf("%s, step %d: %+v", what, step, s)
		if !plain {
			if verdict == tcxRedirect && !bytes.Equal(got, fewer(b, 1)) || verdict != tcxRedirect && !bytes.Equal(got, b) {
				c.t.Fatalf("%s is not plain, and becomes (%d)\n%x of\n%x", where, int32(verdict), got, b)
			}
			c.leave()
			c.forward(&s, b)
			continue
		}
		taken++
		ref := *c
		refB := bytes.Clone(b)
		if !ref.forward(&s, refB) {
			c.t.Fatalf("%s: plain, and dropped", where)
		}
		if verdict != tcxRedirect || !bytes.Equal(got, twoFewer(refB)) {
			c.t.Fatalf("%s:\n%x (%d) of\n%x, want\n%x", where, got, int32(verdict), b, twoFewer(refB))
		}
		c.must(c.flows.Read(c.entry, &c.left))
		moved := ref.conn.Moved() == ref.now
		if at := c.left.Ends[s.from].Heard; at < 0 || at > limit {
			c.t.Fatalf("%s: heard %v ago", where, at)
		}
		if at := c.left.Moved; moved && (at < 0 || at > limit) {
			c.t.Fatalf("%s: moved %v ago", where, at)
		}
		c.conn.Reclaim(&c.left, ref.now)
		c.now = ref.now
		c.same(where, &ref.conn)
	}
	if taken == 0 {
		c.t.Errorf("%s: nothing was plain", what)
	}
	c.taken += taken
	if c.entry.Is() {
		c.leave()
	}
}

// same compares all that a tracker knows but when.
func (c *flowRig) same(where string, want *splice.Conn) {
	c.t.Helper()
	for s := range splice.Side(2) {
		x, y := c.conn.Position(s), want.Position(s)
		if x.HeardAt < y.HeardAt-time.Second {
			c.t.Fatalf("%s: heard from %d at %v, want %v", where, s, x.HeardAt, y.HeardAt)
		}
		x.HeardAt, y.HeardAt = 0, 0
		if x != y {
			c.t.Fatalf("%s: of side %d is known\n%+v, want\n%+v", where, s, x, y)
		}
	}
	if c.conn.State() != want.State() || c.conn.Moved() < want.Moved()-time.Second {
		c.t.Fatalf("%s: %v, moved at %v, want %v, %v", where, c.conn.State(), c.conn.Moved(), want.State(), want.Moved())
	}
}

// plain says by the documents which segments are the kernel's.
func (c *flowRig) plain(s *said, ts bool) bool {
	const kinds = header.TCPFlagSyn | header.TCPFlagFin | header.TCPFlagRst | header.TCPFlagUrg | header.TCPFlagAck
	if s.flags&kinds != header.TCPFlagAck || s.hops < 3 || s.mark != 0 || s.gso == 0 && s.sum != sumPartial || s.words > 0 {
		return false
	}
	if ts && (len(s.opts) < 12 || !bytes.Equal(s.opts[:4], []byte{1, 1, 8, 10})) {
		return false
	}
	try := c.conn
	o := try.Position(s.from.Other())
	if int32(s.seq+uint32(s.payload)-o.Edge) > 1 {
		return false
	}
	ref := flowRig{rig: c.rig, conn: try, addrs: c.addrs, now: c.now}
	ref.forward(s, c.packet(s))
	return ref.conn.Believed(s.from) && ref.conn.Located()
}

func (c *flowRig) generate(ts bool, r *rand.Rand) said {
	s := said{from: splice.Side(r.IntN(2)), flags: ack, hops: byte(3 + r.IntN(252)), class: byte(r.IntN(256)), window: uint16(r.IntN(2000))}
	e, o := c.conn.Position(s.from), c.conn.Position(s.from.Other())
	near := func(around uint32, by int) uint32 { return around + uint32(r.IntN(2*by+1)) - uint32(by) }
	s.seq, s.ack, s.payload = e.Next, o.Next, r.IntN(1300)
	if r.IntN(3) == 0 {
		s.seq = near(e.Next, 3000)
	}
	if r.IntN(3) == 0 {
		s.ack = near(e.Ack, 3000)
	}
	if r.IntN(4) == 0 {
		s.payload = 0
	}
	if r.IntN(2) == 0 {
		s.flags |= header.TCPFlagPsh
	}
	if ts {
		s.opts = append([]byte{1, 1, 8, 10}, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, near(e.TSVal, 20)), near(o.TSVal, 5))...)
	}
	if r.IntN(3) == 0 && s.payload > 0 {
		s.gso, s.sum = 1+r.IntN(1300), sumPartial
	}
	c.spoil(&s, r, near)
	return s
}

// spoil makes one in some segments something that is not plain.
func (c *flowRig) spoil(s *said, r *rand.Rand, near func(uint32, int) uint32) {
	e, o := c.conn.Position(s.from), c.conn.Position(s.from.Other())
	switch r.IntN(24) {
	case 0:
		s.hops = 2
	case 1:
		s.flags |= header.TCPFlagUrg
	case 2:
		s.mark = 1
	case 3:
		s.sum, s.gso = sumWrong, 0
	case 4:
		s.sum, s.gso = sumWhole, 0
	case 5:
		s.seq = near(o.Edge, 2)
	case 6:
		s.seq, s.payload = o.Edge-uint32(r.IntN(3)), r.IntN(4)
	case 7:
		s.seq = near(o.Ack, 2) - uint32(s.payload)
	case 8:
		s.ack = near(o.Next, 2)
	case 9:
		s.ack = e.Ack - 0x3fffc000 + uint32(r.IntN(5)) - 2
	case 10:
		s.ack = e.Ack - 1<<31 + uint32(r.IntN(5)) - 2
	case 11:
		s.opts = append([]byte{1, 1, 1, 0}, s.opts...) // end of options first
	case 12:
		s.opts = append(bytes.Clone(s.opts), 1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2)
	case 13:
		s.flags = header.TCPFlagPsh
	case 14:
		s.flags |= 0xc0 // ECE, CWR
	case 16:
		s.words = byte(1 + r.IntN(4))
	case 17:
		s.words, s.payload = 15, r.IntN(8)
	case 15:
		s.seq = near(e.Next+1<<31, 2)
	}
}
