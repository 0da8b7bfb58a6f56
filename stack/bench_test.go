package stack_test

import (
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"lockstep/internal/script"
	"lockstep/stack"
	"lockstep/tun"
	"lockstep/tun/tuntest"
)

var (
	benchVIP    = netip.MustParseAddrPort("203.0.113.10:80")
	benchClient = netip.MustParseAddrPort("198.51.100.7:40000")
)

const benchLimit = 15 * time.Second

// benchISN is the client's; it wraps soon.
var benchISN = uint32(1<<32 - 500)

// bench is an engine without a relay: the test is the handler, the client, and
// whoever permits.
type bench struct {
	t    *testing.T
	eng  *stack.Engine
	far  *tuntest.End
	legs chan *stack.Leg
	wg   sync.WaitGroup

	mu         sync.Mutex
	cond       *sync.Cond
	pkts       []script.Segment
	pongs      int
	icmpErrors int
	unacked    uint32 // what they have to quote: offset of what the client has not been told is here
	allowed    uint32 // offset that an ACK may cover at most
	edge       uint32 // right edge that was announced, as an offset
	scale      uint32 // of the engine's windows
	tsval      uint32
	stamped    bool // tsval is valid
	leg        *stack.Leg
	iss        uint32 // the engine's
}

// Incoming implements stack.Handler.
func (b *bench) Incoming(l *stack.Leg) {
	l.SetEvents(b)
	b.legs <- l
}

// Wake implements stack.Events.
func (b *bench) Wake(*stack.Leg) { b.cond.Broadcast() }

// Delivered implements stack.Events.
func (b *bench) Delivered(*stack.Leg, uint64) { b.cond.Broadcast() }

func newBench(t *testing.T, o stack.Options) *bench {
	t.Helper()
	near, far := tuntest.PipeSize(tuntest.MTU, 1<<14)
	b := &bench{t: t, far: far, legs: make(chan *stack.Leg, 16)}
	b.cond = sync.NewCond(&b.mu)
	o.Device, o.Handler, o.Addresses = near, b, []netip.Addr{benchVIP.Addr()}
	var err error
	if b.eng, err = stack.New(o); err != nil {
		t.Fatal(err)
	}
	b.eng.Listen(benchVIP, 1000, 1000)
	b.eng.SetActive(true)
	b.eng.Run()
	b.wg.Add(1)
	go b.read()
	t.Cleanup(func() {
		if err := b.eng.Close(); err != nil {
			t.Error(err)
		}
		_ = far.Close()
		b.wg.Wait()
	})
	return b
}

func (b *bench) read() {
	defer b.wg.Done()
	hdr, buf := make([]byte, tun.VnetHeaderLen), make([]byte, tun.MaxPacketLen)
	for {
		n, err := b.far.ReadV([][]byte{hdr, buf})
		if err != nil {
			if err != os.ErrClosed {
				b.t.Errorf("read: %v", err)
			}
			return
		}
		pkt := slices.Clone(buf[:n])
		b.mu.Lock()
		if pkt[9] == 1 && pkt[20] == 3 && pkt[21] == 1 {
			b.icmpErrors++
			b.checkError(pkt)
		} else if pkt[9] == 1 {
			b.pongs++
		} else if s, err := script.Decode(hdr, pkt); err != nil {
			b.t.Errorf("packet of the engine: %v", err)
		} else {
			b.check(&s)
			b.pkts = append(b.pkts, s)
		}
		b.mu.Unlock()
		b.cond.Broadcast()
	}
}

// checkError: host unreachable, quoting the client's first segment that is not
// acknowledged.
func (b *bench) checkError(p []byte) {
	in := p[28:]
	if p[20] != 3 || p[21] != 1 || cksum(p[:20]) != 0 || cksum(p[20:]) != 0 || string(in[12:16]) != string(p[16:20]) ||
		binary.BigEndian.Uint16(in[20:]) != benchClient.Port() || binary.BigEndian.Uint16(in[22:]) != benchVIP.Port() {
		b.t.Errorf("ICMP error: %x", p)
	}
	if seq := binary.BigEndian.Uint32(in[24:]); seq != benchISN+1+b.unacked {
		b.t.Errorf("ICMP error quotes %d", seq-benchISN-1)
	}
}

// check is what holds for every packet of an established leg.
func (b *bench) check(s *script.Segment) {
	if s.Flags&script.SYN != 0 {
		b.scale, b.edge = uint32(s.Opts.WScale), uint32(s.Win)
	}
	if s.Flags&(script.SYN|script.RST) != 0 || s.Flags&script.ACK == 0 {
		return
	}
	ack := s.Ack - benchISN - 1
	if ack > b.allowed {
		b.t.Errorf("ACK of %d, permitted are %d: %s", ack, b.allowed, s)
	}
	unit := uint32(1) << b.scale
	edge := ack + uint32(s.Win)*unit
	if edge+2*unit <= b.edge { // rounded down by netstack, and by the gate
		b.t.Errorf("right edge went back from %d to %d: %s", b.edge, edge, s)
	}
	b.edge = max(b.edge, edge)
	if b.stamped && int32(s.Opts.TSVal-b.tsval) < 0 {
		b.t.Errorf("TSval went back from %d to %d", b.tsval, s.Opts.TSVal)
	}
	b.tsval, b.stamped = s.Opts.TSVal, true
}

