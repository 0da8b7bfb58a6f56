// Package provision owns the way from one description of a pair to what each of its machines is given:
// configuration, addresses and keys.
//
// It must not know how a machine reads them.
package provision

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"lockstep/appliance/config"
	"lockstep/images/settings"
)

// machinesKey is the section that a description has and lockstep.yaml has not.
const machinesKey = "machines"

// maxDescription bounds the file, bytes.
const maxDescription = 1 << 20

// Description is a pair with its machines.
type Description struct {
	Pair    string
	Members []string // names of the two appliances, sorted
	Witness string   // name of the witness; empty: the pair has none
	// Config is each appliance's lockstep.yaml, by name.
	Config map[string][]byte
	// Links of each machine, by name. The witness has some only if it is a machine of the image.
	Links     map[string][]settings.Link
	Hostnames map[string]string // empty: by default

	timing *config.Config // any member's, for the timing that a witness must share
}

// yamlMachine is one machine in the description.
type yamlMachine struct {
	Hostname string              `yaml:"hostname"`
	Witness  bool                `yaml:"witness"`
	Links    map[string]yamlLink `yaml:"links"`
}

// yamlLink is a link, with the words of network-config.
type yamlLink struct {
	MAC       string      `yaml:"mac"`
	Name      string      `yaml:"name"`
	Addresses []string    `yaml:"addresses"`
	Routes    []yamlRoute `yaml:"routes"`
	MTU       int         `yaml:"mtu"`
}

type yamlRoute struct {
	To  string `yaml:"to"`
	Via string `yaml:"via"`
}

// Load reads a description.
func Load(path string) (*Description, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open pair description: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDescription+1))
	if err != nil {
		return nil, fmt.Errorf("read pair description %q: %w", path, err)
	}
	d, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("pair description %q: %w", path, err)
	}
	return d, nil
}

// Parse reads a description: lockstep.yaml as both appliances have it, without node, and a section
// machines with the links of each.
func Parse(data []byte) (*Description, error) {
	if len(data) > maxDescription {
		return nil, fmt.Errorf("larger than %d bytes", maxDescription)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("not a YAML mapping")
	}
	root := doc.Content[0]
	machines, err := takeMachines(root)
	if err != nil {
		return nil, err
	}
	if index(root, "node") >= 0 {
		return nil, errors.New("node: remove it: the description is of all machines")
	}
	d := &Description{Config: map[string][]byte{}, Links: map[string][]settings.Link{}, Hostnames: map[string]string{}}
	for name, m := range machines {
		if m.Witness {
			if d.Witness != "" {
				return nil, errors.New("machines: more than one is the witness")
			}
			d.Witness = name
		} else {
			d.Members = append(d.Members, name)
		}
		d.Hostnames[name] = m.Hostname
		if d.Links[name], err = m.links(); err != nil {
			return nil, fmt.Errorf("machines.%s: %w", name, err)
		}
	}
	slices.Sort(d.Members)
	return d, d.configure(root)
}

// takeMachines removes the section machines and reads it.
func takeMachines(root *yaml.Node) (map[string]yamlMachine, error) {
	i := index(root, machinesKey)
	if i < 0 {
		return nil, errors.New("machines: is missing: it has the links of each machine (see docs/deploy.md)")
	}
	section, err := yaml.Marshal(root.Content[i+1])
	if err != nil {
		return nil, fmt.Errorf("machines: %w", err)
	}
	root.Content = slices.Delete(root.Content, i, i+2)
	var machines map[string]yamlMachine
	dec := yaml.NewDecoder(bytes.NewReader(section))
	dec.KnownFields(true)
	if err := dec.Decode(&machines); err != nil {
		return nil, fmt.Errorf("machines: %w", err)
	}
	return machines, nil
}

// index finds a key of a mapping; -1: it is not there.
func index(mapping *yaml.Node, key string) int {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return i
		}
	}
	return -1
}

