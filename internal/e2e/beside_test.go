package e2e

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/appliance/config"
	"lockstep/internal/lab"
)

// fdOf runs f on a connection's descriptor.
func fdOf(c net.Conn, f func(fd int) error) (err error) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return cerr
	}
	return err
}

// urgentByte waits for a connection's byte of urgent data.
func (p *pair) urgentByte(c net.Conn) (b byte) {
	p.t.Helper()
	p.await("urgent data", func() bool {
		buf := make([]byte, 1)
		err := fdOf(c, func(fd int) error {
			_, _, err := unix.Recvfrom(fd, buf, unix.MSG_OOB|unix.MSG_DONTWAIT)
			return err
		})
		b = buf[0]
		return err == nil
	})
	return b
}

// sendUrgent writes a byte of urgent data, as soon as the send buffer has room for it.
func sendUrgent(c net.Conn, b byte) (err error) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	if werr := raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), []byte{b}, unix.MSG_OOB, nil)
		return err != unix.EAGAIN
	}); werr != nil {
		return werr
	}
	return err
}

// What a segment says beside its bytes gets to the other side: where urgent data is, also among a lot
// that is not, and the class of service.
func TestUrgentAndClass(t *testing.T) {
	p := start(t, options{alone: true, extra: []config.Service{rawService()}})
	accepted := make(chan net.Conn, 1)
	p.listenRaw(func(c net.Conn) { accepted <- c })

	const class = 0x48 // AF21 (RFC 2597), with ECN's bits clear
	var toServer, toClient atomic.Int64
	watch := func(ifname string, n *atomic.Int64, source bool) {
		capture, err := p.A.Capture(ifname, func(_ time.Time, f []byte) {
			if len(f) < 14+40 || f[12] != 8 || f[13] != 0 || f[14+9] != 6 {
				return
			}
			at := 14 + 20 + 2 // destination port
			if source {
				at -= 2
			}
			// Segments with data, on their last way.
			if f[at] == 0 && f[at+1] == 81 && len(f) > 100 && f[15] == class {
				n.Add(1)
			}
		})
		p.must(err)
		t.Cleanup(func() { capture.Close() })
	}
	watch(lab.BackIf, &toServer, false)
	watch(lab.FrontIf, &toClient, true)

	c, err := p.dial(lab.VIP4 + ":81")
	p.must(err)
	defer c.Close()
	s := <-accepted
	defer s.Close()
	marked := func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, class) }
	p.must(fdOf(c, marked), fdOf(s, marked))

	for _, x := range []struct {
		name     string
		from, to net.Conn
		class    *atomic.Int64
	}{{"to the server", c, s, &toServer}, {"to the client", s, c, &toClient}} {
		// The reader waits, so that much lies before the urgent byte, in superpackets.
		before, after := bytes.Repeat([]byte("before"), 20000), bytes.Repeat([]byte("after"), 20000)
		wrote := make(chan error, 1)
		go func() {
			_, err := x.from.Write(before)
			err = errors.Join(err, sendUrgent(x.from, '!'))
			_, werr := x.from.Write(after)
			wrote <- errors.Join(err, werr)
		}()
		got := make([]byte, len(before))
		x.to.SetReadDeadline(time.Now().Add(30 * time.Second))
		_, err := io.ReadFull(x.to, got)
		p.must(err)
		if b := p.urgentByte(x.to); b != '!' || !bytes.Equal(got, before) {
			t.Errorf("%s: urgent byte %q; what comes before it is right: %v", x.name, b, bytes.Equal(got, before))
		}
		got = make([]byte, len(after))
		_, err = io.ReadFull(x.to, got)
		p.must(err, <-wrote)
		if !bytes.Equal(got, after) {
			t.Errorf("%s: wrong bytes after the urgent one", x.name)
		}
		p.await("class "+x.name, func() bool { return x.class.Load() > 0 })
	}
}
