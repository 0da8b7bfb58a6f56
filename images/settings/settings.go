// Package settings owns what a machine is told from outside: which source's files count, and what
// they say of host name, links, addresses and routes. Everything in it is a function of the files.
//
// It must not know how files are found, nor touch the machine. What lockstep.yaml says is
// appliance/config's.
package settings

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"lockstep/images/volume"
)

// Source is one place that files were found in.
type Source struct {
	Name  string // as an operator knows it: "cidata volume on vdb"
	Files volume.Tree
}

// Machine is what the files say.
type Machine struct {
	Hostname string // empty: none was given
	Links    []Link
	Witness  bool        // a witness, not an appliance
	Config   []byte      // lockstep.yaml or witness.yaml
	Keys     volume.Tree // this node's identity, by file name: "node.key", "peers/b.crt"
	Origin   []string    // which part came from where, for people
}

// parts of a configuration, each taken whole from one source: half of one key's directory and half of
// another's fit nowhere.
var parts = []struct {
	name string
	has  func(file string) bool
}{
	{"configuration", func(f string) bool { return f == volume.ApplianceFile || f == volume.WitnessFile }},
	{"network", func(f string) bool { return f == volume.NetworkFile }},
	{"host name", func(f string) bool { return f == volume.MetaFile }},
	{"keys", func(f string) bool { return strings.HasPrefix(f, volume.KeysDir+"/") }},
}

// merge takes each part from the first source that has it. Sources come in the order of their
// precedence. origin tells for people which parts each source gave.
func merge(sources []Source) (files volume.Tree, origin []string) {
	files = volume.Tree{}
	var order []string // of the sources that are used
	from := map[string][]string{}
	for _, part := range parts {
		for _, s := range sources {
			names := slices.DeleteFunc(s.Files.Names(), func(n string) bool { return !part.has(n) })
			if len(names) == 0 {
				continue
			}
			for _, n := range names {
				files[n] = s.Files[n]
			}
			if from[s.Name] == nil {
				order = append(order, s.Name)
			}
			from[s.Name] = append(from[s.Name], part.name)
			break
		}
	}
	for _, source := range order {
		origin = append(origin, strings.Join(from[source], ", ")+" from "+source)
	}
	return files, origin
}

// errNone says that no source has a configuration.
var errNone = fmt.Errorf("no configuration yet: neither %s nor %s was found", volume.ApplianceFile, volume.WitnessFile)

// Parse makes a machine of all sources, in the order of their precedence.
func Parse(sources []Source) (Machine, error) {
	files, origin := merge(sources)
	m := Machine{Origin: origin, Keys: volume.Tree{}}
	appliance, witness := files[volume.ApplianceFile], files[volume.WitnessFile]
	switch {
	case appliance == nil && witness == nil:
		return m, errNone
	case appliance != nil && witness != nil:
		return m, fmt.Errorf("both %s and %s are there: remove one", volume.ApplianceFile, volume.WitnessFile)
	case witness != nil:
		m.Witness, m.Config = true, witness
	default:
		m.Config = appliance
	}
	for name, data := range files {
		if key, ok := strings.CutPrefix(name, volume.KeysDir+"/"); ok {
			m.Keys[key] = data
		}
	}
	var err error
	if m.Hostname, err = parseMeta(files[volume.MetaFile]); err != nil {
		return m, fmt.Errorf("%s: %w", volume.MetaFile, err)
	}
	data, ok := files[volume.NetworkFile]
	if !ok {
		return m, fmt.Errorf("no %s: without it the machine has no addresses", volume.NetworkFile)
	}
	if m.Links, err = ParseNetwork(data); err != nil {
		return m, fmt.Errorf("%s: %w", volume.NetworkFile, err)
	}
	return m, nil
}

// parseMeta reads the host name out of NoCloud's meta-data. Other keys are other programs'.
func parseMeta(data []byte) (string, error) {
	var meta struct {
		Local string `yaml:"local-hostname"`
		Host  string `yaml:"hostname"`
	}
	if err := yaml.Unmarshal(data, &meta); err != nil {
		return "", err
	}
	name := meta.Local
	if name == "" {
		name = meta.Host
	}
	if name != "" && !hostname(name) {
		return "", fmt.Errorf("%q is not a host name (1 to 63 letters, digits and hyphens)", clip(name))
	}
	return name, nil
}

// hostname reports whether name is one label of a host name (RFC 1123, 2.1).
func hostname(name string) bool {
	return name != "" && len(name) <= 63 && name[0] != '-' && name[len(name)-1] != '-' &&
		strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}
