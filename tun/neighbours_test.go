package tun

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Neighbours that do not answer are forgotten, on that interface; those that are known are not.
func TestForgetUnresolved(t *testing.T) {
	s := newSite(t)
	s.gw.run(func() error { return s.gw.addr("back", "10.20.0.2/24", "fd20::2/64") })
	states := func() map[string]int {
		list := in(s.gw, func() ([]netlink.Neigh, error) { return netlink.NeighList(0, netlink.FAMILY_ALL) })
		m := map[string]int{}
		for _, n := range list {
			m[n.IP.String()] = n.State
		}
		return m
	}
	const unresolved, known = unix.NUD_INCOMPLETE | unix.NUD_FAILED, unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE
	nobody, there, elsewhere := []string{"10.1.0.99", "fd01::99"}, []string{"10.1.0.1", "fd01::1"}, []string{"10.20.0.99", "fd20::99"}
	all := append(append(append([]string{}, nobody...), there...), elsewhere...)
	for _, ip := range all {
		eventually(t, ip+" is asked for", func() bool {
			s.gw.run(func() error {
				c, err := net.Dial("udp", net.JoinHostPort(ip, "9"))
				if err != nil {
					return err
				}
				defer c.Close()
				_, _ = c.Write([]byte("who is there?"))
				return nil
			})
			return states()[ip] != 0
		})
	}
	for _, ip := range there {
		eventually(t, ip+" is known", func() bool { return states()[ip]&known != 0 })
	}
	s.gw.run(func() error { return ForgetUnresolved("front") })
	now := states()
	for _, ip := range nobody {
		if now[ip]&unresolved != 0 {
			t.Errorf("%s: state %#x", ip, now[ip])
		}
	}
	for _, ip := range there {
		if now[ip]&known == 0 {
			t.Errorf("%s is forgotten: state %#x", ip, now[ip])
		}
	}
	for _, ip := range elsewhere {
		if now[ip] == 0 {
			t.Errorf("%s, on the other interface, is forgotten", ip)
		}
	}
	s.gw.run(func() error {
		if err := ForgetUnresolved("nothing"); err == nil {
			t.Error("an interface that is not there has neighbours")
		}
		return nil
	})
}
