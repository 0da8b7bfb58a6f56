package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/traffic"
)

// forger sends SYNs to a virtual address in the names of hosts that nobody answers for:
// their network is routed to the sender, which drops what comes for them.
type forger struct {
	fd   int
	to   unix.Sockaddr
	make func(n uint32) []byte
	sent atomic.Int64
}

var (
	forged4 = netip.MustParsePrefix("198.18.0.0/15")
	forged6 = netip.MustParsePrefix("2001:db8:f0::/48")
)

func newForger(t *testing.T, p *pair, v6 bool) *forger {
	t.Helper()
	f := &forger{}
	domain := unix.AF_INET
	if v6 {
		domain = unix.AF_INET6
		vip := netip.MustParseAddr(lab.VIP6)
		f.to = &unix.SockaddrInet6{Addr: vip.As16()}
		f.make = func(n uint32) []byte { return forgedSYN6(vip, n) }
	} else {
		vip := netip.MustParseAddr(lab.VIP4)
		f.to = &unix.SockaddrInet4{Addr: vip.As4()}
		f.make = func(n uint32) []byte { return forgedSYN4(vip, n) }
	}
	err := p.Client.Do(func() (err error) {
		f.fd, err = unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(f.fd) })
	return f
}

// send sends n SYNs, at most so many a second.
func (f *forger) send(ctx context.Context, n, rate int) error {
	began := time.Now()
	for i := 0; i < n && ctx.Err() == nil; {
		due := min(n, 1+int(time.Since(began).Seconds()*float64(rate)))
		if i == due {
			time.Sleep(time.Millisecond) // the pace of the flood, nothing waits for it
		}
		for ; i < due; i++ {
			switch err := unix.Sendto(f.fd, f.make(rand.Uint32()), 0, f.to); err {
			case nil:
				f.sent.Add(1)
			case unix.ENOBUFS, unix.EAGAIN:
			default:
				return fmt.Errorf("send a SYN: %w", err)
			}
		}
	}
	return nil
}

func forgedTCP(n uint32) header.TCP {
	tcp := make(header.TCP, 24)
	tcp.Encode(&header.TCPFields{
		SrcPort: uint16(1024 + n%60000), DstPort: 80, SeqNum: n * 2654435761, DataOffset: 24,
		Flags: header.TCPFlagSyn, WindowSize: 64240,
	})
	header.EncodeMSSOption(1460, tcp[20:])
	return tcp
}

func forgedSYN4(to netip.Addr, n uint32) []byte {
	src := forged4.Addr().As4()
	binary.BigEndian.PutUint32(src[:], binary.BigEndian.Uint32(src[:])|n&0x1ffff)
	b := make([]byte, 20, 44)
	dst := to.As4()
	ip := header.IPv4(b)
	b[0], b[8], b[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(b[2:], 44)
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	ip.SetChecksum(^ip.CalculateChecksum())
	return sumTCP(b, b[12:20], forgedTCP(n))
}

func forgedSYN6(to netip.Addr, n uint32) []byte {
	src, dst := forged6.Addr().As16(), to.As16()
	binary.BigEndian.PutUint32(src[6:], n)
	b := make([]byte, 40, 64)
	b[0], b[5], b[6], b[7] = 0x60, 24, 6, 64
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	return sumTCP(b, b[8:40], forgedTCP(n))
}

func sumTCP(ip, addrs []byte, tcp header.TCP) []byte {
	x := checksum.Combine(checksum.Checksum(addrs, 0), checksum.Combine(6, uint16(len(tcp))))
	tcp.SetChecksum(^tcp.CalculateChecksum(x))
	return append(ip, tcp...)
}

// routeForged makes the answers to forged SYNs go where they are dropped.
func (p *pair) routeForged() {
	p.t.Helper()
	for _, h := range []*lab.Host{p.A, p.B} {
		for dst, via := range map[string]string{forged4.String(): lab.Client4, forged6.String(): lab.Client6} {
			if err := h.Route(dst, via); err != nil {
				p.t.Fatal(err)
			}
		}
	}
}

// floods are the SYNs a second and their number, by SYN_FLOOD=RATE,NUMBER for who measures.
func floods(t *testing.T) (rate, n int) {
	rate, n = 4000, 400_000 // it ends with the test
	if v := os.Getenv("SYN_FLOOD"); v != "" {
		a, b, _ := strings.Cut(v, ",")
		var err, err2 error
		rate, err = strconv.Atoi(a)
		if n, err2 = strconv.Atoi(b); err != nil || err2 != nil {
			t.Fatalf("SYN_FLOOD=%s: want RATE,NUMBER", v)
		}
	}
	return rate, n
}

// echo is a server that counts whom it has accepted; nobody else probes it.
type echo struct{ accepted atomic.Int64 }

func echoService() config.Service {
	return service("echo", []string{port4, port6}, []string{"10.20.0.11:7", "[fd20::11]:7"}, func(s *config.Service) { s.Health.TCP = false })
}

func (e *echo) serve(p *pair) {
	for _, network := range []string{"tcp4", "tcp6"} {
		p.accepts(p.Servers[0], network, ":7", func(c net.Conn) {
			defer c.Close()
			e.accepted.Add(1)
			_, _ = io.Copy(c, c) // until the client ends it
		})
	}
}

// visit is a client's connection with the echo server; it returns how long the handshake took.
func (p *pair) visit(addr string) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	began := time.Now()
	c, err := p.Client.DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	took = time.Since(began)
	deadline, _ := ctx.Deadline()
	said, heard := []byte("who is there?"), make([]byte, 13)
	if err := c.SetDeadline(deadline); err != nil {
		return took, err
	}
	if _, err := c.Write(said); err != nil {
		return took, err
	}
	_, err = io.ReadFull(c, heard)
	if err == nil && string(heard) != string(said) {
		err = fmt.Errorf("heard %q", heard)
	}
	return took, err
}

