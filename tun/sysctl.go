package tun

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
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

// wantedSysctl is one kernel setting and what it must be.
type wantedSysctl struct {
	key   string // below net/, as in "ipv4/ip_forward"
	value string
	stays bool // is not put back at the end: it goes with its interface
	// optional: where it cannot be written it is left as it is.
	optional bool
	// least: more is right, too. It is set once, at the start or when it is first there; where there is none
	// none is needed, where the kernel refuses it, and when somebody lowers it, it is left.
	least  bool
	absent bool // a least one that was not there
	// only: it is changed from this alone (empty: anything); another value is the
	// operator's wish.
	only string

	// file is kept open, because the thread that looks at it or restores it may be in
	// another namespace than the one that set it. nil: not writable, but right or
	// optional.
	file *os.File
	old  string // what it was; empty: as it must be
}

// sysctlSet are the settings that the data path needs.
type sysctlSet struct {
	mu     sync.Mutex
	wanted []*wantedSysctl // in order of change; restored backwards
}

// set adds one.
func (s *sysctlSet) set(key, value string) error {
	w := &wantedSysctl{key: key, value: value}
	if err := w.begin(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = append(s.wanted, w)
	return nil
}

// begin sets those that keep names, at the start.
func (s *sysctlSet) begin(keep func(*wantedSysctl) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.wanted {
		if !keep(w) {
			continue
		}
		if err := w.begin(); err != nil {
			return err
		}
	}
	return nil
}

// begin sets the value, unless it is right already, and remembers the old one.
func (w *wantedSysctl) begin() error {
	path := filepath.Join(procSysNet, w.key)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil && sysctlReadOnly(err) {
		// Not writable, but perhaps somebody already set what we need.
		if cur, rerr := os.ReadFile(path); rerr == nil && (w.optional || strings.TrimSpace(string(cur)) == w.value) {
			return nil
		}
	}
	if w.absent = w.least && errors.Is(err, os.ErrNotExist); w.absent {
		return nil
	}
	if err != nil {
		return sysctlErr(w.key, w.value, err)
	}
	old, err := readSysctl(f)
	if err != nil {
		f.Close()
		return fmt.Errorf("read sysctl %s: %w", dotted(w.key), err)
	}
	if !w.right(old) {
		if err := writeSysctl(f, w.value); err != nil {
			f.Close()
			if w.least {
				return nil
			}
			return sysctlErr(w.key, w.value, err)
		}
		w.old = old
	}
	w.file = f
	return nil
}

// repair sets again what somebody has changed, and tells which.
func (s *sysctlSet) repair() (changed []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, w := range s.wanted {
		if w.absent {
			_ = w.begin() // a firewall may have begun to track connections; nothing depends on it
		}
		if w.file == nil || w.least {
			continue
		}
		cur, err := readSysctl(w.file)
		if err != nil { // its interface was deleted; made again it has another file
			if f, rerr := os.OpenFile(filepath.Join(procSysNet, w.key), os.O_RDWR, 0); rerr == nil {
				w.file.Close()
				w.file = f
				cur, err = readSysctl(f)
			}
		}
		if err != nil || w.right(cur) || w.only != "" && cur != w.only {
			continue
		}
		if err := writeSysctl(w.file, w.value); err != nil {
			errs = append(errs, sysctlErr(w.key, w.value, err))
			continue
		}
		changed = append(changed, fmt.Sprintf("sysctl %s was %s", dotted(w.key), cur))
	}
	return changed, errors.Join(errs...)
}

// restore puts the old values back, last change first. A value that is no
// longer ours was changed by somebody after us, and one whose interface is gone
// has no file any more: both are left alone.
func (s *sysctlSet) restore() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, w := range slices.Backward(s.wanted) {
		if w.file == nil {
			continue
		}
		if cur, err := readSysctl(w.file); err == nil && cur == w.value && w.old != "" && !w.stays {
			if err := writeSysctl(w.file, w.old); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, fmt.Errorf("restore sysctl %s to %s: %w", dotted(w.key), w.old, err))
			}
		}
		w.file.Close()
		w.file = nil
	}
	s.wanted = nil
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
