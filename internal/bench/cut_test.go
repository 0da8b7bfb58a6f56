package bench

import (
	"errors"
	"strings"
	"testing"
	"time"

	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
)

// A pair of any kind that keeps connections keeps the download when the cables of its
// active are pulled, and its addresses are on the other host afterwards.
func TestCut(t *testing.T) {
	o := tiny(t)
	for _, k := range []kind{paired, keepConntrackd} {
		t.Run(string(k), func(t *testing.T) {
			// Slow enough that a busy machine is not taken for a dead one.
			o.setting = setting{name: "test", advert: 300 * time.Millisecond, heartbeat: 50 * time.Millisecond, failure: time.Second}
			b, err := newBed(t.Context(), k, offloadOff, o.bedOptions)
			if errors.Is(err, errNotInstalled) && k.rival() {
				t.Logf("%v", err) // the table says so, too
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := b.close(); err != nil {
					t.Error(err)
				}
			}()
			ep, err := b.cut(t.Context(), o.pace)
			if err != nil {
				t.Fatalf("%v%s", err, b.logs())
			}
			if ep.lost != 0 || ep.gap <= 0 {
				t.Errorf("lost %d (%s), longest gap %v%s", ep.lost, ep.error, ep.gap, b.logs())
			}
			if g, ok := b.gateway.(*rivalGateway); ok {
				if on, err := holds(g.hosts[1], lab.FrontIf, lab.VIP4); err != nil || !on {
					t.Errorf("the virtual address is not on the second host: %v", err)
				}
			}
		})
	}
}

// HAProxy's connections end with it: that is what the row is there to say. The
// patience of the client is not waited for here, only that the pair starts and knows
// its roles.
func TestRivalRoles(t *testing.T) {
	labtest.RequireRoot(t)
	o := tiny(t)
	o.setting = setting{advert: 300 * time.Millisecond}
	b, err := newBed(t.Context(), keepHAProxy, offloadOff, o.bedOptions)
	if errors.Is(err, errNotInstalled) {
		t.Logf("%v", err)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := b.gateway.check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := b.unplug(b.A); err != nil {
		t.Error(err)
	}
	g := b.gateway.(*rivalGateway)
	if err := g.await(t.Context(), func() error {
		if on, err := holds(g.hosts[1], lab.FrontIf, lab.VIP4); err != nil || !on {
			return errors.Join(errors.New("the virtual address is not on the second host"), err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := g.check(t.Context()); err == nil || !strings.Contains(err.Error(), "changed by itself") {
		t.Errorf("after the cut the roles are taken for those of the start: %v", err)
	}
	if err := b.close(); err != nil {
		t.Error(err)
	}
	for _, p := range g.procs {
		if p.Running() {
			t.Errorf("%s is left", p.Name())
		}
	}
}

func TestFind(t *testing.T) {
	if _, err := find("lockstep-no-such-daemon"); !errors.Is(err, errNotInstalled) {
		t.Errorf("error %v", err)
	}
}

// Addresses of one host move together, and intervals are what was asked for.
func TestKeepalivedConfig(t *testing.T) {
	for i, want := range []string{"state MASTER", "state BACKUP"} {
		c := keepalivedConfig(i, 10*time.Millisecond)
		if strings.Count(c, want) != 2 || strings.Count(c, "advert_int 0.01\n") != 2 || !strings.Contains(c, "vrrp_sync_group") ||
			!strings.Contains(c, "203.0.113.10/24") || !strings.Contains(c, "10.20.0.1/24") {
			t.Errorf("configuration of host %d:\n%s", i, c)
		}
	}
}
