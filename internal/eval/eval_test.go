package eval

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"lockstep/internal/lab/labtest"
)

// An evaluation that is stopped goes on where it was, and every number of its report is that of the samples which the table
// beside it has.
func TestSmall(t *testing.T) {
	labtest.RequireRoot(t)
	t.Setenv("TMPDIR", t.TempDir())
	o := options{out: filepath.Join(t.TempDir(), "out"), quick: true, only: regexp.MustCompile("^history$"), repeat: 1}
	var stdout, stderr bytes.Buffer
	ctx, stop := context.WithCancel(t.Context())
	o.say = &stderr
	setting := surroundings(o).setting()
	all, _, err := plan(o, setting)
	if err != nil || len(all) != 6 {
		t.Fatalf("%d runs, %v", len(all), err)
	}
	// Stopped within the third run.
	third := all[2].do
	all[2].do = func(ctx context.Context, w *world) ([]Sample, error) { stop(); return third(ctx, w) }
	o.dir = t.TempDir()
	if _, err := carryOut(ctx, o, setting, all); err == nil {
		t.Error("a stopped evaluation has ended as if it were whole")
	}
	if err := execute(t.Context(), o, false, &stdout, &stderr); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	if !strings.Contains(stderr.String(), "4 runs are left") || !strings.Contains(stderr.String(), "2 have been done before") {
		t.Errorf("it has not gone on:\n%s", stderr.String())
	}
	numbers(t, o.out, 6)
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// numbers compares those of a report's only section with the table of its samples.
func numbers(t *testing.T, out string, samples int) {
	t.Helper()
	var d document
	text, err := os.ReadFile(filepath.Join(out, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &d); err != nil || len(d.Sections) != 1 {
		t.Fatalf("%d sections, %v", len(d.Sections), err)
	}
	s := d.Sections[0]
	f, err := os.Open(filepath.Join(out, s.Name+".csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil || len(rows) != 1+samples {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	html, err := os.ReadFile(filepath.Join(out, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Rows) == 0 || len(s.Failed) > 0 {
		t.Errorf("rows %v, failed %v", s.Rows, s.Failed)
	}
	for _, r := range s.Rows {
		var v []float64
		for _, c := range rows[1:] {
			if c[0] == r.Series && c[1] == r.Part && (r.X == nil || c[3] == *r.X) {
				y, err := strconv.ParseFloat(c[4], 64)
				if err != nil || y <= 0 {
					t.Errorf("a sample of %s: %q, %v", c[4], r.Series, err)
				}
				v = append(v, y)
			}
		}
		slices.Sort(v)
		if len(v) != r.N || short(v[0]) != r.Least || short(v[len(v)-1]) != r.Most || len(v)%2 == 1 && short(v[len(v)/2]) != r.Median {
			t.Errorf("%+v of %v", r, v)
		}
		if line := fmt.Sprintf("<td>%d</td><td>%s</td><td>%s</td>", r.N, r.Least, r.Median); !bytes.Contains(html, []byte(line)) {
			t.Errorf("the page has no %s", line)
		}
	}
	if n := bytes.Count(html, []byte("<svg")); n != 1 || bytes.Contains(html, []byte("http://")) && !bytes.Contains(html, []byte("http://www.w3.org")) {
		t.Errorf("%d pictures", n)
	}
}

func TestQuantiles(t *testing.T) {
	v := []float64{4, 1, 3, 2}
	for q, want := range map[float64]float64{0: 1, 0.5: 2.5, 1: 4, 0.25: 1.75} {
		if got := quantile(v, q); got != want {
			t.Errorf("quantile %v: %v, want %v", q, got, want)
		}
	}
	if s := short(quantile(nil, 0.5)); s != "-" {
		t.Errorf("of nothing: %s", s)
	}
}

// A line that a killed run has left without its end costs that run, and no other.
func TestTornLine(t *testing.T) {
	dir := t.TempDir()
	put := func(run string) {
		t.Helper()
		if err := save(dir, "x", record{Run: run, Setting: "s", Samples: []Sample{{Series: run, Y: 1}}}); err != nil {
			t.Fatal(err)
		}
	}
	put("one")
	file := filepath.Join(dir, samplesDir, "x.jsonl")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(data, data[:len(data)/2]...), 0o600); err != nil {
		t.Fatal(err)
	}
	put("two")
	records, err := load(dir, "x")
	if err != nil {
		t.Fatal(err)
	}
	all, done := samplesOf(records, "s")
	if len(all) != 2 || len(done) != 2 {
		t.Errorf("%v, %v", all, done)
	}
	if _, done := samplesOf(records, "another"); len(done) != 0 {
		t.Error("runs of another setting count")
	}
}
