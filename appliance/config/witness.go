package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Witness is the whole, valid configuration of a witness, in a file of its own.
type Witness struct {
	Listen     netip.AddrPort `yaml:"listen"`     // where all pairs reach it
	State      string         `yaml:"state"`      // directory of what it must not forget, absolute
	Identities []string       `yaml:"identities"` // directories written by `lockstep keys`, absolute, one per pair
	// Heartbeat and FailureTimeout are those of every pair that it serves.
	Heartbeat      time.Duration  `yaml:"heartbeat"`
	FailureTimeout time.Duration  `yaml:"failure_timeout"`
	Metrics        netip.AddrPort `yaml:"metrics"` // not valid: off
	Log            Log            `yaml:"log"`
}

// Defaults of a witness that differ from an appliance's.
const (
	DefaultWitnessListen     = "0.0.0.0:7401"
	DefaultWitnessState      = "/var/lib/lockstep-witness"
	DefaultWitnessIdentities = "/etc/lockstep/witness" // directory above those of the pairs; not read by itself
)

// maxIdentities bounds the pairs of one witness.
const maxIdentities = 1000

var witnessTopLevel = [...]string{"listen", "state", "identities", "heartbeat", "failure_timeout", "metrics", "log"}

// LoadWitness is Load for a witness's file.
func LoadWitness(path string) (*Witness, error) {
	data, err := readFile(path, "lockstep.witness.example.yaml")
	if err != nil {
		return nil, err
	}
	return ParseWitness(data, os.Environ())
}

// ParseWitness is Parse for a witness's file.
func ParseWitness(data []byte, environ []string) (*Witness, error) {
	w := &Witness{}
	if err := parse(data, environ, witnessTopLevel[:], w.decode, w.validate); err != nil {
		return nil, err
	}
	return w, nil
}

func (w *Witness) decode(root *section) {
	*w = *DefaultWitness()
	listen := w.Listen.String()
	root.text("listen", &listen)
	w.Listen, _ = root.d.address("listen", listen, "write the address and port that the appliances dial, such as 10.30.0.3:7401")
	root.text("state", &w.State)
	root.texts("identities", &w.Identities)
	root.duration("heartbeat", &w.Heartbeat)
	root.duration("failure_timeout", &w.FailureTimeout)
	w.Metrics = decodeMetrics(root, "")
	decodeLog(root, &w.Log)
	root.done()
}

func (w *Witness) validate(errs *Errors) {
	v := &validator{errs: errs}
	if a := w.Listen; a.IsValid() && (a.Port() == 0 || a.Addr().Zone() != "" || a.Addr().Is4In6() || a.Addr().IsMulticast()) {
		v.add("listen", "an address of this machine, or 0.0.0.0, and a port from 1 to 65535", "nobody can be served at %v", a)
	}
	v.state("state", w.State)
	v.timing("", w.Heartbeat, w.FailureTimeout)
	if m := w.Metrics; m.IsValid() && m.Port() == 0 {
		v.add("metrics", "a port from 1 to 65535, or leave it empty", "%v has no port", m)
	}
	if v.faulty("identities") {
		return
	}
	if n := len(w.Identities); n == 0 || n > maxIdentities {
		v.add("identities", "write the directory of each pair, made by `lockstep keys --witness NAME`, such as ["+DefaultWitnessIdentities+"/edge]",
			"names %d pairs, want 1 to %d", n, maxIdentities)
	}
	for i, dir := range w.Identities {
		path := fmt.Sprintf("identities[%d]", i)
		if !filepath.IsAbs(dir) {
			v.add(path, "an absolute path, such as "+DefaultWitnessIdentities+"/edge", "%q is not a directory's path", clip(dir))
		}
		if j := slices.Index(w.Identities, dir); j < i {
			v.add(path, "remove one", "%q is also identities[%d]", clip(dir), j)
		}
	}
}

// CheckWitness is Check for a witness.
func CheckWitness(w *Witness) []Warning {
	var all []Warning
	add := func(path, hint, format string, args ...any) {
		all = append(all, Warning{path, fmt.Sprintf(format, args...), hint})
	}
	if a := w.Listen.Addr(); !a.IsUnspecified() && !local(a) {
		add("listen", "add it to an interface, or listen on 0.0.0.0", "this machine does not have the address %v", a)
	}
	checkState(w.State, "state", add)
	for i, dir := range w.Identities {
		checkIdentity(dir, fmt.Sprintf("identities[%d]", i), add)
	}
	return all
}
