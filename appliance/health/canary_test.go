package health

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The end of a server's connections is seen, also if it listens again at once; a
// paused canary holds no connection, and its own closing is no death.
func TestCanary(t *testing.T) {
	defer goleak.VerifyNone(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := netip.MustParseAddrPort(ln.Addr().String())
	c := NewCanary([]netip.AddrPort{addr}, func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", a.String())
	}, time.Millisecond)
	defer c.Stop()
	accept := func() net.Conn {
		t.Helper()
		if err := ln.(*net.TCPListener).SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	begun := time.Now()
	c.Resume()
	first := accept()
	if c.Died(0, begun) {
		t.Fatal("taken for dead while it lives")
	}
	first.Close()
	second := accept() // opened again: so the end was seen
	if !c.Died(0, begun) {
		t.Fatal("its end was not seen")
	}
	since := time.Now()
	c.Pause()
	if n, err := second.Read(make([]byte, 1)); err == nil {
		t.Fatalf("read %d bytes of a paused canary", n)
	}
	second.Close()
	c.Resume()
	third := accept()
	defer third.Close()
	if c.Died(0, since) {
		t.Fatal("its own closing is taken for the server's death")
	}
}
