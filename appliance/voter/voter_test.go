package voter

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lockstep/replication/arbiter"
	"lockstep/replication/identity"
)

func (c *cluster) startAll() {
	c.t.Helper()
	for _, name := range []string{"w", "a", "b"} {
		c.start(name)
	}
}

// The pair elects an active, takes a standby in, and that one continues.
func TestTakeover(t *testing.T) {
	c := newCluster(t)
	c.startAll()
	active, standby := c.pairUp()
	act, sb := c.get(active), c.get(standby)
	before := c.epoch(act)
	c.mu.Lock()
	first := act.claims
	c.mu.Unlock()
	if len(first) == 0 || first[0].Whole {
		t.Errorf("the first claims are %v: there was nothing to continue", first)
	}
	had := c.claims(standby)
	c.stop(active)
	sb.PeerGone(act.Self()) // as its kernel refuses connections
	c.active(standby)
	c.wait("the claim", func() bool { return len(sb.claims) > had })
	c.mu.Lock()
	claim := sb.claims[len(sb.claims)-1]
	c.mu.Unlock()
	if !claim.Whole || claim.Epoch <= before {
		t.Errorf("claimed %+v after epoch %d", claim, before)
	}
	if n := c.get("w").Stats(); n.News.Leader {
		t.Error("the witness leads")
	}
	// The dead one comes back, with what it remembers, and can become the standby.
	c.start(active)
	c.sync(standby)
}

// Each connection may break, for good, and the pair goes on with the other two.
func TestEachConnectionMayBreak(t *testing.T) {
	for _, name := range []string{"aw", "bw", "ab"} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.startAll()
			active, _ := c.pairUp()
			for range 2 {
				c.wires[name].sever()
				// Whoever it was before: one of them has, or keeps, a lease that moves on.
				c.mu.Lock()
				old := c.nodes[active].until
				c.mu.Unlock()
				c.wait("a newer lease", func() bool {
					for _, m := range c.nodes {
						if m.until.After(old.Add(failureTimeout)) {
							return true
						}
					}
					return false
				})
				c.wires[name].mend()
				active = c.active("")
			}
		})
	}
}

// An active that reaches nobody loses its lease before the standby claims.
func TestIsolatedActive(t *testing.T) {
	c := newCluster(t)
	c.startAll()
	active, standby := c.pairUp()
	had := c.claims(standby)
	c.wires["ab"].sever()
	c.wires[active+"w"].sever()
	c.wait("the standby's claim", func() bool {
		sb := c.nodes[standby]
		return len(sb.claims) > had && sb.claims[len(sb.claims)-1].Whole && time.Now().Before(sb.until)
	})
	c.mu.Lock()
	over, claimed := c.nodes[active].until, c.nodes[standby].claimed
	c.mu.Unlock()
	if over.After(claimed) {
		t.Errorf("claimed %v before the old lease was over", over.Sub(claimed))
	}
	c.wires["ab"].mend()
	c.wires[active+"w"].mend()
	c.active(standby) // the other hears of it
}

// A witness that restarts remembers no leader. It must not help anybody before the
// lease that it may have granted is over.
func TestRestartedWitnessKeepsQuiet(t *testing.T) {
	c := newCluster(t)
	c.startAll()
	active, standby := c.pairUp()
	// The active speaks by the witness alone; the standby would take over if it could.
	c.wires["ab"].sever()
	c.wait("the standby's wish", func() bool { return !c.nodes[standby].news.Leader })
	c.mu.Lock()
	old := c.nodes[active].until
	c.mu.Unlock()
	c.wait("a lease by the witness", func() bool { return c.nodes[active].until.After(old.Add(failureTimeout)) })
	c.wires[active+"w"].sever()
	c.stop("w")
	had := c.claims(standby)
	w := c.start("w")
	sb := c.get(standby)
	c.wait("the standby's claim", func() bool { return len(sb.claims) > had })
	c.mu.Lock()
	defer c.mu.Unlock()
	if early := failureTimeout - sb.claimed.Sub(w.started); early > 0 {
		t.Errorf("the witness helped %v before it was quiet for %v", early, failureTimeout)
	}
	if over := c.nodes[active].until; over.After(sb.claimed) {
		t.Errorf("claimed %v before the old lease was over", over.Sub(sb.claimed))
	}
	if w.news.State.Epoch == 0 {
		t.Error("the witness has forgotten the state")
	}
}

