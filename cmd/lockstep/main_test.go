package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lockstep/appliance/control"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lockstep runs one command line in this process.
func lockstep(args ...string) (status int, stdout, stderr string) {
	var out, err bytes.Buffer
	status = execute(args, &out, &err)
	return status, out.String(), err.String()
}

func expect(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("missing %q in:\n%s", p, text)
		}
	}
}

func TestEveryCommandTeaches(t *testing.T) {
	for _, cmd := range newRoot().Commands() {
		if cmd.Name() == "help" || cmd.Name() == "completion" {
			continue
		}
		if cmd.Short == "" || cmd.Long == "" || cmd.Example == "" {
			t.Errorf("%s: short, long and example are needed", cmd.Name())
		}
	}
	status, out, _ := lockstep("--help")
	if status != 0 {
		t.Errorf("--help exits with %d", status)
	}
	expect(t, out, "run", "witness", "check", "status", "keys", "image", "version", "demo", "bench", "storm")
}

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{{"run", "--nonsense"}, {"status", "--watch=maybe"}} {
		if status, _, errs := lockstep(args...); status != exitUsage || !strings.Contains(errs, "--help") {
			t.Errorf("%v: exit %d, %q", args, status, errs)
		}
	}
	if status, _, _ := lockstep("nonsense"); status == 0 {
		t.Error("an unknown command succeeds")
	}
}

