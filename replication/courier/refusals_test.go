package courier

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"lockstep/replication/transport"
	"lockstep/replication/wire"
)

// dialled is a TLS connection of cfg's node with the remote that it dials.
func dialled(t *testing.T, cfg Config) *transport.Conn {
	t.Helper()
	tcp, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(cfg.Remotes[0].Addr))
	if err != nil {
		t.Fatal(err)
	}
	conn, refusal := transport.Client(context.Background(), tcp, cfg.Identity, protocol, cfg.Identity.Pair)
	if refusal != nil {
		t.Fatal(refusal)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

func helloFrame(t *testing.T, cfg Config, boot uint64) []byte {
	t.Helper()
	f, err := wire.AppendVoterHello(nil, &wire.VoterHello{MinVersion: 1, MaxVersion: 1, Pair: cfg.Identity.Pair,
		Node: cfg.Identity.Node, Boot: boot, FailureTimeout: uint64(100 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// voter goes through the handshake by hand, as an incarnation of cfg's node.
func voter(t *testing.T, cfg Config, boot uint64) *transport.Conn {
	t.Helper()
	conn := dialled(t, cfg)
	hello := helloFrame(t, cfg, boot)
	if _, err := conn.Write(hello); err != nil {
		t.Fatal(err)
	}
	if _, refusal := conn.Hear(wire.TypeVoterHello); refusal != nil {
		t.Fatal(refusal)
	}
	if _, err := conn.Write(hello); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestBadStreamEndsConnection(t *testing.T) {
	batch := append(wire.Begin(nil), 1, 2, 3)
	wire.Finish(batch, 0, wire.Header{Version: wire.Version, Type: wire.TypeBatch})
	long := append(wire.Begin(nil), make([]byte, maxMessage+1)...)
	wire.Finish(long, 0, wire.Header{Version: 1, Type: wire.TypeVoterMessage})
	newer, err := wire.AppendVoterMessage(nil, 2, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	claim := wire.Begin(nil)
	wire.Finish(claim, 0, wire.Header{Version: 1, Type: wire.TypeVoterMessage})
	binary.BigEndian.PutUint32(claim[24:], 1<<31)
	for name, c := range map[string]struct {
		bytes  []byte
		reason transport.Reason
	}{
		"noise":         {bytes.Repeat([]byte{0xA5}, 64), transport.ClosedBadFrame},
		"sync frame":    {batch, transport.ClosedBadFrame},
		"too long":      {long, transport.ClosedTooLong},
		"claims 2 GiB":  {claim, transport.ClosedTooLong},
		"other version": {newer, transport.ClosedBadFrame},
	} {
		t.Run(name, func(t *testing.T) {
			ca, cw := two(t, keyring(t, "edge", "a", "b", "w"))
			w := run(t, cw)
			conn := voter(t, ca, 1)
			_, _ = conn.Write(c.bytes) // the other side may close before it has read all
			waitFor(t, "the end", func() bool { return w.Stats().Closed[string(c.reason)] == 1 && w.heard("down a/1") })
			if got := strings.Join(w.told(), ","); got != "up a/1,down a/1" {
				t.Errorf("told %s", got)
			}
			a := run(t, ca)
			waitFor(t, "the true voter", func() bool { return a.heard("up w/9") })
		})
	}
}

func TestStrangersAreBounded(t *testing.T) {
	ca, cw := two(t, keyring(t, "edge", "a", "b", "w"))
	w := run(t, cw)
	for range 12 { // three times the slots
		conn, err := net.Dial("tcp", ca.Remotes[0].Addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	garbage, err := net.Dial("tcp", ca.Remotes[0].Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer garbage.Close()
	if _, err := io.WriteString(garbage, "GET / HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	port := cw.Port
	waitFor(t, "evictions and a refusal", func() bool {
		r := port.Refused()
		return r[string(transport.RefusedTooMany)] >= 8 && r[string(transport.RefusedHandshake)] > 0
	})
	if n := port.Pending(); n > 4 {
		t.Errorf("%d connections wait, at most 4", n)
	}
	a := run(t, ca)
	waitFor(t, "the appliance", func() bool { return a.heard("up w/9") && w.heard("up a/1") })
}

// Both sides count and log the same reason, once.
func TestRefusals(t *testing.T) {
	ours, theirs := keyring(t, "edge", "a", "b", "w"), keyring(t, "edge", "a", "b", "w")
	other := keyring(t, "core", "a", "b", "w")
	cases := []struct {
		name   string
		change func(a, w *Config)
		reason transport.Reason
		words  string
	}{
		{"wrong key", func(a, _ *Config) { a.Identity = load(t, theirs, "a") }, transport.RefusedWrongKey, "same `lockstep keys` run"},
		{"unknown pair", func(a, _ *Config) { a.Identity = load(t, other, "a") }, transport.RefusedWrongPair, `pair \"core\" is not served here`},
		{"wrong node", func(a, _ *Config) { a.Self.Node, a.Identity = "b", load(t, ours, "b") }, transport.RefusedWrongNode, `dialled by node \"b\"`},
		{"not whom we dial", func(a, _ *Config) { a.Remotes[0].Node = "b" }, transport.RefusedWrongNode, `finds the key of \"w\"`},
		{"other failure_timeout", func(a, _ *Config) { a.FailureTimeout = time.Second }, transport.RefusedTimeouts, "1s on a"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ca, cw := two(t, ours)
			c.change(&ca, &cw)
			var portLog logBook
			cw.Port.Close()
			cw.Port = listen(t, ca.Remotes[0].Addr, portLog.logger())
			a, w := run(t, ca), run(t, cw)
			refusedThere := func() uint64 {
				return w.Stats().Refused[string(c.reason)] + cw.Port.Refused()[string(c.reason)]
			}
			// Several attempts, so that a log that repeats itself shows.
			waitFor(t, "refusals counted on both sides", func() bool { return a.Stats().Refused[string(c.reason)] > 2 && refusedThere() > 2 })
			there := w.log.String() + portLog.String()
			if !strings.Contains(a.log.String()+there, c.words) {
				t.Errorf("no log says %q:\n%s\n%s", c.words, a.log.String(), there)
			}
			for _, log := range []string{a.log.String(), there} {
				if n := strings.Count(log, "reason="+string(c.reason)); n != 1 {
					t.Errorf("the reason is logged %d times, want once:\n%s", n, log)
				}
			}
			if len(a.told())+len(w.told()) > 0 {
				t.Errorf("told %q and %q", a.told(), w.told())
			}
			if s := a.Stats().Voters[0]; s.Connected || s.LastRefusal == "" {
				t.Errorf("counters are %+v", s)
			}
		})
	}
}

func TestVersions(t *testing.T) {
	ca, cw := two(t, keyring(t, "edge", "a", "b", "w"))
	w := run(t, cw)
	conn := dialled(t, ca)
	f, err := wire.AppendVoterHello(nil, &wire.VoterHello{MinVersion: 2, MaxVersion: 3, Pair: "edge", Node: "a", Boot: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(f); err != nil {
		t.Fatal(err)
	}
	if _, refusal := conn.Hear(wire.TypeVoterHello); refusal == nil || refusal.Reason != transport.RefusedVersion || !refusal.ByPeer {
		t.Errorf("refused with %v", refusal)
	}
	conn.Close()
	waitFor(t, "the refusal", func() bool { return w.Stats().Refused[string(transport.RefusedVersion)] == 1 })
	// A node that speaks the sync protocol only is told apart from a network fault.
	old := listen(t, host(), slog.New(slog.DiscardHandler))
	if _, err := old.Handle(transport.Service{Protocol: "lockstep", Identity: cw.Identity, Accept: func(_ context.Context, c *transport.Conn) { c.Close() }}); err != nil {
		t.Fatal(err)
	}
	ca.Remotes[0].Addr = old.Addr()
	a := run(t, ca)
	waitFor(t, "the refusal of the older version", func() bool {
		return a.Stats().Refused[string(transport.RefusedVersion)] > 0 && old.Refused()[string(transport.RefusedVersion)] > 0
	})
	waitFor(t, "what to do, in the log", func() bool { return strings.Contains(a.log.String(), "upgrade it") })
}

func TestStartRefuses(t *testing.T) {
	ca, _ := two(t, keyring(t, "edge", "a", "b", "w"))
	for name, change := range map[string]func(*Config){
		"node":    func(c *Config) { c.Self.Node = "b" },
		"no pin":  func(c *Config) { c.Remotes = []Remote{{Node: "z", Addr: host()}} },
		"no port": func(c *Config) { c.Remotes = []Remote{{Node: "b"}} },
	} {
		cfg := ca
		cfg.Log = slog.New(slog.DiscardHandler)
		change(&cfg)
		if c, err := Start(cfg); err == nil {
			c.Close()
			t.Errorf("%s: started", name)
		}
	}
}
