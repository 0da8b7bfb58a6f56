package witness

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lockstep/appliance/config"
	"lockstep/appliance/voter"
	"lockstep/replication/identity"
	"lockstep/replication/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// patience bounds every wait of these tests; only a failing test takes it.
	patience       = 30 * time.Second
	heartbeat      = 30 * time.Millisecond
	failureTimeout = 300 * time.Millisecond
)

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

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("never came: %s", what)
		}
		time.Sleep(time.Millisecond) // between polls of a condition with a deadline
	}
}

// host is an address of 127/8 of its own, so that tests run beside each other.
func host() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(1 + rand.N(250)), byte(rand.N(250)), byte(1 + rand.N(250))}), 7401)
}

// keys are the identities of a pair; it returns the directory above them.
func keys(t *testing.T, pair string, nodes ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), pair)
	if _, err := identity.Write(dir, pair, nodes, false); err != nil {
		t.Fatal(err)
	}
	return dir
}

func configured(t *testing.T, pairs ...string) *config.Witness {
	t.Helper()
	cfg := &config.Witness{
		Listen: host(), State: filepath.Join(t.TempDir(), "state"), Heartbeat: heartbeat, FailureTimeout: failureTimeout,
	}
	for _, dir := range pairs {
		cfg.Identities = append(cfg.Identities, filepath.Join(dir, "w"))
	}
	return cfg
}

// start runs a witness. What it logs goes to log.
func start(t *testing.T, cfg *config.Witness, log *logBook) (*server, func()) {
	t.Helper()
	w, err := begin(cfg, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(w.close)
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Log(log)
		}
	})
	return w, stop
}

// appliance is an appliance's voter.
type appliance struct {
	*voter.Voter
	mu    sync.Mutex
	until time.Time
	stop  func()
}

// speaks reports whether it has a lease.
func (a *appliance) speaks() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Now().Before(a.until)
}

