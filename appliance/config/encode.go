package config

import (
	"bytes"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// YAML is the file that Parse reads as this configuration: the way to write one
// from a program.
func (c *Config) YAML() ([]byte, error) { return encode(c) }

// YAML is the same of a witness, for ParseWitness.
func (w *Witness) YAML() ([]byte, error) { return encode(w) }

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("write configuration as YAML: %w", err)
	}
	return b.Bytes(), nil
}

// MarshalYAML writes a missing witness as the file does.
func (p Pair) MarshalYAML() (any, error) {
	type plain Pair // without this method
	third := "none"
	if p.Witness.IsValid() {
		third = p.Witness.String()
	}
	return struct {
		plain   `yaml:",inline"`
		Witness string `yaml:"witness"`
	}{plain(p), third}, nil
}

// MarshalText writes the size so that ParseSize reads it.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
