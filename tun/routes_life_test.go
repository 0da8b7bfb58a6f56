package tun

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// state is everything InstallRoutes may touch, as text.
func (s *site) state(t testing.TB) []string {
	t.Helper()
	return in(s.gw, func() ([]string, error) {
		var out []string
		for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			rules, err := netlink.RuleList(f)
			if err != nil {
				return nil, err
			}
			for _, r := range rules {
				out = append(out, fmt.Sprintf("%v iif %q sport %v proto %d", r, r.IifName, r.Sport, r.Protocol))
			}
			for _, table := range []int{testTable, unix.RT_TABLE_MAIN, unix.RT_TABLE_LOCAL} {
				routes, err := netlink.RouteListFiltered(f, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
				if err != nil {
					return nil, err
				}
				for _, r := range routes {
					if r.Dst.IP.IsLinkLocalUnicast() || table == unix.RT_TABLE_LOCAL && r.Protocol != routeProtocol {
						continue // comes when the kernel has finished with its own address
					}
					out = append(out, fmt.Sprintf("table %d: %s type %d metric %d dev %d", table, r.Dst, r.Type, r.Priority, r.LinkIndex))
				}
			}
		}
		for _, k := range []string{
			"ipv4/ip_forward", "ipv4/conf/all/rp_filter", "ipv4/conf/front/rp_filter",
			"ipv6/conf/all/forwarding", "ipv6/conf/front/accept_ra", "ipv6/conf/back/accept_ra",
			"ipv6/conf/front/forwarding", "ipv6/conf/back/forwarding",
			"ipv4/conf/all/send_redirects", "ipv4/conf/front/send_redirects", "ipv4/conf/back/send_redirects",
		} {
			v, err := os.ReadFile(procSysNet + "/" + k)
			if err != nil {
				return nil, err
			}
			out = append(out, k+"="+strings.TrimSpace(string(v)))
		}
		slices.Sort(out)
		return out, nil
	})
}

func TestCloseRestoresEverything(t *testing.T) {
	s := newSite(t)
	before := s.state(t)
	ignore := goleak.IgnoreCurrent()
	d := in(s.gw, func() (Device, error) { return Open(tunName, 1500) })
	r := in(s.gw, func() (*Routes, error) { return InstallRoutes(testConfig()) })
	during := s.state(t)
	if slices.Equal(before, during) {
		t.Fatal("nothing was installed")
	}
	for _, want := range []string{"ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1", "ipv6/conf/front/accept_ra=2"} {
		if !slices.Contains(during, want) {
			t.Errorf("missing %s", want)
		}
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if after := s.state(t); !slices.Equal(before, after) {
		t.Errorf("before: %q\nafter:  %q", before, after)
	}
	d.Close()
	goleak.VerifyNone(t, ignore)
}

// TestKilledProcessStaysSilent: when the device goes without Routes.Close, as
// with SIGKILL, the kernel must neither answer protected segments nor send them
// elsewhere; and the next process finds its way.
func TestKilledProcessStaysSilent(t *testing.T) {
	s := newSite(t)
	before := s.state(t)
	d, _ := s.install(t)
	installed := s.state(t)
	d.Close()
	eventually(t, "the TUN device's routes go with it", func() bool {
		return !slices.ContainsFunc(s.state(t), func(l string) bool {
			return strings.Contains(l, fmt.Sprintf("table %d:", testTable)) && strings.Contains(l, fmt.Sprintf("metric %d ", tunMetric))
		})
	})
	for _, c := range []struct{ server, vip, client string }{
		{"10.20.0.11", "203.0.113.10", "10.1.0.1"},
		{"fd20::11", "2001:db8::10", "fd01::1"},
	} {
		// From the client a SYN-ACK to the VIP; from the server's port to a client.
		s.silent(t, s.client, c.client, c.vip, 40000, 80, c.server)
		s.silent(t, s.server, c.server, c.client, 80, 40001, c.client)
	}

	d2 := in(s.gw, func() (Device, error) { return Open(tunName, 1500) })
	defer d2.Close()
	r2 := in(s.gw, func() (*Routes, error) { return InstallRoutes(testConfig()) })
	noIndex := func(l []string) []string {
		var out []string
		for _, x := range l {
			out = append(out, strings.Split(x, " dev ")[0])
		}
		return out
	}
	if again := s.state(t); !slices.Equal(noIndex(installed), noIndex(again)) {
		t.Errorf("first: %q\nagain: %q", installed, again)
	}
	if err := r2.Close(); err != nil {
		t.Fatal(err)
	}
	isSysctl := func(l string) bool { return strings.Contains(l, "=") }
	after := slices.DeleteFunc(s.state(t), isSysctl) // the killed one's sysctls stay: nobody knows the old values
	if want := slices.DeleteFunc(before, isSysctl); !slices.Equal(want, after) {
		t.Errorf("before: %q\nafter:  %q", want, after)
	}
}

// silent sends a SYN-ACK from n and then pings through the same kernel: by the
// time the echo reply is back, an RST or ICMP error to the segment would be too.
func (s *site) silent(t *testing.T, n *testNS, src, dst string, sport, dport uint16, pingTo string) {
	t.Helper()
	network := "ip4:tcp"
	if netip.MustParseAddr(src).Is6() {
		network = "ip6:tcp"
	}
	c := in(n, func() (net.PacketConn, error) { return net.ListenPacket(network, src) })
	defer c.Close()
	others := s.ping(t, n, pingTo, func() {
		to := &net.IPAddr{IP: net.ParseIP(dst)}
		if _, err := c.WriteTo(synAck(src, dst, sport, dport), to); err != nil {
			t.Fatal(err)
		}
	})
	for _, o := range others {
		t.Errorf("ICMP answer to %s > %s: % x", src, dst, o)
	}
	// Whatever TCP came in is queued on the raw socket by now.
	raw, err := c.(*net.IPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2048)
	var rerr error
	raw.Control(func(fd uintptr) { _, _, rerr = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT) })
	if rerr != unix.EAGAIN {
		t.Errorf("TCP answer to %s > %s: % x (%v)", src, dst, buf[:60], rerr)
	}
}

