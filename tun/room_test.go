package tun

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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
		if changed, err := set.repair(); err != nil || len(changed) != 0 || read() != "10" {
			t.Errorf("lowered by somebody: %q, %v, is %s", changed, err, read())
		}
		n.run(func() error { return sysctl(key, c.want) })
		if err := set.restore(); err != nil {
			t.Error(err)
		}
		if got := read(); got != c.want {
			t.Errorf("at the end it is %s", got)
		}
	}
}

// A setting that is not there at the start, as that of a firewall which tracks nothing yet, is raised when it comes.
func TestLeastLater(t *testing.T) {
	n := newNS(t)
	const key = "ipv4/neigh/later/gc_stale_time" // 60, and there as long as the interface
	var set sysctlSet
	set.wanted = []*wantedSysctl{{key: key, value: "90", least: true, stays: true, optional: true}}
	n.run(func() error { return set.begin(func(*wantedSysctl) bool { return true }) })
	for _, c := range []struct{ does, is, want string }{{"comes", "60", "90"}, {"is lowered by somebody", "50", "50"}} {
		n.run(func() error {
			if c.does == "comes" {
				if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "later"}, PeerName: "peer"}); err != nil {
					return err
				}
			}
			return sysctl(key, c.is)
		})
		got := in(n, func() (string, error) {
			if changed, err := set.repair(); err != nil || len(changed) > 0 {
				t.Errorf("it %s: %q, %v: it is no repair", c.does, changed, err)
			}
			b, err := os.ReadFile(filepath.Join(procSysNet, key))
			return strings.TrimSpace(string(b)), err
		})
		if got != c.want {
			t.Errorf("it %s: %s, want %s", c.does, got, c.want)
		}
	}
	if err := set.restore(); err != nil {
		t.Error(err)
	}
}

// Who has CAP_NET_ADMIN can raise a setting, whatever the user.
func TestSealed(t *testing.T) {
	n := newNS(t)
	path := filepath.Join(procSysNet, "ipv4/tcp_max_syn_backlog")
	const nobody = 65534
	n.run(func() error { // of this thread alone, which ends with the test
		if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
			return err
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			return errno
		}
		if err := sealed(path); !errors.Is(err, os.ErrPermission) {
			t.Errorf("without the capability: %v", err)
		}
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		data := [2]unix.CapUserData{{Permitted: 1 << unix.CAP_NET_ADMIN, Effective: 1 << unix.CAP_NET_ADMIN}}
		if err := unix.Capset(&head, &data[0]); err != nil {
			return err
		}
		return sealed(path)
	})
}

// What is too low is told, and why it cannot be raised; what is high enough and what is not there is not.
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
	if got := shortages(dir, 1_000_000, sealed); len(got) != 3 || got[0].Sealed != nil || got[1].Sealed != nil || got[2].Sealed != nil {
		t.Errorf("all can be written, and %+v", got)
	}
	closed := func(path string) error {
		if strings.HasSuffix(path, "gc_thresh2") {
			return nil
		}
		return unix.EROFS
	}
	got := shortages(dir, 1_000_000, closed)
	if len(got) != 3 || got[0] != (Shortage{"net.ipv4.neigh.default.gc_thresh3", "1024", "32768", unix.EROFS}) || got[1].Sealed != nil ||
		got[2] != (Shortage{"net.netfilter.nf_conntrack_max", "262144", "2060000", unix.EROFS}) {
		t.Errorf("got %+v", got)
	}
	if got := shortages(dir, 10_000, closed); len(got) != 2 {
		t.Errorf("of few connections: %+v", got)
	}
}
