package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Names of the files that configure a machine.
const (
	ApplianceFile = "lockstep.yaml"  // of `lockstep run`
	WitnessFile   = "witness.yaml"   // of `lockstep witness`, instead
	NetworkFile   = "network-config" // NoCloud's: links, addresses, routes
	MetaFile      = "meta-data"      // NoCloud's: the host name
	UserFile      = "user-data"      // NoCloud's; with bundleMark all files in one
	KeysDir       = "keys"           // this node's directory of `lockstep keys`
)

// Tree is the files of one source by their paths, "keys/peers/b.crt".
type Tree map[string][]byte

// Limits of a tree: files, and bytes of each.
const (
	maxFiles = 100
	maxBytes = 1 << 20
)

// wanted tells whether a path is one that means something to an appliance. Everything else on a
// volume is somebody else's.
func wanted(name string) bool {
	switch name {
	case ApplianceFile, WitnessFile, NetworkFile, MetaFile, UserFile:
		return true
	}
	return strings.HasPrefix(name, KeysDir+"/")
}

// Add puts a file into the tree if it is one that means something, whatever the case of its name:
// some file systems know only capitals.
func (t Tree) Add(name string, data []byte) error {
	name = strings.ToLower(strings.TrimPrefix(path.Clean("/"+name), "/"))
	switch {
	case !wanted(name):
		return nil
	case len(data) > maxBytes:
		return fmt.Errorf("%s is larger than %d bytes", name, maxBytes)
	case t[name] != nil:
		return fmt.Errorf("%s is there twice", name)
	case len(t) >= maxFiles:
		return fmt.Errorf("more than %d files", maxFiles)
	}
	t[name] = data
	return nil
}

// Names of the files, sorted.
func (t Tree) Names() []string {
	names := make([]string, 0, len(t))
	for name := range t {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Read makes a tree of a file system. A directory that is not there makes an empty one.
func Read(fsys fs.FS, dir string) (Tree, error) {
	t := Tree{}
	err := fs.WalkDir(fsys, dir, func(p string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && p == dir:
			return fs.SkipAll
		case err != nil:
			return err
		}
		name := strings.ToLower(strings.TrimPrefix(strings.TrimPrefix(p, dir), "/"))
		if d.IsDir() {
			if name != "" && name != "." && name != KeysDir && !strings.HasPrefix(name, KeysDir+"/") {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || !wanted(name) {
			return nil
		}
		f, err := fsys.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
		if err != nil {
			return err
		}
		return t.Add(name, data)
	})
	if err != nil {
		return nil, fmt.Errorf("read configuration files: %w", err)
	}
	return t, t.Unbundle()
}

// bundleMark is the first line of a user-data file that holds all others: a YAML mapping from their
// names to their texts. It is for channels that carry one file only.
const bundleMark = "#lockstep"

// maxBundle bounds a bundle, bytes.
const maxBundle = 4 << 20

// Bundle writes the tree as one file.
func (t Tree) Bundle() ([]byte, error) {
	texts := map[string]string{}
	for name, data := range t {
		if name != UserFile {
			texts[name] = string(data)
		}
	}
	body, err := yaml.Marshal(texts)
	if err != nil {
		return nil, fmt.Errorf("encode bundle: %w", err)
	}
	return append([]byte(bundleMark+"\n"), body...), nil
}

// parseBundle reads what Bundle wrote.
func parseBundle(data []byte) (Tree, error) {
	first, _, _ := bytes.Cut(data, []byte("\n"))
	if string(bytes.TrimSpace(first)) != bundleMark {
		return nil, fmt.Errorf("read bundle: its first line is not %s", bundleMark)
	}
	if len(data) > maxBundle {
		return nil, fmt.Errorf("read bundle: larger than %d bytes", maxBundle)
	}
	var texts map[string]string
	if err := yaml.Unmarshal(data, &texts); err != nil {
		return nil, fmt.Errorf("read bundle: %w (a mapping from file names to their texts)", err)
	}
	t := Tree{}
	for name, content := range texts {
		if !wanted(strings.ToLower(name)) || strings.EqualFold(name, UserFile) {
			return nil, fmt.Errorf("read bundle: %q is no file of an appliance (%s, %s, %s, %s, %s/...)", clip(name),
				ApplianceFile, WitnessFile, NetworkFile, MetaFile, KeysDir)
		}
		if err := t.Add(name, []byte(content)); err != nil {
			return nil, fmt.Errorf("read bundle: %w", err)
		}
	}
	return t, nil
}

// Unbundle replaces a user-data file that is a bundle by what is in it. Any other is somebody
// else's, such as cloud-init's, and goes.
func (t Tree) Unbundle() error {
	data, ok := t[UserFile]
	delete(t, UserFile)
	if !ok || !bytes.HasPrefix(data, []byte(bundleMark)) {
		return nil
	}
	inner, err := parseBundle(data)
	if err != nil {
		return fmt.Errorf("%s: %w", UserFile, err)
	}
	for _, name := range inner.Names() {
		if err := t.Add(name, inner[name]); err != nil {
			return fmt.Errorf("%s: %w", UserFile, err)
		}
	}
	return nil
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}
