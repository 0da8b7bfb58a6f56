package machine

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lockstep/images/settings"
	"lockstep/images/volume"
)

const applianceText = `
node: a
pair:
  name: edge
  members: {a: "10.30.0.1:7400", b: "10.30.0.2:7400"}
networks:
  front: {interface: front}
  back: {interface: back, gateway: [10.20.0.1/24]}
services:
  - {name: web, listen: ["203.0.113.10:80"], servers: ["10.20.0.11:80"]}
`

func appliance() *settings.Machine {
	return &settings.Machine{
		Config: []byte(applianceText), Links: []settings.Link{{Name: "front"}, {Name: "back"}, {Name: "sync"}}, Keys: volume.Tree{"node.key": nil},
	}
}

func TestPlan(t *testing.T) {
	j, state, err := plan(appliance())
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(j.args, " "); got != "run -c /etc/lockstep/lockstep.yaml" || j.name != "edge-a" || j.control == "" || state != "/var/lib/lockstep" {
		t.Errorf("%s as %s, control %s, state in %s", got, j.name, j.control, state)
	}
	w := &settings.Machine{Witness: true, Hostname: "third", Config: []byte("identities: [/etc/lockstep/keys]\n")}
	j, state, err = plan(w)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(j.args, " "); got != "witness -c /etc/lockstep/witness.yaml" || j.name != "third" || j.control != "" || state != "/var/lib/lockstep-witness" {
		t.Errorf("%s as %s, control %s, state in %s", got, j.name, j.control, state)
	}
}

func TestPlanRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(m *settings.Machine)
		part   string
	}{
		"faults": {func(m *settings.Machine) { m.Config = []byte("nodde: a\n") }, "lockstep.yaml: nodde: unknown key"},
		"not yet": {func(m *settings.Machine) {
			m.Config = []byte(strings.Replace(applianceText, "name: web,", "name: web, protection: hot,", 1))
		}, "hot"},
		"identity": {func(m *settings.Machine) {
			m.Config = []byte(strings.Replace(applianceText, "name: edge", "name: edge\n  identity: /x", 1))
		}, "pair.identity"},
		"state": {func(m *settings.Machine) {
			m.Config = []byte(strings.Replace(applianceText, "name: edge", "name: edge\n  state: /x", 1))
		}, "pair.state"},
		"no link":    {func(m *settings.Machine) { m.Links = m.Links[1:] }, "names no such link"},
		"no keys":    {func(m *settings.Machine) { m.Keys = nil }, "no keys/"},
		"identities": {func(m *settings.Machine) { m.Witness, m.Config = true, []byte("identities: [/x]\n") }, "identities is [/etc/lockstep/keys]"},
	} {
		m := appliance()
		c.change(m)
		if _, _, err := plan(m); err == nil || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%s: %v, want %q", name, err, c.part)
		}
	}
}

func TestReadFwCfg(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string]string{"lockstep.yaml": "x", "keys/peers/b.crt": "c", "other": "no", "user-data": "#lockstep\nmeta-data: m\n"} {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(at, 0o700); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{"raw": data, "size": "1\n"} {
			if err := os.WriteFile(filepath.Join(at, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := readFwCfg(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := volume.Tree{"lockstep.yaml": []byte("x"), "keys/peers/b.crt": []byte("c"), "meta-data": []byte("m")}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Error(diff)
	}
	if got, err := readFwCfg(dir + "/none"); err != nil || len(got) != 0 {
		t.Errorf("without fw_cfg: %v, %v", got, err)
	}
}

func TestPowerButton(t *testing.T) {
	event := func(kind, code uint16, value uint32) []byte {
		b := make([]byte, inputEventSize)
		binary.NativeEndian.PutUint16(b[16:], kind)
		binary.NativeEndian.PutUint16(b[18:], code)
		binary.NativeEndian.PutUint32(b[20:], value)
		return b
	}
	if !isPowerButton(event(evKey, keyPower, 1)) {
		t.Error("the button is not seen")
	}
	for _, e := range [][]byte{event(evKey, keyPower, 0), event(evKey, 30, 1), event(0, keyPower, 1), nil} {
		if isPowerButton(e) {
			t.Errorf("% x was taken for the button", e)
		}
	}
}

// plainText removes escape sequences.
func plainText(s string) string {
	var b strings.Builder
	escape := false
	for _, r := range s {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r < '@' || r > '~' || r == '['
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func TestDraw(t *testing.T) {
	p := page{name: "edge-a", origin: "configuration from cidata volume on vdb", state: "on vda2",
		status: "role         \x1b[32mactive\x1b[0m for 1m\n" + strings.Repeat("x", 200) + "\n" + strings.Repeat("line\n", 50)}
	out := draw(p, "v1", 65*time.Second, 80, 25)
	lines := strings.Split(strings.TrimSuffix(plainText(out), "\r\n"), "\r\n")
	if len(lines) > 25 {
		t.Errorf("%d lines on a screen of 25", len(lines))
	}
	for _, l := range lines {
		if len(l) > 80 {
			t.Errorf("%d columns: %s", len(l), l)
		}
	}
	if !strings.Contains(lines[0], "Lockstep v1   edge-a") || !strings.HasSuffix(lines[0], "up 1m5s ") || len(lines[0]) != 80 {
		t.Errorf("the head is %q", lines[0])
	}
	if !strings.Contains(out, "\x1b[32mactive\x1b[0m") {
		t.Error("colours are gone")
	}
	out = plainText(draw(page{problem: "networks: \x1b[2Junknown key\n" + strings.Repeat("y", 100)}, "v1", 0, 80, 25))
	for _, part := range []string{"not configured", "Needs attention", "  networks: [2Junknown key", "tried again"} {
		if !strings.Contains(out, part) {
			t.Errorf("%q is missing in\n%s", part, out)
		}
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		text  string
		width int
		fill  bool
		want  string
	}{
		{"abc", 5, false, "abc"}, {"abc", 5, true, "abc  "}, {"abcdef", 3, true, "abc\x1b[0m"},
		{"\x1b[31;1mabc\x1b[0m", 3, true, "\x1b[31;1mabc\x1b[0m"}, {"", 2, true, "  "},
	} {
		if got := fit(c.text, c.width, c.fill); got != c.want {
			t.Errorf("fit(%q, %d) = %q, want %q", c.text, c.width, got, c.want)
		}
	}
}

func TestMemoryLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meminfo")
	if err := os.WriteFile(path, []byte("MemTotal:         400000 kB\nMemFree:  1 kB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := memoryLimit(path); got != 300000*1024 {
		t.Errorf("the limit is %d", got)
	}
	if got := memoryLimit(path + "-none"); got != 0 {
		t.Errorf("without meminfo the limit is %d", got)
	}
}

// A console that takes nothing holds nobody up, and what was lost is counted.
func TestJournalDropsInsteadOfWaiting(t *testing.T) {
	j := &journal{lines: make(chan []byte, 2)}
	for range 5 {
		j.line([]byte("x"))
	}
	if len(j.lines) != 2 || j.dropped.Load() != 3 {
		t.Errorf("%d lines wait, %d are dropped", len(j.lines), j.dropped.Load())
	}
	if got := string(<-j.lines); got != "x\n" {
		t.Errorf("a line is %q", got)
	}
}