// await waits until cond, called with mu held, is true.
func (b *bench) await(what string, cond func() bool) {
	b.t.Helper()
	timer := time.AfterFunc(benchLimit, b.cond.Broadcast)
	defer timer.Stop()
	end := time.Now().Add(benchLimit)
	b.mu.Lock()
	defer b.mu.Unlock()
	for !cond() {
		if !time.Now().Before(end) {
			b.t.Fatalf("%s: does not happen; %v\n%v", what, b.leg, b.pkts)
		}
		b.cond.Wait()
	}
}

// expect waits for a packet after the first from that f likes.
func (b *bench) expect(from int, what string, f func(*script.Segment) bool) (s script.Segment) {
	b.t.Helper()
	b.await(what, func() bool {
		for i := from; i < len(b.pkts); i++ {
			if f(&b.pkts[i]) {
				s = b.pkts[i]
				return true
			}
		}
		return false
	})
	return s
}

// count returns the number of packets so far.
func (b *bench) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.pkts)
}

func (b *bench) inject(s script.Segment) {
	b.t.Helper()
	s.Src, s.Dst = benchClient, benchVIP
	if err := b.far.WriteV([][]byte{make([]byte, tun.VnetHeaderLen), s.Encode()}); err != nil {
		b.t.Fatal(err)
	}
}

// barrier returns when everything injected before has been read by the engine.
func (b *bench) barrier() {
	b.t.Helper()
	b.mu.Lock()
	want := b.pongs + 1
	b.mu.Unlock()
	p := make([]byte, 28)
	p[0], p[3], p[8], p[9], p[20] = 0x45, 28, 64, 1, 8
	copy(p[12:], benchClient.Addr().AsSlice())
	copy(p[16:], benchVIP.Addr().AsSlice())
	binary.BigEndian.PutUint16(p[10:], cksum(p[:20]))
	binary.BigEndian.PutUint16(p[22:], cksum(p[20:]))
	if err := b.far.WriteV([][]byte{make([]byte, tun.VnetHeaderLen), p}); err != nil {
		b.t.Fatal(err)
	}
	b.await("ping", func() bool { return b.pongs >= want })
}

func cksum(b []byte) uint16 {
	var x uint32
	for ; len(b) >= 2; b = b[2:] {
		x += uint32(b[0])<<8 | uint32(b[1])
	}
	for x > 0xffff {
		x = x>>16 + x&0xffff
	}
	return ^uint16(x)
}

func (b *bench) opts(syn bool) script.Opts {
	o := script.NoOpts
	if syn {
		o = script.Opts{MSS: 1460, SACKOK: true, WScale: 7}
	}
	o.TS, o.TSVal = true, 1000
	return o
}

// syn sends the client's SYN and returns its leg.
func (b *bench) syn() *stack.Leg {
	b.t.Helper()
	b.inject(script.Segment{Flags: script.SYN, Seq: benchISN, Win: 65535, Opts: b.opts(true)})
	select {
	case l := <-b.legs:
		b.mu.Lock()
		b.leg = l
		b.mu.Unlock()
		return l
	case <-time.After(benchLimit):
		b.t.Fatal("the SYN does not reach the handler")
		return nil
	}
}

// open makes an established leg with its endpoint.
func (b *bench) open() *stack.Leg {
	b.t.Helper()
	l := b.syn()
	l.Accept()
	s := b.expect(0, "SYN-ACK", func(s *script.Segment) bool { return s.Flags == script.SYN|script.ACK })
	b.iss = s.Seq
	b.inject(script.Segment{Flags: script.ACK, Seq: benchISN + 1, Ack: b.iss + 1, Win: 1000, Opts: b.opts(false)})
	b.await("client's ACK", l.Waiting)
	if err := l.Attach(); err != nil {
		b.t.Fatal(err)
	}
	b.await("endpoint", l.Established)
	return l
}

// data sends bytes of the client's stream.
func (b *bench) data(off uint32, n int, flags uint8) {
	b.t.Helper()
	b.inject(script.Segment{
		Flags: script.ACK | flags, Seq: benchISN + 1 + off, Ack: b.iss + 1, Win: 1000,
		Opts: b.opts(false), Payload: pattern(off, n),
	})
}

func pattern(off uint32, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		x := (off + uint32(i)) * 0x9E3779B1
		p[i] = byte(x >> 24)
	}
	return p
}

// received waits until the leg has n bytes and checks them.
func (b *bench) received(l *stack.Leg, n int) {
	b.t.Helper()
	var got []byte
	b.await("data", func() bool {
		bufs, k, _ := l.Peek(nil, 0, 1<<20)
		got = slices.Concat(bufs...)
		return k >= n
	})
	if !slices.Equal(got, pattern(0, n)) {
		b.t.Fatalf("%d bytes differ from what was sent", len(got))
	}
}

// permit raises the gate.
func (b *bench) permit(l *stack.Leg, off uint32) {
	b.mu.Lock()
	b.allowed = off
	b.mu.Unlock()
	l.Permit(uint64(off))
}

// since returns the packets from the first from on.
func (b *bench) since(from int) []script.Segment {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.pkts[from:])
}
