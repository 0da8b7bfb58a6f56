package machine

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"lockstep/images/kmod"
)

const modulesDir = "/lib/modules"

// modules loads what the machine's devices need. Once the program runs nothing can be loaded any
// more, not even by root.
type modules struct {
	log   *slog.Logger
	index []kmod.Entry

	mu     sync.Mutex
	tried  map[string]bool
	locked bool
}

func newModules(log *slog.Logger) *modules {
	m := &modules{log: log, tried: map[string]bool{}}
	data, err := os.ReadFile(filepath.Join(modulesDir, "index"))
	if err == nil {
		m.index, err = kmod.ReadIndex(bytes.NewReader(data))
	}
	if err != nil {
		log.Error("no modules: the image is damaged", "err", err)
	}
	return m
}

// maxRounds: a bus that a module brings shows its devices to the next round.
const maxRounds = 5

// load loads what present devices need and is not there yet.
func (m *modules) load() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for range maxRounds {
		if m.locked {
			return
		}
		plan := kmod.Plan(m.index, devices(), m.tried)
		for _, name := range plan {
			m.tried[name] = true
			if err := insert(filepath.Join(modulesDir, name+".ko")); err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
				m.log.Error("module is not loaded", "module", name, "err", err)
			}
		}
		if len(plan) == 0 {
			return
		}
	}
}

// lock ends the loading of modules until the next start.
func (m *modules) lock() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked {
		return
	}
	if err := setSysctl("kernel/modules_disabled", "1"); err != nil {
		m.log.Error("modules could still be loaded", "err", err)
		return
	}
	m.locked = true
}

func insert(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// devices are the identifiers of the devices that the kernel has found.
func devices() (all []string) {
	_ = filepath.WalkDir("/sys/devices", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "modalias" {
			if data, err := os.ReadFile(path); err == nil && len(data) > 0 {
				all = append(all, strings.TrimSpace(string(data)))
			}
		}
		return nil // what vanishes meanwhile is no device
	})
	return all
}
