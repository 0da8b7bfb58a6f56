package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

const (
	envPrefix = "LOCKSTEP"
	// maxFile bounds the configuration file: a thousand services fit in it.
	maxFile = 1 << 20
)

// Load reads, merges and validates the configuration in the file at path. It
// returns an error wrapping errNoFile when there is no such file, and Errors,
// with every fault, when the configuration is wrong.
func Load(path string) (*Config, error) {
	data, err := readFile(path, "lockstep.example.yaml")
	if err != nil {
		return nil, err
	}
	return Parse(data, os.Environ())
}

func readFile(path, example string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w at %q (copy %s there and edit it, or give -c FILE)", errNoFile, path, example)
	}
	if err != nil {
		return nil, fmt.Errorf("open configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration %q: %w", path, err)
	}
	return data, nil
}

// Parse validates a configuration given as the file's bytes. Of environ
// (KEY=value, as os.Environ) only names matter: they are checked, and the
// values of known ones are taken from the process's environment.
func Parse(data []byte, environ []string) (*Config, error) {
	var cfg draft
	err := parse(data, environ, topLevel[:], func(root *section) { cfg = decodeConfig(root) }, func(errs *Errors) { cfg.validate(errs) })
	if err != nil {
		return nil, err
	}
	return cfg.Config, nil
}

// parse reads a file whose sections are topLevel, with decode and then validate.
func parse(data []byte, environ, topLevel []string, decode func(root *section), validate func(errs *Errors)) error {
	if len(data) > maxFile {
		return Errors{{Msg: fmt.Sprintf("the file is larger than %v", Size(maxFile))}}
	}
	raw, v, err := read(data)
	if err != nil {
		return err
	}
	env := environment{v: v, names: lockstepNames(environ)}
	d := &decoder{override: env.lookup}
	decode(d.root(raw))
	env.report(&d.errs, topLevel)
	validate(&d.errs)
	return d.errs.errOrNil()
}

// strictYAML is the YAML decoder handed to viper. It keeps the mapping as the
// file has it: viper's own copy lower-cases keys (node names are keys) and
// drops empty ones (a misspelt empty section would pass unseen).
type strictYAML struct{ raw map[string]any }

// Decode implements viper.Decoder.
func (s *strictYAML) Decode(b []byte, into map[string]any) error {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&s.raw); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("more than one document; remove the second ---")
	}
	for k, v := range s.raw {
		into[k] = v
	}
	return nil
}

// Decoder implements viper.DecoderRegistry: YAML is the only format.
func (s *strictYAML) Decoder(string) (viper.Decoder, error) { return s, nil }

func read(data []byte) (map[string]any, *viper.Viper, error) {
	codec := &strictYAML{}
	v := viper.NewWithOptions(viper.WithDecoderRegistry(codec))
	v.SetConfigType("yaml")
	v.AllowEmptyEnv(true) // LOCKSTEP_METRICS= switches metrics off
	if err := v.ReadConfig(bytes.NewReader(data)); err != nil {
		msg := strings.TrimPrefix(err.Error(), "While parsing config: ")
		return nil, nil, Errors{{Msg: "not a YAML mapping: " + strings.ReplaceAll(msg, "\n", " "), Hint: "see lockstep.example.yaml"}}
	}
	return codec.raw, v, nil
}

// environment answers the decoder's question whether a key is overridden, and
// remembers which names were asked for so that misspelt ones can be reported.
type environment struct {
	v     *viper.Viper
	names []string // LOCKSTEP_* names that are set, sorted
	asked []string
}

func (e *environment) lookup(path string) (string, bool) {
	name := envPrefix + "_" + strings.NewReplacer(".", "_", "-", "_").Replace(strings.ToUpper(path))
	e.asked = append(e.asked, name)
	if !slices.Contains(e.names, name) {
		return "", false
	}
	if err := e.v.BindEnv(path, name); err != nil {
		return "", false
	}
	return e.v.GetString(path), true
}

// report adds an error for each set name that reads like a key but is none.
// Other LOCKSTEP_ names are not ours to judge: tests and tools have their own.
func (e *environment) report(errs *Errors, topLevel []string) {
	for _, name := range e.names {
		if slices.Contains(e.asked, name) {
			continue
		}
		first, _, _ := strings.Cut(strings.TrimPrefix(name, envPrefix+"_"), "_")
		limit := 2 // one slip of the finger, in words long enough to tell
		if len(first) <= 3 {
			limit = 1
		}
		for _, section := range topLevel {
			if editDistance(strings.ToLower(first), section, limit) < limit {
				errs.add(name, suggestEnv(name, e.asked), "environment variable names no key")
				break
			}
		}
	}
}

func suggestEnv(name string, asked []string) string {
	best, distance := "", 4
	for _, a := range asked {
		if d := editDistance(name, a, distance); d < distance {
			best, distance = a, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %s?", best)
	}
	return "the name is LOCKSTEP_ and the key's path in capitals, such as LOCKSTEP_PAIR_HEARTBEAT"
}

func lockstepNames(environ []string) []string {
	var names []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, envPrefix+"_") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
