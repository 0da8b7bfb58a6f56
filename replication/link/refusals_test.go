package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lockstep/replication/transport"
	"lockstep/replication/wire"
)

func TestRefusals(t *testing.T) {
	ours, theirs := keyring(t, "edge"), keyring(t, "edge")
	cases := []struct {
		name   string
		change func(a, b *side)
		reason transport.Reason
		words  string
	}{
		{"wrong key", func(a, b *side) { b.cfg.Identity = load(t, filepath.Join(theirs, "b")) }, transport.RefusedWrongKey, "same `lockstep keys` run"},
		{"the same key on both", func(a, b *side) {
			b.cfg.Identity = copied(t, filepath.Join(ours, "a"))
			b.cfg.Identity.Node = "b"
		}, transport.RefusedWrongKey, "own key"},
		{"wrong pair", func(a, b *side) {
			b.cfg.Pair, b.cfg.Identity.Pair = "core", "core"
		}, transport.RefusedWrongPair, "core"},
		{"wrong node", func(a, b *side) {
			c := load(t, filepath.Join(ours, "c"))
			b.cfg.Node, b.cfg.Identity = "c", c
		}, transport.RefusedWrongNode, `expects node \"b\"`},
		{"no common version", func(a, b *side) {
			b.cfg.Hello = func() wire.Hello { return wire.Hello{MinVersion: 2, MaxVersion: 3, BootID: [16]byte{2}} }
		}, transport.RefusedVersion, "upgrade the older"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a, b := pairOf(t, ours)
			c.change(&a, &b)
			la, lb := start(t, a), start(t, b)
			waitFor(t, "a refusal counted and logged on both sides", func() bool {
				return la.Stats().Refused[string(c.reason)] > 0 && lb.Stats().Refused[string(c.reason)] > 0 &&
					strings.Contains(a.log.String()+b.log.String(), c.words) &&
					strings.Contains(a.log.String(), string(c.reason)) && strings.Contains(b.log.String(), string(c.reason))
			})
			if la.Stats().Connected || lb.Stats().Connected {
				t.Error("connected all the same")
			}
		})
	}
}

func TestStartRefusesForeignIdentity(t *testing.T) {
	dir := keyring(t, "edge")
	a, _ := pairOf(t, dir)
	for name, change := range map[string]func(*Config){
		"node": func(c *Config) { c.Node = "b" },
		"pair": func(c *Config) { c.Pair = "core" },
		"peer": func(c *Config) { c.Peer = "z" },
	} {
		cfg := a.cfg
		change(&cfg)
		if l, err := Start(cfg); err == nil {
			l.Close()
			t.Errorf("%s: started", name)
		}
	}
}

func TestGarbageBeforeHandshake(t *testing.T) {
	a, b := pairOf(t, keyring(t, "edge"))
	la := start(t, a)
	conn, err := net.Dial("tcp", a.cfg.Listen.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the refusal", func() bool { return la.Stats().Refused[string(transport.RefusedHandshake)] > 0 })
	settled(t, la, start(t, b)) // and the peer is still welcome
}

// rogue speaks TLS with b's true key, then whatever the test wants.
func rogue(t *testing.T, a, b side) *transport.Conn {
	t.Helper()
	tcp, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(a.cfg.Listen))
	if err != nil {
		t.Fatal(err)
	}
	conn, refusal := transport.Client(context.Background(), tcp, b.cfg.Identity, Protocol, "")
	if refusal != nil {
		t.Fatal(refusal)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

func TestGarbageInsteadOfHello(t *testing.T) {
	huge := frame(1, 2<<10) // a valid frame, too long for a Hello
	for name, garbage := range map[string][]byte{
		"noise": bytes.Repeat([]byte{0xA5}, 100), "batch": frame(1, 10), "huge": huge,
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pairOf(t, keyring(t, "edge"))
			la := start(t, a)
			conn := rogue(t, a, b)
			if _, err := conn.Write(garbage); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the refusal", func() bool { return la.Stats().Refused[string(transport.RefusedHandshake)] > 0 })
		})
	}
}

// joined completes the handshake of node b by hand and returns a's session.
func joined(t *testing.T, a, b side, la *Link) (*transport.Conn, *Session) {
	t.Helper()
	conn := rogue(t, a, b)
	hello := b.cfg.Hello()
	hello.Node, hello.Pair = "b", "edge"
	for range 2 { // b is the larger name: it consents first
		if _, refusal := sayHello(conn, hello); refusal != nil {
			t.Fatal(refusal)
		}
	}
	for range 2 {
		if _, refusal := hear(conn); refusal != nil {
			t.Fatal(refusal)
		}
	}
	return conn, accept(t, la)
}

