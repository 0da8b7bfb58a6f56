package voter

import (
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lockstep/replication/arbiter"
	"lockstep/replication/identity"
	"lockstep/replication/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// patience bounds every wait of these tests; only a failing test takes it.
	patience = 30 * time.Second
	// Long enough that a busy machine does not often look dead.
	heartbeat      = 30 * time.Millisecond
	failureTimeout = 300 * time.Millisecond
)

// cluster is three voters on loopback, reached through wires that can be cut. It
// fails the test when two appliances have a lease at the same time.
type cluster struct {
	t     *testing.T
	dir   string
	wires map[string]*wire // "aw", "bw", "ab": the first one dials

	mu    sync.Mutex
	nodes map[string]*member // the newest incarnations
}

// member is one incarnation of a voter.
type member struct {
	*Voter
	port    *transport.Port
	done    chan struct{} // closed when its news are not read any more
	started time.Time

	// Guarded by cluster.mu.
	until   time.Time // its lease
	news    News
	claims  []arbiter.Claim
	claimed time.Time // when the newest claim was seen
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir(), wires: map[string]*wire{}, nodes: map[string]*member{}}
	if _, err := identity.Write(filepath.Join(c.dir, "keys"), "edge", []string{"a", "b", "w"}, false); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"aw", "bw", "ab"} {
		c.wires[name] = newWire(t)
	}
	t.Cleanup(func() {
		for _, name := range []string{"a", "b", "w"} {
			c.stop(name)
		}
	})
	return c
}

// start begins a new incarnation of a voter.
func (c *cluster) start(name string) *member {
	c.t.Helper()
	id, err := identity.Load(filepath.Join(c.dir, "keys", name))
	if err != nil {
		c.t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	m := &member{done: make(chan struct{}), started: time.Now()}
	if m.port, err = transport.Listen(transport.PortConfig{Listen: netip.MustParseAddrPort("127.0.0.1:0"), Log: log}); err != nil {
		c.t.Fatal(err)
	}
	for wireName, w := range c.wires {
		if wireName[1:] == name {
			w.lead(m.port.Addr().String())
		}
	}
	cfg := Config{
		Identity: id, Boot: rand.Uint64N(1<<60) + 1, Appliances: [2]string{"a", "b"}, Witness: "w",
		Addrs: map[string]netip.AddrPort{}, Port: m.port, Heartbeat: heartbeat, FailureTimeout: failureTimeout,
		State: StatePath(c.state(name), "edge"), Log: log,
		OnLease: func(_ uint64, until time.Time) { c.lease(name, m, until) },
	}
	for wireName, w := range c.wires {
		if wireName[:1] == name {
			cfg.Addrs[wireName[1:]] = w.addr()
		}
	}
	c.mu.Lock()
	c.nodes[name] = m
	c.mu.Unlock()
	if m.Voter, err = Start(cfg); err != nil {
		c.t.Fatal(err)
	}
	go c.read(m)
	return m
}

func (c *cluster) state(name string) string { return filepath.Join(c.dir, "state", name) }

// stop ends a voter as a kill would: without a word.
func (c *cluster) stop(name string) {
	c.mu.Lock()
	m := c.nodes[name]
	delete(c.nodes, name)
	c.mu.Unlock()
	if m == nil || m.Voter == nil {
		return
	}
	m.Close()
	m.port.Close()
	<-m.done
}

// lease is told on the voter's goroutine.
func (c *cluster) lease(name string, m *member, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m.until = until
	now := time.Now()
	for other, o := range c.nodes {
		if other != name && until.After(now) && o.until.After(now) {
			c.t.Errorf("%s may speak for %v more and %s for %v", name, until.Sub(now), other, o.until.Sub(now))
		}
	}
}

func (c *cluster) read(m *member) {
	defer close(m.done)
	for {
		select {
		case n := <-m.News():
			c.mu.Lock()
			m.news = n
			if n.Claimed != nil {
				m.claims, m.claimed = append(m.claims, *n.Claimed), time.Now()
			}
			c.mu.Unlock()
		case <-m.quit:
			return
		}
	}
}

// wait waits until cond holds, which is called with the cluster's lock held.
func (c *cluster) wait(what string, cond func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		c.mu.Lock()
		ok := cond()
		c.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			c.mu.Lock()
			defer c.mu.Unlock()
			for name, m := range c.nodes {
				c.t.Logf("%s: %+v, claims %v, lease for %v", name, m.news, m.claims, time.Until(m.until))
			}
			c.t.Fatalf("never came: %s", what)
		}
		time.Sleep(time.Millisecond) // between polls of a condition with a deadline
	}
}