// Under a flood of forged SYNs clients get in, what stands goes on, and the server hears
// of no connection but theirs; so it is when the standby takes over in its middle.
func TestForgedSYNs(t *testing.T) {
	for name, v6 := range map[string]bool{"IPv4": false, "IPv6": true} {
		t.Run(name, func(t *testing.T) { forgedSYNs(t, v6) })
	}
}

// The flood goes to port 80, where the echo server is; the traffic that stands has
// addresses of its own.
const (
	calm4 = lab.VIP4 + ":81"
	calm6 = "[" + lab.VIP6 + "]:81"
)

func forgedSYNs(t *testing.T, v6 bool) {
	rate, n := floods(t)
	addr, calm := port4, calm4
	if v6 {
		addr, calm = port6, calm6
	}
	var e echo
	p := start(t, options{listen: []string{calm4, calm6}, extra: []config.Service{echoService()}, serve: e.serve})
	p.routeForged()
	finish := make(chan struct{})
	stands := p.client(calm)
	stands.Finish = finish
	wait := p.run(stands, traffic.Request{Mode: traffic.Rounds, RequestSize: 1, ResponseSize: mib, Interval: time.Nanosecond})
	speed := func() float64 {
		from, at := stands.Progress.Received.Load(), time.Now()
		p.await("traffic flows", func() bool {
			return stands.Progress.Received.Load() > from+mib && time.Since(at) > time.Second
		})
		return float64(stands.Progress.Received.Load()-from) / time.Since(at).Seconds() / mib
	}
	before := speed()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	f, flooded := newForger(t, p, v6), make(chan error, 1)
	go func() { flooded <- f.send(ctx, n, rate) }()
	p.await("cookies are sent", func() bool { return p.status("a").Connections.CookiesSent > 0 })
	p.await("SYNs are dropped where they arrive", func() bool { return p.status("a").Drops["syn-flood"] > 0 })
	during := speed()
	var slowest time.Duration
	visits := func(k int) {
		for range k {
			took, err := p.visit(addr)
			if err != nil {
				t.Fatalf("a client is shut out: %v", err)
			}
			slowest = max(slowest, took)
		}
	}
	visits(10)
	st := p.status("a")
	t.Logf("%d SYNs, %d a second: the slowest of 10 clients got in after %v; a download: %.0f MiB/s before, %.0f during; %+v, drops %v",
		f.sent.Load(), rate, slowest, before, during, st.Connections, st.Drops)
	kill(p)
	p.await("b is active", func() bool { return p.status("b").Role == control.RoleActive })
	// It counts handshakes of its own: those that are passed on are its predecessor's no longer.
	p.await("cookies are sent again", func() bool { return p.status("b").Connections.CookiesSent > 0 })
	visits(10)
	cancel()
	if err := <-flooded; err != nil {
		t.Fatal(err)
	}
	close(finish)
	wait()
	if got := e.accepted.Load(); got != 20 {
		t.Errorf("the server has accepted %d connections of 20 clients", got)
	}
	if st := p.status("b").Connections; st.HalfOpen > 256 {
		t.Errorf("after the takeover: %+v", st)
	}
}
