package tun

import (
	"net"
	"net/netip"
	"testing"
	"time"

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
	// Those whose answer may still come are waited for, and with them who wants to reach them.
	for _, ip := range nobody {
		eventually(t, ip+" is waited for", func() bool {
			s.gw.run(func() error { return ForgetUnresolved("front", 0) }) // the kernel's three seconds begin anew
			began := time.Now()
			c := in(s.gw, func() (*connecting, error) { return connect(ip) })
			defer c.close()
			if states()[ip]&unix.NUD_INCOMPLETE == 0 {
				return false // it was given up before, and is asked for now or in a moment
			}
			s.gw.run(func() error { return ForgetUnresolved("front", time.Minute) })
			if err := c.err(); err == nil && states()[ip]&unix.NUD_INCOMPLETE != 0 {
				s.gw.run(func() error { return ForgetUnresolved("front", 0) })
				eventually(t, "an error", func() bool { return c.err() != nil })
				return true
			} else if time.Since(began) < time.Second { // the kernel gives up after three
				t.Fatalf("%s is given up: %v, state %#x", ip, err, states()[ip])
			}
			return false
		})
	}
	s.gw.run(func() error { return ForgetUnresolved("front", 0) })
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
		if err := ForgetUnresolved("nothing", 0); err == nil {
			t.Error("an interface that is not there has neighbours")
		}
		return nil
	})
}

// connecting is a TCP connection that nobody has answered yet.
type connecting int

func connect(ip string) (*connecting, error) {
	a := netip.MustParseAddr(ip)
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: a.As16(), Port: 9})
	if a.Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Addr: a.As4(), Port: 9}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, to); err != unix.EINPROGRESS {
		unix.Close(fd)
		return nil, err
	}
	c := connecting(fd)
	return &c, nil
}

// err is why it has failed, nil while it has not.
func (c *connecting) err() error {
	n, err := unix.GetsockoptInt(int(*c), unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && n != 0 {
		err = unix.Errno(n)
	}
	return err
}

func (c *connecting) close() { unix.Close(int(*c)) }
