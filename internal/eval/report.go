package eval

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

//go:embed report.html
var page string

// environment is what the figures depend on.
type environment struct {
	Version    string    `json:"version"`
	Began      time.Time `json:"began"`
	CPU        string    `json:"cpu"`
	CPUs       int       `json:"cpus"`
	Kernel     string    `json:"kernel"`
	Go         string    `json:"go"`
	Congestion string    `json:"congestion_control"`
	Load       string    `json:"load_before"`
	Quick      bool      `json:"quick"`
}

// setting is by what runs are known to belong together.
func (e environment) setting() string {
	length := "whole"
	if e.Quick {
		length = "quick"
	}
	return fmt.Sprintf("%s, %s, %d x %s", e.Version, length, e.CPUs, e.CPU)
}

// row of a table: a series, or a part of it, at one place.
type row struct {
	Series string  `json:"series"`
	Part   string  `json:"part,omitempty"`
	X      *string `json:"x,omitempty"` // nil: of all samples
	N      int     `json:"n"`
	Least  string  `json:"least"`
	Median string  `json:"median"`
	P99    string  `json:"p99"`
	Most   string  `json:"most"`
}

// section of the report: one experiment.
type section struct {
	Name     string    `json:"name"`
	Title    string    `json:"title"`
	Text     string    `json:"text"`
	X        string    `json:"x,omitempty"`
	Y        string    `json:"y"`
	Rows     []row     `json:"rows"`
	Failed   []string  `json:"failed,omitempty"` // runs, with why
	Pictures []picture `json:"-"`
}

// images are a section's pictures as the page has them.
func images(s section) (all []struct {
	Title string
	SVG   template.HTML
}) {
	for _, p := range s.Pictures {
		// Nothing in it comes from outside.
		_, svg, _ := bytes.Cut(p.SVG, []byte("<svg"))
		all = append(all, struct {
			Title string
			SVG   template.HTML
		}{p.Title, template.HTML("<svg" + string(svg))})
	}
	return all
}

// paragraph is a section's text as the page has it.
func paragraph(s section) template.HTML {
	var b strings.Builder
	for i, piece := range strings.Split(s.Text, "`") {
		piece = template.HTMLEscapeString(piece)
		if i%2 == 1 {
			piece = "<code>" + piece + "</code>"
		}
		b.WriteString(piece)
	}
	return template.HTML(b.String())
}

// document is the whole report.
type document struct {
	Environment environment `json:"environment"`
	Sections    []section   `json:"sections"`
}

// build makes a report of what has been measured.
func build(o options, env environment) (d document, err error) {
	d.Environment = env
	for _, e := range experiments() {
		records, err := load(o.out, e.name)
		if err != nil {
			return d, err
		}
		all, done := samplesOf(records, env.setting())
		s := section{Name: e.name, Title: e.title, Text: e.text, X: e.x, Y: e.y, Rows: e.rows(all), Failed: failures(records, env.setting(), done)}
		if len(all) == 0 && len(s.Failed) == 0 {
			continue
		}
		if s.Pictures, err = pictures(e, all); err != nil {
			return d, err
		}
		if err := writeCSV(filepath.Join(o.out, e.name+".csv"), e.x, e.y, all); err != nil {
			return d, err
		}
		d.Sections = append(d.Sections, s)
	}
	if len(d.Sections) == 0 {
		return d, errors.New("nothing has been measured")
	}
	return d, nil
}

// failures are the runs that did not go well, and have not since.
func failures(records []record, setting string, done map[string]record) (all []string) {
	for _, r := range records {
		if _, ok := done[r.Run]; !ok && r.Setting == setting && r.Error != "" {
			all = append(all, r.Run+": "+r.Error)
		}
	}
	return all
}

// rows are the numbers beside the pictures. Of a line's points there are none: they are in the CSV.
func (e experiment) rows(all []Sample) (rows []row) {
	if e.kind == lines {
		return nil
	}
	for _, name := range series(all) {
		for _, part := range parts(of(all, name, "")) {
			some := of(all, name, part)
			if e.kind != medians {
				rows = append(rows, rowOf(name, part, nil, values(some)))
				continue
			}
			for _, g := range spreads(some) {
				var at []float64
				for _, s := range some {
					if s.X == g.x {
						at = append(at, s.Y)
					}
				}
				x := number(g.x)
				rows = append(rows, rowOf(name, part, &x, at))
			}
		}
	}
	return rows
}

func rowOf(series, part string, x *string, v []float64) row {
	return row{series, part, x, len(v), short(quantile(v, 0)), short(quantile(v, 0.5)), short(quantile(v, 0.99)), short(quantile(v, 1))}
}

// short has four digits that count.
func short(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	if math.Abs(v) >= 1000 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// write the page and its numbers.
func (d document) write(dir string) error {
	t, err := template.New("report").Funcs(template.FuncMap{"images": images, "paragraph": paragraph}).Parse(page)
	if err != nil {
		return fmt.Errorf("read the report's template: %w", err)
	}
	var html bytes.Buffer
	if err := t.Execute(&html, d); err != nil {
		return fmt.Errorf("make the report: %w", err)
	}
	numbers, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the report's numbers: %w", err)
	}
	files := map[string][]byte{"report.html": html.Bytes(), "report.json": append(numbers, '\n')}
	for _, s := range d.Sections {
		for i, p := range s.Pictures {
			files[fmt.Sprintf("%s-%d.svg", s.Name, i+1)] = p.SVG
		}
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	return nil
}
