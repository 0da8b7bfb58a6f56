package stack

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/tun"
	"lockstep/tun/tuntest"
)

// A loop packet is well-formed, is sent and taken whether active or not, and nobody
// else's is taken for one.
func TestLoopPacket(t *testing.T) {
	near, far := tuntest.Pipe()
	q := &quietEngine{far: far, woke: make(map[*Leg]int)}
	vip4, vip6 := testVIP.Addr(), testVIP6.Addr()
	e, err := New(Options{Device: near, Handler: q, Addresses: []netip.Addr{vip4, vip6}})
	if err != nil {
		t.Fatal(err)
	}
	q.Engine = e
	t.Cleanup(func() { e.Close(); far.Close() })
	hdr, buf := make([]byte, tun.VnetHeaderLen), make([]byte, tun.MaxPacketLen)
	for i, vip := range []netip.Addr{vip4, vip6} {
		for _, active := range []bool{false, true} {
			e.SetActive(active)
			number := uint64(10*i + 5)
			if active {
				number++
			}
			if err := e.SendLoop(vip, vip, number); err != nil {
				t.Fatal(err)
			}
			n, err := far.ReadV([][]byte{hdr, buf})
			if err != nil {
				t.Fatal(err)
			}
			b := buf[:n]
			if vip.Is6() {
				if ip := header.IPv6(b); !ip.IsValid(n) || ip.HopLimit() != loopHops {
					t.Errorf("header % x", b)
				}
				b[7]--
			} else {
				if ip := header.IPv4(b); !ip.IsValid(n) || !ip.IsChecksumValid() || ip.TTL() != loopHops {
					t.Errorf("header % x", b)
				}
				b[8]--
			}
			if seen := e.LoopSeen(vip.Is6()); seen >= number {
				t.Fatalf("seen before it came back: %d", seen)
			}
			drops := len(e.C.Drops())
			q.take(b)
			if seen := e.LoopSeen(vip.Is6()); seen != number || len(e.C.Drops()) != drops {
				t.Errorf("seen %d, want %d; drops %v", seen, number, e.C.Drops())
			}
			if active {
				continue // netstack answers
			}
			b[n-9] ^= 1 // another mark
			b[n-1]++
			q.take(b)
			if seen := e.LoopSeen(vip.Is6()); seen != number {
				t.Errorf("a stranger's is taken for ours: %d", seen)
			}
		}
	}
}