func TestCheck(t *testing.T) {
	status, out, errs := lockstep("check", "-c", "../../lockstep.example.yaml")
	if status != 0 {
		t.Fatalf("the example: exit %d, %s", status, errs)
	}
	expect(t, out, "is right", "10.30.0.2:7400", "service web", "protection gateway", "1GiB")

	status, _, errs = lockstep("check", "-c", filepath.Join(t.TempDir(), "none.yaml"))
	if status != exitUsage {
		t.Errorf("missing file: exit %d", status)
	}
	expect(t, errs, "no configuration file", "lockstep.example.yaml")

	wrong := filepath.Join(t.TempDir(), "wrong.yaml")
	if err := os.WriteFile(wrong, []byte("node: a\npair: {hartbeat: 20}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	status, out, errs = lockstep("check", "-c", wrong)
	if status != exitUsage || out != "" {
		t.Errorf("wrong file: exit %d, output %q", status, out)
	}
	expect(t, errs, "pair.hartbeat: unknown key", "pair.name: is missing", "services: is missing")

	status, _, errs = lockstep("check", "-c", "../../appliance/config/testdata/contract.yaml")
	if status != exitUsage {
		t.Errorf("what this version cannot do: exit %d", status)
	}
	expect(t, errs, "services[0].listen[1]", "no server of its family")

	// run refuses the same, before it touches anything.
	if status, _, errs := lockstep("run", "-c", wrong); status != exitUsage || !strings.Contains(errs, "nothing is started") {
		t.Errorf("run: exit %d, %s", status, errs)
	}
}

func TestKeysAndCheckFitTogether(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	status, out, errs := lockstep("keys", "--pair", "edge", "--members", "a,b", "--out", dir)
	if status != 0 {
		t.Fatalf("exit %d: %s", status, errs)
	}
	expect(t, out, "node a:", "node b:", filepath.Join(dir, "b"), "delete")
	if status, _, errs = lockstep("keys", "--pair", "edge", "--members", "a,b", "--out", dir); status == 0 || !strings.Contains(errs, "--force") {
		t.Errorf("overwrote keys: exit %d, %s", status, errs)
	}
	if status, _, errs = lockstep("keys", "--pair", "edge", "--members", "a,b", "--out", dir, "--force"); status != 0 {
		t.Errorf("with --force: exit %d, %s", status, errs)
	}
	t.Setenv("LOCKSTEP_PAIR_IDENTITY", filepath.Join(dir, "a"))
	_, out, _ = lockstep("check", "-c", "../../lockstep.example.yaml")
	if strings.Contains(out, "pair.identity") {
		t.Errorf("fresh keys are warned about:\n%s", out)
	}
	t.Setenv("LOCKSTEP_PAIR_IDENTITY", filepath.Join(dir, "b"))
	_, out, _ = lockstep("check", "-c", "../../lockstep.example.yaml")
	expect(t, out, `holds the keys of node "b"`)
}

func TestCheckOfAuthority(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{{"--servers", "s1,s2", "--out", dir + "/servers"}, {"--out", dir + "/pair"}} {
		if status, _, errs := lockstep(append([]string{"keys", "--pair", "edge", "--members", "a,b"}, args...)...); status != 0 {
			t.Fatal(errs)
		}
	}
	text, err := os.ReadFile("../../lockstep.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for keys, want := range map[string]string{
		"/servers/a": "", "/servers/b": `holds the keys of node "b", and this is node "a"`, "/pair/a": "knows no server's key", "/nothing": "no key",
	} {
		file := filepath.Join(dir, "lockstep.yaml")
		conf := strings.Replace(string(text), "protection: gateway ", "protection: log ", 1)
		conf = strings.Replace(conf, "  members: {} ", "  members: {a: 10.20.0.2:7480, b: 10.20.0.3:7480} ", 1)
		conf = strings.Replace(conf, "  identity: /etc/lockstep/servers", "  identity: "+dir+keys, 1)
		if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		_, out, _ := lockstep("check", "-c", file)
		if got := strings.Contains(out, "authority.identity"); got != (want != "") || !strings.Contains(out, want) {
			t.Errorf("%s: want %q in\n%s", keys, want, out)
		}
	}
}

func TestVersion(t *testing.T) {
	status, out, _ := lockstep("version")
	if status != 0 {
		t.Errorf("exit %d", status)
	}
	expect(t, out, "lockstep  "+control.Version()+"\n", "protocol ", "go ")
	status, out, _ = lockstep("--version")
	if status != 0 || out != "lockstep "+control.Version()+"\n" || !strings.HasPrefix(control.Version(), control.Release) {
		t.Errorf("exit %d: %s", status, out)
	}
}

type fixed control.Status

func (f fixed) Status() control.Status { return control.Status(f) }

func (f fixed) FindConnections(control.ConnectionQuery) control.ConnectionList {
	return control.ConnectionList{}
}

func (f fixed) Switchover(context.Context) error { return nil }

func (f fixed) Reload(bool) (control.Reloaded, error) { return control.Reloaded{}, nil }

func (f fixed) Server(context.Context, control.ServerCommand) (control.ServerOrdered, error) {
	return control.ServerOrdered{}, nil
}

func sample() control.Status {
	return control.Status{
		Version: "v1", Node: "a", Pair: "edge", Role: control.RoleActive, Epoch: 2, Since: time.Now().Add(-time.Minute), InSync: true,
		Peer:         control.Peer{Name: "b", Address: "10.30.0.2:7400", Connected: true},
		Lag:          control.Lag{Bytes: 2048, Batches: 1, Micros: 120},
		Connections:  control.Connections{Open: 7, Protected: 6, Unprotected: 1},
		Takeovers:    1,
		LastTakeover: &control.Takeover{At: time.Now().Add(-time.Hour), DurationMicros: 12_345, Legs: 4, Connections: 2, Why: "session closed"},
		LastLoss:     &control.Loss{At: time.Now().Add(-time.Minute), Text: "3 when this appliance last knew (3 of web)", Why: "nobody else is heard"},
		Drops:        map[string]uint64{"rare": 1, "frequent": 900, "never": 0},
		Services:     []control.Service{{Name: "web", Listen: []string{"203.0.113.10:80"}, Protection: "gateway", Connections: 7, Servers: []control.Backend{{Addr: "10.20.0.11:80", Healthy: true, Checked: true}}}},
	}
}

func TestStatus(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "c.sock")
	status, _, errs := lockstep("status", "--control", socket)
	if status != exitFailed {
		t.Errorf("no appliance: exit %d", status)
	}
	expect(t, errs, "is the appliance running")

	serve := func(s control.Status) func() {
		server, err := control.Serve(socket, fixed(s), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return server.Close
	}
	stop := serve(sample())
	status, out, errs := lockstep("status", "--control", socket)
	if status != 0 || errs != "" {
		t.Errorf("in sync: exit %d, %s", status, errs)
	}
	expect(t, out, "a of pair edge", "active for 1m0s, epoch 2", "b at 10.30.0.2:7400, connected", "in sync", "yes",
		"2.0 KiB in 1 batch, 120 us", "7 open: 6 protected, 1 unprotected", "4 legs in 12.3 ms (session closed)", "1m0s ago this appliance started without connections: 3 when", "web  203.0.113.10:80 -> 10.20.0.11:80  gateway, 7 connections, healthy")
	if strings.Index(out, "frequent") > strings.Index(out, "rare") || strings.Contains(out, "never") || strings.Contains(out, "\x1b") {
		t.Errorf("drops out of order, or colours without a terminal:\n%s", out)
	}
	_, out, _ = lockstep("status", "--json", "--control", socket)
	var got control.Status
	if err := json.Unmarshal([]byte(out), &got); err != nil || got.Node != "a" || !got.InSync {
		t.Errorf("json: %v\n%s", err, out)
	}
	stop()

	apart := sample()
	apart.InSync, apart.WhyNotInSync = false, "no standby is connected"
	apart.Peer.Connected, apart.Peer.Why = false, "wrong_key"
	stop = serve(apart)
	defer stop()
	status, out, _ = lockstep("status", "--control", socket)
	if status != exitNotInSync {
		t.Errorf("not in sync: exit %d", status)
	}
	expect(t, out, "no: no standby is connected", "not connected: wrong_key")
	// By the configuration's control key; the file itself decides nothing else.
	t.Setenv("LOCKSTEP_CONTROL", socket)
	if status, _, errs = lockstep("status", "-c", "../../lockstep.example.yaml"); status != exitNotInSync {
		t.Errorf("by -c: exit %d, %s", status, errs)
	}
}

func TestRedrawNeverBlanks(t *testing.T) {
	got := redraw("one\ntwo\n", &bytes.Buffer{})
	if want := "\x1b[Hone\x1b[K\ntwo\x1b[K\n\x1b[J"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
