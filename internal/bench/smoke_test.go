package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"lockstep/internal/lab"
	"lockstep/internal/lab/labtest"
)

// tiny is the whole bench in as little time as it takes.
func tiny(t *testing.T) options {
	labtest.RequireRoot(t)
	t.Setenv("TMPDIR", t.TempDir())
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := options{
		rounds: 1, runs: 1, duration: 100 * time.Millisecond, connections: 50, busy: 6,
		only: regexp.MustCompile(""), gateways: kinds[:], modes: []mode{offloadOff},
		pace: pace{warmUp: 20 * time.Millisecond, before: 200 * time.Millisecond, after: 300 * time.Millisecond, ahead: 8 << 20},
	}
	o.self = self
	return o
}

// Figures of every kind get a value with every gateway, nothing is lost, and nothing is left
// behind. What the values are is not this test's business; the rows that saturate the machine are
// left out, because with the race detector they may move nothing in their time.
func TestWhole(t *testing.T) {
	o := tiny(t)
	o.duration = time.Second
	o.only = regexp.MustCompile("^(down-1|kept-1)(-|$)|idle|failover|crowd|quiet|rejoin|switch|solo|frozen")
	o.json = "-"
	var stdout, stderr bytes.Buffer
	if err := execute(t.Context(), o, &stdout, &stderr); err != nil {
		t.Errorf("%v\n%s", err, stderr.String())
	}
	var d document
	if err := json.Unmarshal(stdout.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	values := make(map[key]float64)
	for _, c := range d.Cells {
		if c.Note == noteMissing {
			t.Logf("%s: %s", c.Gateway, c.Note)
			continue
		}
		if c.Note != "" || c.Median == nil {
			t.Errorf("%s, %s: no value: %s", c.Gateway, c.Figure, c.Note)
			continue
		}
		values[key{c.Offload, c.Gateway, c.Figure}] = *c.Median
	}
	for _, k := range kinds {
		if _, err := find("haproxy"); k == haproxy && err != nil {
			continue
		}
		for _, l := range bulkLoads[:1] {
			if values[key{offloadOff, k, l.name}] <= 0 {
				t.Errorf("%s: %s moved nothing", k, l.name)
			}
		}
		for _, l := range requestLoads {
			if l.name != "kept-1" {
				continue
			}
			if values[key{offloadOff, k, l.name + suffixP50}] <= 0 {
				t.Errorf("%s: %s has no latency", k, l.name)
			}
		}
	}
	for _, f := range failoverFigures(o.busy, o.connections) {
		if _, ok := values[key{offloadOff, paired, f.ID}]; !ok {
			t.Errorf("no %s", f.ID)
		}
	}
	if t.Failed() {
		t.Log(stderr.String())
	}
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
}

// Some thousand connections outlive both appliances in turn.
func TestScale(t *testing.T) {
	o := tiny(t)
	o.gateways, o.only, o.crowd, o.json = []kind{paired}, regexp.MustCompile("^scale-"), 3000, "-"
	var stdout, stderr bytes.Buffer
	if err := execute(t.Context(), o, &stdout, &stderr); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	var d document
	if err := json.Unmarshal(stdout.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Cells) != len(scaleFigures(o.crowd)) {
		t.Errorf("%d of %d figures have a value", len(d.Cells), len(scaleFigures(o.crowd)))
	}
	for _, c := range d.Cells {
		if lost := c.Figure == scaleLost || c.Figure == scaleAgain; c.Median == nil || lost && *c.Median > 0 {
			t.Errorf("%s: %+v", c.Figure, c)
		}
	}
	if t.Failed() {
		t.Log(stderr.String())
	}
}

// A gateway that cannot be started is noted, and the others are measured all the same.
func TestGatewayThatFails(t *testing.T) {
	o := tiny(t)
	o.gateways, o.only = []kind{forwarding, alone}, regexp.MustCompile("^down-1$")
	o.self = "/bin/false"
	var stdout bytes.Buffer
	err := execute(t.Context(), o, &stdout, io.Discard)
	if err == nil || !strings.Contains(stdout.String(), "failed [1]") || !strings.Contains(stdout.String(), `appliance "a" ended`) {
		t.Errorf("%v\n%s", err, stdout.String())
	}
	if !regexp.MustCompile(`bulk download, 1 stream +Gbit/s +[0-9.]+ +failed`).MatchString(stdout.String()) {
		t.Errorf("forwarding was not measured:\n%s", stdout.String())
	}
}

// An interrupt ends the bench wherever it is.
func TestInterrupted(t *testing.T) {
	o := tiny(t)
	o.gateways, o.duration = []kind{forwarding}, time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	seen := &trigger{want: "bulk download, 1", fired: make(chan struct{})}
	o.only = regexp.MustCompile("^(down-1|up-1)$")
	o.duration = 50 * time.Millisecond
	o.rounds = maxRounds
	go func() { done <- execute(ctx, o, io.Discard, seen) }()
	select {
	case <-seen.fired:
	case err := <-done:
		t.Fatalf("ended by itself: %v", err)
	}
	cancel()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("error %v", err)
	}
}

// trigger fires when a line with a certain text has been written.
type trigger struct {
	want  string
	fired chan struct{}
	done  bool
}

func (w *trigger) Write(b []byte) (int, error) {
	if !w.done && bytes.Contains(b, []byte(w.want)) {
		w.done = true
		close(w.fired)
	}
	return len(b), nil
}

// A client that cannot be told what to do is an error, and is not waited for.
func TestCrowdThatIsGone(t *testing.T) {
	labtest.RequireRoot(t)
	l, err := lab.New(t.Context(), lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h, err := l.Host("client")
	if err != nil {
		t.Fatal(err)
	}
	p, err := h.Go(crowdClientRole, crowdClientArgs{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.End(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := &crowd{n: 1, clients: []*lab.RoleProc{p}, say: t.Logf}
	if _, err := c.order(ctx, crowdAsk, "have answered"); err == nil || ctx.Err() != nil {
		t.Errorf("%v", err)
	}
}
