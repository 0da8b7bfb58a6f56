package splice_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/splice"
	"lockstep/tun"
)

// pattern is a stream of which every byte tells where it belongs.
type pattern struct{ off, end int }

func (p *pattern) Read(b []byte) (int, error) {
	if p.off == p.end {
		return 0, io.EOF
	}
	n := min(len(b), p.end-p.off)
	for i := range n {
		b[i] = at(p.off + i)
	}
	p.off += n
	return n, nil
}

func at(off int) byte { return byte(off ^ off>>8*7 ^ off>>16*13) }

// verify reads a stream to its end.
func verify(r io.Reader, n int, halfway func()) error {
	b := make([]byte, 64<<10)
	for off := 0; ; {
		k, err := r.Read(b)
		for i := range k {
			if b[i] != at(off+i) {
				return fmt.Errorf("byte %d is wrong", off+i)
			}
		}
		if off += k; off > n/2 && halfway != nil {
			halfway()
			halfway = nil
		}
		if err == io.EOF && off == n {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", off, n, err)
		}
	}
}

// stream sends n bytes from one to the other, and its end.
func stream(from, to *net.TCPConn, n int, halfway func(), done chan<- error) {
	go func() {
		p := &pattern{0, n}
		_, err := io.Copy(from, io.LimitReader(p, int64(n)*3/4))
		if halfway != nil {
			halfway() // has come before the end of either stream: its FIN is not to be one that nobody has seen
		}
		_, err2 := io.Copy(from, p)
		done <- errors.Join(err, err2, from.CloseWrite())
	}()
	go func() { done <- verify(to, n, halfway) }()
}

// The kernel's TCP at both ends: bytes in both directions at once, over paths whose MTU each side
// must find out, with a takeover in the middle; then every order of ends, refusals, and ports used again.
func TestKernel(t *testing.T) {
	c := newChain(t)
	n := 0
	for _, v6 := range []bool{false, true} {
		for _, own := range []bool{false, true} {
			n++
			vip, ln := c.serve(n, v6, own)
			name := fmt.Sprintf("IPv6 %v, source of our own %v", v6, own)
			c.bulk(name, vip, ln)
			c.ends(name, vip, ln)
			c.reuse(name, vip, ln)
			c.killed(name, vip, ln)
			c.endedUnseen(name, vip, ln)
			c.refused(name, vip, ln)
		}
	}
}

