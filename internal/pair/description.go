package pair

import (
	"fmt"

	"go.yaml.in/yaml/v3"

	"lockstep/appliance/config"
)

// MAC of a machine's NIC in the standard topology, in QEMU's range: network 0 is front, 1 back, 2
// sync; node 0 is a, 1 is b.
func MAC(network, node int) string { return fmt.Sprintf("52:54:00:a%d:00:0%d", network, node+1) }

// Description is what `lockstep image config` makes two machines of the standard topology from, and
// the keys of a witness that is a process.
func Description(c *config.Config, witness bool) ([]byte, error) {
	type link struct {
		MAC       string   `yaml:"mac"`
		Addresses []string `yaml:"addresses,flow"`
	}
	type machine struct {
		Witness bool            `yaml:"witness,omitempty"`
		Links   map[string]link `yaml:"links,omitempty"`
	}
	all := *c
	all.Networks.Front.Interface, all.Networks.Back.Interface = "front", "back"
	machines := map[string]machine{}
	for i, node := range []string{"a", "b"} {
		machines[node] = machine{Links: map[string]link{
			"front": {MAC(0, i), []string{fmt.Sprintf("203.0.113.%d/24", i+2), fmt.Sprintf("2001:db8::%d/64", i+2)}},
			"back":  {MAC(1, i), []string{fmt.Sprintf("10.20.0.%d/24", i+2), fmt.Sprintf("fd20::%d/64", i+2)}},
			"sync":  {MAC(2, i), []string{fmt.Sprintf("10.30.0.%d/24", i+1)}},
		}}
	}
	if witness {
		all.Pair.Witness = witnessAddr()
		machines[WitnessName] = machine{Witness: true}
	}
	text, err := all.YAML()
	if err != nil {
		return nil, err
	}
	more, err := yaml.Marshal(map[string]any{"machines": machines})
	if err != nil {
		return nil, fmt.Errorf("write the pair's machines as YAML: %w", err)
	}
	return append(text, more...), nil
}
