package tun

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReadOnlySysctls: as in a container or a user namespace without mounts of
// its own. What is already right is accepted; what is not is told with a hint,
// and nothing stays behind.
func TestReadOnlySysctls(t *testing.T) {
	s := newSite(t)
	d := in(s.gw, func() (Device, error) { return Open(tunName, 1500) })
	defer d.Close()
	before := s.state(t)
	s.gw.run(func() error {
		// The thread gets a mount namespace too; both end with it.
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("unshare mounts: %w", err)
		}
		return errors.Join(
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""),
			unix.Mount("", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	})
	s.gw.run(func() error {
		var set sysctlSet
		if err := set.set("ipv4/conf/all/rp_filter", "1"); err != nil {
			t.Errorf("a value that needs no change: %v", err)
		}
		r, err := InstallRoutes(testConfig())
		if err == nil {
			r.Close()
		}
		if !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "/proc/sys is not writable") {
			t.Errorf("error %v, want EROFS with a hint", err)
		}
		return nil
	})
	if after := s.state(t); strings.Join(before, "\n") != strings.Join(after, "\n") {
		t.Errorf("left behind: %q", after)
	}
}

// TestSysctlRestore: what somebody else changed meanwhile is left alone, and
// changes go back in the namespace they were made in.
func TestSysctlRestore(t *testing.T) {
	n := newNS(t)
	var set sysctlSet
	read := func(key string) string {
		return in(n, func() (string, error) {
			b, err := os.ReadFile(procSysNet + "/" + key)
			return strings.TrimSpace(string(b)), err
		})
	}
	n.run(func() error {
		return errors.Join(set.set("ipv4/ip_forward", "1"), set.set("ipv4/conf/lo/rp_filter", "2"),
			sysctl("ipv4/conf/lo/rp_filter", "1"))
	})
	if err := set.restore(); err != nil { // on this thread, in another namespace
		t.Fatal(err)
	}
	if got := read("ipv4/ip_forward"); got != "0" {
		t.Errorf("ip_forward is %s", got)
	}
	if got := read("ipv4/conf/lo/rp_filter"); got != "1" {
		t.Errorf("somebody else's rp_filter became %s", got)
	}
	n.run(func() error {
		if err := set.set("ipv4/conf/nope/rp_filter", "2"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("missing key: %v", err)
		}
		return nil
	})
}
