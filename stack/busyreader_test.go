package stack_test

import (
	"net/netip"
	"os"
	"sync/atomic"
	"testing"

	"lockstep/internal/script"
	"lockstep/stack"
	"lockstep/tun"
	"lockstep/tun/tuntest"
)

// neverIdle is a queue in which, from its first packet on, there is always another one.
type neverIdle struct {
	*tuntest.End
	begun  bool
	closed atomic.Bool
	noise  []byte
}

func (d *neverIdle) ReadV(bufs [][]byte) (int, error) {
	switch {
	case !d.begun:
		d.begun = true
		return d.End.ReadV(bufs)
	case d.closed.Load():
		return 0, os.ErrClosed
	}
	clear(bufs[0])
	return copy(bufs[1], d.noise), nil
}

func (d *neverIdle) Close() error {
	d.closed.Store(true)
	return d.End.Close()
}

// A segment that may be joined with others reaches its endpoint though its reader is never idle, and none of its connection follows.
func TestBusyReader(t *testing.T) {
	near, far := tuntest.Pipe()
	defer far.Close()
	stranger := script.Segment{Src: netip.MustParseAddrPort("203.0.113.77:7"), Dst: benchVIP, Flags: script.RST, Opts: script.NoOpts}
	b := newBench(t, stack.Options{Queues: []tun.Device{&neverIdle{End: near, noise: stranger.Encode()}}})
	l := b.open()
	s := script.Segment{
		Src: benchClient, Dst: benchVIP, Flags: script.ACK, Seq: benchISN + 1, Ack: b.iss + 1, Win: 1000,
		Opts: b.opts(false), Payload: pattern(0, 500), // without PSH
	}
	if err := far.WriteV([][]byte{make([]byte, tun.VnetHeaderLen), s.Encode()}); err != nil {
		t.Fatal(err)
	}
	b.received(l, 500)
}
