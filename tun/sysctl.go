package tun

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// procSysNet shows the network namespace of the thread that opens a file in it
// (at lookup time, so a file once opened stays with its namespace).
const procSysNet = "/proc/sys/net"

func haveIPv6() bool {
	_, err := os.Stat(filepath.Join(procSysNet, "ipv6/conf/all/forwarding"))
	return err == nil
}

// sysctlSet remembers changed sysctls. It keeps their files open, because the
// thread that restores them may be in another namespace than the one that
// changed them.
type sysctlSet struct {
	mu      sync.Mutex
	changed []changedSysctl // in order of change; restored backwards
}

type changedSysctl struct {
	key      string
	file     *os.File
	old, new string
}

// set writes value to key ("ipv4/ip_forward", below net/) unless it has it
// already, and remembers the old one.
func (s *sysctlSet) set(key, value string) error {
	c, err := changeSysctl(key, value)
	if err != nil || c == nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = append(s.changed, *c)
	return nil
}

// changeSysctl returns what it changed, with the file open, or nil where the
// value was right.
func changeSysctl(key, value string) (*changedSysctl, error) {
	path := filepath.Join(procSysNet, key)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil && sysctlReadOnly(err) {
		// Not writable, but perhaps somebody already set what we need.
		if cur, rerr := os.ReadFile(path); rerr == nil && strings.TrimSpace(string(cur)) == value {
			return nil, nil
		}
	}
	if err != nil {
		return nil, sysctlErr(key, value, err)
	}
	old, err := readSysctl(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read sysctl %s: %w", dotted(key), err)
	}
	if old == value {
		return nil, f.Close()
	}
	if err := writeSysctl(f, value); err != nil {
		f.Close()
		return nil, sysctlErr(key, value, err)
	}
	return &changedSysctl{key: key, file: f, old: old, new: value}, nil
}

// restore puts the old values back, last change first. A value that is no
// longer ours was changed by somebody after us, and one whose interface is gone
// has no file any more: both are left alone.
func (s *sysctlSet) restore() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for i := len(s.changed) - 1; i >= 0; i-- {
		c := s.changed[i]
		if cur, err := readSysctl(c.file); err == nil && cur == c.new {
			if err := writeSysctl(c.file, c.old); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, fmt.Errorf("restore sysctl %s to %s: %w", dotted(c.key), c.old, err))
			}
		}
		c.file.Close()
	}
	s.changed = nil
	return errors.Join(errs...)
}

// readSysctl and writeSysctl start at offset 0 each time: the kernel ignores
// writes at any other offset.
func readSysctl(f *os.File) (string, error) {
	b := make([]byte, 128)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return strings.TrimSpace(string(b[:n])), nil
}

func writeSysctl(f *os.File, value string) error {
	_, err := f.WriteAt([]byte(value+"\n"), 0)
	return err
}

func sysctlReadOnly(err error) bool {
	return errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EROFS)
}

func sysctlErr(key, value string, err error) error {
	if sysctlReadOnly(err) {
		return fmt.Errorf("set sysctl %s=%s: %w (/proc/sys is not writable here: set it outside, or run with a writable /proc of the gateway's own namespace)",
			dotted(key), value, err)
	}
	return fmt.Errorf("set sysctl %s=%s: %w", dotted(key), value, err)
}

// dotted is the name as sysctl(8) writes it; dots in interface names become slashes.
func dotted(key string) string {
	return "net." + strings.NewReplacer("/", ".", ".", "/").Replace(key)
}

func ifaceKey(family, iface, name string) string {
	return family + "/conf/" + iface + "/" + name
}

// tunSysctls prepares the TUN interface; called while its link is down, so that
// IPv6 never gets to send anything on it. They are not remembered: they go with
// the device, and restoring them on a live one would make the kernel talk.
func (r *Routes) tunSysctls(v6 bool) error {
	type kv struct{ key, value string }
	list := []kv{
		// Segments come out of the TUN device with clients' addresses, whose
		// route leads elsewhere: strict reverse path filtering would drop them.
		// The kernel uses max(conf.all, conf.IFACE), so 2 (loose) wins over a
		// strict default.
		{ifaceKey("ipv4", r.cfg.TUN, "rp_filter"), "2"},
	}
	if v6 {
		list = append(list,
			kv{ifaceKey("ipv6", r.cfg.TUN, "disable_ipv6"), "0"}, // 1 would also drop what we write
			kv{ifaceKey("ipv6", r.cfg.TUN, "addr_gen_mode"), "1"},
			kv{ifaceKey("ipv6", r.cfg.TUN, "accept_ra"), "0"},
			kv{ifaceKey("ipv6", r.cfg.TUN, "autoconf"), "0"},
			kv{ifaceKey("ipv6", r.cfg.TUN, "router_solicitations"), "0"},
		)
	}
	for _, s := range list {
		c, err := changeSysctl(s.key, s.value)
		if err != nil {
			return err
		}
		if c != nil {
			c.file.Close()
		}
	}
	return nil
}

// enableForwarding makes the kernel a router. A host that turns router forgets
// the default routes it learnt from router advertisements unless accept_ra is 2
// (Documentation/networking/ip-sysctl), so interfaces that listened before go
// on listening.
func (r *Routes) enableForwarding(v6 bool) error {
	if err := r.sysctls.set("ipv4/ip_forward", "1"); err != nil {
		return err
	}
	if !v6 {
		return nil
	}
	fwd, err := os.ReadFile(filepath.Join(procSysNet, "ipv6/conf/all/forwarding"))
	if err != nil {
		return fmt.Errorf("read sysctl net.ipv6.conf.all.forwarding: %w", err)
	}
	if strings.TrimSpace(string(fwd)) != "0" {
		return nil
	}
	ifaces, err := os.ReadDir(filepath.Join(procSysNet, "ipv6/conf"))
	if err != nil {
		return fmt.Errorf("list interfaces below %s: %w", procSysNet, err)
	}
	for _, e := range ifaces {
		name := e.Name()
		if name == "all" || name == "default" || name == "lo" || name == r.cfg.TUN {
			continue
		}
		key := ifaceKey("ipv6", name, "accept_ra")
		cur, err := os.ReadFile(filepath.Join(procSysNet, key))
		if errors.Is(err, os.ErrNotExist) {
			continue // the interface went away meanwhile
		}
		if err != nil {
			return fmt.Errorf("read sysctl %s: %w", dotted(key), err)
		}
		if strings.TrimSpace(string(cur)) == "1" {
			if err := r.sysctls.set(key, "2"); err != nil {
				return err
			}
		}
	}
	return r.sysctls.set("ipv6/conf/all/forwarding", "1")
}