// join starts both appliances of a pair.
func join(t *testing.T, cfg *config.Witness, dir string) (a, b *appliance) {
	t.Helper()
	state := t.TempDir()
	at := netip.AddrPortFrom(host().Addr(), 7400) // b's
	one := func(name string, listen netip.AddrPort) *appliance {
		id, err := identity.Load(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		log := slog.New(slog.DiscardHandler)
		port, err := transport.Listen(transport.PortConfig{Listen: listen, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		app := &appliance{}
		app.Voter, err = voter.Start(voter.Config{
			Identity: id, Boot: rand.Uint64N(1<<60) + 1, Appliances: [2]string{"a", "b"}, Witness: "w",
			Addrs: map[string]netip.AddrPort{"w": cfg.Listen, "b": at}, Port: port,
			Heartbeat: heartbeat, FailureTimeout: failureTimeout, State: voter.StatePath(filepath.Join(state, name), id.Pair), Log: log,
			OnLease: func(_ uint64, until time.Time) {
				app.mu.Lock()
				app.until = until
				app.mu.Unlock()
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		app.stop = sync.OnceFunc(func() { app.Close(); port.Close() })
		t.Cleanup(app.stop)
		return app
	}
	a, b = one("a", netip.MustParseAddrPort("127.0.0.1:0")), one("b", at)
	return a, b
}

// roles makes the standby of an active in sync, and returns the active, then the other.
// What is asked for is asked again: on a busy machine the roles may change meanwhile.
func roles(t *testing.T, a, b *appliance) (active, other *appliance) {
	t.Helper()
	waitFor(t, "a standby in sync", func() bool {
		active, other = a, b
		if b.speaks() {
			active, other = b, a
		}
		s := active.Stats().News.State
		if !active.speaks() || s.Active != active.Self() {
			return false
		}
		other.SetAble(s.Epoch, true)
		if s.Standby != other.Self() {
			active.AddStandby(other.Self())
		}
		return s.Standby == other.Self()
	})
	return active, other
}

// Two pairs on one witness; in one the active dies, and the witness's vote decides.
func TestWitnessServesManyPairs(t *testing.T) {
	edge, core := keys(t, "edge", "a", "b", "w"), keys(t, "core", "a", "b", "w")
	cfg := configured(t, edge, core)
	cfg.Metrics = netip.AddrPortFrom(cfg.Listen.Addr(), 9465)
	var log logBook
	w, stop := start(t, cfg, &log)
	a1, b1 := join(t, cfg, edge)
	a2, b2 := join(t, cfg, core)
	roles(t, a2, b2)
	active, other := roles(t, a1, b1)
	if line := w.inShort(); line != "a vote for 2 pairs" {
		t.Errorf("to a service manager it is %q", line)
	}
	dead := active.Self()
	active.stop()
	other.PeerGone(dead)
	waitFor(t, "the survivor", func() bool {
		s := w.pairs[0].voter.Stats().News.State
		return other.speaks() && s.Active == other.Self() && s.Standby.None()
	})
	for _, p := range w.pairs {
		if p.voter.Stats().News.Leader {
			t.Errorf("the witness leads pair %s", p.name)
		}
	}
	waitFor(t, "the log", func() bool {
		text := log.String()
		for _, part := range []string{
			"witness started", "pairs=2", "takes part in the votes", "voter connected",
			`msg="the standby is in sync" pair=edge`, `msg="an appliance is active" pair=core`,
			`pair=edge active=` + other.Self().Node, "voter's connection ended",
		} {
			if !strings.Contains(text, part) {
				return false
			}
		}
		return true
	})
	scrape(t, cfg.Metrics, []string{
		`lockstep_witness_active{node="` + other.Self().Node + `",pair="edge"} 1`,
		`lockstep_witness_active{node="` + dead.Node + `",pair="edge"} 0`,
		`lockstep_witness_quorum{pair="core"} 1`,
		`lockstep_witness_voter_connected{node="a",pair="core"} 1`,
	})
	stop()
	// Without the witness and its peer the survivor loses its voice.
	waitFor(t, "silence", func() bool { return !other.speaks() })
}

func scrape(t *testing.T, at netip.AddrPort, lines []string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get("http://" + at.String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if !strings.Contains(string(body), line+"\n") {
			t.Errorf("missing: %s in\n%s", line, body)
		}
	}
}

// A witness that restarts knows the pair's state, and helps nobody at first.
func TestWitnessRestarts(t *testing.T) {
	edge := keys(t, "edge", "a", "b", "w")
	cfg := configured(t, edge)
	var log logBook
	_, stop := start(t, cfg, &log)
	a, b := join(t, cfg, edge)
	active, other := roles(t, a, b)
	epoch := active.Stats().News.State.Epoch
	stop()
	dead := active.Self()
	active.stop()
	began := time.Now()
	var again logBook
	w, _ := start(t, cfg, &again)
	p := w.pairs[0].voter
	if s := p.Stats().News.State; s.Epoch != 0 && s.Epoch < epoch {
		t.Errorf("remembers epoch %d, want %d", s.Epoch, epoch)
	}
	// No proof of the death, so only silence counts, and the witness's own start.
	waitFor(t, "the survivor", other.speaks)
	if quiet := time.Since(began); quiet < failureTimeout {
		t.Errorf("it helped after %v, earlier than %v", quiet, failureTimeout)
	}
	waitFor(t, "its state", func() bool { return p.Stats().News.State.Active == other.Self() })
	if s := p.Stats().News.State; s.Epoch <= epoch || s.Active == dead {
		t.Errorf("state is %+v after epoch %d", s, epoch)
	}
	waitFor(t, "the log", func() bool { return strings.Contains(again.String(), "active="+other.Self().Node) })
}

func TestFaultsAllAtOnce(t *testing.T) {
	edge, twin := keys(t, "edge", "a", "b", "w"), keys(t, "edge", "a", "b", "w")
	two := keys(t, "two", "a", "w")
	cfg := configured(t, edge, twin, two, filepath.Join(t.TempDir(), "none"))
	_, err := begin(cfg, slog.New(slog.DiscardHandler))
	var errs config.Errors
	if !errors.As(err, &errs) || len(errs) != 3 {
		t.Fatalf("got %v, want three faults", err)
	}
	for i, words := range []string{`as is identities[0]`, "1 other nodes", "lockstep keys"} {
		if errs[i].Path != []string{"identities[1]", "identities[2]", "identities[3]"}[i] || !strings.Contains(errs[i].Error(), words) {
			t.Errorf("fault %d: %v", i, errs[i])
		}
	}
}

func TestStartRefuses(t *testing.T) {
	edge := keys(t, "edge", "a", "b", "w")
	quiet := slog.New(slog.DiscardHandler)
	cfg := configured(t, edge)
	_, stop := start(t, cfg, &logBook{})
	if _, err := begin(cfg, quiet); err == nil || !strings.Contains(err.Error(), "and free") {
		t.Errorf("the address twice: %v", err)
	}
	second := *cfg
	second.Listen = host()
	if _, err := begin(&second, quiet); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("the state twice: %v", err)
	}
	stop()
	if err := os.WriteFile(voter.StatePath(cfg.State, "edge"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := begin(cfg, quiet); err == nil || !strings.Contains(err.Error(), "move the file away") {
		t.Errorf("a corrupt state: %v", err)
	}
}
