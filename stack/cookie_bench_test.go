package stack

import (
	"net/netip"
	"os"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/tun"
)

// nowhere is a device that takes everything and has nothing.
type nowhere struct{ done chan struct{} }

func (d nowhere) ReadV([][]byte) (int, error) { <-d.done; return 0, os.ErrClosed }
func (d nowhere) OnIdle(func())               {}
func (d nowhere) WriteV([][]byte) error       { return nil }
func (d nowhere) Look() tun.Look              { return tun.Look{} }
func (d nowhere) Name() string                { return "nowhere" }
func (d nowhere) MTU() int                    { return 1500 }
func (d nowhere) Close() error                { close(d.done); return nil }

type discard struct{}

func (discard) Incoming(*Leg) {}

// BenchmarkForgedSYN is what a SYN of a flood costs the reader, without the system calls
// that read it and write the answer.
func BenchmarkForgedSYN(b *testing.B) {
	e, err := New(Options{Device: nowhere{make(chan struct{})}, Handler: discard{}, Addresses: []netip.Addr{testVIP.Addr()}})
	if err != nil {
		b.Fatal(err)
	}
	e.Listen(testVIP, 0, 1)
	e.SetActive(true)
	hdr := make([]byte, tun.VnetHeaderLen)
	hdr[0] = tun.FlagDataValid
	f := flowOf(testVIP, netip.AddrPortFrom(testClient, 40000))
	opts := synOptions(make([]byte, header.TCPOptionsMaximumSize), 1460, 7, true, true, 1, 0)
	syn := f.build(make([]byte, maxMade), false, true, made{flags: header.TCPFlagSyn, seq: 1000, window: 65535, opts: opts})
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		pkt := packetOf(syn)
		e.receive(hdr, pkt, len(syn))
		pkt.DecRef()
	}
	b.StopTimer()
	if err := e.Close(); err != nil {
		b.Fatal(err)
	}
	if n := e.C.CookiesSent.Load(); n < uint64(b.N) {
		b.Errorf("%d cookies for %d SYNs", n, b.N)
	}
}
