package courier

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lockstep/internal/loglimit"
	"lockstep/replication/identity"
	"lockstep/replication/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests; only a failing test takes it.
const patience = 10 * time.Second

func keyring(t *testing.T, pair string, nodes ...string) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := identity.Write(dir, pair, nodes, false); err != nil {
		t.Fatal(err)
	}
	return dir
}

func load(t *testing.T, dir, node string) *identity.Identity {
	t.Helper()
	id, err := identity.Load(filepath.Join(dir, node))
	if err != nil {
		t.Fatal(err)
	}
	return id
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

func (l *logBook) logger() *slog.Logger {
	return slog.New(loglimit.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelInfo}))) // as an appliance's
}

// host is an address of 127/8 of its own, so that tests run beside each other.
func host() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(1 + rand.N(250)), byte(rand.N(250)), byte(1 + rand.N(250))}), 7401)
}

func listen(t *testing.T, at netip.AddrPort, log *slog.Logger) *transport.Port {
	t.Helper()
	p, err := transport.Listen(transport.PortConfig{Listen: at, Log: log, HandshakeSlots: 4, HandshakeTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// node is a courier and what it was told.
type node struct {
	*Courier
	log logBook

	mu     sync.Mutex
	events []string // "up b/2", "b/2: text", "down b/2"
}

func (n *node) note(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, fmt.Sprintf(format, args...))
}

func (n *node) told() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.events...)
}

func (n *node) heard(text string) bool {
	for _, e := range n.told() {
		if e == text {
			return true
		}
	}
	return false
}

// run starts a courier with quick redials.
func run(t *testing.T, cfg Config) *node {
	t.Helper()
	n := &node{}
	cfg.Log = n.log.logger()
	if cfg.FailureTimeout == 0 {
		cfg.FailureTimeout = 100 * time.Millisecond
	}
	if cfg.RedialMax == 0 {
		cfg.RedialMin, cfg.RedialMax = time.Millisecond, 20*time.Millisecond
	}
	cfg.HandshakeTimeout = patience
	receive := cfg.Receive
	cfg.Receive = func(from Peer, msg []byte) {
		n.note("%s/%d: %s", from.Node, from.Boot, msg)
		if receive != nil {
			receive(from, msg)
		}
	}
	cfg.Up = func(p Peer, up bool) {
		word := "down"
		if up {
			word = "up"
		}
		n.note("%s %s/%d", word, p.Node, p.Boot)
	}
	var err error
	if n.Courier, err = Start(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Close()
		if t.Failed() {
			t.Logf("%s was told %q\n%s", cfg.Self.Node, n.told(), n.log.String())
		}
	})
	return n
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

// two are an appliance that dials and the witness that it dials.
func two(t *testing.T, dir string) (a, w Config) {
	t.Helper()
	at := host()
	a = Config{Self: Peer{"a", 1}, Identity: load(t, dir, "a"), Remotes: []Remote{{Node: "w", Addr: at}}}
	w = Config{Self: Peer{"w", 9}, Identity: load(t, dir, "w"), Remotes: []Remote{{Node: "a"}},
		Port: listen(t, at, slog.New(slog.DiscardHandler))}
	return a, w
}

func TestMessagesBothWays(t *testing.T) {
	ca, cw := two(t, keyring(t, "edge", "a", "b", "w"))
	var big []byte
	got := make(chan int, 1)
	cw.Receive = func(_ Peer, msg []byte) {
		if len(msg) > 100 {
			got <- len(msg)
			if !bytes.Equal(msg, big) {
				t.Error("the long message is damaged")
			}
		}
	}
	big = bytes.Repeat([]byte{7}, maxMessage)
	a, w := run(t, ca), run(t, cw)
	for i := range 20 {
		a.Send("w", fmt.Appendf(nil, "a%d", i))
		w.Send("a", fmt.Appendf(nil, "w%d", i))
	}
	waitFor(t, "the last of the messages", func() bool { return a.heard("w/9: w19") && w.heard("a/1: a19") })
	for n, prefix := range map[*node]string{a: "w/9: w", w: "a/1: a"} {
		events := n.told()
		if events[0] != "up "+prefix[:3] {
			t.Errorf("first was %q", events[0])
		}
		for i, e := range events[1:] {
			if e != fmt.Sprintf("%s%d", prefix, i) {
				t.Fatalf("message %d is %q", i, e)
			}
		}
	}
	a.Send("w", big)
	if n := <-got; n != maxMessage {
		t.Errorf("%d bytes came", n)
	}
	a.Send("w", make([]byte, maxMessage+1))
	a.Send("z", []byte("nobody"))
	if n := a.Stats().Unsendable; n != 2 {
		t.Errorf("%d messages counted as not sendable, want 2", n)
	}
	// The other side may have a message before the writer here comes to counting it.
	waitFor(t, "the last message to be counted", func() bool { return a.Stats().Voters[0].Sent >= 21 })
	if s := a.Stats().Voters[0]; s.Sent != 21 || s.Received != 20 || !s.Connected || s.Peer != (Peer{"w", 9}) {
		t.Errorf("a's counters: %+v", s)
	}
}

