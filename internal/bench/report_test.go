package bench

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func testBench() *bench {
	b := &bench{samples: newSamples(), begin: time.Now()}
	b.rounds, b.runs, b.busy, b.connections = 2, 1, 100, 10000
	b.modes, b.gateways = []mode{offloadOff}, []kind{forwarding, haproxy, alone, paired}
	b.only = regexp.MustCompile("^(down-1|down-1-cpu|failover-gap)$")
	b.say = func(string, ...any) {}
	for round, v := range []float64{2.5, 2.7} {
		b.samples.add(key{offloadOff, forwarding, "down-1"}, sample{Round: round, Value: v})
		b.samples.add(key{offloadOff, alone, "down-1"}, sample{Round: round, Value: v / 2})
		b.samples.add(key{offloadOff, alone, "down-1-cpu"}, sample{Round: round, Value: 4})
	}
	b.samples.add(key{offloadOff, paired, "down-1"}, sample{Round: 0, Value: 1.5})
	b.note(offloadOff, haproxy, errNotInstalled, "down-1", "down-1-cpu")
	b.note(offloadOff, paired, errLoad, "down-1", "down-1-cpu")
	b.note(offloadOff, paired, errOutOfTime, failGap)
	return b
}

func TestText(t *testing.T) {
	b := testBench()
	if b.failed != 1 {
		t.Errorf("%d failures counted, want 1: what is not installed or left out is none", b.failed)
	}
	d := b.report(header{Date: time.Unix(0, 0).UTC(), Lockstep: "v1", Go: "go1", Kernel: "6", HAProxy: "none", CPU: "x", CPUs: 2, Congestion: "reno", LoadBefore: "0 0 0", Rounds: 2, Runs: 1, Duration: "1s"})
	d.Header.Took, d.Header.Stolen = 7, 0
	var out bytes.Buffer
	if err := d.text(&out); err != nil {
		t.Fatal(err)
	}
	want := `Lockstep v1, 1970-01-01T00:00:00Z, took 7 s
2 CPUs (x), Linux 6, go1, HAProxy none
congestion control reno; load before: 0 0 0
All ends share these CPUs: client, gateway (of a pair both) and server. Medians of
2 rounds of 1s, of the failover without idle connections of 1 run; ratios and differences are
taken within a round, then their median.
Pairs run with failure_timeout 1s, unless a row says otherwise. Latencies of 32 connections are those of a saturated machine.
Memory is what processes have resident, 2000 connections for proxies: the kernel's has a row of its own.
CPU used by others during measurements: 0 % (median), 0 % at most; withheld by a hypervisor: 0.0 %.

Offloads off (links carry MTU-sized frames, as a real network does)

                                                         unit    forwarding        HAProxy  alone                     pair
bulk download, 1 stream                                  Gbit/s        2.60  not installed   1.30                 1.50 [1]
CPU of the gateway's processes, bulk download, 1 stream  s/GiB            -  not installed   4.00               failed [1]
kill -9, 100 busy: longest gap any client sees           ms               -              -      -  skipped: the time limit
[1] the load did not run through

target                                 offload  demanded  measured
bulk download, 1 stream, pair : alone      off   >= 0.95      1.20  pass
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("report differs (-want +got):\n%s", diff)
	}
}

func TestJSON(t *testing.T) {
	b := testBench()
	b.only = regexp.MustCompile("")
	var out bytes.Buffer
	if err := b.report(header{}).writeJSON(&out); err != nil {
		t.Fatal(err)
	}
	var d document
	if err := json.Unmarshal(out.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Targets) != len(targets(100, 10000)) {
		t.Errorf("%d targets; without --only all are listed, measured or not", len(d.Targets))
	}
	for _, c := range d.Cells {
		if c.Gateway == forwarding && c.Figure == "down-1" {
			if c.Median == nil || *c.Median != 2.6 || len(c.Samples) != 2 {
				t.Errorf("cell %+v", c)
			}
			return
		}
	}
	t.Error("a measured cell is missing")
}

func TestSettle(t *testing.T) {
	given := func(args ...string) (options, error) {
		var o options
		var f flags
		cmd := Command()
		fs := cmd.Flags()
		if err := fs.Parse(args); err != nil {
			return o, err
		}
		// What RunE does, without running.
		o.rounds, _ = fs.GetInt("rounds")
		o.runs, _ = fs.GetInt("runs")
		o.duration, _ = fs.GetDuration("duration")
		o.connections, _ = fs.GetInt("connections")
		o.busy, _ = fs.GetInt("busy")
		o.limit, _ = fs.GetDuration("limit")
		o.json, _ = fs.GetString("json")
		f.only, _ = fs.GetString("only")
		f.gateways, _ = fs.GetStringSlice("gateways")
		f.offload, _ = fs.GetString("offload")
		o.path, _ = fs.GetString("path")
		o.protection, _ = fs.GetString("protection")
		f.quick, _ = fs.GetBool("quick")
		f.rest = fs.Args()
		return o, o.settle(f, fs.Changed)
	}
	o, err := given()
	if err != nil || o.rounds != defaultRounds || len(o.gateways) != len(columns) || len(o.modes) != 2 || o.limit != defaultLimit {
		t.Errorf("defaults: %+v, %v", o, err)
	}
	o, err = given("--quick", "--rounds", "2", "--offload", "on", "--gateways", "pair,alone", "--json", "out.json")
	if err != nil || o.rounds != 2 || o.duration != quickDuration || o.limit != quickLimit || o.json != "out.json" {
		t.Errorf("quick: %+v, %v", o, err)
	}
	if diff := cmp.Diff([]kind{alone, paired}, o.gateways); diff != "" {
		t.Error(diff)
	}
	if o, err = given("--path", "auto"); err != nil || o.path != "auto" {
		t.Errorf("--path auto: %q, %v", o.path, err)
	}
	if o, err = given("--json"); err != nil || o.json != "-" {
		t.Errorf("--json alone: %q, %v", o.json, err)
	}
	for _, bad := range [][]string{
		{"--rounds", "0"}, {"--connections", "20000"}, {"--busy", "1"}, {"--duration", "1ms"}, {"--only", "("},
		{"--offload", "maybe"}, {"--gateways", "nginx"}, {"--limit", "-1s"}, {"--path", "kernel"}, {"--protection", "all"}, {"stray"}, {"--json=x", "stray"},
	} {
		if _, err := given(bad...); err == nil {
			t.Errorf("%s: accepted", strings.Join(bad, " "))
		}
	}
}
