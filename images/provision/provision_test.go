package provision

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lockstep/appliance/config"
	"lockstep/images/settings"
	"lockstep/images/volume"
	"lockstep/replication/identity"
)

func example(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("../../pair.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestExample(t *testing.T) {
	d, err := Parse([]byte(example(t)))
	if err != nil {
		t.Fatal(err)
	}
	if d.Pair != "edge" || strings.Join(d.Members, " ") != "a b" || d.Witness != "w" {
		t.Errorf("the pair is %s, %v, %s", d.Pair, d.Members, d.Witness)
	}
	out := t.TempDir()
	written, err := d.Write(out, true)
	if err != nil || len(written) != 3 {
		t.Fatalf("written %+v, %v", written, err)
	}
	for _, w := range written {
		if _, err := os.Stat(w.Volume); err != nil {
			t.Error(err)
		}
	}
	// What a machine reads is what the pair needs, and the keys fit together.
	for _, node := range []string{"a", "b", "w"} {
		dir := filepath.Join(out, keysDir, node)
		files, err := d.files(node, dir)
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := os.ReadFile(filepath.Join(out, node+".user-data"))
		if err != nil {
			t.Fatal(err)
		}
		delete(files, volume.UserFile)
		one := volume.Tree{volume.UserFile: bundle}
		if err := one.Unbundle(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(one, files); diff != "" {
			t.Errorf("the bundle holds other files: %s", diff)
		}
		m, err := settings.Parse([]settings.Source{{Name: "cidata", Files: files}})
		if err != nil {
			t.Fatalf("%s: %v", node, err)
		}
		if m.Hostname != "edge-"+node || m.Witness != (node == "w") || len(m.Keys) != 5 {
			t.Errorf("%s: machine is %s, witness %v, with %d files of keys", node, m.Hostname, m.Witness, len(m.Keys))
		}
		if m.Witness {
			w, err := config.ParseWitness(m.Config, nil)
			if err != nil || w.Listen.String() != "10.30.0.3:7401" || w.Identities[0] != config.DefaultIdentity {
				t.Errorf("the witness's configuration: %+v, %v", w, err)
			}
			continue
		}
		cfg, err := config.Parse(m.Config, nil)
		if err != nil || cfg.Node != node || strings.Contains(string(m.Config), machinesKey) {
			t.Errorf("%s: configuration of %v, %v", node, cfg, err)
		}
	}
	// The witness on another host finds its keys at the path that its configuration has.
	data, err := os.ReadFile(filepath.Join(out, "witness", volume.WitnessFile))
	if err != nil {
		t.Fatal(err)
	}
	w, err := config.ParseWitness(data, nil)
	if err != nil || w.Identities[0] != config.DefaultWitnessIdentities+"/edge" {
		t.Errorf("configuration elsewhere: %+v, %v", w, err)
	}
	if _, err := identity.Load(filepath.Join(out, "witness", "witness", "edge")); err != nil {
		t.Error(err)
	}
}

func TestKeysAreKept(t *testing.T) {
	out := t.TempDir()
	text := example(t)
	write := func(text string) error {
		t.Helper()
		d, err := Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.Write(out, false)
		return err
	}
	key := func() string {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(out, keysDir, "a", "node.key"))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if err := write(text); err != nil {
		t.Fatal(err)
	}
	before := key()
	if err := write(strings.Replace(text, "edge-a", "other-a", 1)); err != nil || key() != before {
		t.Errorf("a second run changed the keys, %v", err)
	}
	if err := write(strings.Replace(text, "name: edge", "name: core", 1)); err == nil || !strings.Contains(err.Error(), "remove the directory") {
		t.Errorf("the keys of another pair: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(out, keysDir, "b")); err != nil {
		t.Fatal(err)
	}
	if err := write(text); err == nil {
		t.Error("half of the keys were taken")
	}
}

func TestTimingOfTheWitness(t *testing.T) {
	d, err := Parse([]byte(strings.Replace(example(t), "name: edge\n", "name: edge\n  heartbeat: 200ms\n  failure_timeout: 2s\n", 1)))
	if err != nil {
		t.Fatal(err)
	}
	w, err := config.ParseWitness(d.witnessConfig("/k"), nil)
	if err != nil || w.Heartbeat != 200*time.Millisecond || w.FailureTimeout != 2*time.Second {
		t.Errorf("the witness has %+v, %v", w, err)
	}
}

func TestParseRefuses(t *testing.T) {
	text := example(t)
	without := func(from, to string) string {
		i := strings.Index(text, from)
		j := len(text)
		if to != "" {
			j = strings.Index(text, to)
		}
		return text[:i] + text[j:]
	}
	for name, c := range map[string]struct{ text, part string }{
		"no machines":    {without("machines:", ""), "machines: is missing"},
		"one appliance":  {without("  b:\n    links", "  w:\n"), "want two"},
		"node":           {text + "node: a\n", "node: remove it"},
		"a list":         {"- x\n", "not a YAML mapping"},
		"unknown":        {text + "servces: []\n", "servces: unknown key"},
		"unknown below":  {strings.Replace(text, "    witness: true", "    wittness: true", 1), "wittness"},
		"identity":       {strings.Replace(text, "name: edge", "name: edge\n  identity: /x", 1), "pair.identity: remove it"},
		"no witness":     {strings.Replace(text, "witness: 10.30.0.3:7401", "witness: none", 1), "disagree"},
		"other name":     {strings.Replace(text, "  b:\n    links", "  c:\n    links", 1), "node"},
		"no such link":   {strings.Replace(text, "front: {interface: front}", "front: {interface: eth0}", 1), "is no link"},
		"other address":  {strings.Replace(text, "10.30.0.1/24", "10.30.0.9/24", 1), "no link of machines.a has the address 10.30.0.1"},
		"same addresses": {strings.Replace(text, "203.0.113.3/24", "203.0.113.2/24", 1), "both have the address"},
		"witness too":    {strings.Replace(text, "10.30.0.3/24", "10.30.0.2/24", 1), "both have the address"},
		"MAC":            {strings.Replace(text, "52:54:00:30:00:02", "52:54", 1), "not a MAC"},
		"no links":       {strings.Replace(text, "    hostname: edge-a ", "    links: {}\n  x:\n    hostname: edge-a ", 1), "links: is missing"},
	} {
		if _, err := Parse([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%s: %v, want %q", name, err, c.part)
		}
	}
}