// The connection dies, either side restarts: it comes back, and is told in turns.
func TestReconnect(t *testing.T) {
	ca, cw := two(t, keyring(t, "edge", "a", "b", "w"))
	a, w := run(t, ca), run(t, cw)
	waitFor(t, "the first connection", func() bool { return a.heard("up w/9") && w.heard("up a/1") })
	for i := range 3 {
		r := w.remotes["a"]
		r.mu.Lock()
		s := r.current
		r.mu.Unlock()
		s.conn.Close()
		waitFor(t, "another connection", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.current != s && r.up
		})
		text := fmt.Sprint("again ", i)
		a.Send("w", []byte(text))
		waitFor(t, "a message on it", func() bool { return w.heard("a/1: " + text) })
	}
	w.Close()
	cw.Self.Boot = 10
	w = run(t, cw)
	waitFor(t, "the restarted witness", func() bool { return a.heard("up w/10") && w.heard("up a/1") })
	up := ""
	for _, e := range a.told() {
		switch what, who, _ := strings.Cut(e, " "); {
		case what == "up" && up == "":
			up = who
		case what == "down" && up == who:
			up = ""
		default:
			t.Fatalf("told %q while %q was up: %q", e, up, a.told())
		}
	}
}

// A voter that restarts without its old connection being closed takes its place.
func TestNewerConnectionSupersedes(t *testing.T) {
	dir := keyring(t, "edge", "a", "b", "w")
	ca, cw := two(t, dir)
	w := run(t, cw)
	old := voter(t, ca, 1)
	waitFor(t, "the old incarnation", func() bool { return w.heard("up a/1") })
	voter(t, ca, 2)
	waitFor(t, "the new incarnation", func() bool { return w.heard("up a/2") })
	if got := strings.Join(w.told(), ","); got != "up a/1,down a/1,up a/2" {
		t.Errorf("told %s", got)
	}
	if _, err := old.Read(make([]byte, 1)); err == nil {
		t.Error("the old connection stays open")
	}
	if n := w.Stats().Closed[string(transport.ClosedSuperseded)]; n != 1 {
		t.Errorf("superseded counted %d times", n)
	}
}

func TestQueueDropsTheOldest(t *testing.T) {
	ca, cw := two(t, keyring(t, "edge", "a", "b", "w"))
	ca.Queue = 4
	a := run(t, ca) // nobody answers yet
	for i := range 10 {
		a.Send("w", fmt.Appendf(nil, "%d", i))
	}
	if s := a.Stats().Voters[0]; s.Dropped != 6 {
		t.Errorf("%d dropped, want 6", s.Dropped)
	}
	w := run(t, cw)
	waitFor(t, "what was kept", func() bool { return w.heard("a/1: 9") })
	if got := strings.Join(w.told(), ","); got != "up a/1,a/1: 6,a/1: 7,a/1: 8,a/1: 9" {
		t.Errorf("told %s", got)
	}
}

// A voter that does not read must neither block Send nor hold memory.
func TestDeafVoter(t *testing.T) {
	ca, cw := two(t, keyring(t, "edge", "a", "b", "w"))
	cw.Queue, cw.WriteTimeout = 8, 50*time.Millisecond
	w := run(t, cw)
	voter(t, ca, 1) // reads no more
	waitFor(t, "the voter", func() bool { return w.heard("up a/1") })
	msg := make([]byte, maxMessage)
	waitFor(t, "the end of the connection", func() bool {
		w.Send("a", msg)
		return w.Stats().Closed[string(transport.ClosedSend)] > 0
	})
	r := w.remotes["a"]
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) > 8 {
		t.Errorf("%d messages wait, at most 8", len(r.queue))
	}
}

// One address serves many pairs, each with its own keys.
func TestManyPairs(t *testing.T) {
	at := host()
	port := listen(t, at, slog.New(slog.DiscardHandler))
	for _, pair := range []string{"edge", "core"} {
		dir := keyring(t, pair, "a", "b", "w")
		w := run(t, Config{Self: Peer{"w", 9}, Identity: load(t, dir, "w"), Remotes: []Remote{{Node: "a"}, {Node: "b"}}, Port: port})
		a := run(t, Config{Self: Peer{"a", 1}, Identity: load(t, dir, "a"), Remotes: []Remote{{Node: "w", Addr: at}}})
		b := run(t, Config{Self: Peer{"b", 2}, Identity: load(t, dir, "b"), Remotes: []Remote{{Node: "w", Addr: at}}})
		a.Send("w", []byte(pair))
		waitFor(t, "the pair's voters", func() bool { return w.heard("a/1: "+pair) && w.heard("up b/2") && b.heard("up w/9") })
	}
	// A client that names no pair cannot be served where there are several.
	dir := keyring(t, "edge", "a", "b", "w")
	conn, err := tls.Dial("tcp", at.String(), load(t, dir, "a").TLS(protocol))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	waitFor(t, "the refusal", func() bool { return port.Refused()[string(transport.RefusedWrongPair)] == 1 })
	if _, err := Start(Config{Self: Peer{"a", 1}, Identity: load(t, dir, "a"), Port: port, Remotes: []Remote{{Node: "w"}}, Log: slog.New(slog.DiscardHandler)}); err == nil ||
		!strings.Contains(err.Error(), "served already") {
		t.Errorf("the pair was served twice: %v", err)
	}
}