func TestBadStreamEndsSession(t *testing.T) {
	whole := frame(1, 100)
	tooLong := frame(1, 0)
	tooLong[24], tooLong[25] = 0xFF, 0xFF
	cases := []struct {
		name   string
		send   func(t *testing.T, c *transport.Conn)
		frames int
		reason transport.Reason
	}{
		{"noise", func(t *testing.T, c *transport.Conn) { mustWrite(t, c, bytes.Repeat([]byte{1}, 64)) }, 0, transport.ClosedBadFrame},
		{"noise after a frame", func(t *testing.T, c *transport.Conn) {
			mustWrite(t, c, append(bytes.Clone(whole), bytes.Repeat([]byte{1}, 64)...))
		}, 1, transport.ClosedBadFrame},
		{"length beyond the limit", func(t *testing.T, c *transport.Conn) { mustWrite(t, c, tooLong) }, 0, transport.ClosedTooLong},
		{"cut in a frame", func(t *testing.T, c *transport.Conn) { mustWrite(t, c, whole[:50]); c.NetConn().Close() }, 0, transport.ClosedCut},
		{"cut in a header", func(t *testing.T, c *transport.Conn) { mustWrite(t, c, whole[:5]); c.NetConn().Close() }, 0, transport.ClosedCut},
		{"ended between frames", func(t *testing.T, c *transport.Conn) { mustWrite(t, c, whole); c.NetConn().Close() }, 1, transport.ClosedByPeer},
		{"checksum of a payload", func(t *testing.T, c *transport.Conn) {
			bad := bytes.Clone(whole)
			wire.Finish(bad, 0, wire.Header{Version: wire.Version, Type: wire.TypeHeartbeat, Epoch: 7, Index: 1})
			bad[60] ^= 1
			mustWrite(t, c, bad)
		}, 0, transport.ClosedBadFrame},
		{"checksum of a batch's header", func(t *testing.T, c *transport.Conn) {
			bad := bytes.Clone(whole)
			bad[20] ^= 1
			mustWrite(t, c, bad)
		}, 0, transport.ClosedBadFrame},
		{"record not authentic", func(t *testing.T, c *transport.Conn) {
			record := append([]byte{23, 3, 3, 0, 40}, bytes.Repeat([]byte{7}, 40)...)
			mustWrite(t, c.NetConn(), record)
		}, 0, transport.ClosedCorrupt},
		{"no record at all", func(t *testing.T, c *transport.Conn) { mustWrite(t, c.NetConn(), bytes.Repeat([]byte{0xEE}, 40)) }, 0, transport.ClosedCorrupt},
	}
	dir := keyring(t, "edge")
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a, b := pairOf(t, dir)
			la := start(t, a)
			conn, s := joined(t, a, b, la)
			c.send(t, conn)
			frames := 0
			err := s.Serve(func(f []byte) error {
				_, _, err := wire.Decode(f)
				if err == nil {
					frames++
				}
				return err
			})
			var end *transport.Error
			if !errors.As(err, &end) || end.Reason != c.reason || frames != c.frames {
				t.Errorf("%d frames, then %v; want %d, then %s", frames, err, c.frames, c.reason)
			}
			if n := la.Stats().Closed[string(c.reason)]; n != 1 {
				t.Errorf("counted %d times", n)
			}
		})
	}
}

func mustWrite(t *testing.T, w io.Writer, b []byte) {
	t.Helper()
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
}

func TestHalfOpenConnectsDoNotKeepThePeerOut(t *testing.T) {
	a, b := pairOf(t, keyring(t, "edge"))
	a.cfg.HandshakeSlots = 4
	a.cfg.HandshakeTimeout = time.Minute // only the limit can help
	a.cfg.PeerAddr = netip.AddrPortFrom(b.cfg.Listen.Addr(), 1)
	la := start(t, a)
	for range 12 {
		conn, err := net.Dial("tcp", a.cfg.Listen.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	waitFor(t, "evictions", func() bool { return la.Stats().Refused[string(transport.RefusedTooMany)] >= 8 })
	lb := start(t, b)
	settled(t, la, lb)
	if waiting := la.port.Pending(); waiting > 4 {
		t.Errorf("%d connections wait, at most 4", waiting)
	}
}

func TestHandshakeTimeout(t *testing.T) {
	a, _ := pairOf(t, keyring(t, "edge"))
	a.cfg.HandshakeTimeout = 20 * time.Millisecond
	la := start(t, a)
	conn, err := net.Dial("tcp", a.cfg.Listen.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	waitFor(t, "the time-out", func() bool { return la.Stats().Refused[string(transport.RefusedTimeout)] > 0 })
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection stays open: %v", err)
	}
}

// An appliance that does not start tells its peer nothing but that nobody listens: the peer says
// where to look.
func TestPeerThatDoesNotRun(t *testing.T) {
	a, _ := pairOf(t, keyring(t, "edge"))
	l := start(t, a)
	waitFor(t, "status and log to say where to look", func() bool {
		const words = "look at its log"
		return strings.Contains(l.Stats().LastRefusal, words) && strings.Contains(a.log.String(), words)
	})
}
