package config

import (
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const minimalWitness = `
identities: [/etc/lockstep/witness/edge]
`

func TestWitnessExampleHoldsTheDefaults(t *testing.T) {
	example, err := ParseWitness(read1(t, "../../lockstep.witness.example.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defaults, err := ParseWitness([]byte(minimalWitness), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(example, defaults, compareAddrs); diff != "" {
		t.Errorf("example (-) and defaults (+) differ:\n%s", diff)
	}
	// The timing must be the appliances', or they refuse each other.
	c, err := Parse([]byte(minimal), nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Pair.FailureTimeout != defaults.FailureTimeout || c.Pair.Heartbeat != defaults.Heartbeat {
		t.Errorf("an appliance has %v and %v by default", c.Pair.Heartbeat, c.Pair.FailureTimeout)
	}
}

func TestWitnessFaults(t *testing.T) {
	cases := []struct{ name, file, path, part string }{
		{"no identities", "listen: 10.30.0.3:7401", "identities", "names 0 pairs"},
		{"relative identity", "identities: [keys/w]", "identities[0]", "absolute path"},
		{"twice", "identities: [/a, /b, /a]", "identities[2]", "also identities[0]"},
		{"a text", "identities: /a", "identities", "brackets"},
		{"unknown key", minimalWitness + "lisen: 1", "lisen", `did you mean "listen"?`},
		{"an appliance's file", minimal, "pair", "unknown key"},
		{"listen by name", minimalWitness + "listen: witness:7401", "listen", "not an IP address"},
		{"port 0", minimalWitness + "listen: 10.30.0.3:0", "listen", "nobody can be served"},
		{"state", minimalWitness + "state: lib", "state", "absolute path"},
		{"timeout", minimalWitness + "failure_timeout: 40ms", "failure_timeout", "more than twice heartbeat"},
		{"heartbeat", minimalWitness + "heartbeat: 20", "heartbeat", "unit"},
		{"metrics", minimalWitness + "metrics: 127.0.0.1:0", "metrics", "has no port"},
		{"log", minimalWitness + "log: {level: loud}", "log.level", "one of"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseWitness([]byte(c.file), nil)
			var errs Errors
			if !errors.As(err, &errs) {
				t.Fatalf("got %v, want Errors", err)
			}
			for _, e := range errs {
				if e.Path == c.path && strings.Contains(e.Error(), c.part) {
					return
				}
			}
			t.Errorf("no error at %q with %q in:\n%v", c.path, c.part, err)
		})
	}
	_, err := ParseWitness([]byte("listen: x\nstate: y\nidentities: []\nnoise: 1\n"), nil)
	var errs Errors
	if !errors.As(err, &errs) || len(errs) != 4 {
		t.Errorf("not all faults at once: %v", err)
	}
}

func TestWitnessEnvironment(t *testing.T) {
	set := map[string]string{
		"LOCKSTEP_LISTEN": "10.30.0.3:7401", "LOCKSTEP_IDENTITIES": "/a, /b", "LOCKSTEP_FAILURE_TIMEOUT": "2s", "LOCKSTEP_METRICS": "127.0.0.1:9465",
	}
	var environ []string
	for k, v := range set {
		t.Setenv(k, v)
		environ = append(environ, k+"="+v)
	}
	w, err := ParseWitness([]byte(minimalWitness), environ)
	if err != nil {
		t.Fatal(err)
	}
	if w.Listen != netip.MustParseAddrPort("10.30.0.3:7401") || len(w.Identities) != 2 || w.FailureTimeout != 2*time.Second || !w.Metrics.IsValid() {
		t.Errorf("overrides are missing: %+v", w)
	}
	if _, err := ParseWitness([]byte(minimalWitness), []string{"LOCKSTEP_IDENTITES=x"}); err == nil || !strings.Contains(err.Error(), "LOCKSTEP_IDENTITIES") {
		t.Errorf("a misspelt name: %v", err)
	}
}

func TestWitnessFile(t *testing.T) {
	if _, err := LoadWitness(filepath.Join(t.TempDir(), "none")); !errors.Is(err, errNoFile) || !strings.Contains(err.Error(), "lockstep.witness.example.yaml") {
		t.Errorf("missing file: %v", err)
	}
	w, err := ParseWitness([]byte("identities: [/nowhere]\nlisten: 192.0.2.1:7401\nstate: /dev/null/x\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, warning := range CheckWitness(w) {
		got[warning.Path] = true
	}
	if !got["listen"] || !got["state"] || !got["identities[0]"] {
		t.Errorf("warnings are %v", CheckWitness(w))
	}
}

func FuzzParseWitness(f *testing.F) {
	f.Add([]byte(minimalWitness))
	f.Add([]byte("identities: [1, {}]\nlisten:\nlog: []\nheartbeat: -1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := ParseWitness(data, nil)
		if (w == nil) == (err == nil) {
			t.Fatalf("configuration %v with error %v", w, err)
		}
		var errs Errors
		if err != nil && (!errors.As(err, &errs) || len(errs) == 0 || len(errs) > maxErrors) {
			t.Fatalf("not a list of 1 to %d faults: %v", maxErrors, err)
		}
	})
}