func TestYield(t *testing.T) {
	c := newCluster(t)
	c.startAll()
	active, standby := c.pairUp()
	act, sb := c.get(active), c.get(standby)
	if err := act.Yield("w"); err == nil {
		t.Error("yielded to the witness")
	}
	c.wait("a hand-over", func() bool {
		if act.news.State.Active == act.Self() {
			c.mu.Unlock()
			_ = act.Yield(standby) // fails if it is not the leader for a moment
			c.mu.Lock()
		}
		return len(sb.claims) > 0 && sb.claims[len(sb.claims)-1].Whole
	})
	c.active(standby)
	act.Close()
	if err := act.Yield(standby); err == nil {
		t.Error("yielded after the end")
	}
}

// While a voter cannot write its file it is silent; then it goes on.
func TestDiskThatCannotBeWritten(t *testing.T) {
	c := newCluster(t)
	c.startAll()
	active, standby := c.pairUp()
	dir := c.state("w")
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	dead, had := c.get(active).Self(), c.claims(standby)
	c.stop(active)
	sb, w := c.get(standby), c.get("w")
	sb.PeerGone(dead)
	c.wait("a vote that the witness cannot write down", func() bool { return w.failures.Load() > 1 })
	if c.claims(standby) > had {
		t.Error("elected by a vote that is on no disk")
	}
	if err := os.Rename(dir+"-away", dir); err != nil {
		t.Fatal(err)
	}
	c.active(standby)
}

func TestStartRefuses(t *testing.T) {
	dir := t.TempDir()
	dirs, err := identity.Write(filepath.Join(dir, "keys"), "edge", []string{"a", "b", "w"}, false)
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.Load(dirs[0])
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort("127.0.0.1:9")
	garbage := StatePath(dir, "garbage")
	if err := os.WriteFile(garbage, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	for words, change := range map[string]func(*Config){
		"none of the voters": func(c *Config) { c.Appliances[0] = "x" },
		"no address":         func(c *Config) { c.Addrs = nil },
		"boot number":        func(c *Config) { c.Boot = 0 },
		"move the file away": func(c *Config) { c.State = garbage },
	} {
		cfg := Config{Identity: id, Boot: 1, Appliances: [2]string{"a", "b"}, Witness: "w",
			Addrs: map[string]netip.AddrPort{"b": addr, "w": addr}, Heartbeat: heartbeat, FailureTimeout: failureTimeout,
			State: StatePath(dir, "edge"), Log: slog.New(slog.DiscardHandler)}
		change(&cfg)
		v, err := Start(cfg)
		if err == nil {
			v.Close()
		}
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("got %v, want %q", err, words)
		}
	}
}

// Nobody takes the news: the newest waits, and a claim stays with it.
func TestNewsNeverBlock(t *testing.T) {
	v := &Voter{news: make(chan News, 1)}
	claim := arbiter.Claim{Epoch: 3}
	for i := range uint64(10) {
		n := News{State: arbiter.State{Epoch: i}}
		if i == 3 {
			n.Claimed = &claim
		}
		v.publish(n)
	}
	if n := <-v.News(); n.State.Epoch != 9 || n.Claimed != &claim {
		t.Errorf("got %+v", n)
	}
	v.publish(News{State: arbiter.State{Epoch: 10}})
	if n := <-v.News(); n.Claimed != nil {
		t.Error("the claim was told twice")
	}
}
