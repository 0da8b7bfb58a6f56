package stack

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/tun"
	"lockstep/tun/tuntest"
)

// speaks makes the gateway say something on each connection, to both ends.
func speaks(t *testing.T, e *Engine, passed []*Spliced) {
	before := e.C.PacketsOut.Load()
	for _, p := range passed {
		p.Ask(0)
		p.Ask(0)
		p.Abort()
	}
	if n := e.C.PacketsOut.Load() - before; n < uint64(4*len(passed)) {
		t.Errorf("%d packets are the gateway's own", n)
	}
}

// reach waits until so many packets are counted.
func reach(t *testing.T, packets *atomic.Uint64, n uint64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); packets.Load() < n; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d packets", packets.Load(), n)
		}
	}
}

// With several queues connections that are passed on are spread over them; all packets of one leave by the same, whichever
// queue they came by, and what is said in an end's name, so that the kernel brings both directions to one reader. What is
// not passed on comes by all of them, too.
func TestQueues(t *testing.T) {
	const n, clients, rounds = 3, 40, 20
	var near []tun.Device
	var far []*tuntest.End
	for range n {
		a, b := tuntest.PipeSize(tuntest.MTU, 10_000)
		near, far = append(near, a), append(far, b)
	}
	e, err := New(Options{Device: near[0], Queues: near[1:], Handler: &quietEngine{woke: make(map[*Leg]int)}, Addresses: []netip.Addr{testVIP.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	e.SetActive(true)
	var passed []*Spliced
	for i := range clients {
		client := netip.AddrPortFrom(testClient, uint16(40000+i))
		cp := Params{Local: testVIP, Remote: client, ISS: 5000, IRS: 1000, MSS: 1460, OurMSS: 1460}
		sp := Params{Local: client, Remote: spliceServer, ISS: 1000, IRS: 5000, MSS: 1460, OurMSS: 1460}
		p, err := e.RestoreSpliced(cp, sp, false, noSpliced{})
		if err != nil {
			t.Fatal(err)
		}
		passed = append(passed, p)
	}
	e.Run()
	var readers, writers sync.WaitGroup
	var mu sync.Mutex
	left := map[uint16][n]int{} // by client's port and queue
	var seen atomic.Uint64
	for q := range n {
		readers.Go(func() {
			hdr, buf := make([]byte, tun.VnetHeaderLen), make([]byte, tun.MaxPacketLen)
			for {
				if _, err := far[q].ReadV([][]byte{hdr, buf}); errors.Is(err, os.ErrClosed) {
					return
				}
				tcp := header.TCP(buf[header.IPv4MinimumSize:])
				mu.Lock()
				port := max(tcp.SourcePort(), tcp.DestinationPort())
				by := left[port]
				by[q]++
				left[port] = by
				mu.Unlock()
				seen.Add(1)
			}
		})
		writers.Go(func() {
			hdr := make([]byte, tun.VnetHeaderLen)
			for r := range rounds {
				for i := range clients {
					client := netip.AddrPortFrom(testClient, uint16(40000+i))
					in, out := flowOf(testVIP, client), flowOf(client, spliceServer)
					stranger := flowOf(testVIP, netip.AddrPortFrom(testClient, 50000))
					for _, b := range [][]byte{
						in.build(make([]byte, maxMade), false, true, made{flags: ackFlag, seq: 1001, ack: 5001 + uint32(r), window: 65535}),
						out.build(make([]byte, maxMade), false, true, made{flags: ackFlag, seq: 5001, ack: 1001, window: 65535}),
						stranger.build(make([]byte, maxMade), false, true, made{flags: ackFlag, seq: 1, ack: 1}),
					} {
						if err := far[q].WriteV([][]byte{hdr, b}); err != nil {
							t.Error(err)
						}
					}
				}
			}
		})
	}
	writers.Wait()
	const all = n * clients * rounds * 3
	reach(t, &e.C.PacketsIn, all)
	speaks(t, e, passed)
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	reach(t, &seen, e.C.PacketsOut.Load()) // what is queued when an end closes is lost
	for _, f := range far {
		_ = f.Close()
	}
	readers.Wait()
	var used [n]int
	for i := range clients {
		queues := 0
		for q, k := range left[uint16(40000+i)] {
			if k > 0 {
				queues++
				used[q]++
			}
		}
		if queues != 1 {
			t.Errorf("client %d: %v", i, left[uint16(40000+i)])
		}
	}
	for q, k := range used {
		if k == 0 {
			t.Errorf("no client on queue %d", q)
		}
	}
}
