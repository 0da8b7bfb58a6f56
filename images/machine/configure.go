package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"lockstep/appliance/config"
	"lockstep/images/settings"
	"lockstep/images/volume"
	"lockstep/replication/identity"
)

// job is a program that a configuration asks for.
type job struct {
	args    []string
	name    string // of the machine
	control string // socket to ask; empty: none, a witness
}

// configure finds a configuration and makes the machine ready for it. It changes the machine only
// when everything that can be checked beforehand is right.
func (m *machine) configure() (*job, error) {
	sources, err := findSources()
	if err != nil {
		return nil, err
	}
	set, err := settings.Parse(sources)
	if err != nil {
		return nil, withOrigin(err, set.Origin)
	}
	j, state, err := plan(&set)
	if err != nil {
		return nil, withOrigin(err, set.Origin)
	}
	if err := applyLinks(set.Links); err != nil {
		return nil, withOrigin(fmt.Errorf("%s: %w", volume.NetworkFile, err), set.Origin)
	}
	if err := unix.Sethostname([]byte(j.name)); err != nil {
		return nil, fmt.Errorf("set host name %q: %w", j.name, err)
	}
	if err := writeFiles(&set, configPath(set.Witness)); err != nil {
		return nil, err
	}
	where := m.mountState(state)
	m.modules.lock()
	m.log.Info("configuration is right", "name", j.name, "from", strings.Join(set.Origin, "; "), "state", where)
	m.screen.machine(j.name, strings.Join(set.Origin, "; "), where)
	return j, nil
}

// withOrigin tells where the files came from that an error is about.
func withOrigin(err error, origin []string) error {
	if len(origin) == 0 {
		return err
	}
	return fmt.Errorf("%w\n(%s)", err, strings.Join(origin, "; "))
}

func configPath(witness bool) string {
	if witness {
		return filepath.Join(configDir, volume.WitnessFile)
	}
	return filepath.Join(configDir, volume.ApplianceFile)
}

// plan checks the program's configuration and returns what is to run, and the directory of its state.
// Here and in the files the identity and the state are where the defaults have them: the image
// decides what is in memory and what lasts.
func plan(set *settings.Machine) (*job, string, error) {
	if set.Witness {
		return planWitness(set)
	}
	cfg, err := config.Parse(set.Config, nil)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", volume.ApplianceFile, err)
	}
	if faults := config.Unsupported(cfg); faults != nil {
		return nil, "", fmt.Errorf("%s: %w", volume.ApplianceFile, faults)
	}
	for _, fixed := range []struct{ key, have, want string }{
		{"pair.identity", cfg.Pair.Identity, config.DefaultIdentity}, {"pair.state", cfg.Pair.State, config.DefaultState},
	} {
		if fixed.have != fixed.want {
			return nil, "", fmt.Errorf("%s: %s is %s, in this image it is %s (remove the key)", volume.ApplianceFile, fixed.key, fixed.have, fixed.want)
		}
	}
	names := map[string]bool{}
	for _, l := range set.Links {
		names[l.Name] = true
	}
	for _, used := range []struct{ key, name string }{
		{"networks.front.interface", cfg.Networks.Front.Interface}, {"networks.back.interface", cfg.Networks.Back.Interface},
	} {
		if !names[used.name] {
			return nil, "", fmt.Errorf("%s: %s is %s, and %s names no such link", volume.ApplianceFile, used.key, used.name, volume.NetworkFile)
		}
	}
	if _, _, paired := cfg.Peer(); paired && len(set.Keys) == 0 {
		return nil, "", fmt.Errorf("no %s/: `lockstep keys` makes them, this node's directory goes there", volume.KeysDir)
	}
	name := set.Hostname
	if name == "" {
		name = cfg.Pair.Name + "-" + cfg.Node
	}
	return &job{args: []string{"run", "-c", configPath(false)}, name: name, control: cfg.Control}, config.DefaultState, nil
}

func planWitness(set *settings.Machine) (*job, string, error) {
	cfg, err := config.ParseWitness(set.Config, nil)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", volume.WitnessFile, err)
	}
	if len(cfg.Identities) != 1 || cfg.Identities[0] != config.DefaultIdentity || cfg.State != config.DefaultWitnessState {
		return nil, "", fmt.Errorf("%s: in this image identities is [%s], and state is %s (remove the key)", volume.WitnessFile, config.DefaultIdentity, config.DefaultWitnessState)
	}
	name := set.Hostname
	if name == "" {
		name = "witness"
	}
	return &job{args: []string{"witness", "-c", configPath(true)}, name: name}, config.DefaultWitnessState, nil
}

// writeFiles puts configuration and keys where the program looks for them; keys only if they are
// whole.
func writeFiles(set *settings.Machine, target string) error {
	if err := os.MkdirAll(configDir, 0o755); err != nil {
		return fmt.Errorf("create %s: %w", configDir, err)
	}
	if err := os.WriteFile(target, set.Config, 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if len(set.Keys) == 0 {
		return nil
	}
	next := config.DefaultIdentity + ".new"
	if err := errors.Join(os.RemoveAll(next), os.RemoveAll(config.DefaultIdentity)); err != nil {
		return fmt.Errorf("remove old keys: %w", err)
	}
	for _, name := range set.Keys.Names() {
		at := filepath.Join(next, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			return fmt.Errorf("write keys: %w", err)
		}
		if err := os.WriteFile(at, set.Keys[name], 0o600); err != nil {
			return fmt.Errorf("write keys: %w", err)
		}
	}
	if _, err := identity.Load(next); err != nil {
		return err
	}
	if err := os.Rename(next, config.DefaultIdentity); err != nil {
		return fmt.Errorf("put keys in place: %w", err)
	}
	return nil
}

// mountState mounts the partition for what a voter must not forget at dir. Without one the program's
// state lies in memory, and is lost with it. It returns in words where the state is.
func (m *machine) mountState(dir string) string {
	if m.stateMount == dir {
		return "on its partition"
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		m.log.Error("state directory is not made", "err", err)
	}
	for _, d := range findVolumes() {
		if !d.is(volume.StateLabel, volume.KindExt4) {
			continue
		}
		const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME
		if err := unix.Mount("/dev/"+d.name, dir, string(volume.KindExt4), flags, "errors=remount-ro"); err != nil {
			m.log.Error("state partition is not mounted; what a voter must not forget is lost when this machine stops", "device", d.name, "err", err)
			continue
		}
		m.stateMount = dir
		return "on " + d.name
	}
	m.log.Warn("no state partition: what a voter must not forget is lost when this machine stops")
	return "in memory only"
}

// unmountState lets the state partition go, in order.
func (m *machine) unmountState() error {
	if m.stateMount == "" {
		return nil
	}
	if err := unix.Unmount(m.stateMount, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", m.stateMount, err)
	}
	m.stateMount = ""
	return nil
}
