package e2e

import (
	"bytes"
	"context"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mdlayher/packet"

	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

// claim is a gratuitous ARP with which a stranger says that it has the lab's VIP.
func claim(t *testing.T, mac net.HardwareAddr) []byte {
	vip := netip.MustParseAddr(lab.VIP4).As4()
	v := hex.EncodeToString(vip[:])
	m := hex.EncodeToString(mac)
	frame, err := hex.DecodeString("ffffffffffff" + m + "0806" + "0001080006040001" + m + v + "000000000000" + v)
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

// TestStranger: a host on the front network claims the VIP, over and over. Clients stay
// with the appliance, which answers by announcing again; the log has a line, not
// thousands. The same for strangers at the sync port.
func TestStranger(t *testing.T) {
	p := start(t, options{alone: true})
	x, err := p.Lab.Host("x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Attach(p.Front, "eth0", "203.0.113.66/24"); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Attach(p.Sync, "eth1", "10.30.0.66/24"); err != nil {
		t.Fatal(err)
	}
	var sock *packet.Conn
	var nic *net.Interface
	if err := x.Do(func() (err error) {
		if nic, err = net.InterfaceByName("eth0"); err != nil {
			return err
		}
		sock, err = packet.Listen(nic, packet.Raw, 0x0806, nil)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	forged := claim(t, nic.HardwareAddr)

	finish := make(chan struct{})
	c := p.client(port4)
	c.Finish = finish
	wait := p.run(c, append(traffic.Times(5, traffic.Idle(10*time.Millisecond)), traffic.Both(20*mib))...)
	p.await("traffic flows", func() bool { return c.Progress.Received.Load() > mib })

	var announced atomic.Uint64 // frames in which the appliance announces the VIP
	capture, err := p.A.Capture("eth0", func(_ time.Time, f []byte) {
		if len(f) >= 42 && f[12] == 8 && f[13] == 6 && bytes.Equal(f[28:32], forged[28:32]) && bytes.Equal(f[38:42], forged[28:32]) {
			announced.Add(1)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer capture.Close()
	const atStart = 6 * 2 // frames in the second after it became active, which may not be over
	sent := 0
	p.await("the VIP is announced again and again", func() bool {
		for range 100 {
			if _, err := sock.WriteTo(forged, &packet.Addr{HardwareAddr: forged[:6]}); err != nil {
				t.Fatal(err)
			}
			sent++
		}
		return sent >= 5000 && announced.Load() > atStart+4
	})
	rounds := c.Progress.Rounds.Load()
	p.await("clients go on", func() bool { return c.Progress.Rounds.Load() > rounds+20 })

	for range 200 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		conn, err := x.DialContext(ctx, "tcp", "10.30.0.1:7400")
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
		conn.Close()
	}
	p.await("strangers are refused", func() bool {
		n := uint64(0)
		for reason, c := range p.status("a").Drops {
			if strings.HasPrefix(reason, "sync-refused-") {
				n += c
			}
		}
		return n >= 200
	})
	close(finish)
	wait()
	log := p.a.Output()
	for _, line := range []string{`level=WARN msg="somebody else claims an address of ours`, `level=WARN msg="refused a connection"`} {
		if n := strings.Count(log, line); n == 0 || n > 5 {
			t.Errorf("%q is in the log %d times, want a few", line, n)
		}
	}
}
