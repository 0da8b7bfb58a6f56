package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"lockstep/replication/identity"
	"lockstep/replication/transport"
	"lockstep/replication/wire"
)

// patience bounds every wait of these tests; only a failing test takes it.
const patience = 10 * time.Second

// keyring is one run of `lockstep keys` for nodes a and b (and c).
func keyring(t *testing.T, pair string) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := identity.Write(dir, pair, []string{"a", "b", "c"}, false); err != nil {
		t.Fatal(err)
	}
	return dir
}

func load(t *testing.T, dir string) *identity.Identity {
	t.Helper()
	id, err := identity.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// copied is the identity of a node whose directory was copied to the other node
// too, and there given its own certificate as a peer's.
func copied(t *testing.T, dir string) *identity.Identity {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	cert, err := os.ReadFile(filepath.Join(dir, "node.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to, "peers", filepath.Base(dir)+".crt"), cert, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(to, "node.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	return load(t, to)
}

// addresses are two of 127/8, so that tests run beside each other on one port.
func addresses() (a, b netip.AddrPort) {
	x, y := byte(1+rand.N(250)), byte(1+rand.N(250))
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, x, y, 1}), 7400),
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, x, y, 2}), 7400)
}

// logBook collects log lines.
type logBook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type side struct {
	cfg Config
	log *logBook
}

func pairOf(t *testing.T, dir string) (a, b side) {
	t.Helper()
	addrA, addrB := addresses()
	make1 := func(node, peer string, listen, peerAddr netip.AddrPort, boot byte) side {
		book := &logBook{}
		return side{log: book, cfg: Config{
			Node: node, Pair: "edge", Listen: listen, Peer: peer, PeerAddr: peerAddr,
			Identity: load(t, filepath.Join(dir, node)),
			Hello: func() wire.Hello {
				return wire.Hello{MinVersion: 1, MaxVersion: 1, Role: wire.RoleStandby, Epoch: 7, BootID: [16]byte{boot}, Holds: uint64(boot)}
			},
			Log:       slog.New(slog.NewTextHandler(book, &slog.HandlerOptions{Level: slog.LevelDebug})),
			RedialMin: time.Millisecond, RedialMax: 20 * time.Millisecond,
		}}
	}
	return make1("a", "b", addrA, addrB, 1), make1("b", "a", addrB, addrA, 2)
}

func start(t *testing.T, s side) *Link {
	t.Helper()
	l, err := Start(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		if t.Failed() {
			t.Logf("log of %s:\n%s", s.cfg.Node, s.log)
		}
	})
	return l
}

func accept(t *testing.T, l *Link) *Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := l.Accept(ctx)
	if err != nil {
		t.Fatalf("accept on %s: %v", l.cfg.Node, err)
	}
	return s
}

// settled returns the two ends of the one session that both sides hold.
func settled(t *testing.T, a, b *Link) (*Session, *Session) {
	t.Helper()
	sa, sb := accept(t, a), accept(t, b)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if sa.live() && sb.live() && sa.conn.LocalAddr().String() == sb.conn.RemoteAddr().String() &&
			sa.conn.RemoteAddr().String() == sb.conn.LocalAddr().String() {
			return sa, sb
		}
		select { // one of them was superseded: its link delivers the next
		case next := <-a.sessions:
			sa = next
		case next := <-b.sessions:
			sb = next
		case <-time.After(time.Millisecond):
		}
	}
	t.Fatalf("the two sides hold different sessions")
	return nil, nil
}

func frame(index uint64, size int) []byte {
	f := append(wire.Begin(nil), bytes.Repeat([]byte{byte(index)}, size)...)
	wire.Finish(f, 0, wire.Header{Version: wire.Version, Type: wire.TypeBatch, Epoch: 7, Index: index})
	return f
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("never came: %s", what)
		}
		time.Sleep(time.Millisecond) // between polls of a condition with a deadline
	}
}

func TestSessionCarriesFramesInOrder(t *testing.T) {
	a, b := pairOf(t, keyring(t, "edge"))
	la, lb := start(t, a), start(t, b)
	sa, sb := settled(t, la, lb)
	if sa.Peer.Node != "b" || sb.Peer.Node != "a" || sa.Peer.Epoch != 7 || sa.Version != 1 || sa.Dialled == sb.Dialled {
		t.Fatalf("peers are %+v and %+v", sa.Peer, sb.Peer)
	}
	ours, err := sa.Secret("test")
	theirs, err2 := sb.Secret("test")
	other, err3 := sa.Secret("other")
	if err := errors.Join(err, err2, err3); err != nil || !bytes.Equal(ours, theirs) || bytes.Equal(ours, other) || len(ours) != 32 {
		t.Errorf("secrets %x, %x, %x: %v", ours, theirs, other, err)
	}
	sizes := []int{0, 1, 100, 16 << 10, 70 << 10, wire.MaxPayload, 3, 256 << 10, 0}
	var want [][]byte
	var batch []byte
	for i, size := range sizes {
		want = append(want, frame(uint64(i+1), size))
	}
	go func() { // some alone, some several at once
		for i, f := range want {
			if batch = append(batch, f...); i%3 != 1 {
				if err := sa.Send(batch); err != nil {
					t.Error(err)
				}
				batch = batch[:0]
			}
		}
	}()
	done := errors.New("all there")
	i := 0
	err = sb.Serve(func(got []byte) error {
		if !bytes.Equal(got, want[i]) {
			return fmt.Errorf("frame %d differs: %d bytes, want %d", i, len(got), len(want[i]))
		}
		if i++; i == len(want) {
			return done
		}
		return nil
	})
	if !errors.Is(err, done) {
		t.Fatal(err)
	}
	// b's end is closed by the handler's error; a sees it as soon as it reads.
	var end *transport.Error
	if err := sa.Serve(func([]byte) error { return nil }); !errors.As(err, &end) || end.Reason != transport.ClosedByPeer && end.Reason != transport.ClosedReceive {
		t.Errorf("a's end: %v", err)
	}
	if err := sa.Send(want[0]); !errors.Is(err, errSend) {
		t.Errorf("send after the end: %v", err)
	}
	// And both find each other again.
	sa, sb = settled(t, la, lb)
	if !sa.live() || !sb.live() {
		t.Error("no second session")
	}
}