// active waits until all voters that run agree on an active that may speak, and
// returns its name. wanted, if not empty, is who it must be.
func (c *cluster) active(wanted string) (name string) {
	c.t.Helper()
	c.wait("one active "+wanted, func() bool {
		name = c.agreed()
		return name != "" && (wanted == "" || name == wanted)
	})
	return name
}

// agreed is the active that may speak and that all voters name; empty: none. The lock
// is held.
func (c *cluster) agreed() (name string) {
	for n, m := range c.nodes {
		if time.Now().Before(m.until) {
			name = n
		}
	}
	for _, m := range c.nodes {
		if name != "" && m.news.State.Active != c.nodes[name].Self() {
			return ""
		}
	}
	return name
}

// pairUp makes an active and its standby in sync, and returns their names.
func (c *cluster) pairUp() (active, standby string) {
	c.t.Helper()
	return c.sync("")
}

// sync makes the standby of an active in sync. wanted, if not empty, is who must be the
// active. What is asked for is asked again: on a busy machine an active loses its
// lease, and who has a newer epoch has heard nothing.
func (c *cluster) sync(wanted string) (active, standby string) {
	c.t.Helper()
	c.wait("a standby in sync", func() bool {
		if active = c.agreed(); active == "" || wanted != "" && active != wanted {
			return false
		}
		standby = map[string]string{"a": "b", "b": "a"}[active]
		act, sb := c.nodes[active], c.nodes[standby]
		all := true
		for _, m := range c.nodes {
			all = all && m.news.State.Standby == sb.Self()
		}
		if epoch := act.news.State.Epoch; !all {
			c.mu.Unlock() // the voters tell of leases with their own locks held
			sb.SetAble(epoch, true)
			act.AddStandby(sb.Self())
			c.mu.Lock()
		}
		return all
	})
	return active, standby
}

// claims is how often a voter has claimed.
func (c *cluster) claims(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.nodes[name].claims)
}

func (c *cluster) get(name string) *member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[name]
}

func (c *cluster) epoch(m *member) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return m.news.State.Epoch
}

// wire forwards TCP connections, and can be cut: connections die and new ones are
// refused until it is mended.
type wire struct {
	listener *net.TCPListener

	mu    sync.Mutex
	to    string
	cut   bool
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

func newWire(t *testing.T) *wire {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: l, conns: map[net.Conn]bool{}}
	w.wg.Add(1)
	go w.accept()
	t.Cleanup(func() {
		l.Close()
		w.sever()
		w.wg.Wait()
	})
	return w
}

func (w *wire) addr() netip.AddrPort { return w.listener.Addr().(*net.TCPAddr).AddrPort() }

func (w *wire) lead(to string) {
	w.mu.Lock()
	w.to = to
	w.mu.Unlock()
}

func (w *wire) accept() {
	defer w.wg.Done()
	for {
		conn, err := w.listener.Accept()
		if err != nil {
			return
		}
		w.mu.Lock()
		to, cut := w.to, w.cut
		w.mu.Unlock()
		if cut || to == "" {
			conn.Close()
			continue
		}
		far, err := net.Dial("tcp", to)
		if err != nil {
			conn.Close()
			continue
		}
		w.join(conn, far)
		w.join(far, conn)
	}
}

// join carries bytes one way until either end closes.
func (w *wire) join(from, to net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[from] = true
	if w.cut {
		from.Close()
	}
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		_, _ = io.Copy(to, from)
		to.Close()
		from.Close()
		w.mu.Lock()
		delete(w.conns, from)
		w.mu.Unlock()
	}()
}

func (w *wire) sever() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = true
	for conn := range w.conns {
		conn.Close()
	}
}

func (w *wire) mend() {
	w.mu.Lock()
	w.cut = false
	w.mu.Unlock()
}
