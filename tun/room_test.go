package tun

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A setting of which there must be some is raised, and never lowered; one that is not there is not needed. It stays.
func TestLeast(t *testing.T) {
	n := newNS(t)
	const key = "ipv4/tcp_max_syn_backlog" // any number of this namespace
	read := func() string {
		return in(n, func() (string, error) {
			b, err := os.ReadFile(filepath.Join(procSysNet, key))
			return strings.TrimSpace(string(b)), err
		})
	}
	for _, c := range []struct{ was, want string }{{"1000", "4000"}, {"4000", "4000"}, {"5000", "5000"}} {
		var set sysctlSet
		set.wanted = []*wantedSysctl{
			{key: key, value: "4000", least: true, stays: true, optional: true},
			{key: "ipv4/no_such_table", value: "1", least: true, stays: true, optional: true},
		}
		n.run(func() error {
			return errors.Join(sysctl(key, c.was), set.begin(func(*wantedSysctl) bool { return true }))
		})
		if got := read(); got != c.want {
			t.Errorf("%s has become %s, want %s", c.was, got, c.want)
		}
		n.run(func() error { return sysctl(key, "10") })
		if changed, err := set.repair(); err != nil || len(changed) != 1 || read() != "4000" {
			t.Errorf("lowered by somebody: %q, %v, is %s", changed, err, read())
		}
		if err := set.restore(); err != nil {
			t.Error(err)
		}
		if got := read(); got != "4000" {
			t.Errorf("at the end it is %s", got)
		}
	}
}

// What is too low and cannot be raised is told; what can, what is high enough and what is not there is not.
func TestShortages(t *testing.T) {
	const neigh, track = "ipv4/neigh/default/gc_thresh3", "netfilter/nf_conntrack_max"
	dir := t.TempDir()
	for key, value := range map[string]string{neigh: "1024\n", "ipv4/neigh/default/gc_thresh2": "512\n", "ipv6/neigh/default/gc_thresh3": "40000\n", track: "262144\n"} {
		path := filepath.Join(dir, key)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := shortages(dir, 1_000_000, func(string) bool { return true }); len(got) > 0 {
		t.Errorf("all can be written, and %+v", got)
	}
	sealed := func(path string) bool { return strings.HasSuffix(path, "gc_thresh2") }
	got := shortages(dir, 1_000_000, sealed)
	if len(got) != 2 || got[0] != (Shortage{"net.ipv4.neigh.default.gc_thresh3", "1024", "32768"}) ||
		got[1] != (Shortage{"net.netfilter.nf_conntrack_max", "262144", "2065536"}) {
		t.Errorf("got %+v", got)
	}
	if got := shortages(dir, 10_000, sealed); len(got) != 1 {
		t.Errorf("of few connections: %+v", got)
	}
}
