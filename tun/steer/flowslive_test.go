package steer_test

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/splice"
	"lockstep/tun"
	"lockstep/tun/steer"
)

const packetVnetHdr = 15 // PACKET_VNET_HDR

// partial lets a packet arrive whose checksum is still to be made, as one of a neighbour on the same machine, or a superpacket.
func (c *flowRig) partial(s *said, b []byte) {
	c.t.Helper()
	nic, ipLen := front, 20
	if s.from == splice.Server {
		nic = back
	}
	h := tun.VnetHeader{Flags: tun.FlagNeedsCsum, CsumOffset: header.TCPChecksumOffset}
	if b[0]>>4 == 6 {
		ipLen = 40
	}
	if s.gso > 0 {
		h.GSOType, h.GSOSize, h.HdrLen = tun.GSOTCPv4, uint16(s.gso), uint16(etherLen+ipLen+header.TCPMinimumSize+len(s.opts))
		if ipLen == 40 {
			h.GSOType = tun.GSOTCPv6
		}
	}
	h.CsumStart = uint16(etherLen + ipLen)
	c.must(unix.SetsockoptInt(c.ends[nic], unix.SOL_PACKET, packetVnetHdr, 1))
	hdr := make([]byte, tun.VnetHeaderLen)
	h.Encode(hdr)
	c.arrive(nic, append(hdr, c.frame(nic, b)...))
	c.must(unix.SetsockoptInt(c.ends[nic], unix.SOL_PACKET, packetVnetHdr, 0))
}

const etherLen = 14

// next is a segment that goes on where its sender is.
func (c *flowRig) next(from splice.Side, payload int) said {
	e, o := c.conn.Position(from), c.conn.Position(from.Other())
	return said{from: from, flags: ack | header.TCPFlagPsh, seq: e.Next, ack: o.Next, window: 700, payload: payload, hops: 64}
}

// What is plain goes from one NIC to the other, by the neighbour that routing says; captures see it come and go. What is not comes
// out of the TUN device: what no one has verified, what is too large for the way, what comes when nothing is allowed any more.
func TestFlowsFromNICToNIC(t *testing.T) {
	isolated(t, func(t *testing.T) {
		c := newFlowRig(t, 4)
		for name, a := range flowAddrs() {
			c.open(a, false, [2]uint32{1000, 5000})
			c.enter()
			for _, s := range []said{c.next(splice.Client, 100), c.next(splice.Server, 200)} {
				c.passes(name, s)
			}
			large := c.next(splice.Client, 5000)
			large.gso = 1300
			c.passes(name+", superpacket", large)
			c.capturedFlow(name)

			whole := c.next(splice.Client, 77)
			whole.sum = sumWhole
			b := c.packet(&whole)
			c.arrive(front, c.frame(front, b))
			c.gets(name+", not verified", b)
			c.must(netlink.LinkSetMTU(c.nics[back], 1300))
			if b = c.packet(&large); true {
				c.partial(&large, b)
			}
			c.gets(name+", too large for the way", b)
			c.must(netlink.LinkSetMTU(c.nics[back], mtu))
			c.must(c.flows.Allow(0))
			s := c.next(splice.Client, 55)
			b = c.packet(&s)
			c.partial(&s, b)
			c.gets(name+", nothing is allowed", b)
			c.allow(time.Nanosecond)
			c.partial(&s, b)
			c.gets(name+", too late", b)
			c.allow(time.Hour)
			for _, n := range []uint32{0, steer.OwnerDied, steer.OwnerDied | 1} {
				was := c.flows.Owner(n)
				c.partial(&s, b)
				c.gets(name+", the process is dead", b)
				c.flows.Owner(was)
			}
			c.passes(name+", again", s)
			c.leave()
			s = c.next(splice.Client, 44)
			b = c.packet(&s)
			c.partial(&s, b)
			c.gets(name+", taken away", b)
		}
		if n := c.flows.Len(); n != 0 {
			t.Errorf("%d flows are left", n)
		}
	})
}

// passes lets a segment arrive and awaits it on the other side.
func (c *flowRig) passes(what string, s said) {
	c.t.Helper()
	b := c.packet(&s)
	c.partial(&s, b)
	nic := back
	if s.from == splice.Server {
		nic = front
	}
	f := c.leaves(nic)
	want := bytes.Clone(b)
	ref := *c
	ref.offload = true
	ref.forward(&s, want)
	if want = twoFewer(want); !bytes.Equal(f[14:], want) || !bytes.Equal(f[:6], otherMAC) {
		c.t.Fatalf("%s:\n%x leaves to %x, want\n%x", what, f[14:], f[:6], want)
	}
	c.must(c.flows.Read(c.entry, &c.left))
	c.conn.Reclaim(&c.left, ref.now)
	c.same(what, &ref.conn)
}

// capturedFlow looks whether who captures on the NICs sees what comes and what leaves.
func (c *flowRig) capturedFlow(what string) {
	c.t.Helper()
	in, out := c.socket(c.nics[front].Attrs().Index), c.socket(c.nics[back].Attrs().Index)
	defer unix.Close(in)
	defer unix.Close(out)
	s := c.next(splice.Client, 123)
	b := c.packet(&s)
	want := bytes.Clone(b)
	ref := *c
	ref.offload = true
	ref.forward(&s, want)
	c.passes(what+", captured", s)
	c.captured(what+", in", in, 14, unix.PACKET_HOST, b)
	c.captured(what+", out", out, 14, unix.PACKET_OUTGOING, twoFewer(want))
}

