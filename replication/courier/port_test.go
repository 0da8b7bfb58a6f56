package courier

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"lockstep/replication/link"
	"lockstep/replication/transport"
	"lockstep/replication/wire"
)

// On one address both appliances have the sync session and the voters' connection.
// A peer that knows only the sync session is served all the same.
func TestOneAddressForTwoProtocols(t *testing.T) {
	dir := keyring(t, "edge", "a", "b", "w")
	atA, atB := host(), host()
	quiet := slog.New(slog.DiscardHandler)
	sync := func(node, peer string, at, peerAt netip.AddrPort, port *transport.Port) *link.Link {
		l, err := link.Start(link.Config{
			Node: node, Pair: "edge", Listen: at, Peer: peer, PeerAddr: peerAt, Identity: load(t, dir, node), Port: port, Log: quiet,
			Hello:     func() wire.Hello { return wire.Hello{MinVersion: 1, MaxVersion: 1, BootID: [16]byte{node[0]}} },
			RedialMin: time.Millisecond, RedialMax: 20 * time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		return l
	}
	session := func(l *link.Link) *link.Session {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		s, err := l.Accept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	port := listen(t, atB, quiet)
	b := run(t, Config{Self: Peer{"b", 2}, Identity: load(t, dir, "b"), Remotes: []Remote{{Node: "a"}}, Port: port})
	linkB := sync("b", "a", atB, atA, port)
	old := sync("a", "b", atA, atB, nil) // of an older version: nothing but the sync session
	if s := session(linkB); s.Peer.Node != "a" {
		t.Errorf("session with %q", s.Peer.Node)
	}
	old.Close()
	portA := listen(t, atA, quiet)
	linkA := sync("a", "b", atA, atB, portA)
	a := run(t, Config{Self: Peer{"a", 1}, Identity: load(t, dir, "a"), Remotes: []Remote{{Node: "b", Addr: atB}}, Port: portA})
	if s := session(linkA); s.Peer.Node != "b" {
		t.Errorf("session with %q", s.Peer.Node)
	}
	a.Send("b", []byte("beside the bulk"))
	waitFor(t, "a message beside the session", func() bool { return b.heard("a/1: beside the bulk") })
	// Either can go without the other.
	b.Close()
	waitFor(t, "the sync session alone", func() bool { return linkA.Stats().Connected && !a.Stats().Voters[0].Connected })
	if _, err := port.Handle(transport.Service{Protocol: link.Protocol, Identity: load(t, dir, "b"), Accept: func(context.Context, *transport.Conn) {}}); err == nil {
		t.Error("one protocol was served twice")
	}
}

// Who closes at once only wanted to know whether somebody listens: no news.
func TestProbeIsNoNews(t *testing.T) {
	var log logBook
	port := listen(t, host(), log.logger())
	probe(t, port.Addr())
	waitFor(t, "the count", func() bool { return port.Refused()[string(transport.RefusedHandshake)] == 1 })
	if log.String() != "" {
		t.Errorf("logged: %s", log.String())
	}
}

func probe(t *testing.T, at netip.AddrPort) {
	t.Helper()
	conn, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
