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

// heldUp is a device whose first packet leaves when first has returned.
type heldUp struct {
	tun.Device
	first *func()
	begun *atomic.Bool
}

func (d *heldUp) WriteV(bufs [][]byte) error {
	if d.begun.CompareAndSwap(false, true) {
		(*d.first)()
	}
	return d.Device.WriteV(bufs)
}

// What the readers of several queues have kept leaves before what any of them reads while the engine becomes the active:
// of each connection everything, and in order.
func TestHeldByAllReaders(t *testing.T) {
	const n, clients, rounds = 3, 30, 60
	const all = clients * rounds // less than heldPackets
	var first func()
	var begun atomic.Bool
	var near []tun.Device
	var far []*tuntest.End
	for range n {
		a, b := tuntest.PipeSize(tuntest.MTU, all)
		near, far = append(near, &heldUp{Device: a, first: &first, begun: &begun}), append(far, b)
	}
	e, err := New(Options{Device: near[0], Queues: near[1:], Handler: &quietEngine{woke: make(map[*Leg]int)}, Addresses: []netip.Addr{testVIP.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range clients {
		client := netip.AddrPortFrom(testClient, uint16(40000+i))
		cp := Params{Local: testVIP, Remote: client, ISS: 5000, IRS: 1000, MSS: 1460, OurMSS: 1460}
		sp := Params{Local: client, Remote: spliceServer, ISS: 1000, IRS: 5000, MSS: 1460, OurMSS: 1460}
		if _, err := e.RestoreSpliced(cp, sp, false, noSpliced{}); err != nil {
			t.Fatal(err)
		}
	}
	e.Hold(true)
	e.Run()
	var readers, writers sync.WaitGroup
	var mu sync.Mutex
	left, last := 0, map[uint16]uint16{}
	active := make(chan struct{}) // it becomes that
	for q := range n {
		readers.Go(func() {
			hdr, buf := make([]byte, tun.VnetHeaderLen), make([]byte, tun.MaxPacketLen)
			for {
				if _, err := far[q].ReadV([][]byte{hdr, buf}); errors.Is(err, os.ErrClosed) {
					return
				}
				tcp := header.TCP(buf[header.IPv4MinimumSize:])
				mu.Lock()
				if port, round := tcp.SourcePort(), tcp.WindowSize(); round <= last[port] {
					t.Errorf("client %d: segment %d left after %d", port, round, last[port])
				} else {
					last[port] = round
				}
				left++
				mu.Unlock()
			}
		})
		writers.Go(func() {
			hdr := make([]byte, tun.VnetHeaderLen)
			for r := range rounds {
				if r == rounds/2 {
					<-active
				}
				for i := q; i < clients; i += n { // a flow comes by one queue
					f := flowOf(testVIP, netip.AddrPortFrom(testClient, uint16(40000+i)))
					b := f.build(make([]byte, maxMade), false, true, made{flags: ackFlag, seq: 1001, ack: 5001, window: uint16(1 + r)})
					if err := far[q].WriteV([][]byte{hdr, b}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	await := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !done(); runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("not %s: %d packets read, drops %v", what, e.C.PacketsIn.Load(), e.C.Drops())
			}
		}
	}
	await("all of the first half are read", func() bool { return e.C.PacketsIn.Load() == all/2 })
	// Each reader has a later segment before the first that was kept leaves.
	first = func() { await("every reader has one", func() bool { return e.C.PacketsIn.Load() >= all/2+n }) }
	close(active)
	e.SetActive(true)
	writers.Wait()
	await("all have left, or were too old", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return left+int(e.C.Drops()["held"]) == all
	})
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	for _, f := range far {
		_ = f.Close()
	}
	readers.Wait()
	t.Logf("%d were kept, %d were too old", e.C.Held.Load(), e.C.Drops()["held"])
}
