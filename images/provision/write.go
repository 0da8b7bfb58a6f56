package provision

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"lockstep/appliance/config"
	"lockstep/images/settings"
	"lockstep/images/volume"
	"lockstep/replication/identity"
)

// keysDir is where Write keeps the keys, below its directory: a second run uses them again, so
// that one machine's volume can be made anew without touching the others.
const keysDir = "keys"

// Written is what Write has made.
type Written struct {
	Name   string // of the machine
	Volume string // path of the ISO; empty: none, a witness elsewhere
	// Dir is what a witness on any other host gets: witness.yaml, and its keys beside it.
	Dir     string
	Witness bool
}

// Write makes a volume for each machine in the directory out, and the keys if there are none yet; with
// bundles also a file NAME.user-data of each, for channels that carry one file.
func (d *Description) Write(out string, bundles bool) ([]Written, error) {
	keys, err := d.keys(filepath.Join(out, keysDir))
	if err != nil {
		return nil, err
	}
	var all []Written
	for _, node := range d.Members {
		iso, err := d.writeVolume(out, node, keys[node], bundles)
		if err != nil {
			return nil, err
		}
		all = append(all, Written{Name: node, Volume: iso})
	}
	if d.Witness == "" {
		return all, nil
	}
	w := Written{Name: d.Witness, Witness: true, Dir: filepath.Join(out, "witness")}
	if err := d.writeWitnessDir(w.Dir, keys[d.Witness]); err != nil {
		return nil, fmt.Errorf("write the witness's files: %w", err)
	}
	if len(d.Links[d.Witness]) > 0 {
		if w.Volume, err = d.writeVolume(out, d.Witness, keys[d.Witness], bundles); err != nil {
			return nil, err
		}
	}
	return append(all, w), nil
}

// writeVolume writes one machine's volume, and its bundle if asked for. It returns the volume's path.
func (d *Description) writeVolume(out, node, keys string, bundle bool) (string, error) {
	files, err := d.files(node, keys)
	if err != nil {
		return "", err
	}
	path := filepath.Join(out, node+".iso")
	if err := volume.WriteISO(path, files); err != nil {
		return "", err
	}
	if !bundle {
		return path, nil
	}
	data, err := files.Bundle()
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(out, node+"."+volume.UserFile), data, 0o600); err != nil {
		return "", fmt.Errorf("write bundle of %s: %w", node, err)
	}
	return path, nil
}

// keys returns the directory of each node, made if there is none of any.
func (d *Description) keys(dir string) (map[string]string, error) {
	nodes := slices.Clone(d.Members)
	if d.Witness != "" {
		nodes = append(nodes, d.Witness)
	}
	dirs := map[string]string{}
	missing := 0
	for _, n := range nodes {
		dirs[n] = filepath.Join(dir, n)
		if _, err := os.Stat(dirs[n]); errors.Is(err, fs.ErrNotExist) {
			missing++
		}
	}
	if missing == len(nodes) {
		if _, err := identity.Write(dir, d.Pair, nodes, false); err != nil {
			return nil, err
		}
	}
	for _, n := range nodes {
		id, err := identity.Load(dirs[n])
		if err != nil {
			return nil, err
		}
		for _, other := range nodes {
			if id.Node != n || id.Pair != d.Pair || (other != n && !id.Has(other)) {
				return nil, fmt.Errorf("the keys in %q are not those of pair %s with %v: remove the directory and all machines get new ones", dir, d.Pair, nodes)
			}
		}
	}
	return dirs, nil
}

// files are what the volume of a machine holds. keys is its directory of `lockstep keys`.
func (d *Description) files(node, keys string) (volume.Tree, error) {
	files := volume.Tree{}
	name := d.Hostnames[node]
	if name == "" {
		name = d.Pair + "-" + node
	}
	network, err := settings.FormatNetwork(d.Links[node])
	if err != nil {
		return nil, fmt.Errorf("write network of %s: %w", node, err)
	}
	files[volume.NetworkFile] = network
	files[volume.MetaFile] = fmt.Appendf(nil, "instance-id: %s\nlocal-hostname: %s\n", name, name)
	// NoCloud wants the file to be there; cloud-init's meaning of it is not used here.
	files[volume.UserFile] = []byte("#cloud-config\n")
	if node == d.Witness {
		files[volume.WitnessFile] = d.witnessConfig(config.DefaultIdentity)
	} else {
		files[volume.ApplianceFile] = d.Config[node]
	}
	err = filepath.WalkDir(keys, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(keys, p)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(p)
		files[volume.KeysDir+"/"+filepath.ToSlash(rel)] = data
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read keys of %s: %w", node, err)
	}
	return files, nil
}

// witnessConfig is witness.yaml with the pair's timing, which must be the same.
func (d *Description) witnessConfig(identityDir string) []byte {
	p := d.timing.Pair
	return fmt.Appendf(nil, "listen: %v\nidentities: [%s]\nheartbeat: %v\nfailure_timeout: %v\n", p.Witness, identityDir, p.Heartbeat, p.FailureTimeout)
}

// writeWitnessDir writes what another host needs, laid out as /etc/lockstep is to be.
func (d *Description) writeWitnessDir(dir, keys string) error {
	own := filepath.Join(dir, "witness", d.Pair)
	if err := os.RemoveAll(own); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(own), 0o700); err != nil {
		return err
	}
	if err := os.CopyFS(own, os.DirFS(keys)); err != nil {
		return err
	}
	// CopyFS gives files the mode 0666 and what they had for execution, less the umask.
	err := filepath.WalkDir(own, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			return os.Chmod(p, 0o700)
		}
		return os.Chmod(p, 0o600)
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, volume.WitnessFile), d.witnessConfig(config.DefaultWitnessIdentities+"/"+d.Pair), 0o600)
}