// sameNet makes this thread, which ends with its goroutine, one of the namespace ns.
func sameNet(ns *os.File) error {
	runtime.LockOSThread()
	return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
}

// Whoever takes a flow away knows of each segment that was passed on, however many programs run meanwhile.
func TestFlowsLeaveNoGap(t *testing.T) {
	isolated(t, func(t *testing.T) {
		c := newFlowRig(t, 4)
		c.open(flowAddrs()["IPv4"], false, [2]uint32{1, 2})
		s := c.next(splice.Client, 0)
		s.gso = 1
		b := c.packet(&s)
		ns, err := os.Open("/proc/thread-self/ns/net")
		c.must(err)
		defer ns.Close()
		var end atomic.Bool
		passed := make(chan uint64, 2)
		for range 2 {
			go func() {
				n := uint64(0)
				err := sameNet(ns)
				for err == nil && !end.Load() {
					if verdict, got := c.run(&s, b); verdict == tcxRedirect && !bytes.Equal(got, fewer(b, 1)) {
						n++
					}
				}
				passed <- n
			}()
		}
		before := c.conn.Position(splice.Client).Segments
		for range 3000 {
			c.enter()
			c.leave()
		}
		end.Store(true)
		n := <-passed + <-passed
		if got := c.conn.Position(splice.Client).Segments - before; got != n || n == 0 {
			t.Errorf("%d segments are known of, %d were passed on", got, n)
		}
		t.Logf("%d segments", n)
	})
}

// Wait waits for programs that run.
func TestFlowsWait(t *testing.T) {
	isolated(t, func(t *testing.T) {
		c := newFlowRig(t, 4)
		marks, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 2})
		c.must(err)
		defer marks.Close()
		long := longProgram(t, marks)
		defer long.Close()
		var end atomic.Bool
		done := make(chan error, 1)
		go func() {
			var err error
			for err == nil && !end.Load() {
				_, err = long.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
			}
			done <- err
		}()
		count := func(i uint32) (n uint64) {
			c.must(marks.Lookup(i, &n))
			return n
		}
		for range 20 {
			for count(0) == count(1) {
				runtime.Gosched()
			}
			begun := count(0)
			at := time.Now()
			c.must(c.flows.Wait())
			if ended := count(1); ended < begun {
				t.Fatalf("a program that had begun (%d) has not ended (%d)", begun, ended)
			}
			t.Logf("%v", time.Since(at))
		}
		end.Store(true)
		c.must(<-done)
	})
}

// longProgram counts at its beginning and at its end, and takes milliseconds in between.
func longProgram(t *testing.T, marks *ebpf.Map) *ebpf.Program {
	t.Helper()
	count := func(i int64, label string) asm.Instructions {
		return asm.Instructions{
			asm.StoreImm(asm.RFP, -4, i, asm.Word), asm.LoadMapPtr(asm.R1, marks.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, label),
			asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord), asm.Add.Imm(asm.R1, 1), asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, 0).WithSymbol(label),
		}
	}
	ins := count(0, "begun")
	ins = append(ins, asm.Mov.Imm(asm.R6, 0))
	ins = append(ins, asm.FnKtimeGetNs.Call().WithSymbol("again"), asm.Add.Imm(asm.R6, 1), asm.JLT.Imm(asm.R6, 100000, "again"))
	ins = append(append(ins, count(1, "ended")...), asm.Return())
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "long", Type: ebpf.SchedCLS, Instructions: ins, License: "GPL"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// What the hash table says of a place may be old: of a flow that has been taken away, or of another one that is there now.
func TestFlowsHintIsCompared(t *testing.T) {
	isolated(t, func(t *testing.T) {
		c := newFlowRig(t, 2)
		old := flowAddrs()["IPv4"]
		c.open(old, false, [2]uint32{1, 2})
		s := c.next(splice.Client, 10)
		b := c.packet(&s)
		refused := func(what string) {
			t.Helper()
			if verdict, got := c.run(&s, b); verdict != tcxRedirect || !bytes.Equal(got, fewer(b, 1)) {
				t.Errorf("%s: %d, %x", what, int32(verdict), got)
			}
		}
		c.enter()
		gone := c.entry
		c.leave()
		c.must(c.flows.Hint(&old, gone))
		refused("of a flow that was taken away")
		other := c.left
		other.Addrs.Client, other.Addrs.Local = netip.AddrPortFrom(client4.Addr(), 4444), netip.AddrPortFrom(client4.Addr(), 4444)
		at, err := c.flows.Enter(&other)
		c.must(err)
		second, err := c.flows.Enter(&other)
		c.must(err)
		if _, err := c.flows.Enter(&other); !errors.Is(err, steer.ErrFull) {
			t.Errorf("a third flow where there is room for two: %v", err)
		}
		c.must(c.flows.Hint(&old, at))
		refused("of another flow")
		c.must(c.flows.Hint(&old, gone))
		refused("of the flow before this one")
		c.must(c.flows.Leave(second, &other))
		c.must(c.flows.Leave(at, &other))
		if n := other.Ends[splice.Client].Segments; n != c.left.Ends[splice.Client].Segments {
			t.Errorf("the other flow has %d segments", n)
		}
	})
}
