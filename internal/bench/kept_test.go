package bench

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/internal/lab/traffic"
)

// Every row about servers gets its value, no connection is lost, and what is measured really
// happened: the steps fail where no server was lost or no replica was ahead.
func TestKept(t *testing.T) {
	o := tiny(t)
	o.gateways = []kind{paired}
	// No appliance fails here, and none shall be taken for dead on a machine that is busy.
	o.setting = setting{name: "test", heartbeat: 50 * time.Millisecond, failure: 5 * time.Second}
	o.only = regexp.MustCompile("^(kept-(gateway|log|hot)|server-kill|ahead)")
	o.json = "-"
	var stdout, stderr bytes.Buffer
	if err := execute(t.Context(), o, &stdout, &stderr); err != nil {
		t.Errorf("%v\n%s", err, stderr.String())
	}
	var d document
	if err := json.Unmarshal(stdout.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, c := range d.Cells {
		if c.Note != "" || c.Median == nil {
			t.Errorf("%s: no value: %s", c.Figure, c.Note)
			continue
		}
		values[c.Figure] = *c.Median
	}
	for _, f := range keptFigures(o.pace.ahead) {
		v, ok := values[f.ID]
		switch {
		case !ok:
			t.Errorf("no %s", f.ID)
		case strings.HasSuffix(f.ID, suffixLost):
			if v != 0 {
				t.Errorf("%s: %v", f.ID, v)
			}
		case strings.HasPrefix(f.ID, "ahead"), strings.HasSuffix(f.ID, suffixRest): // may be nothing
		case v <= 0:
			t.Errorf("%s: %v", f.ID, v)
		}
	}
	if sent := values["server-kill-log"+suffixSent]; sent < killAfter>>20 {
		t.Errorf("the server was killed after %v MiB", sent)
	}
	if len(d.Targets) != len(keptTargets()) {
		t.Errorf("%d targets were judged, want %d: %+v", len(d.Targets), len(keptTargets()), d.Targets)
	}
}

// Each service that outlives its servers has two of them on ports of its own.
func TestKeptConfiguration(t *testing.T) {
	parsed := func(g applianceGateway) *config.Config {
		c := g.configuration()
		c.Node = "a"
		text, err := c.YAML()
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Parse(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	cfg := parsed(applianceGateway{kept: true})
	if errs := config.Unsupported(cfg); len(errs) > 0 {
		t.Error(errs)
	}
	if want := 2 + 2*len(keptServices); len(cfg.Services) != want {
		t.Fatalf("%d services, want %d", len(cfg.Services), want)
	}
	for _, s := range cfg.Services[2:] {
		name := regexp.MustCompile(`\d+$`).ReplaceAllString(s.Name, "")
		port := s.Listen[0].Port()
		if i := uint16(keptOffset(name)); i == 0 || port != checkedPort+i && port != leanPort+i {
			t.Errorf("service %s has port %d", s.Name, port)
		}
		if len(s.Servers) != 2 || s.Servers[0].Port() != port || (s.Protection == config.ProtectLog) != (name == "log") ||
			(s.Release == config.ReleaseFirst) != (name == "first") {
			t.Errorf("%+v", s)
		}
	}
	for _, s := range parsed(applianceGateway{kept: true, path: config.PathNetstack}).Services {
		if s.Path != config.PathNetstack {
			t.Errorf("%s: --path netstack makes path %s", s.Name, s.Path)
		}
	}
	if cfg := parsed(applianceGateway{alone: true}); len(cfg.Services) != 2 || len(cfg.Pair.Members) != 1 {
		t.Errorf("alone, without kept services: %+v", cfg)
	}
}

// Targets read the figures that steps yield.
func TestKeptTargets(t *testing.T) {
	s := newSamples()
	put := func(id string, v float64) { s.add(key{offloadOff, paired, id}, sample{Value: v}) }
	for id, v := range map[string]float64{
		"kept-gateway": 4, "kept-log": 3.9, "kept-hot": 2, "server-kill-primary-gap": 21, "server-kill-first-gap": 4,
		"server-kill-log-rest": 3, "server-kill-primary-lost": 0, "server-kill-first-lost": 0, "server-kill-log-lost": 1, "ahead-active": 1.5,
	} {
		put(id, v)
	}
	var got []bool
	for _, v := range judge(s, offloadOff, keptTargets()) {
		if v.Value == nil {
			t.Errorf("%s: no value", v.Title)
		}
		got = append(got, v.Pass)
	}
	want := []bool{true, false, false, true, true, true, true, false, true}
	for i := range want {
		if i >= len(got) || got[i] != want[i] {
			t.Fatalf("passed: %v, want %v", got, want)
		}
	}
	known := make(map[string]bool)
	for _, f := range keptFigures(1 << 30) {
		if known[f.ID] {
			t.Errorf("two figures are called %s", f.ID)
		}
		known[f.ID] = true
	}
}

// Only the longest gap near the kill is put down to it.
func TestOverlapping(t *testing.T) {
	kill := time.Unix(1000, 0)
	gap := func(begin, length time.Duration) traffic.Gap {
		return traffic.Gap{At: kill.Add(begin * time.Millisecond), Longest: length * time.Millisecond}
	}
	r := traffic.Result{Downs: []traffic.Gap{gap(-500, 400), gap(-2, 12), gap(30, 15), gap(99, 5), gap(150, 300)}}
	if got := overlapping(r, kill, kill.Add(killSpan)); got != 15*time.Millisecond {
		t.Errorf("%v", got)
	}
	if got := overlapping(r, kill.Add(time.Second), kill.Add(2*time.Second)); got != 5*time.Millisecond {
		t.Errorf("none of the longest: %v, want the shortest of them", got)
	}
}

// A download with log is as fast as can be up to the kill, and lasts after it.
func TestKillLoad(t *testing.T) {
	p := pace{before: time.Second, after: 2 * time.Second}
	if f := killLoad(p, serverKills[0]).Down; f.PaceAfter != 0 || f.Size != 3000*killChunk {
		t.Errorf("%+v", f)
	}
	if f := killLoad(p, serverKills[2]).Down; f.PaceAfter != killAfter || f.Size != killAfter+2000*killChunk {
		t.Errorf("%+v", f)
	}
	for _, k := range append(serverKills[:], serverKillNone) {
		if !killLoad(p, k).Repeatable {
			t.Errorf("%s: another server could not go on", k.title)
		}
	}
}
