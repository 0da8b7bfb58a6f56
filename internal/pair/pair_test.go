package pair

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/appliance/control"
	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
)

func TestMain(m *testing.M) {
	lab.Main(Roles())
	os.Exit(m.Run())
}

func example() *config.Config {
	c := Config("example", Service("web", []string{lab.VIP4 + ":80"}, []string{"10.20.0.11:80"}))
	c.Pair.Heartbeat, c.Pair.FailureTimeout = 100*time.Millisecond, 3*time.Second
	return c
}

// A pair with a witness comes up as this very program, loses its active, gets it back, and says at each
// step who is what; the end of a process that nobody ended is noticed.
func TestPairLives(t *testing.T) {
	l := labtest.Pair(t, lab.PairOptions{Witness: true})
	p, err := New(l, example(), Options{Dir: t.TempDir(), Disk: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.End)
	ctx := t.Context()
	if err := p.Start(ctx); err != nil {
		t.Fatal(err)
	}
	first := p.Active
	if first == nil || p.Standby != p.Other(first) || p.Leading(ctx) != first || p.Epoch == 0 {
		t.Fatalf("active %v, standby %v, epoch %d", p.Active, p.Standby, p.Epoch)
	}
	if err := first.Process().Kill(); err != nil {
		t.Fatal(err)
	}
	<-first.Process().Done()
	if !first.Crashed() {
		t.Error("nobody has ended the process, and it does not count as crashed")
	}
	heir := p.Other(first)
	active := func(said []control.Status) bool { return said[0].Role == control.RoleActive }
	if _, err := Await(ctx, SyncWithin, "the heir is active", active, heir); err != nil {
		t.Fatal(err)
	}
	if why := p.Look(ctx); why == "" || !strings.Contains(why, "not answering") || p.Active != nil {
		t.Errorf("with a dead appliance the pair stands like this: %q", why)
	}
	if err := first.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := p.AwaitInSync(ctx, SyncWithin); err != nil || p.Active != heir {
		t.Fatalf("%v, active %v", err, p.Active)
	}
}

// What keeps an appliance from coming up is in the message, and it is not waited for.
func TestWhyItDoesNotStart(t *testing.T) {
	l := labtest.Pair(t, lab.PairOptions{})
	c := example()
	delete(c.Pair.Members, "b") // alone
	p, err := New(l, c, Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.End)
	if p.B != nil || p.W != nil || p.Node("b") != nil || p.Node("a") != p.A {
		t.Errorf("alone are %+v", p)
	}
	c.Networks.Front.Interface = "eth9"
	if err := p.A.Configure(c); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err == nil || !strings.Contains(err.Error(), `appliance "a" ended`) || !strings.Contains(err.Error(), "eth9") {
		t.Errorf("%v", err)
	}
	c.Networks.Front.Interface = lab.FrontIf
	if err := p.A.Configure(c); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Error(err)
	}
}

// Each node's file is the product's, with all that was asked for, and what is the node's own.
func TestFiles(t *testing.T) {
	dir, l := t.TempDir(), labtest.Pair(t, lab.PairOptions{Witness: true})
	c := example()
	Reach(c, "10.20.0.11", "10.20.0.12")
	c.Log.Level = "debug"
	p, err := New(l, c, Options{Dir: filepath.Join(dir, "own"), ConfigDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range p.Appliances() {
		got, err := config.Load(n.config)
		if err != nil {
			t.Fatal(err)
		}
		if errs := config.Unsupported(got); errs != nil {
			t.Error(errs)
		}
		if got.Node != n.Name || got.Control != n.Socket() || got.Pair.State != n.State || got.Pair.Witness != witnessAddr() ||
			got.Metrics.IsValid() || len(got.Networks.Back.Reach) != 2 || filepath.Dir(n.config) != dir {
			t.Errorf("%s: %+v", n.Name, got)
		}
	}
	w, err := config.LoadWitness(p.W.config)
	if err != nil || w.FailureTimeout != c.Pair.FailureTimeout || w.Heartbeat != c.Pair.Heartbeat || w.Log.Level != "debug" {
		t.Errorf("witness %+v, %v", w, err)
	}
}

// The caller's environment does not reach the nodes.
func TestEnvironment(t *testing.T) {
	t.Setenv("LOCKSTEP_LOG_LEVEL", "nonsense")
	for _, kv := range Environment() {
		if strings.HasPrefix(kv, "LOCKSTEP_") {
			t.Error(kv)
		}
	}
	p, err := New(labtest.Pair(t, lab.PairOptions{}), example(), Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.End)
	ctx, cancel := context.WithTimeout(t.Context(), 2*SyncWithin)
	defer cancel()
	if err := p.Start(ctx); err != nil {
		t.Error(err)
	}
	if err := p.A.StepClock(time.Second); err == nil {
		t.Error("a right clock was stepped")
	}
}
