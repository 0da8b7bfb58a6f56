//go:build amd64

package wrap

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"lockstep/wrap/determinant"
	"lockstep/wrap/trace"
)

// borrow does something with a copy of a process's descriptor. The copy is gone afterwards: while there is one,
// the program's own close would not end the connection.
func borrow(pid, fd int, do func(fd int)) bool {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(pidfd)
	copied, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return false
	}
	defer unix.Close(copied)
	do(copied)
	return true
}

// connection tells whose a socket is, if it is one of TCP.
func connection(fd int) (c determinant.Connection, ok bool) {
	if proto, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || proto != unix.IPPROTO_TCP {
		return c, false
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return c, false
	}
	own, err := unix.Getsockname(fd)
	if err != nil {
		return c, false
	}
	c = determinant.Connection{Client: addrPort(peer), Service: addrPort(own)}
	return c, c.Client.IsValid() && c.Service.IsValid()
}

func addrPort(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// accepted makes the process one that serves the connection it has accepted, until it accepts the next one.
func (s *supervisor) accepted(t *trace.Task) {
	started := false
	if fd := t.Result(); fd >= 0 {
		borrow(t.Proc.PID, int(fd), func(copied int) {
			if c, ok := connection(copied); ok {
				started = of(t.Proc).starting
				s.adopt(of(t.Proc), c, int(fd))
			}
		})
	}
	if started { // whichever thread it was: its clocks show nothing yet
		s.advance(t.Proc)
		return
	}
	s.waited(t)
}

// adopt gives a process a connection. The service is known by its port only: two servers have addresses of their own.
func (s *supervisor) adopt(p *process, c determinant.Connection, socket int) {
	c.Service = netip.AddrPortFrom(netip.IPv4Unspecified(), c.Service.Port())
	s.leave(p) // first: the same client may have come again from the same port
	s.serve(p, s.join(c), "")
	p.socket = socket
}

// begin is the program's start. It may have been given a connection as its input, as by inetd or a socket unit.
func (s *supervisor) begin(t *trace.Process, start *instance) {
	p := &process{socket: -1}
	s.serve(p, start, "")
	s.main = t
	s.add(t, p)
	if c, ok := connection(0); ok {
		s.adopt(p, c, 0)
	}
}