// synAck is a TCP header with its checksum right.
func synAck(src, dst string, sport, dport uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint32(b, 1000)
	b = binary.BigEndian.AppendUint32(b, 2000)
	b = append(b, 0x50, 0x12, 0xff, 0xff, 0, 0, 0, 0)
	pseudo := append(netip.MustParseAddr(src).AsSlice(), netip.MustParseAddr(dst).AsSlice()...)
	pseudo = append(pseudo, 0, unix.IPPROTO_TCP, 0, byte(len(b)))
	binary.BigEndian.PutUint16(b[16:], inetChecksum(append(pseudo, b...)))
	return b
}

// TestLeftoversOfAnotherTable: the killed predecessor was configured with
// another table; a gateway that is alive in a third one is left alone.
func TestLeftoversOfAnotherTable(t *testing.T) {
	s := newSite(t)
	dead := in(s.gw, func() (Device, error) { return Open("dead", 1500) })
	alive := in(s.gw, func() (Device, error) { return Open("alive", 1500) })
	defer alive.Close()
	other := func(tun string, table int, vip string) {
		in(s.gw, func() (*Routes, error) {
			cfg := testConfig()
			cfg.TUN, cfg.Table, cfg.Virtual, cfg.Gateways = tun, table, []netip.Addr{netip.MustParseAddr(vip)}, nil
			r, err := InstallRoutes(cfg)
			if err == nil {
				t.Cleanup(func() { r.Close() })
			}
			return r, err
		})
	}
	other("alive", 7402, "203.0.113.12")
	other("dead", 7401, "203.0.113.11")
	dead.Close()
	s.install(t)
	state := strings.Join(s.state(t), "\n")
	if strings.Contains(state, "7401") || strings.Contains(state, "203.0.113.11") {
		t.Errorf("leftovers remain:\n%s", state)
	}
	for _, want := range []string{"203.0.113.12/32 table 7402", "203.0.113.10/32 table 7400"} {
		if !strings.Contains(state, want) {
			t.Errorf("missing %q:\n%s", want, state)
		}
	}
}

// TestRoutesReturnWithTheLink: interfaces set down and up by somebody.
func TestRoutesReturnWithTheLink(t *testing.T) {
	s := newSite(t)
	d, _ := s.install(t)
	defer d.Close()
	installed := s.state(t)
	for _, name := range []string{"back", tunName} {
		for _, set := range []func(netlink.Link) error{netlink.LinkSetDown, netlink.LinkSetUp} {
			s.gw.run(func() error {
				l, err := netlink.LinkByName(name)
				if err != nil {
					return err
				}
				return set(l)
			})
		}
	}
	eventually(t, "all routes are back", func() bool { return slices.Equal(installed, s.state(t)) })
	s.udpEcho(t, "10.20.0.11")
}

func TestInstallRefuses(t *testing.T) {
	s := newSite(t)
	d := in(s.gw, func() (Device, error) { return Open(tunName, 1500) })
	defer d.Close()
	before := s.state(t)
	for _, c := range []struct {
		name   string
		change func(*RouteConfig)
		want   string
	}{
		{"missing interface", func(c *RouteConfig) { c.Back = "nope" }, `"nope"`},
		{"main table", func(c *RouteConfig) { c.Table = 254 }, "254"},
		{"priority after main", func(c *RouteConfig) { c.RulePriority = 32766 }, "32766"},
		{"multicast VIP", func(c *RouteConfig) { c.Virtual = append(c.Virtual, netip.MustParseAddr("224.0.0.1")) }, "224.0.0.1"},
		{"kernel address as VIP", func(c *RouteConfig) { c.Virtual = append(c.Virtual, netip.MustParseAddr("10.1.0.254")) }, "remove it there"},
		{"server without port", func(c *RouteConfig) { c.Servers = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:0")} }, "10.0.0.1:0"},
	} {
		cfg := testConfig()
		c.change(&cfg)
		s.gw.run(func() error {
			r, err := InstallRoutes(cfg)
			if err == nil {
				r.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q in it", c.name, err, c.want)
			}
			return nil
		})
		if after := s.state(t); !slices.Equal(before, after) {
			t.Errorf("%s left something behind: %q", c.name, after)
		}
	}
	// A stranger's route in our table is neither flushed nor mixed with ours.
	s.gw.run(func() error {
		stranger := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("192.0.2.0/24")), Table: testTable, Type: unix.RTN_BLACKHOLE}
		if err := netlink.RouteAdd(stranger); err != nil {
			return err
		}
		if _, err := InstallRoutes(testConfig()); err == nil || !strings.Contains(err.Error(), "in use by somebody else") {
			t.Errorf("with a stranger in the table: %v", err)
		}
		return netlink.RouteDel(stranger)
	})
}