func (c *chain) bulk(name string, vip netip.AddrPort, ln *net.TCPListener) {
	const size = 4 << 20
	c.mu.Lock()
	before := c.errors
	c.mu.Unlock()
	for _, halfway := range []func(){nil, sync.OnceFunc(c.takeover)} {
		client, server := c.pair(vip, ln, &net.Dialer{})
		done := make(chan error)
		stream(client, server, size, halfway, done)
		stream(server, client, size, halfway, done)
		for range 4 {
			if err := <-done; err != nil {
				c.t.Fatalf("%s: %v", name, err)
			}
		}
		c.ended(splice.Closed)
		c.mu.Lock()
		p, q := c.last.Position(splice.Client), c.last.Position(splice.Server)
		c.mu.Unlock()
		if halfway == nil && (p.Bytes != size || q.Bytes != size || p.Delivered != size || q.Delivered != size) {
			c.t.Fatalf("%s: counted %+v, %+v", name, p, q)
		}
		client.Close()
		server.Close()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.errors[0] == before[0] || c.errors[1] == before[1] {
		c.t.Fatalf("%s: path MTUs were told %v times in all, before that %v", name, c.errors, before)
	}
}

// ends plays orders of FIN and RST.
func (c *chain) ends(name string, vip netip.AddrPort, ln *net.TCPListener) {
	linger := func(x *net.TCPConn) { _ = x.SetLinger(0); x.Close() }
	for what, x := range map[string]struct {
		play func(client, server *net.TCPConn)
		want splice.State
	}{
		"client closes first": {func(a, b *net.TCPConn) { a.Close(); c.eof(b); b.Close() }, splice.Closed},
		"server closes first": {func(a, b *net.TCPConn) { b.Close(); c.eof(a); a.Close() }, splice.Closed},
		"both at once":        {func(a, b *net.TCPConn) { go a.Close(); b.Close() }, splice.Closed},
		"half closed": {func(a, b *net.TCPConn) {
			_ = a.CloseWrite()
			c.eof(b)
			done := make(chan error)
			stream(b, a, 300000, nil, done)
			if err := errors.Join(<-done, <-done); err != nil {
				c.t.Errorf("%s: %v", name, err)
			}
		}, splice.Closed},
		"client resets": {func(a, b *net.TCPConn) { linger(a); c.reset(b) }, splice.Reset},
		"server resets": {func(a, b *net.TCPConn) { linger(b); c.reset(a) }, splice.Reset},
		"reset right behind data": {func(a, b *net.TCPConn) {
			_, _ = a.Write(make([]byte, 50000))
			linger(a)
			c.reset(b)
		}, splice.Reset},
		"client closes with bytes unread": {func(a, b *net.TCPConn) {
			_, _ = b.Write(make([]byte, 1000))
			_, _ = io.ReadFull(a, make([]byte, 10))
			a.Close()
			c.reset(b)
		}, splice.Reset},
		"half closed, then reset": {func(a, b *net.TCPConn) { _ = a.CloseWrite(); c.eof(b); linger(b); c.reset(a) }, splice.Reset},
	} {
		client, server := c.pair(vip, ln, &net.Dialer{})
		if _, err := client.Write([]byte("x")); err != nil {
			c.t.Fatal(err)
		}
		if _, err := server.Read(make([]byte, 1)); err != nil {
			c.t.Fatal(err)
		}
		x.play(client, server)
		c.ended(x.want)
		if c.t.Failed() {
			c.t.Fatalf("%s: %s", name, what)
		}
		client.Close()
		server.Close()
	}
}

// endedUnseen has a client that has closed before a takeover: what the tracker cannot know it finds out by asking.
func (c *chain) endedUnseen(name string, vip netip.AddrPort, ln *net.TCPListener) {
	client, server := c.pair(vip, ln, &net.Dialer{})
	check(c.t, client.CloseWrite())
	c.eof(server)
	c.takeover()
	check(c.t, server.Close())
	c.eof(client)
	check(c.t, client.Close())
	c.ended(splice.HalfClosed)
	end := time.Now().Add(deadline)
	for i := time.Duration(1); ; i++ {
		c.mu.Lock()
		state := c.last.State()
		to, ask := c.last.Ask(c.last.Heard() + i*time.Minute)
		if ask {
			_ = c.dev.WriteV([][]byte{make([]byte, tun.VnetHeaderLen), c.last.Probe(to, make([]byte, splice.MaxMade))})
		}
		c.mu.Unlock()
		if state == splice.Reset { // the server is gone and has said so; the client may be in TIME-WAIT
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("%s: still %v", name, state)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (c *chain) eof(x *net.TCPConn) {
	if _, err := io.Copy(io.Discard, x); err != nil {
		c.t.Errorf("end of stream: %v", err)
	}
}

func (c *chain) reset(x *net.TCPConn) {
	if _, err := io.Copy(io.Discard, x); !errors.Is(err, syscall.ECONNRESET) {
		c.t.Errorf("reset: %v", err)
	}
}

// reuse opens and ends connections from one port of the client, each at once after the one before.
func (c *chain) reuse(name string, vip netip.AddrPort, ln *net.TCPListener) {
	local := net.IPv4zero
	if vip.Addr().Is6() {
		local = net.IPv6zero
	}
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: local, Port: 33333}, Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	}}
	for i := range 12 {
		client, server := c.pair(vip, ln, d)
		done := make(chan error)
		if i%3 == 2 { // the server's half stays behind; it challenges, or is reset
			_ = client.SetLinger(0)
			client.Close()
			continue
		}
		go func() { // the server closes first, so that the client's port is free at once
			_, err := io.Copy(server, &pattern{0, 3000})
			server.Close()
			done <- err
		}()
		if err := errors.Join(verify(client, 3000, nil), <-done); err != nil {
			c.t.Fatalf("%s, %d: %v", name, i, err)
		}
		client.Close()
		c.ended(splice.Closed)
	}
}

// killed ends a connection in both ends' names.
func (c *chain) killed(name string, vip netip.AddrPort, ln *net.TCPListener) {
	for _, busy := range []bool{false, true} {
		client, server := c.pair(vip, ln, &net.Dialer{})
		if busy {
			go func() { _, _ = io.Copy(client, &pattern{0, 1 << 30}) }()
			if _, err := io.ReadFull(server, make([]byte, 1<<20)); err != nil {
				c.t.Fatal(err)
			}
		}
		c.mu.Lock()
		for _, to := range []splice.Side{splice.Client, splice.Server} {
			b, sure := c.last.Reset(to, make([]byte, splice.MaxMade))
			if err := c.dev.WriteV([][]byte{make([]byte, tun.VnetHeaderLen), b}); err != nil || !sure {
				c.t.Errorf("%s: %v %v", name, sure, err)
			}
		}
		c.last.Kill(0)
		c.mu.Unlock()
		c.reset(server)
		if !busy {
			c.reset(client)
		}
		client.Close()
	}
}

func (c *chain) refused(name string, vip netip.AddrPort, ln *net.TCPListener) {
	ln.Close()
	if _, err := c.dial(vip, &net.Dialer{}); !errors.Is(err, syscall.ECONNREFUSED) {
		c.t.Fatalf("%s: %v", name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.events[len(c.events)-1]; e != splice.EventRefused {
		c.t.Fatalf("%s: %v", name, e)
	}
}
