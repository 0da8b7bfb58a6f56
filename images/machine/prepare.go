package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mounts that every Linux program expects.
var mounts = []struct{ what, where, kind, options string }{
	{"proc", "/proc", "proc", ""},
	{"sysfs", "/sys", "sysfs", ""},
	{"devtmpfs", "/dev", "devtmpfs", "mode=0755"},
	{"tmpfs", "/run", "tmpfs", "mode=0755,size=16m"},
	{"tmpfs", "/tmp", "tmpfs", "mode=1777,size=16m"},
}

// sysctls of the machine, below /proc/sys. What belongs to the appliance's own routing it sets and
// takes back itself.
var sysctls = []struct{ key, value string }{
	// A gateway forwards what is no protected service, both families.
	{"net/ipv4/ip_forward", "1"},
	{"net/ipv6/conf/all/forwarding", "1"},
	// Answers may come back another way than requests go out (policy rules into the TUN device), so
	// the source check of RFC 3704 must not be strict; the appliance's rules decide.
	{"net/ipv4/conf/all/rp_filter", "0"},
	{"net/ipv4/conf/default/rp_filter", "0"},
	// Addresses are configured: no router may add any, and they work at once, without the second
	// that duplicate address detection takes (RFC 4862, 5.4).
	{"net/ipv6/conf/all/accept_ra", "0"},
	{"net/ipv6/conf/default/accept_ra", "0"},
	{"net/ipv6/conf/default/autoconf", "0"},
	{"net/ipv6/conf/default/accept_dad", "0"},
	// A router that sends redirects would lead clients past the gateway.
	{"net/ipv4/conf/all/send_redirects", "0"},
	{"net/ipv4/conf/default/send_redirects", "0"},
	{"net/ipv4/conf/all/accept_redirects", "0"},
	{"net/ipv4/conf/default/accept_redirects", "0"},
	// ARP for an address only on the link that has it: the three networks may meet in one switch.
	{"net/ipv4/conf/all/arp_ignore", "1"},
	{"net/ipv4/conf/all/arp_announce", "2"},
	// Every client of the front network may be a neighbour: the defaults end at 1024.
	{"net/ipv4/neigh/default/gc_thresh1", "4096"},
	{"net/ipv4/neigh/default/gc_thresh2", "16384"},
	{"net/ipv4/neigh/default/gc_thresh3", "32768"},
	{"net/ipv6/neigh/default/gc_thresh1", "4096"},
	{"net/ipv6/neigh/default/gc_thresh2", "16384"},
	{"net/ipv6/neigh/default/gc_thresh3", "32768"},
	// Room for the sync link's bursts.
	{"net/core/rmem_max", "16777216"},
	{"net/core/wmem_max", "16777216"},
	// A kernel that is not well starts again, after ten seconds for whoever reads the console.
	{"kernel/panic", "10"},
	{"kernel/panic_on_oops", "1"},
	// A warning there is news, everything less is noise on a screen of one page.
	{"kernel/printk", "4 4 1 7"},
	{"kernel/kptr_restrict", "2"},
	{"kernel/unprivileged_bpf_disabled", "1"},
}

// prepare does what comes before everything else, and returns what did not work: the machine goes
// on without it, since only a running one can tell.
func prepare() (problems []error) {
	unix.Umask(0o077)
	for _, d := range mounts {
		_ = os.MkdirAll(d.where, 0o755)
		err := unix.Mount(d.what, d.where, d.kind, unix.MS_NOSUID, d.options)
		if err != nil && !errors.Is(err, unix.EBUSY) { // the kernel has mounted it already
			problems = append(problems, fmt.Errorf("mount %s: %w", d.where, err))
		}
	}
	_ = os.Setenv("PATH", "/") // nothing is looked up
	// Ctrl-Alt-Del becomes a signal instead of a reset.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		problems = append(problems, fmt.Errorf("take Ctrl-Alt-Del: %w", err))
	}
	for _, s := range sysctls {
		if err := setSysctl(s.key, s.value); err != nil {
			problems = append(problems, err)
		}
	}
	return problems
}

func setSysctl(key, value string) error {
	err := os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // this kernel does not have the feature
		return fmt.Errorf("set sysctl %s to %s: %w", key, value, err)
	}
	return nil
}