// links go through network-config, so that the same rules hold here and on the machine.
func (m yamlMachine) links() ([]settings.Link, error) {
	if len(m.Links) == 0 {
		if m.Witness {
			return nil, nil // it runs on a host of another kind
		}
		return nil, errors.New("links: is missing")
	}
	type match struct {
		MAC  string `yaml:"macaddress,omitempty"`
		Name string `yaml:"name,omitempty"`
	}
	type ethernet struct {
		Match     *match      `yaml:"match,omitempty"`
		Addresses []string    `yaml:"addresses"`
		Routes    []yamlRoute `yaml:"routes,omitempty"`
		MTU       int         `yaml:"mtu,omitempty"`
	}
	ethernets := map[string]ethernet{}
	for name, l := range m.Links {
		e := ethernet{Addresses: l.Addresses, Routes: l.Routes, MTU: l.MTU}
		if l.MAC != "" || l.Name != "" {
			e.Match = &match{l.MAC, l.Name}
		}
		ethernets[name] = e
	}
	data, err := yaml.Marshal(map[string]any{"version": 2, "ethernets": ethernets})
	if err != nil {
		return nil, err
	}
	return settings.ParseNetwork(data)
}

// configure makes each appliance's lockstep.yaml, and checks that all fit together.
func (d *Description) configure(root *yaml.Node) error {
	if len(d.Members) != 2 {
		return fmt.Errorf("machines: %d are appliances (%s), want two (the witness has witness: true)", len(d.Members), strings.Join(d.Members, ", "))
	}
	for _, node := range d.Members {
		own := *root
		own.Content = append([]*yaml.Node{{Kind: yaml.ScalarNode, Value: "node"}, {Kind: yaml.ScalarNode, Value: node}}, root.Content...)
		var b bytes.Buffer
		enc := yaml.NewEncoder(&b)
		enc.SetIndent(2)
		if err := enc.Encode(&own); err != nil {
			return fmt.Errorf("write configuration of %s: %w", node, err)
		}
		cfg, err := config.Parse(b.Bytes(), nil)
		if err == nil {
			if faults := config.Unsupported(cfg); faults != nil {
				err = faults
			}
		}
		if err != nil {
			return err // its paths are the description's
		}
		d.Config[node], d.Pair, d.timing = b.Bytes(), cfg.Pair.Name, cfg
		if err := d.check(node, cfg); err != nil {
			return err
		}
	}
	return nil
}

// check looks whether an appliance's configuration and its links fit together.
func (d *Description) check(node string, cfg *config.Config) error {
	for _, own := range []struct{ key, have, want string }{
		{"pair.identity", cfg.Pair.Identity, config.DefaultIdentity}, {"pair.state", cfg.Pair.State, config.DefaultState},
	} {
		if own.have != own.want {
			return fmt.Errorf("%s: remove it: in the image it is %s", own.key, own.want)
		}
	}
	if _, _, paired := cfg.Peer(); !paired {
		return fmt.Errorf("pair.members: names %d appliances, want two", len(cfg.Pair.Members))
	}
	if has := cfg.Pair.Witness.IsValid(); has != (d.Witness != "") {
		return errors.New("pair.witness and machines disagree: a pair with a witness has a machine with witness: true (without links if it is no machine of the image), any other has none")
	}
	for _, used := range []struct{ key, name string }{
		{"networks.front.interface", cfg.Networks.Front.Interface}, {"networks.back.interface", cfg.Networks.Back.Interface},
	} {
		if !slices.ContainsFunc(d.Links[node], func(l settings.Link) bool { return l.Name == used.name }) {
			return fmt.Errorf("%s: %s is no link of machines.%s", used.key, used.name, node)
		}
	}
	if self := cfg.Self().Addr(); !slices.ContainsFunc(d.Links[node], func(l settings.Link) bool { return l.Has(self) }) {
		return fmt.Errorf("pair.members.%s: no link of machines.%s has the address %v", node, node, self)
	}
	return d.checkOthers(node)
}

// checkOthers looks for addresses that two machines have.
func (d *Description) checkOthers(node string) error {
	for other, links := range d.Links {
		if other == node {
			continue
		}
		for _, l := range links {
			for _, a := range l.Addresses {
				if slices.ContainsFunc(d.Links[node], func(mine settings.Link) bool { return mine.Has(a.Addr()) }) {
					return fmt.Errorf("machines: %s and %s both have the address %v", node, other, a.Addr())
				}
			}
		}
	}
	return nil
}