func TestRestartedPeerSupersedes(t *testing.T) {
	a, b := pairOf(t, keyring(t, "edge"))
	la := start(t, a)
	lb := start(t, b)
	sa, _ := settled(t, la, lb)
	// b's process dies without a word: it neither dials nor accepts any more, its
	// socket stays open here, a hears nothing.
	lb.cancel()
	lb.port.Close()
	lb.wg.Wait()
	fresh := b
	fresh.cfg.Hello = func() wire.Hello {
		return wire.Hello{MinVersion: 1, MaxVersion: 1, BootID: [16]byte{99}}
	}
	lb2 := start(t, fresh)
	accept(t, lb2)
	next := accept(t, la)
	if next.Peer.BootID != [16]byte{99} {
		t.Errorf("session is with boot %v", next.Peer.BootID)
	}
	<-sa.ended()
	var end *transport.Error
	if !errors.As(sa.cause(), &end) || end.Reason != transport.ClosedSuperseded {
		t.Errorf("the old session ended by %v", sa.cause())
	}
}

func TestSendToDeafPeerEndsSession(t *testing.T) {
	a, b := pairOf(t, keyring(t, "edge"))
	a.cfg.WriteTimeout = 50 * time.Millisecond
	la := start(t, a)
	_, s := joined(t, a, b, la) // which never reads again
	big := frame(1, wire.MaxPayload)
	for s.Send(big) == nil {
	}
	var end *transport.Error
	if !errors.As(s.cause(), &end) || end.Reason != transport.ClosedSend {
		t.Errorf("ended by %v", s.cause())
	}
}

func TestCloseJoinsEverything(t *testing.T) {
	a, b := pairOf(t, keyring(t, "edge"))
	la, lb := start(t, a), start(t, b)
	sa, sb := settled(t, la, lb)
	served := make(chan error, 1)
	go func() { served <- sb.Serve(func([]byte) error { return nil }) }()
	la.Close()
	la.Close() // twice does no harm
	<-sa.ended()
	var end *transport.Error
	if err := <-served; !errors.As(err, &end) || end.Reason != transport.ClosedByPeer {
		t.Errorf("b's end: %v", err)
	}
	if _, err := la.Accept(context.Background()); !errors.Is(err, errClosed) {
		t.Errorf("accept after close: %v", err)
	}
	lb.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := lb.Accept(ctx); err == nil {
		t.Error("accept after close gave a session")
	}
}

func BenchmarkSend(b *testing.B) {
	dir := b.TempDir()
	if _, err := identity.Write(dir, "edge", []string{"a", "b"}, false); err != nil {
		b.Fatal(err)
	}
	addrA, addrB := addresses()
	open := func(node, peer string, listen, peerAddr netip.AddrPort) *Link {
		id, err := identity.Load(filepath.Join(dir, node))
		if err != nil {
			b.Fatal(err)
		}
		l, err := Start(Config{Node: node, Pair: "edge", Listen: listen, Peer: peer, PeerAddr: peerAddr, Identity: id,
			Hello: func() wire.Hello { return wire.Hello{MinVersion: 1, MaxVersion: 1, BootID: [16]byte{node[0]}} }, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		return l
	}
	la, lb := open("a", "b", addrA, addrB), open("b", "a", addrB, addrA)
	defer la.Close()
	defer lb.Close()
	sa, err := la.Accept(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	sb, err := lb.Accept(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	go sb.Serve(func(f []byte) error { return sb.Send(f[:wire.HeaderLen]) })
	for _, size := range []int{100, 16 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("roundtrip-%d", size), func(b *testing.B) {
			f := frame(1, size)
			wire.Finish(f, 0, wire.Header{Version: 1, Type: wire.TypeAck})
			b.SetBytes(int64(len(f)))
			b.ReportAllocs()
			reply := make([]byte, wire.HeaderLen)
			for b.Loop() {
				if err := sa.Send(f); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(sa.conn, reply); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
