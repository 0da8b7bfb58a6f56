package steer_test

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// With the strict reverse path filter nothing is taken that it would refuse, nor anything of which more than one way back
// is known; all else is.
func TestReversePath(t *testing.T) {
	isolated(t, func(t *testing.T) {
		r := newRig(t, config())
		for _, name := range []string{"front", "back"} {
			r.must(os.WriteFile("/proc/sys/net/ipv4/conf/"+name+"/rp_filter", []byte("1"), 0))
		}
		tun, err := netlink.LinkByName(config().TUN)
		r.must(err)
		for _, a := range []netip.AddrPort{vip4, gateway4} { // as on an appliance: the filter asks for what is forwarded to it
			r.must(netlink.RouteAdd(&netlink.Route{Dst: netlink.NewIPNet(a.Addr().AsSlice()), LinkIndex: tun.Attrs().Index}))
		}
		n := byte(0) // payloads tell segments from each other
		sends := func(what string, nic int, from, to netip.AddrPort, strict, plain bool) {
			t.Helper()
			for _, on := range []bool{false, true} {
				r.reverse = [2]bool{on, on}
				r.look("")
				n++
				b, mark := segment(from, to, ack, 60+int(n)), segment(client6, vip6, ack, 10)
				r.arrive(nic, r.frame(nic, b))
				if on && strict || !on && plain {
					r.gets(what, b)
				}
				r.arrive(front, r.frame(front, mark)) // nothing else comes before it
				r.gets("what comes after "+what, mark)
			}
			r.kernel(what, nic, segment(from, to, ack, 50), !strict)
		}
		stranger := netip.MustParseAddrPort("198.51.100.7:40000")
		sends("a client's of the front network", front, client4, vip4, true, true)
		sends("a server's", back, server4, gateway4, true, true)
		sends("one from the front that says it is of the back network", front, netip.MustParseAddrPort("10.20.0.50:40000"), vip4, false, true)
		sends("one from the back that says it is of the front network", back, client4, gateway4, false, true)
		sends("one to whom no way leads", front, stranger, vip4, false, true)
		via := func(nic int, to string, gw string) *netlink.Route {
			_, dst, err := net.ParseCIDR(to)
			r.must(err)
			return &netlink.Route{Dst: dst, LinkIndex: r.nics[nic].Attrs().Index, Gw: net.ParseIP(gw)}
		}
		r.must(netlink.RouteAdd(via(front, "198.51.100.0/24", client4.Addr().String())))
		sends("one to whom the way leads by the front", front, stranger, vip4, true, true)
		r.must(netlink.RouteAdd(via(back, "198.51.100.7/32", server4.Addr().String())))
		sends("one to whom a longer prefix leads by the back", front, stranger, vip4, false, true)
		rule := netlink.NewRule()
		rule.Priority, rule.Family, rule.Table, rule.Dst, rule.IifName = 100, netlink.FAMILY_V4, 100, via(front, "198.51.100.7/32", "").Dst, "back"
		route := via(front, "198.51.100.7/32", client4.Addr().String())
		route.Table = 100
		r.must(netlink.RouteAdd(route))
		r.must(netlink.RuleAdd(rule))
		sends("one whose way is another by a rule that is for what comes in elsewhere", front, stranger, vip4, false, true)
		rule.IifName = ""
		r.must(netlink.RuleAdd(rule))
		sends("one whose way is another by a rule", front, stranger, vip4, true, true)

		// What came by the TUN device may have a table of its own: for the filter, what is answered will have come by that.
		r.must(netlink.RouteAdd(via(front, "10.99.0.0/24", client4.Addr().String())))
		guest := func(iif string, host string, on int) netip.AddrPort {
			route, rule := via(on, host+"/32", [2]string{client4.Addr().String(), server4.Addr().String()}[on]), netlink.NewRule()
			rule.Priority, rule.Family, rule.Table, rule.Dst, rule.IifName = 50, netlink.FAMILY_V4, 99, route.Dst, iif
			route.Table = 99
			r.must(netlink.RouteAdd(route))
			r.must(netlink.RuleAdd(rule))
			return netip.AddrPortFrom(netip.MustParseAddr(host), 40000)
		}
		sends("one that answers reach by the back", front, guest(config().TUN, "10.99.0.7", back), vip4, false, true)
		sends("one that answers reach by the front, from the back", back, guest(config().TUN, "10.99.0.8", back), gateway4, true, true)
		sends("one that only the host's own packets reach by the back", front, guest("lo", "10.99.0.9", back), vip4, true, true)
	})
}

// kernel checks whether the kernel's own filter, which is on, refuses a packet.
func (r *rig) kernel(what string, nic int, b []byte, refused bool) {
	r.t.Helper()
	r.look("the kernel is asked")
	count := func(least int) int {
		r.t.Helper()
		for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
			b, err := os.ReadFile("/proc/thread-self/net/netstat")
			r.must(err)
			lines := strings.Split(string(b), "\n") // names, values
			n, err := strconv.Atoi(strings.Fields(lines[1])[slices.Index(strings.Fields(lines[0]), "IPReversePathFilter")])
			r.must(err)
			if n >= least {
				return n
			}
			if time.Now().After(end) {
				r.t.Fatalf("%s: the kernel has refused %d, want %d", what, n, least)
			}
		}
	}
	want := count(0)
	r.arrive(nic, r.frame(nic, b))
	if refused {
		count(want + 1)
		return
	}
	r.gets(what+", by the kernel", b)
	if got := count(0); got != want {
		r.t.Errorf("%s: the kernel has refused %d, want %d", what, got, want)
	}
}
