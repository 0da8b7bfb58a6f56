package e2e

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/appliance/config"
	"lockstep/internal/lab"
)

// Where questions and answers alternate, the answers carry the acknowledgements, on both legs; what
// nobody answers is acknowledged all the same, and soon.
func TestAnswersCarryAcks(t *testing.T) {
	p := start(t, options{alone: true, extra: []config.Service{rawService()}})
	accepted := make(chan net.Conn, 1)
	p.listenRaw(func(c net.Conn) { accepted <- c })

	// Segments of the active's, by direction: with data, and without.
	var data, pure [2]atomic.Int64
	for i, ifname := range []string{lab.FrontIf, lab.BackIf} {
		capture, err := p.A.Capture(ifname, func(_ time.Time, f []byte) {
			if len(f) < 14+40 || f[12] != 8 || f[13] != 0 || f[14+9] != 6 {
				return
			}
			port := f[14+20 : 14+22] // source, to the client
			if i == 1 {
				port = f[14+22 : 14+24]
			}
			if port[0] != 0 || port[1] != 81 {
				return
			}
			total, off := int(f[16])<<8|int(f[17]), int(f[14+20+12]>>4)*4
			switch flags := f[14+20+13]; {
			case total > 20+off:
				data[i].Add(1)
			case flags == 0x10:
				pure[i].Add(1)
			}
		})
		p.must(err)
		t.Cleanup(func() { capture.Close() })
	}

	c, err := p.dial(lab.VIP4 + ":81")
	p.must(err)
	defer c.Close()
	s := <-accepted
	defer s.Close()
	say := func(from, to net.Conn, b []byte) {
		t.Helper()
		_, err := from.Write(b)
		p.must(err)
		to.SetReadDeadline(time.Now().Add(30 * time.Second))
		_, err = io.ReadFull(to, b)
		p.must(err)
	}
	const rounds = 200
	for range rounds {
		say(c, s, make([]byte, 100))
		say(s, c, make([]byte, 300))
	}
	for i, to := range []string{"client", "server"} {
		p.await("capture", func() bool { return data[i].Load() >= rounds })
		// Without it as many as there is data; with it, those of a machine that stands still for 40 ms.
		if d, n := data[i].Load(), pure[i].Load(); n > d/2 {
			t.Errorf("to the %s: %d segments with data, %d without", to, d, n)
		} else {
			t.Logf("to the %s: %d segments with data, %d without", to, d, n)
		}
	}
	for range 5 {
		say(c, s, make([]byte, 100))
		p.await("ACK", func() bool {
			var unacked uint32
			p.must(fdOf(c, func(fd int) error {
				info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
				if err == nil {
					unacked = info.Unacked
				}
				return err
			}))
			return unacked == 0
		})
	}
}
